"""ARC-Challenge: grade-school science questions with four options. (arXiv:1803.05457)"""

from smelt.evals import choices

arc_challenge = choices.arc(
    "arc_challenge",
    "ARC-Challenge",
    {"train": 1119, "validation": 299, "test": 1172},
    shots=25,
)
