"""From lm-eval's names, keywords and windows to ours; lm-eval itself is not needed."""

import re

import pytest

from smelt.core.errors import UserError
from smelt.evals import lm_eval
from smelt.evals.lm_eval_model import fit, rolling, to_request
from smelt.evals.recipe import BenchmarkEntry
from smelt.models.backend import Query
from tests.evals.lmeval_ours import Recited
from tests.pages import ROOT


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lm_eval, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"smelt\[lm-eval\]"):
        lm_eval.check_task(BenchmarkEntry(name="lm_eval/gsm8k"), "r.yaml")


def test_names() -> None:
    assert lm_eval.is_task("lm_eval/gsm8k")
    assert not lm_eval.is_task("gsm8k")


def test_the_docs_have_every_key() -> None:
    """The table of docs/lm-eval.md: all options, and besides them only keys of the entry."""
    page = (ROOT / "docs" / "lm-eval.md").read_text(encoding="utf-8")
    table = page.partition("| key | meaning |\n")[2].partition("\n\n")[0]
    named = set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\|.*?\|", table, re.MULTILINE))))
    assert named - set(BenchmarkEntry.model_fields) == set(lm_eval.Options.model_fields)


def test_generation_keywords() -> None:
    request = to_request("p", {"until": "x", "max_tokens": 7}, 100, "w")
    assert (request.stop, request.max_new_tokens, request.temperature) == (("x",), 7, 0.0)
    assert to_request("p", {"do_sample": False, "temperature": 0.8}, 999, "w").temperature == 0.0
    assert to_request("p", {"temperature": 0.8, "top_p": 0.9}, 999, "w").top_p == 0.9
    assert to_request("p", {"do_sample": True}, 999, "w").temperature == 1.0
    # Without drawing it does not matter from how many tokens.
    assert to_request("p", {"top_k": 50, "top_p": 0.3}, 999, "w").top_p == 1.0
    assert to_request("p", {}, 999, "w").max_new_tokens == 256
    assert to_request("p", {}, 100, "w").max_new_tokens == 50
    assert to_request("p", {"until": ["a", ""]}, 100, "w").stop == ("a",)
    for wrong in ({"top_k": 5, "do_sample": True}, {"logprobs": 1}, {"num_beams": 2}):
        with pytest.raises(UserError, match="generation_kwargs"):
            to_request("p", wrong, 999, "w")


class Words(Recited):
    """A backend that counts words, of which eight fit."""

    context = 8

    def num_tokens(self, texts: list[str]) -> list[int]:
        return [len(text.split()) for text in texts]


def test_the_end_of_a_long_prompt_is_kept() -> None:
    words = Words()
    text = "one two three four five six seven eight nine ten"
    assert fit(words, text, " eleven", 5).split() == ["seven", "eight", "nine", "ten"]
    assert fit(words, "one two", " three", 5) == "one two"


def test_windows_cover_a_text_once() -> None:
    words = Words()
    text = " ".join(f"w{number}" for number in range(30))
    windows = rolling(words, text)
    assert "".join(window.continuation for window in windows) == text
    assert all(words.num_tokens([one.prompt + one.continuation])[0] <= 8 for one in windows)
    assert windows[0] == Query("", "w0 w1 w2 w3 w4 w5 w6 w7")
    assert windows[1] == Query("w7", " w8 w9 w10 w11 w12 w13 w14")
    # The last sees as much as fits.
    assert words.num_tokens([windows[-1].prompt + windows[-1].continuation]) == [8]
    assert rolling(words, "") == []
