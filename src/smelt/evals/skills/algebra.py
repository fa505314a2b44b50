"""Linear equations in x with a whole-number solution, whatever whole number comes in."""

from smelt.evals.skills.piece import Piece, Random, number

LETTERS = ("x", "y", "z", "t", "w")


def make(random: Random, value_in: int | None) -> Piece:
    """One of four forms of equation."""
    form = random.choice((_quotient, _product, _both_sides, _nested))
    letter = random.choice(LETTERS)
    n, shown = number(random, value_in, 2, 9)
    return form(random, n, shown, letter)


def _piece(equation: str, letter: str, solution: int, steps: str) -> Piece:
    text = f"Solve the equation {equation} for {letter}. What is {letter}?"
    return Piece(text, solution, f"{steps} So {letter} = {solution}.")


def _quotient(random: Random, n: int, shown: str, x: str) -> Piece:
    by, less = random.randint(2, 5), random.randint(2, 9)
    steps = f"{x} / {by} = {less} + {n} = {less + n}. {x} = {by} * {less + n}."
    return _piece(f"{x} / {by} - {shown} = {less}", x, by * (less + n), steps)


def _product(random: Random, n: int, shown: str, x: str) -> Piece:
    by, rest = random.randint(2, 9), random.randint(3, 25)
    steps = f"{x} - {n} = {by * rest} / {by} = {rest}. {x} = {rest} + {n}."
    return _piece(f"{by} * ({x} - {shown}) = {by * rest}", x, rest + n, steps)


def _both_sides(random: Random, n: int, shown: str, x: str) -> Piece:
    few, more = random.randint(2, 7), random.randint(2, 30)
    steps = f"Take {few} * {x} from both sides: {x} - {n} = {more}. {x} = {more} + {n}."
    return _piece(f"{few + 1} * {x} - {shown} = {few} * {x} + {more}", x, more + n, steps)


def _nested(random: Random, n: int, shown: str, x: str) -> Piece:
    by, less, plus = random.randint(2, 4), random.randint(2, 12), random.randint(2, 6)
    inner = by * (n + plus)
    steps = f"{x} - {less} = {by} * ({n} + {plus}) = {inner}. {x} = {inner} + {less}."
    return _piece(f"({x} - {less}) / {by} = {shown} + {plus}", x, inner + less, steps)
