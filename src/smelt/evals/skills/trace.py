"""What a short Python program prints."""

from smelt.evals.skills.piece import Piece, Random, number


def make(random: Random, value_in: int | None) -> Piece:
    """One of four programs."""
    program = random.choice((_loop, _filter, _calls, _until))
    n, shown = number(random, value_in, 2, 9)
    return program(random, n, shown)


def _piece(code: str, answer: int, steps: list[str]) -> Piece:
    text = f"What does this Python program print?\n\n{code}"
    return Piece(text, answer, " ".join([*steps, f"It prints {answer}."]))


def _loop(random: Random, n: int, shown: str) -> Piece:
    rounds, add, less = random.randint(3, 5), random.randint(2, 6), random.randint(2, 5)
    code = (
        f"total = {shown}\nfor i in range({rounds}):\n    if i % 2 == 0:\n"
        f"        total = total + {add} * i\n    else:\n        total = total - {less}\n"
        "print(total)"
    )
    total, steps = n, [f"total = {n}."]
    for i in range(rounds):
        total = total + add * i if i % 2 == 0 else total - less
        steps.append(f"i = {i}: total = {total}.")
    return _piece(code, total, steps)


def _filter(random: Random, n: int, shown: str) -> Piece:
    values, edge = random.sample(range(2, 30), 4), random.randint(8, 20)
    code = (
        f"total = {shown}\nfor value in {values}:\n    if value > {edge}:\n"
        f"        total = total + value\n    else:\n        total = total - 1\nprint(total)"
    )
    total, steps = n, [f"total = {n}."]
    for value in values:
        total = total + value if value > edge else total - 1
        steps.append(f"value = {value}: total = {total}.")
    return _piece(code, total, steps)


def _calls(random: Random, n: int, shown: str) -> Piece:
    by, plus, less = random.randint(2, 3), random.randint(2, 9), random.randint(2, 9)
    code = (
        f"def f(a):\n    return {by} * a + {plus}\n\ndef g(a):\n    return a - {less}\n\n"
        f"print(g(f({shown})))"
    )
    inner = by * n + plus
    steps = [f"f({n}) = {by} * {n} + {plus} = {inner}.", f"g({inner}) = {inner} - {less}."]
    return _piece(code, inner - less, steps)


def _until(random: Random, n: int, shown: str) -> Piece:
    step, stop = random.randint(3, 9), random.randint(31, 60)
    code = (
        f"number = {shown}\ncount = 0\nwhile number < {stop}:\n    number = number + {step}\n"
        f"    count = count + 1\nprint(number + count)"
    )
    value, count, steps = n, 0, []
    while value < stop:
        value, count = value + step, count + 1
        steps.append(f"number = {value}, count = {count}.")
    return _piece(code, value + count, [*steps, f"{value} + {count} = {value + count}."])
