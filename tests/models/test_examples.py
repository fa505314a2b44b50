"""Which rows a measurement reads, and how they become batches."""

from pathlib import Path
from typing import Any

import pytest

from smelt.checkpoint.tokenizer import TextTokenizer, open_tokenizer
from smelt.core.errors import UserError
from smelt.models.examples import BATCH_LOGITS, Example, batches, choose, read_rows
from tests.models.measured import ROWS


@pytest.fixture(scope="module")
def tokenizer(tied: Path) -> TextTokenizer:
    return open_tokenizer(tied)


def test_long_texts_become_windows_in_which_each_token_is_predicted_once(
    tokenizer: TextTokenizer,
) -> None:
    text = "The quick brown fox jumps over the lazy dog, then sleeps. " * 4
    ids = [*tokenizer.encode(text), tokenizer.eos_id]
    found = choose([("", text)], tokenizer, context=7, limit=None, max_tokens=None, seed=0)
    windows = sorted(found.items, key=lambda item: int(item.name.split(":")[1]))
    assert len(windows) > 3
    assert [token for item in windows for token in item.inputs] == ids[:-1]
    assert [token for item in windows for token in item.targets] == ids[1:]
    assert max(len(item.inputs) for item in windows) == 7
    assert found.num_rows == 1


def test_pairs_predict_the_response_and_are_never_cut(tokenizer: TextTokenizer) -> None:
    pair = ROWS[0]
    ids = [*tokenizer.encode(pair[0]), *tokenizer.encode("5*1=5."), tokenizer.eos_id]
    (item,) = choose([pair], tokenizer, context=99, limit=None, max_tokens=None, seed=0).items
    assert item.inputs == ids[:-1]
    assert item.targets == [*tokenizer.encode("5*1=5."), tokenizer.eos_id]
    rows = [pair, ("", "T"), ("", "")]
    found = choose(rows, tokenizer, context=4, limit=None, max_tokens=None, seed=0)
    assert found.skipped == {"longer_than_context": 1, "nothing_to_predict": 1}
    assert [item.name for item in found.items] == ["1:0"]
    with pytest.raises(UserError, match="longer_than_context: 1"):
        choose([pair], tokenizer, context=4, limit=None, max_tokens=None, seed=0)


def test_limits_and_seed_choose_rows(tokenizer: TextTokenizer) -> None:
    rows = [("", f"{n}+{n}") for n in range(30)]

    def names(**changes: Any) -> list[str]:
        options = {"context": 9, "limit": None, "max_tokens": None, "seed": 0} | changes
        return [item.name for item in choose(rows, tokenizer, **options).items]

    assert len(names()) == 30
    assert len(names(limit=5)) == 5
    assert names(limit=5) == names(limit=5)
    assert set(names(limit=5)) <= set(names(limit=9))
    assert set(names(limit=5)) != set(names(limit=5, seed=1))
    most = choose(rows, tokenizer, context=9, limit=None, max_tokens=12, seed=0)
    assert 8 < most.num_tokens <= 12
    with pytest.raises(UserError, match="exceeds max_tokens"):
        names(max_tokens=1)


def test_batches_hold_rows_of_one_length_within_the_bounds() -> None:
    lengths = [5, 5, 5, 3, 3, 2]
    items = [Example(f"{n}:0", [n] * size, [0]) for n, size in enumerate(lengths)]
    assert [tuple(part.shape) for part in batches(items, 100)] == [(3, 5), (2, 3), (1, 2)]
    small = [tuple(part.shape) for part in batches(items, BATCH_LOGITS // 10)]
    assert small == [(2, 5), (1, 5), (2, 3), (1, 2)]


def test_rows_of_files(tmp_path: Path) -> None:
    text = tmp_path / "a.txt"
    text.write_text("one\ntwo\n\n  \nthree\n")
    assert read_rows(text) == [("", "one\ntwo"), ("", "three")]
    rows = tmp_path / "a.jsonl"
    rows.write_text('{"text": "ab", "prompt": "a"}\n{"text": "c", "source": "x"}\n')
    assert read_rows(rows) == [("a", "ab"), ("", "c")]
    for bad, match in (
        ("[1]", "no JSON object"),
        ('{"prompt": "a"}', "no text"),
        ('{"text": "b", "prompt": "a"}', "does not begin"),
        ("", "empty"),
    ):
        rows.write_text(bad)
        with pytest.raises(UserError, match=match):
            read_rows(rows)
    with pytest.raises(UserError, match="no such file"):
        read_rows(tmp_path / "none.txt")
