"""Word problems of two or three steps of arithmetic."""

from smelt.evals.skills.piece import Piece, Random, number

NAMES = ("Ann", "Ben", "Carla", "Dev", "Emma", "Farid", "Grace", "Hugo", "Ines", "Jonas")
THINGS = ("apples", "marbles", "stickers", "coins", "books", "pencils", "shells", "cards")


def make(random: Random, value_in: int | None) -> Piece:
    """One of four stories."""
    story = random.choice((_bags, _days, _tables, _saving))
    n, shown = number(random, value_in, 2, 9)
    return story(random, n, shown)


def _bags(random: Random, n: int, shown: str) -> Piece:
    name, things = random.choice(NAMES), random.choice(THINGS)
    bags, each = random.randint(2, 6), random.randint(3, 9)
    gone = random.randint(2, bags * each - 1)
    text = (
        f"{name} has {shown} {things}. {name} buys {bags} bags with {each} {things} in each, and "
        f"then gives {gone} {things} away. How many {things} does {name} have now?"
    )
    more = n + bags * each
    steps = f"{bags} * {each} = {bags * each}. {n} + {bags * each} = {more}. {more} - {gone} = "
    return Piece(text, more - gone, f"{steps}{more - gone}.")


def _days(random: Random, n: int, shown: str) -> Piece:
    things, times, more = random.choice(THINGS), random.randint(2, 4), random.randint(3, 20)
    text = (
        f"A shop sells {shown} {things} on Monday, {times} times as many on Tuesday as on Monday, "
        f"and {more} more on Wednesday than on Tuesday. How many {things} does it sell on "
        f"Wednesday?"
    )
    steps = f"Tuesday: {times} * {n} = {times * n}. Wednesday: {times * n} + {more} = "
    return Piece(text, times * n + more, f"{steps}{times * n + more}.")


def _tables(random: Random, n: int, shown: str) -> Piece:
    tables, seats, ill = random.randint(3, 8), random.randint(3, 6), random.randint(2, 8)
    text = (
        f"A hall has {tables} tables with {seats} seats at each table, and {shown} more chairs "
        f"along the wall. {ill} of all these places stay empty. How many places are taken?"
    )
    places = tables * seats + n
    steps = f"{tables} * {seats} = {tables * seats}. {tables * seats} + {n} = {places}. "
    return Piece(text, places - ill, f"{steps}{places} - {ill} = {places - ill}.")


def _saving(random: Random, n: int, shown: str) -> Piece:
    name, weeks, spent = random.choice(NAMES), random.randint(2, 6), random.randint(1, 4)
    text = (
        f"{name} saves {shown} dollars every week for {weeks} weeks, and in the same time spends "
        f"{spent} dollars altogether. How many dollars does {name} have left of what was saved?"
    )
    saved = n * weeks
    steps = f"{weeks} * {n} = {saved}. {saved} - {spent} = {saved - spent}."
    return Piece(text, saved - spent, steps)
