"""Which of some statements are true, some of them about the others; each true one earns points."""

from smelt.evals.skills.piece import Piece, Random, number

NAMES = ("Mia", "Noah", "Olga", "Paul", "Rosa", "Sami", "Tara", "Viktor")


def make(random: Random, value_in: int | None) -> Piece:
    """Two statements about numbers, two about these; the answer is the sum of points."""
    n, shown = number(random, value_in, 2, 9)
    name = random.choice(NAMES)
    points = random.sample(range(2, 13), 4)
    facts = [_fact(random), _fact(random)]
    truths = [truth for _, truth in facts]
    made = [text for text, _ in facts]
    for others in (("A", "B"), ("A", "B", "C")):
        text, truth = _about(random, others, truths)
        made.append(text)
        truths.append(truth)
    total = n + sum(one for one, truth in zip(points, truths, strict=True) if truth)
    lines = [
        f"{letter} ({one} points): {text}"
        for letter, one, text in zip("ABCD", points, made, strict=True)
    ]
    text = (
        f"{name} starts with {shown} points. For each of these statements that is true, {name} "
        f"gets the points in its brackets:\n" + "\n".join(lines) + f"\nHow many points does {name} "
        "have in the end?"
    )
    steps = [f"{letter} is {_word(truth)}." for letter, truth in zip("ABCD", truths, strict=True)]
    earned = [str(one) for one, truth in zip(points, truths, strict=True) if truth]
    return Piece(text, total, " ".join([*steps, f"{' + '.join([str(n), *earned])} = {total}."]))


def _word(truth: bool) -> str:
    return "true" if truth else "false"


def _fact(random: Random) -> tuple[str, bool]:
    """A statement about two numbers, true every second time."""
    small, large = sorted(random.sample(range(13, 99), 2))
    by = random.randint(3, 9)
    return random.choice(
        (
            (f"{large} is greater than {small}.", True),
            (f"{small} is greater than {large}.", False),
            (f"{small * by} is divisible by {by}.", True),
            (f"{small * by + 1} is divisible by {by}.", False),
        )
    )


def _about(random: Random, letters: tuple[str, ...], truths: list[bool]) -> tuple[str, bool]:
    """A statement about two of the statements before it."""
    first, second = random.sample(range(len(letters)), 2)
    one, other = truths[first], truths[second]
    a, b = letters[first], letters[second]
    return random.choice(
        (
            (f"Both {a} and {b} are true.", one and other),
            (f"At least one of {a} and {b} is true.", one or other),
            (f"Exactly one of {a} and {b} is true.", one != other),
            (f"{a} is false.", not one),
            (f"Neither {a} nor {b} is true.", not (one or other)),
        )
    )
