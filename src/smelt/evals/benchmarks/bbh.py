"""BIG-Bench Hard: 27 tasks after a chain of thought, three solved examples. (arXiv:2210.09261)"""

from smelt.evals.benchmark import Benchmark, Form, Hub, Item, Row
from smelt.evals.reading import get_answer, phrase_rule

_RULES = {"phrase": phrase_rule, "get-answer": get_answer}
_THINK = "Let's think step by step."
_DEDUCTION = "A logical deduction task which requires deducing the order of a sequence of objects."
_TRACKING = (
    "A task requiring determining the final positions of a set of objects given their initial "
    "positions and a description of a sequence of swaps."
)
# The first lines of the paper's prompts (MIT), by task.
_BEFORE = {
    "boolean_expressions": "Evaluate the result of a random Boolean expression.",
    "causal_judgement": "Answer questions about causal attribution.",
    "date_understanding": "Infer the date from context.",
    "disambiguation_qa": "Clarify the meaning of sentences with ambiguous pronouns.",
    "dyck_languages": "Correctly close a Dyck-n word.",
    "formal_fallacies": "Distinguish deductively valid arguments from formal fallacies.",
    "geometric_shapes": "Name geometric shapes from their SVG paths.",
    "hyperbaton": "Order adjectives correctly in English sentences.",
    "logical_deduction_five_objects": _DEDUCTION,
    "logical_deduction_seven_objects": _DEDUCTION,
    "logical_deduction_three_objects": _DEDUCTION,
    "movie_recommendation": "Recommend movies similar to the given list of movies.",
    "multistep_arithmetic_two": "Solve multi-step arithmetic problems.",
    "navigate": "Given a series of navigation instructions, determine whether one would end up "
    "back at the starting point.",
    "object_counting": "Questions that involve enumerating objects and asking the model to count "
    "them.",
    "penguins_in_a_table": "Answer questions about a table of penguins and their attributes.",
    "reasoning_about_colored_objects": "Answer extremely simple questions about the colors of "
    "objects on a surface.",
    "ruin_names": "Select the humorous edit that 'ruins' the input movie or musical artist name.",
    "salient_translation_error_detection": "Detect the type of error in an English translation of "
    "a German source sentence.",
    "snarks": "Determine which of two sentences is sarcastic.\n\nAccording to Cambridge University "
    'Dictionary, sarcasm is "the use of remarks that clearly mean the opposite of what they say, '
    "made in order to hurt someone's feelings or to criticize something in a humorous way.\" "
    "Sarcastic sentences often contain satirical or ironic utterances, hyperboles, ambivalent or "
    "witty remarks.",
    "sports_understanding": "Determine whether an artificially constructed sentence relating to "
    "sports is plausible or not.",
    "temporal_sequences": "Task description: Answer questions about which times certain events "
    "could have occurred.",
    "tracking_shuffled_objects_five_objects": _TRACKING,
    "tracking_shuffled_objects_seven_objects": _TRACKING,
    "tracking_shuffled_objects_three_objects": _TRACKING,
    "web_of_lies": "Evaluate a random boolean function expressed as a word problem.",
    "word_sorting": "Sort a list of words.",
}


def _item(row: Row) -> Item:
    answer, task = str(row["answer"]).strip(), str(row["subject"])
    if not answer:
        raise ValueError("an empty answer")
    solution = str(row.get("solution", "")).removeprefix(_THINK)
    gold = solution or f"\nSo the answer is {answer}."
    return Item(str(row["id"]), "bbh", str(row["question"]).strip(), gold, answer, subject=task)


def _before(item: Item) -> str:
    text = _BEFORE.get(item.subject)
    return f"{text}\n\n" if text else ""


def _ask(item: Item) -> str:
    return f"Q: {item.question}\nA: {_THINK}"


def _chat(item: Item) -> str:
    return (
        f"{_before(item)}{item.question}\n\nThink step by step, then end with the words "
        '"So the answer is X.", where X is the answer alone: an option as its letter in '
        "brackets, else the words or the number asked for."
    )


def _convert(row: Row) -> Row:
    return {"question": row["input"], "answer": row["target"].strip(), "subject": row["config"]}


def _convert_prompt(row: Row) -> Row:
    text, task = str(row["chain_of_thought_prompt"]), str(row["dataset_name"])
    # The files begin with the canary string, up to a line of dashes.
    text = text.rpartition("-----\n")[2].strip()
    return {"id": f"bbh/{task}/cot", "subject": task, "text": text}


_PROMPTS = "few_shot_prompts"
bbh = Benchmark(
    version=1,
    source="https://github.com/suzgunmirac/BIG-Bench-Hard, arXiv:2210.09261",
    licence="MIT",
    splits={"cot_prompts": 27, "test": 6511},
    test_split="test",
    fitness_split=None,
    shots_split="cot_prompts",
    item=_item,
    forms={
        "chat": Form(ask=_chat, rules=_RULES, max_new_tokens=1024),
        "base": Form(
            ask=_ask,
            rules=_RULES,
            shots=3,
            example=lambda item: _ask(item) + item.gold,
            before=_before,
            max_new_tokens=512,
            stop=("\n\n", "Q:"),
        ),
    },
    hub=Hub(
        "SaylorTwift/bbh",
        {"test": "test"},
        _convert,
        tuple(_BEFORE),
        others=(
            Hub("Joschka/big_bench_hard", {"cot_prompts": _PROMPTS}, _convert_prompt, (_PROMPTS,)),
        ),
    ),
)
