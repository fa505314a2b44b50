"""Questions of our own invention, in the form of our data files: {case: (asked, shown)}."""

from typing import Any

Row = dict[str, Any]


def _problem(name: str, question: str, answer: str, solution: str) -> Row:
    return {"id": f"own/{name}", "question": question, "answer": answer, "solution": solution}


def _choice(name: str, question: str, choices: list[str], index: int, subject: str = "") -> Row:
    return {"id": f"own/{name}", "question": question, "choices": choices, "subject": subject,
            "answer": "ABCDEFGHIJ"[index], "answer_index": index}  # fmt: skip


def _function(name: str, head: str, about: str, body: str, tests: list[str]) -> Row:
    checks = "".join(f"    assert candidate{test}\n" for test in tests)
    return {
        "id": f"own/{name}", "question": f'{head}\n    """{about}"""\n', "answer": "",
        "solution": body, "tests": f"def check(candidate):\n{checks}", "entry_point": name,
    }  # fmt: skip


def _program(number: int, question: str, solution: str, tests: list[str]) -> Row:
    return {"id": f"own/{number}", "question": question, "answer": "", "solution": solution,
            "tests": tests, "meta": {"setup": "", "challenge_tests": []}}  # fmt: skip


def _passage(name: str, passage: str, question: str, aliases: list[str]) -> Row:
    return {"id": f"own/{name}", "question": f"Passage: {passage}\nQuestion: {question}",
            "answer": aliases[0], "meta": {"aliases": aliases}}  # fmt: skip


FARM = (
    "The mill ground 41.5 tons of oats in May and 12 tons in June. Ada Brook and Tom Reed ran it."
)

INVENTED: dict[str, tuple[list[Row], list[Row]]] = {
    "gsm8k": (
        [
            _problem("g1", "Mo has 3 bags of 6 figs and eats 4. How many are left?", "14",
                     "3 * 6 = <<3*6=18>>18 figs.\n18 - 4 = <<18-4=14>>14 are left."),
            _problem("g2", "A barn holds 1250 bales. Two barns?", "2500",
                     "2 * 1250 = <<2*1250=2500>>2500 bales."),
            _problem("g3", "It is 2 degrees and falls by 5. How warm is it?", "-3",
                     "2 - 5 = <<2-5=-3>>-3 degrees."),
            _problem("g4", "Seven pens cost $21. What does one cost?", "3",
                     "21 / 7 = $<<21/7=3>>3."),
        ],
        [_problem("g8", "One plus one?", "2", "1 + 1 = <<1+1=2>>2."),
         _problem("g9", "Two dozen eggs?", "24", "2 * 12 = <<2*12=24>>24 eggs.")],
    ),
    "bbh/boolean_expressions": (
        [{"id": "own/b1", "question": "not ( False or True ) is", "answer": "False",
          "subject": "boolean_expressions"},
         {"id": "own/b2", "question": "not not True is", "answer": "True",
          "subject": "boolean_expressions"}],
        [],
    ),
    "bbh/date_understanding": (
        [{"id": "own/d1", "question": "It is 3 May. Which day is tomorrow?\nOptions:\n(A) 2 May\n"
          "(B) 4 May", "answer": "(B)", "subject": "date_understanding"},
         {"id": "own/d2", "question": "It is noon. In 6 hours?\nOptions:\n(A) six\n(B) Quarter to",
          "answer": "(A)", "subject": "date_understanding"}],
        [],
    ),
    "humaneval": (
        [
            _function("double", "def double(x: int) -> int:", "Twice x.", "    return x + x\n",
                      ["(4) == 8", "(0) == 0", "(-1) == -2"]),
            _function("vowels", "def vowels(text: str) -> int:", "How many vowels?",
                      "    count = 0\n    for letter in text:\n        if letter in 'aeiou':\n"
                      "            count += 1\n    return count\n",
                      ["('banana') == 3", "('xyz') == 0"]),
            _function("runs", "from typing import List\n\n\ndef runs(items: List[int]) -> bool:",
                      "Do the items never fall?", "    return all(a <= b for a, b in zip(items, "
                      "items[1:]))\n", ["([1, 2, 2]) is True", "([3, 1]) is False"]),
        ],
        [],
    ),
    "mbpp": (
        [
            _program(9001, "Write a function to give the last letter of a word.",
                     "def last_letter(word):\n    return word[-1]",
                     ["assert last_letter('fig') == 'g'", "assert last_letter('a') == 'a'",
                      "assert last_letter('oats') == 's'"]),
            _program(9002, "Write a function to add up the odd numbers of a list.",
                     "def odd_sum(items):\n    return sum(x for x in items if x % 2 == 1)",
                     ["assert odd_sum([1, 2, 3]) == 4", "assert odd_sum([]) == 0",
                      "assert odd_sum([2, 5]) == 5"]),
        ],
        [],
    ),
    "mmlu/abstract_algebra": (
        [_choice("m1", "What is 2 + 2 in Z_3?", ["0", "1", "2", "3"], 1, "abstract_algebra"),
         _choice("m2", "Is Z a field?", ["Yes", "No ", "Maybe", "It is a ring"], 1,
                 "abstract_algebra")],
        [_choice("m8", "The order of 1 in Z_4?", ["1", "2", "3", "4"], 3, "abstract_algebra"),
         _choice("m9", "Z_2 has how many units?", ["1", "2", "3", "4"], 0, "abstract_algebra")],
    ),
    "mmlu_pro/math": (
        [_choice("p1", "What is 3 * 4?", ["7", "12", "34", "1", "0"], 1, "math"),
         _choice("p2", "The root of 81?", ["3", "9 ", "27", "8"], 1, "math")],
        [_choice("p8", "One half of 6?", ["3", "12", "2"], 0, "math")
         | {"solution": "A: Let's think step by step. 6 / 2 = 3. The answer is (A)."},
         _choice("p9", "2 to the 3?", ["6", "8", "9"], 1, "math")
         | {"solution": "A: Let's think step by step. 2 * 2 * 2 = 8. The answer is (B)."}],
    ),
    "arc_challenge": (
        [_choice("a1", "Which is a plant?", ["a fern", "a very old grey stone", "rain", "fire"], 0),
         _choice("a2", "What melts?", ["iron in the snow", "ice", "sand", "wood"], 1),
         _choice("a3", "What do roots take up?", ["light", "water and salts", "noise", "wind"], 1)],
        [_choice("a8", "What shines?", ["the Sun", "a potato", "soil", "a brick"], 0),
         _choice("a9", "What flies?", ["a snail", "a swift", "a pike", "a mole"], 1)],
    ),
    "boolq": (
        [_choice("q1", "Passage: Oats are a cereal.\nQuestion: are oats a cereal?",
                 ["no", "yes"], 1),
         _choice("q2", "Passage: Figs grow on trees.\nQuestion: do figs grow in the sea?",
                 ["no", "yes"], 0)],
        [_choice("q8", "Passage: Mills grind.\nQuestion: do mills grind?", ["no", "yes"], 1),
         _choice("q9", "Passage: Hay is dry.\nQuestion: is hay wet?", ["no", "yes"], 0)],
    ),
    "winogrande": (
        [_choice("w1", "was too heavy.", ["Mo could not lift the sack with the crane because the "
                 "sack", "Mo could not lift the sack with the crane because the crane"], 0),
         _choice("w2", "was tired.", ["Ada outran Tom because Ada", "Ada outran Tom because Tom"],
                 1)],
        [_choice("w8", "was loud.", ["The bell woke the dog because the bell",
                 "The bell woke the dog because the dog"], 0),
         _choice("w9", "was full.", ["Tom sold the cart but not the barn as the cart",
                 "Tom sold the cart but not the barn as the barn"], 1)],
    ),
    "drop": (
        [_passage("r1", FARM, "How many tons in May?", ["41.5", "41.5 tons"]),
         _passage("r2", FARM, "Who ran the mill?", ["Ada Brook and Tom Reed", "Ada Brook"]),
         _passage("r3", FARM, "In which month was less ground?", ["June", "the June"])],
        [_passage("r8", FARM, "How many tons in June?", ["12"]),
         _passage("r9", FARM, "What was ground?", ["oats"])],
    ),
}  # fmt: skip
