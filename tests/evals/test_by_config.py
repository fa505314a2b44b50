"""What a recipe would cost, before any model is here."""

from dataclasses import replace
from typing import Any

import pytest

from smelt.core.errors import UserError
from smelt.evals.by_config import _asked
from smelt.evals.recipe import EvalRecipe
from tests.evals.fakes import CHAT, SUMS

CHAT_ONLY = replace(SUMS, forms={"chat": CHAT})


def asked(entry: dict[str, Any], **changes: Any) -> list[tuple[int, int]]:
    data = {"models": {"one": "a"}, "benchmarks": [entry], **changes}
    return _asked(EvalRecipe.model_validate(data), "r")


def test_auto_is_counted_as_the_dearest_form_that_it_may_be() -> None:
    assert asked({"name": "gsm8k"}) == asked({"name": "gsm8k", "form": "chat"}) == [(1319, 1024)]
    assert asked({"name": "gsm8k", "form": "base"}) == [(1319, 256)]
    # Letters are chosen by likelihood in the base form, and written in a chat.
    drawn = {"samples": 4, "temperature": 1.0}
    assert asked({"name": "mmlu", "limit": 10}, **drawn) == [(40, 1024)]
    assert asked({"name": "mmlu", "limit": 10, "form": "base"}, **drawn) == [(10, 1)]
    assert asked({"name": "mmlu", "limit": 10}, max_new_tokens=7) == [(10, 7)]


def test_a_benchmark_without_a_base_form() -> None:
    name = f"{__name__}:CHAT_ONLY"
    assert asked({"name": name}) == [(3, 30)]
    with pytest.raises(UserError, match=r"r: form: .*no form 'base'\. Expected one of: auto, chat"):
        asked({"name": name, "form": "base"})
