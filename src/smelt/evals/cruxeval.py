"""What both halves of CRUXEval share: a function, its input and its output. (arXiv:2401.03065)"""

from collections.abc import Callable
from functools import partial

from smelt.evals.benchmark import Benchmark, Form, Hub, Item, Row
from smelt.verify.sandbox.answer import between
from smelt.verify.sandbox.job import Job

# Two solved examples, as in the paper, written for this file.
_SHOWN = (
    ("def f(words):\n    words = [word.upper() for word in words]\n    return words[::-1]",
     "['ab', 'c']", "['C', 'AB']"),
    ("def f(n, text):\n    while len(text) < n:\n        text += 'k'\n    return text.count('k')",
     "6, 'kite'", "3"),
)  # fmt: skip
_OUTPUT_TASK = (
    "Below is a Python function with an assertion whose right side is missing. Execute the "
    "function in your head and write the whole assertion between [ANSWER] and [/ANSWER]. The right "
    "side must be a literal: no variables, no operators, no calls. Write nothing else."
)
_INPUT_TASK = (
    "Below is a Python function with an assertion whose input is missing. Find an input, any one, "
    "with which the assertion holds, and write the whole assertion between [ANSWER] and [/ANSWER]. "
    "Write nothing else."
)


def _convert(row: Row) -> Row:
    """A row of the hub as one of ours."""
    meta = {"input": row["input"]}
    return {"id": f"cruxeval/{row['id']}", "question": row["code"], "answer": row["output"],
            "meta": meta}  # fmt: skip


def _item(row: Row, group: str) -> Item:
    """An item of either half; its gold text is the call or the output."""
    given, result = str(row["meta"]["input"]), str(row["answer"])
    gold = f"f({given})" if group == "cruxeval_input" else result
    meta = {"input": given, "output": result}
    return Item(str(row["id"]), group, str(row["question"]), gold, meta=meta)


def half(group: str, ask: Callable[[Item], str], job: Callable[[str, Item], Job]) -> Benchmark:
    """One half's benchmark; a chat and a plain model are asked alike."""
    form = Form(ask=ask, job=job, max_new_tokens=256, stop=("[/ANSWER]",))
    return Benchmark(
        version=1,
        source="https://github.com/facebookresearch/cruxeval, arXiv:2401.03065",
        licence="MIT",
        splits={"test": 800},
        test_split="test",
        fitness_split=None,
        item=partial(_item, group=group),
        forms={"chat": form, "base": form},
        hub=Hub("cruxeval-org/cruxeval", {"test": "test"}, _convert),
    )


def _block(function: str, given: str, result: str) -> str:
    return f"[PYTHON]\n{function}\nassert f({given}) == {result}\n[/PYTHON]\n[ANSWER]\n"


def _shown(task: str, hidden: str) -> str:
    text = f"{task}\n\n"
    for function, given, result in _SHOWN:
        asked = {"input": given, "output": result, hidden: "??"}
        text += _block(function, asked["input"], asked["output"])
        text += f"assert f({given}) == {result}\n[/ANSWER]\n\n"
    return text


def output_ask(item: Item) -> str:
    """What does f return?"""
    return _shown(_OUTPUT_TASK, "output") + _block(item.question, item.meta["input"], "??")


def input_ask(item: Item) -> str:
    """With which input does f return that?"""
    return _shown(_INPUT_TASK, "input") + _block(item.question, "??", item.meta["output"])


def _statement(written: str) -> str:
    return between(written, "[ANSWER]", "[/ANSWER]").strip().removeprefix("assert").strip()


def output_job(written: str, item: Item) -> Job:
    """Is the literal what the function returns?

    The answer is a program without the function: calling it is an error, not a right answer.
    """
    text = _statement(written)
    call = f"f({item.meta['input']})"
    if text.startswith(call):
        text = text[len(call) :].strip().removeprefix("==")
    elif text.startswith("f(") and ") ==" in text:
        text = text.partition(") ==")[2]
    program = f"def _answer():\n    return (\n{text.strip()}\n)\n" if text.strip() else ""
    tests = f"{item.question}\nassert {call} == _answer()\n"
    return Job(program, ("_answer",), tests)


def input_job(written: str, item: Item) -> Job:
    """Does the function return the output for that input?"""
    text = _statement(written)
    ending = f"== {item.meta['output']}"
    if text.endswith(ending):
        text = text[: -len(ending)].strip()
    elif text.startswith("f(") and ") ==" in text:
        text = text.rpartition(") ==")[0] + ")"
    if text.startswith("f(") and text.endswith(")"):
        text = text[2:-1]
    # Inputs may name what stands around the function.
    program = f"{item.question}\ndef f(*given, **named):\n    return given, named\n"
    program += f"def _answer():\n    return f(\n{text}\n)\n"
    tests = f"{item.question}\n_given, _named = _answer()\n"
    tests += f"assert f(*_given, **_named) == {item.meta['output']}\n"
    return Job(program if written.strip() else "", ("_answer",), tests)
