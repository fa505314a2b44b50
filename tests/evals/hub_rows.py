"""One or two rows of every benchmark in the schema that its dataset has on the hub.

Written by hand (there is no network in the tests): split of ours -> rows. A new benchmark with a
`hub` adds its own here; the contract tests say so.
"""

from typing import Any

Rows = dict[str, list[dict[str, Any]]]

_GSM8K = {
    "question": "Ann has 3 apples and buys 4 bags of 1,000. How many has she?",
    "answer": "She buys 4*1000=<<4*1000=4000>>4,000.\nSo 4003.\n#### 4,003",
}
_ARC = {
    "id": "Mercury_1", "question": "What is a plant?", "answerKey": "2",
    "choices": {"text": ["a stone", "a living thing", "a cloud"], "label": ["1", "2", "3"]},
}  # fmt: skip
_CODE = {
    "task_id": "HumanEval/900", "prompt": 'def add(a, b):\n    """Sum."""\n',
    "canonical_solution": "    return a + b\n", "entry_point": "add",
    "test": "def check(candidate):\n    assert candidate(1, 2) == 3\n",
}  # fmt: skip
_CRUX = {"id": "sample_0", "code": "def f(a):\n    return a + 1", "input": "41", "output": "42"}
_MATH = {"problem": "Find $1+1$.", "solution": "It is $\\boxed{2}$.", "level": "Level 2"}
_DROP_DATE = {"day": "", "month": "", "year": ""}

HUB_ROWS: dict[str, Rows] = {
    "gsm8k": {"train": [_GSM8K], "test": [_GSM8K]},
    "svamp": {
        "test": [
            {"ID": "chal-1", "Body": "Ann had 9 nuts", "Question": "How many are left after 2?",
             "Equation": "( 9.0 - 2.0 )", "Answer": "7.0", "Type": "Subtraction",
             "question_concat": "..."},
        ],
    },
    "math500": {
        "test": [_MATH | {"answer": "2", "subject": "Algebra", "level": 2,
                          "unique_id": "test/algebra/1.json"}],
        "train": [_MATH | {"type": "Algebra", "config": "algebra"}],
    },
    "theoremqa": {
        "test": [
            {"Question": "How many?", "Answer": "12", "Answer_type": "integer", "Picture": None},
            {"Question": "How much?", "Answer": "-1.5", "Answer_type": "float", "Picture": None},
            {"Question": "Is it?", "Answer": "True", "Answer_type": "bool", "Picture": None},
            {"Question": "Which?", "Answer": "[0.5, -2]", "Answer_type": "list of float",
             "Picture": None},
            {"Question": "Which one?", "Answer": "(c)", "Answer_type": "option", "Picture": None},
        ],
    },
    "bbh": {
        "test": [
            {"input": "not ( True ) is", "target": "False", "config": "boolean_expressions"},
            {"input": "Options:\n(A) x\n(B) y", "target": "(B)", "config": "snarks"},
            {"input": "Sort: damp barn", "target": "barn damp", "config": "word_sorting"},
            {"input": "Close: [ {", "target": "} ]", "config": "dyck_languages"},
        ],
        "cot_prompts": [
            {"dataset_name": "navigate", "answer_only_prompt": "",
             "chain_of_thought_prompt": "canary\n-----\nAbout ways.\n\nQ: Back?\nA: Let's think "
             "step by step.\nYes, so. So the answer is Yes.\n\nQ: Here?\nA: Let's think step by "
             "step.\nAway. So the answer is No."},
        ],
    },
    "arc_challenge": {"train": [_ARC], "validation": [_ARC], "test": [_ARC]},
    "arc_easy": {"train": [_ARC], "validation": [_ARC], "test": [_ARC]},
    "commonsense_qa": {
        "train": [_ARC | {"answerKey": "B", "question_concept": "plant", "choices": {
            "label": ["A", "B", "C"], "text": ["a stone", "a living thing", "a cloud"]}}],
        "validation": [],
    },
    "mmlu": {
        "test": [
            {"question": "What is 2+2?", "subject": "elementary_mathematics", "answer": 3,
             "choices": ["1", "2", "3", "4"], "config": "all"},
        ],
    },
    "mmlu_pro": {
        "test": [
            {"question_id": 70, "question": "What is 2+2?", "answer": "J", "answer_index": 9,
             "options": [str(n) for n in range(-5, 5)], "cot_content": "", "category": "math",
             "src": "ori"},
        ],
        "validation": [
            {"question_id": 0, "question": "What is 1+1?", "answer": "A", "answer_index": 0,
             "options": ["2", "3"], "category": "math", "src": "cot",
             "cot_content": "A: Let's think step by step. It is 2. The answer is (A)."},
        ],
    },
    "drop": {
        "validation": [
            {"section_id": "s", "query_id": "q1", "passage": "Bob ran 5 yards, Al 7.",
             "question": "Who ran?",
             "answer": {"number": "", "date": _DROP_DATE, "spans": ["Bob", "Al"]},
             "validated_answers": {"number": ["", "2"], "date": [_DROP_DATE, _DROP_DATE],
                                   "spans": [["Bob", "Al"], []]}},
            {"section_id": "s", "query_id": "q2", "passage": "It was in May 1900.",
             "question": "When?",
             "answer": {"number": "", "spans": [],
                        "date": {"day": "", "month": "May", "year": "1900"}},
             "validated_answers": {"number": [], "date": [], "spans": []}},
        ],
    },
    "folio": {
        "validation": [
            {"story_id": 1, "example_id": 2, "premises": "All cats purr.\nTom is a cat.",
             "conclusion": "Tom purrs.", "label": "True"},
        ],
        "train": [
            {"story_id": 3, "example_id": 4, "premises": ["Some cats purr."],
             "conclusion": "Tom purrs.", "label": "Unknown"},
        ],
    },
    "strategyqa": {
        "dev": [
            {"qid": "q1", "term": "cat", "description": "a pet", "question": "Do cats purr?",
             "answer": True, "facts": ["Cats purr.", "There is no doubt."]},
            {"qid": "q2", "term": "cat", "description": "a pet", "question": "Do cats bark?",
             "answer": False, "facts": "Dogs bark."},
        ],
    },
    "winogrande": {
        "test": [
            {"sentence": "Sarah knew more than Maria so _ got the hard case.", "option1": "Sarah",
             "option2": "Maria", "answer": "1"},
        ],
        "train": [
            {"sentence": "Hidden _ one.", "option1": "a", "option2": "b", "answer": ""},
        ],
    },
    "boolq": {
        "test": [
            {"question": "do cats purr", "answer": True, "passage": "Cats purr."},
            {"question": "do cats bark", "answer": False, "passage": "Cats purr."},
        ],
    },
    "humaneval": {"test": [_CODE]},
    "humaneval_plus": {"test": [_CODE]},
    "mbpp": {
        "prompt": [],
        "test": [
            {"task_id": 900, "text": "Write a function to add.", "code": "def add(a, b):\n    "
             "return a + b", "test_list": ["assert add(1, 2) == 3"], "test_setup_code": "",
             "challenge_test_list": []},
        ],
    },
    "mbpp_plus": {
        "test": [
            {"task_id": 900, "prompt": "Write a function to add.", "code": "def add(a, b):\n    "
             "return a + b", "test_list": ["assert add(1, 2) == 3"], "source_file": "x",
             "test_imports": [], "test": "assert add(1, 2) == 3\n"},
        ],
    },
    "cruxeval_input": {"test": [_CRUX]},
    "cruxeval_output": {"test": [_CRUX]},
}  # fmt: skip
