"""Sorting, selecting and adding up the numbers of a list."""

from smelt.evals.skills.piece import Piece, Random, number


def make(random: Random, value_in: int | None) -> Piece:
    """One of three tasks on a list of five numbers."""
    task = random.choice((_shift, _keep, _median))
    n, shown = number(random, value_in, 2, 9)
    return task(random, random.sample(range(2, 26), 5), n, shown)


def _text(values: list[int]) -> str:
    return ", ".join(map(str, values))


def _shift(random: Random, values: list[int], n: int, shown: str) -> Piece:
    first, second = random.sample(range(5), 2)
    places = ("first", "second", "third", "fourth", "fifth")
    low, high = places[min(first, second)], places[max(first, second)]
    ordered = sorted(values)
    gap = ordered[max(first, second)] - ordered[min(first, second)]
    text = (
        f"Sort the list {_text(values)} in increasing order. Subtract the {low} number of the "
        f"sorted list from the {high} one, and add {shown} to the difference. What is the result?"
    )
    steps = f"Sorted: {_text(ordered)}. The {high} minus the {low} is {gap}. "
    return Piece(text, gap + n, f"{steps}{gap} + {n} = {gap + n}.")


def _keep(random: Random, values: list[int], n: int, shown: str) -> Piece:
    edge = random.randint(8, 18)
    kept = [value for value in values if value < edge]
    total = sum(kept) + n
    text = (
        f"Remove every number that is {edge} or more from the list {_text(values)}. Then put "
        f"{shown} at its end. What is the sum of the numbers that the list has now?"
    )
    steps = f"Left: {_text(kept) or 'none'}. With the number at the end: {_text([*kept, n])}. "
    return Piece(text, total, f"{steps}The sum is {total}.")


def _median(random: Random, values: list[int], n: int, shown: str) -> Piece:
    times = random.randint(2, 5)
    ordered = sorted(values)
    middle = ordered[2]
    text = (
        f"Sort the list {_text(values)} in increasing order. Multiply the middle number of the "
        f"sorted list by {times}, and subtract {shown} from the product. What is the result?"
    )
    steps = f"Sorted: {_text(ordered)}. The middle number is {middle}. {middle} * {times} = "
    result = middle * times - n
    return Piece(text, result, f"{steps}{middle * times}. {middle * times} - {n} = {result}.")
