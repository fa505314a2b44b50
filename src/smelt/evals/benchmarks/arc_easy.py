"""ARC-Easy: easier grade-school science questions with four options. (arXiv:1803.05457)"""

from smelt.evals import choices

arc_easy = choices.arc(
    "arc_easy", "ARC-Easy", {"train": 2251, "validation": 570, "test": 2376}, shots=0
)
