"""Letters of a word: counting them, finding their places, adding up their numbers."""

from smelt.evals.skills.piece import Piece, Random, number

WORDS = ("banana", "tomato", "letter", "coffee", "rabbit", "window", "garden", "pepper", "cotton",
         "summer", "planet", "silver", "ribbon", "market", "button", "carrot", "kitten", "lemon",
         "tiger", "river", "apple", "berry", "daisy", "cabin", "hotel")  # fmt: skip


def make(random: Random, value_in: int | None) -> Piece:
    """One of three questions about a word."""
    question = random.choice((_left, _place, _numbered))
    n, shown = number(random, value_in, 2, 5)
    word = random.choice(WORDS)
    return question(random, word, n, shown)


def _left(random: Random, word: str, n: int, shown: str) -> Piece:
    letter = random.choice(sorted(set(word)))
    left, plus = len(word) - word.count(letter), random.randint(1, 9)
    text = (
        f"Somebody writes the word '{word}' {shown} times, strikes out every letter '{letter}', "
        f"and writes {plus} letters 'q' at the end. How many letters are not struck out?"
    )
    steps = f"'{word}' without '{letter}' has {left} letters. {n} * {left} = {n * left}. "
    return Piece(text, n * left + plus, f"{steps}{n * left} + {plus} = {n * left + plus}.")


def _place(random: Random, word: str, n: int, shown: str) -> Piece:
    letter = random.choice(sorted(set(word)))
    count = word.count(letter)
    places = [index + 1 for index, one in enumerate(word) if one == letter]
    whole, rest = divmod(n - 1, count)
    place = whole * len(word) + places[rest]
    text = (
        f"The word '{word}' is written again and again in one row without spaces. The places in "
        f"the row are counted from 1, and so are the letters '{letter}' in it. At which place "
        f"stands the letter '{letter}' number {shown}?"
    )
    steps = (
        f"'{word}' has {len(word)} letters, '{letter}' at {', '.join(map(str, places))}. After "
        f"{whole} whole words the place is {whole} * {len(word)} + {places[rest]} = {place}."
    )
    return Piece(text, place, steps)


def _numbered(random: Random, word: str, n: int, shown: str) -> Piece:
    vowels = [index for index, one in enumerate(word) if one in "aeiou"]
    numbers = [n + index for index in vowels]
    text = (
        f"The letters of the word '{word}' are numbered from left to right: the first gets the "
        f"number {shown}, each next letter a number that is greater by one. What is the sum of the "
        f"numbers of all letters that are a, e, i, o or u?"
    )
    found = ", ".join(f"{word[index]} = {n + index}" for index in vowels)
    return Piece(text, sum(numbers), f"{found}. The sum is {sum(numbers)}.")
