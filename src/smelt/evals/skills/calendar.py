"""Dates, clock times and units of time."""

from smelt.evals.skills.piece import Piece, Random, number

MONTHS = {"January": 31, "March": 31, "April": 30, "June": 30, "July": 31, "September": 30,
          "November": 30, "December": 31}  # fmt: skip


def make(random: Random, value_in: int | None) -> Piece:
    """One of four questions."""
    question = random.choice((_date, _clock, _weeks, _hours))
    n, shown = number(random, value_in, 2, 9)
    return question(random, n, shown)


def _date(random: Random, n: int, shown: str) -> Piece:
    month = random.choice(sorted(MONTHS))
    day, days = random.randint(3, 26), MONTHS[month]
    text = (
        f"{month} has {days} days. Today is {month} {day}. Which day of the month is it {shown} "
        f"days from today? (If that is in the next month, give the day of the next month.)"
    )
    later = day + n
    steps = f"{day} + {n} = {later}."
    if later > days:
        steps += f" That is past the {days} days of {month}: {later} - {days} = {later - days}."
        later -= days
    return Piece(text, later, steps)


def _clock(random: Random, n: int, shown: str) -> Piece:
    start, each = random.randint(0, 23), random.choice((5, 7, 11))
    text = (
        f"A 24-hour clock goes from 0 to 23 and shows {start} o'clock. Which full hour does it "
        f"show after {shown} shifts of {each} hours each, one right after the other?"
    )
    later = start + n * each
    steps = f"{n} * {each} = {n * each}. {start} + {n * each} = {later}. "
    return Piece(text, later % 24, f"{steps}The remainder of {later} by 24 is {later % 24}.")


def _weeks(random: Random, n: int, shown: str) -> Piece:
    days, off = random.randint(2, 6), random.randint(1, 5)
    text = (
        f"A journey takes {shown} weeks and {days} days. On {off} days of it the travellers rest. "
        f"On how many days do they travel?"
    )
    whole = 7 * n + days
    steps = f"{n} weeks are {7 * n} days. {7 * n} + {days} = {whole}. "
    return Piece(text, whole - off, f"{steps}{whole} - {off} = {whole - off}.")


def _hours(random: Random, n: int, shown: str) -> Piece:
    hours, past = random.randint(1, 2), random.choice((10, 20, 30, 40, 50))
    text = (
        f"A film begins {shown} minutes after the full hour and ends {hours} "
        f"hour{'s' if hours > 1 else ''} and {past} minutes after that same full hour. How many "
        f"minutes long is the film?"
    )
    end = 60 * hours + past
    steps = f"{hours} * 60 + {past} = {end}. {end} - {n} = {end - n}."
    return Piece(text, end - n, steps)
