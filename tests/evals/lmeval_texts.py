"""Answers as models write them, right and wrong, tidy and messy: the same for a seed."""

import random
import re

WORDS = ["because", "then", "we add", "so that leaves", "each costs", "after 3 days", "of the 12",
         "in 1999", "half of it", "that is"]  # fmt: skip


def values(gold: str, rng: random.Random) -> str:
    """A number, or what stands for one, in one of the ways that models write it."""
    plain = gold.replace(",", "")
    forms = [
        gold, gold, gold, f"${gold}", f"{gold}.", f"{gold}.0", f"{gold}.00", f"${gold}.00",
        f"{gold} dollars", f"{gold}%", f"**{gold}**", f"\\boxed{{{gold}}}", f"${gold}$",
        f"\\${gold}", f"-{plain.lstrip('-')}", f"\u2212{plain.lstrip('-')}", f"({gold})",
        f"{gold},", f"{gold}...", f"{gold}/1", f"0{gold}", f"+{gold}", f"{gold} apples and 3 pears",
        f"{gold}\u00a0km", f"x = {gold}", f"{gold}\n", "eighteen", "\u0661\u0662", ".", ",", "",
        f"{gold}.5", f"{gold}e3", f"- {gold}", f"{gold}th", f"$ {gold}",
    ]  # fmt: skip
    if re.fullmatch(r"-?\d+", plain) and len(plain.lstrip("-")) > 3:
        grouped = f"{int(plain):,}"
        forms += [grouped, grouped, f"${grouped}", f"{grouped}.00", grouped.replace(",", " ")]
    return rng.choice(forms)


def _wrong_number(gold: str, rng: random.Random) -> str:
    plain = gold.replace(",", "")
    number = int(float(plain)) if re.fullmatch(r"-?[\d.]+", plain) else 7
    return str(number + rng.choice([-10, -1, 1, 2, 10, 100]))


def word_problem(gold: str, solution: str, rng: random.Random) -> str:
    """An answer to a question whose gold answer is a number (GSM8K)."""
    value = values(gold if rng.random() < 0.65 else _wrong_number(gold, rng), rng)
    other = _wrong_number(gold, rng)
    steps = solution if rng.random() < 0.3 else " ".join(rng.choices(WORDS, k=rng.randint(0, 6)))
    return rng.choice([
        f" {steps}\n#### {value}",
        f" {steps}\n#### {value}",
        f" {steps}\n#### {value}\n\nQuestion: What is 2 + 2?\nAnswer: 4\n#### 4",
        f" {steps}\n####{value}",
        f" {steps}\n### {value}",
        f" {steps}\n#### {value} {rng.choice(WORDS)}",
        f" {steps}\n#### {other}\n#### {value}",
        f" {steps} The answer is {value}.",
        f" {steps} The answer is {value}",
        f" {steps} So the final answer is {value}. Wait, it is {other}.",
        f" {value}",
        f"{value}</s> {other}",
        f" {steps}\n#### {value}<|im_end|>\n{other}",
        f" {steps} Therefore $x = {value}$",
        f" {steps} \\boxed{{{value}}}. I checked it in {other} ways.",
        f" Answer: {value}\n\n{rng.choice(WORDS)}",
        f" {steps}",
        f" {solution[: rng.randint(0, len(solution))]}",
        "", " ", "\n", " I do not know.", f" {steps} #### ",
    ])  # fmt: skip


def reasoned(gold: str, choices: list[str], rng: random.Random) -> str:
    """An answer to a question whose gold answer is a short text: BBH's "the answer is"."""
    wrong = rng.choice(choices) if choices else "no"
    value = gold if rng.random() < 0.6 else wrong
    value = rng.choice([value, value, value, value, value.lower(), value.upper(), f"{value} ",
                        value.strip("()"), f"**{value}**", f'"{value}"', f" {value}",
                        f"\\boxed{{{value}}}", f"{value}\n", f"{value} (see above)",
                        ""])  # fmt: skip
    steps = " ".join(rng.choices(WORDS, k=rng.randint(0, 5)))
    return rng.choice([
        f"{steps}. So the answer is {value}.",
        f"{steps}. So the answer is {value}.",
        f"{steps}. So the answer is {value}.\n\nQ: True and False is\nA: So the answer is {wrong}.",
        f"{steps}. So the answer is {value}",
        f"So the answer is {value}. {steps}.",
        f"The answer is {value}.",
        f"{steps}, the answer is {value}.\nNow the answer is {wrong}.",
        f"the answer is {value}!",
        f"the answer is: {value}.",
        f"{steps}.\n\nSo the answer is {value}.",
        f"{value}",
        f"Quite so, the answer is {value}.",
        f"the answer is {value}.</s>",
        f"{steps}. So the answer",
        f"{steps}. So the answer is",
        f"{steps}. So the answer is ",
        "", " ", ".", "I do not know.",
    ])  # fmt: skip


def chosen(gold: str, letters: str, rng: random.Random) -> str:
    """An answer that ends in a letter (MMLU-Pro's "the answer is (X)")."""
    value = gold if rng.random() < 0.6 else rng.choice(letters)
    other = rng.choice(letters)
    steps = " ".join(rng.choices(WORDS, k=rng.randint(0, 5)))
    return rng.choice([
        f" {steps}. The answer is ({value}).",
        f" {steps}. The answer is ({value}).",
        f" {steps}. The answer is {value}.",
        f" {steps}. the answer is {value}",
        f" {steps}. The answer is ({value.lower()}).",
        f" {steps}. The answer is **{value}**.",
        f" {steps}. The answer is: {value}.",
        f" {steps}. The answer is (({value})).",
        f" {steps}. The answer is ({value}). No, the answer is ({other}).",
        f" Answer: {value}",
        f" ({value})",
        f"{value}",
        f" The answer is A lot. So the answer is ({value}).",
        f" The correct option is {value}.",
        f" The answer is \\boxed{{{value}}}.",
        f" {steps}. The answer is ({value}).\n\nQuestion:\nNext?\nThe answer is ({other}).",
        "", " ", f" {steps}", " None of the above.", f" The answer is ({value}",
    ])  # fmt: skip


def spans(golds: list[str], others: list[str], rng: random.Random) -> str:
    """An answer to a question about a passage (DROP)."""
    gold, wrong = rng.choice(golds), rng.choice(others)
    value = gold if rng.random() < 0.65 else wrong
    words = value.split()
    return rng.choice([
        f" {value}", f" {value}", f"{value}", f" {value}.", f" {value}. And then more.",
        f" the {value}", f" {value.upper()}", f" {value},", f' "{value}"', f" {value} yards",
        f" {value} and {wrong}", f" {value}, {wrong}", f" {' '.join(reversed(words))}",
        f" {' '.join(words[: max(1, len(words) // 2)])}", f" {value}\n\nPassage: x",
        f" {value.replace(' ', '-')}", f" {value}%", f" ${value}", f" {value}.0", f" A {value}",
        f" {wrong} {value}", f" {value} {value}", "", " ", " .", " the", f" -{value}",
        f" about {value}", f" It is {value}", f" {value}\u2019s",
    ])  # fmt: skip


_SWAPS = [("==", "!="), ("<", "<="), (">", ">="), ("+", "-"), ("True", "False"), ("0", "1"),
          (" and ", " or "), ("1", "2"), ("return", "return not"), ("min", "max")]  # fmt: skip


def mutated(code: str, rng: random.Random) -> str:
    """A program with one thing changed; it may still be right."""
    swaps = [(old, new) for old, new in _SWAPS if old in code]
    if not swaps:
        return code
    old, new = rng.choice(swaps)
    places = [found.start() for found in re.finditer(re.escape(old), code)]
    place = rng.choice(places)
    return code[:place] + new + code[place + len(old) :]


def completed(solution: str, prompt: str, entry: str, rng: random.Random) -> str:
    """What stands after a function's head (HumanEval): its body, and what follows it.

    No endless loops by design, but a mutant can be one.
    """
    body = solution if rng.random() < 0.6 else mutated(solution, rng)
    return rng.choice([
        body, body,
        body.rstrip("\n"),
        body + "\n\n# Test it\nprint(1)\n",
        body + f"\n\ndef other(x):\n    return x\n\nprint({entry})\n",
        body + "\n\nif __name__ == '__main__':\n    raise SystemExit(1)\n",
        body + "\nclass Thing:\n    pass\n",
        body + "\nassert False\n",
        body + "\n\nraise ValueError('late')\n",
        body + "```\nThat is it.",
        f"```python\n{prompt}{body}\n```",
        f"Here is the function:\n```python\n{prompt}{body}\n```\nIt works.",
        prompt + body,
        body[: rng.randint(0, len(body))],
        body.replace("    ", "\t"),
        body.lstrip(),
        "    pass\n", "", "\n", "    return None\n", "    import sys\n    sys.exit(0)\n",
        "    import os\n    os._exit(0)\n", "    return (\n", "    # TODO\n",
    ])  # fmt: skip


def programmed(solution: str, rng: random.Random) -> str:
    """A whole program (MBPP), as few-shot examples ending in [DONE] make models write it."""
    code = solution.replace("\r\n", "\n")
    code = code if rng.random() < 0.6 else mutated(code, rng)
    return rng.choice([
        code, code + "\n[DONE]", code + "\n[DONE]\nmore words",
        f"{code}\n[DONE]\n[BEGIN]\nx\n[DONE]",
        f"\n{code}\n", f"```python\n{code}\n```", f"```\n{code}\n```\n[DONE]",
        f"Here you are:\n```python\n{code}\n```", f"[BEGIN]\n{code}\n[DONE]",
        code + "\nprint('done')\n[DONE]", code + "\nassert True\n", code + "\nassert False\n",
        code[: rng.randint(0, len(code))], "pass", "", "\n[DONE]", "import sys\nsys.exit(0)\n",
        f"import os\n{code}\nos._exit(0)\n", code + "\n\n\nYou are an expert Python programmer",
    ])  # fmt: skip


def likelihoods(options: int, rng: random.Random) -> list[tuple[float, bool]]:
    """Log-probabilities of options, sometimes equal, as halves of a low precision model are."""
    found = [-rng.expovariate(0.2) for _ in range(options)]
    if rng.random() < 0.15:
        found = [-float(rng.randint(1, 3)) for _ in range(options)]
    best = max(found)
    return [(value, value == best and rng.random() < 0.5) for value in found]
