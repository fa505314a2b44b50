"""Vocabularies of merges: which rows go where, against the rules written out token by token."""

import json
import string
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smelt.core import config
from smelt.core.errors import UserError
from smelt.merge.vocab import rows as moved
from smelt.merge.vocab.tokenizer_recipe import TokenizerEntry
from smelt.merge.vocab.vocabulary import Member, Vocabulary, build

COLUMNS = 3
CHAT = ["<|im_start|>", "<|im_end|>"]


def word_level(folder: Path, tokens: dict[str, int], added: dict[str, int] | None = None) -> Path:
    """A tokenizer folder that knows whole words only."""
    data = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": place, "content": text, "single_word": False, "lstrip": False, "rstrip": False,
             "normalized": False, "special": True}
            for text, place in (added or {}).items()
        ],
        "normalizer": None,
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": tokens, "unk_token": next(iter(tokens))},
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(data))
    (folder / "tokenizer_config.json").write_text(json.dumps({"unk_token": next(iter(tokens))}))
    return folder


def entry(**section: Any) -> TokenizerEntry:
    return config.parse(TokenizerEntry, section, "m.yml: tokenizer")


def embedding(model: str, rows: int) -> np.ndarray:
    """Rows that name their model and place."""
    start = 1000.0 * sum(map(ord, model))
    return (start + np.arange(rows * COLUMNS).reshape(rows, COLUMNS)).astype(np.float32)


def moved_rows(
    vocabulary: Vocabulary, tensors: dict[str, np.ndarray], base: str | None, block: int = 2
) -> dict[str, np.ndarray]:
    """Every model's tensor under the new vocabulary, read block by block."""

    def read(model: str, places: np.ndarray) -> np.ndarray:
        return tensors[model][places]

    result = {}
    for name, one in vocabulary.row_maps(list(tensors), base).items():
        mean = moved.mean_row(one, COLUMNS, read) if len(one.averaged) else None
        result[name] = np.concatenate([
            moved.read_rows(one, start, min(start + block, one.size), COLUMNS, read, mean)
            for start in range(0, one.size, block)
        ])  # fmt: skip
    return result


def expected_row(
    token: str, model: str, ids: dict[str, dict[str, int]], tensors: dict[str, np.ndarray],
    base: str | None,
) -> np.ndarray:  # fmt: skip
    """mergekit's rule for a token without an entry of its own."""
    having = {
        name: tensors[name][own[token]]
        for name, own in ids.items()
        if own.get(token, len(tensors[name])) < len(tensors[name])
    }
    if model in having:
        return having[model]
    if not having:
        return np.zeros(COLUMNS, np.float32)
    if base in having:
        return having[base]
    return np.mean([*having.values()], axis=0)


words = st.dictionaries(
    st.sampled_from(string.ascii_lowercase[:8]), st.just(0), min_size=1, max_size=6
)


@given(st.lists(words, min_size=2, max_size=4), st.booleans(), st.data())
@settings(max_examples=60, deadline=None)
def test_rows_follow_the_rules(
    tmp_path_factory: pytest.TempPathFactory, lists: list[dict[str, int]], with_base: bool,
    data: st.DataObject,
) -> None:  # fmt: skip
    home = tmp_path_factory.mktemp("models")
    ids = {
        f"m{index}": {token: place for place, token in enumerate(["?", *listed])}
        for index, listed in enumerate(lists)
    }
    sizes = {name: len(own) + data.draw(st.integers(0, 2)) for name, own in ids.items()}
    models = {name: Member(word_level(home / name, own), sizes[name]) for name, own in ids.items()}
    tensors = {name: embedding(name, size) for name, size in sizes.items()}
    source = data.draw(st.sampled_from(["union", "base", *ids]))
    multiple = data.draw(st.sampled_from([None, 4]))
    base = "m0" if with_base else None
    result = build(
        models, entry(source=source, pad_to_multiple_of=multiple), base=base, where="m.yml"
    )
    found = moved_rows(result, tensors, base)
    tokens = result.tokenizer.vocabulary
    if source == "union":
        assert set(tokens) == {token for own in ids.values() for token in own}
        assert {token: tokens[token] for token in ids["m0"]} == ids["m0"]
    else:
        assert tokens == ids["m0" if source == "base" else source]
    assert result.size == (-(-len(tokens) // 4) * 4 if multiple else len(tokens))
    for name, rows in found.items():
        for token, place in tokens.items():
            expected = expected_row(token, name, ids, tensors, base)
            np.testing.assert_allclose(rows[place], expected, rtol=1e-6)
        mean = rows[: len(tokens)].astype(np.float64).mean(axis=0)
        for row in rows[len(tokens) :]:
            np.testing.assert_allclose(row, mean, rtol=1e-6)


@pytest.fixture
def three(tmp_path: Path) -> dict[str, Member]:
    """base: ? a b; chat: the same and two chat markers; other: ? b c, in another order."""
    word_level(tmp_path / "base", {"?": 0, "a": 1, "b": 2})
    added = dict(zip(CHAT, (3, 4), strict=True))
    word_level(tmp_path / "chat", {"?": 0, "a": 1, "b": 2}, added)
    word_level(tmp_path / "other", {"?": 0, "c": 1, "b": 2}, {"<|im_end|>": 3})
    sizes = {"base": 4, "chat": 6, "other": 4}
    return {name: Member(tmp_path / name, rows) for name, rows in sizes.items()}


def tensors_of(models: dict[str, Member]) -> dict[str, np.ndarray]:
    return {name: embedding(name, one.rows or 0) for name, one in models.items()}


def test_a_union_has_plain_tokens_then_added_ones_behind_the_base(three: dict[str, Member]) -> None:
    result = build(three, entry(), base="base", where="m.yml")
    order = ["?", "a", "b", "c", *CHAT]
    assert result.tokenizer.vocabulary == {token: place for place, token in enumerate(order)}
    tensors = tensors_of(three)
    found = moved_rows(result, tensors, "base")
    two = (tensors["chat"][4] + tensors["other"][3]) / 2
    np.testing.assert_array_equal(found["base"][5], two)  # in two models, not in the base
    np.testing.assert_array_equal(found["chat"][5], tensors["chat"][4])
    np.testing.assert_array_equal(found["base"][3], tensors["other"][1])
    np.testing.assert_array_equal(found["other"][1], tensors["base"][1])
    assert [line for line in result.warnings if "'tokenizer_source: other'" in line]


def test_entries_of_single_tokens(three: dict[str, Member]) -> None:
    tokens = {
        "<|im_start|>": {"source": {"kind": "zero"}},
        "<|im_end|>": {"source": {"kind": "model_token", "model": "base", "token": "a"}},
        "b": {
            "source": {"kind": "model_token", "model": "chat", "token_id": 5}, "force": True,
        },
        "c": {"source": "other"},
        "a": {"force": True},
        "new": {"source": {"kind": "model_token", "model": "other", "token": "c"}},
        "lost": {},
    }  # fmt: skip
    result = build(three, entry(tokens=tokens), base="base", where="m.yml")
    place = result.tokenizer.vocabulary
    assert (place["new"], place["lost"], result.size) == (6, 7, 8)
    tensors = tensors_of(three)
    found = moved_rows(result, tensors, "base")
    zero = np.zeros(COLUMNS)
    for name, rows in found.items():
        own_start = tensors["chat"][3] if name == "chat" else zero
        np.testing.assert_array_equal(rows[place["<|im_start|>"]], own_start)
        np.testing.assert_array_equal(rows[place["b"]], tensors["chat"][5])  # forced on all
        np.testing.assert_array_equal(rows[place["c"]], tensors["other"][1])
        np.testing.assert_array_equal(rows[place["a"]], tensors["base"][1])
        np.testing.assert_array_equal(rows[place["new"]], tensors["other"][1])
        np.testing.assert_array_equal(rows[place["lost"]], zero)
    np.testing.assert_array_equal(found["base"][place["<|im_end|>"]], tensors["base"][1])
    np.testing.assert_array_equal(found["other"][place["<|im_end|>"]], tensors["other"][3])
    assert [line for line in result.warnings if "rows of zeros" in line and "'lost'" in line]


def test_a_tensor_of_some_models_takes_what_they_lack_from_the_rest(
    three: dict[str, Member],
) -> None:
    result = build(three, entry(), base="base", where="m.yml")
    maps = result.row_maps(["base"], "base")
    fills = maps["base"].fills
    weights: dict[int, list[tuple[str, int, float]]] = {}
    for row, model, source, weight in zip(
        fills.row, fills.model, fills.source, fills.weight, strict=True
    ):
        weights.setdefault(int(row), []).append((maps["base"].models[model], int(source), weight))
    assert weights == {
        3: [("other", 1, 1.0)],
        4: [("chat", 3, 1.0)],
        5: [("chat", 4, 0.5), ("other", 3, 0.5)],
    }
    assert list(maps["base"].rows) == [0, 1, 2, -1, -1, -1]
    both = result.row_maps(["base", "chat"], "base")["base"].fills
    assert list(both.row) == [3, 4, 5]
    assert [maps["base"].models[model] for model in both.model] == ["other", "chat", "chat"]


def test_a_model_with_the_vocabulary_of_the_result_is_left_as_it_is(
    three: dict[str, Member],
) -> None:
    result = build(three, entry(source="chat"), base="base", where="m.yml")
    one = result.row_maps(["base", "chat"], "base")["chat"]
    assert len(one.fills.row) == 0
    assert one.unchanged(5)
    assert not one.unchanged(6)  # the sixth row has no token and goes
    assert not result.row_maps(["base"], "base")["base"].unchanged(4)


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        ({"c": {"source": "base"}}, "base has no token 'c'"),
        ({"a": {"source": "nobody"}}, "found 'nobody'"),
        ({"a": {"source": {"kind": "model_token", "model": "base", "token": "zz"}}}, "'zz'"),
        ({"a": {"source": {"kind": "model_token", "model": "base", "token_id": 4}}}, "row 4"),
    ],
)
def test_an_impossible_source_is_refused(
    three: dict[str, Member], tokens: dict[str, Any], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        build(three, entry(tokens=tokens), base="base", where="m.yml")


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"sources": "union"}, r"sources: unknown key. Expected 'source'"),
        ({"pad_to_multiple_of": 0}, "pad_to_multiple_of"),
        ({"tokens": {"a": {"source": {"kind": "zeros"}}}}, "kind: zero"),
        ({"tokens": {"a": {"source": {"kind": "model_token", "model": "x"}}}}, "exactly one"),
        ({"tokens": {"a": {"force": 1}}}, "force"),
        ({"tokens": {"a": {"source": {"kind": "zero", "of": 1}}}}, "unknown key"),
    ],
)
def test_a_wrong_section_is_refused(section: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        entry(**section)


def test_models_are_named_in_any_form(three: dict[str, Member]) -> None:
    tokens = {
        "a": {"source": {"path": "chat"}}, "b": {"source": {"kind": "zero"}},
        "c": {"source": {"kind": "model_token", "model": {"path": "other"}, "token": "b"}},
    }  # fmt: skip
    section = entry(source={"path": "chat"}, tokens=tokens)
    assert section.named_models() == [{"path": "chat"}, {"path": "chat"}, {"path": "other"}]
    result = build(three, section, base="base", where="m.yml", name_of=lambda one: one["path"])
    place = result.tokenizer.vocabulary
    assert result.given == {place["a"]: ("chat", 1), place["b"]: None, place["c"]: ("other", 2)}
    fills = result.row_maps(["base", "chat", "other"], "base")["other"].fills
    assert list(fills.row) == [place["a"], place["<|im_start|>"]] == [1, 3]


def test_mergekits_own_forms_are_read() -> None:
    assert entry().source == "union"
    assert entry().named_models() == []
    tokens = entry(tokens={"a": {"source": {"model": {"path": "p", "revision": "r"}}}}).tokens
    assert tokens is not None
    assert tokens["a"].source == {"model": {"path": "p", "revision": "r"}}


def test_tokens_without_a_row_are_cut(three: dict[str, Member], tmp_path: Path) -> None:
    chat = three["chat"].folder
    named = {"eos_token": "<|im_end|>", "bos_token": {"content": "<|im_start|>"}, "pad_token": "?"}
    (chat / "tokenizer_config.json").write_text(json.dumps(named))
    result = build({"chat": Member(chat, 4)}, entry(source="base"), base="chat", where="m.yml")
    assert result.size == 4
    assert result.warnings == ["1 tokens of chat have no embedding row and are left out"]
    result.write(tmp_path / "out")
    written = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert written == {"bos_token": {"content": "<|im_start|>"}, "pad_token": "?"}
    new = json.loads((tmp_path / "out" / "tokenizer.json").read_text())
    assert [token["content"] for token in new["added_tokens"]] == ["<|im_start|>"]


def test_gaps_in_the_ids_are_rows_like_padding(tmp_path: Path) -> None:
    folder = word_level(tmp_path / "gap", {"?": 0, "a": 3})
    result = build({"gap": Member(folder, 5)}, entry(source="base"), base="gap", where="m.yml")
    tensors = {"gap": embedding("gap", 5)}
    found = moved_rows(result, tensors, "gap")["gap"]
    assert result.size == 4
    np.testing.assert_array_equal(found[[0, 3]], tensors["gap"][[0, 3]])
    middle = tensors["gap"][[0, 3]].mean(axis=0)
    np.testing.assert_allclose(found[[1, 2]], [middle, middle], rtol=1e-6)


def test_a_model_without_a_tokenizer_is_taken_to_have_the_bases(three: dict[str, Member]) -> None:
    for file in three["other"].folder.iterdir():
        file.unlink()
    models = three | {"other": Member(three["other"].folder, 2)}
    result = build(models, entry(), base="base", where="m.yml")
    np.testing.assert_array_equal(result.own["other"], [0, 1, -1, -1, -1])
    np.testing.assert_array_equal(result.own["base"], [0, 1, 2, -1, -1])
    assert "other has no tokenizer.json; it is taken to have that of base" in result.warnings
    with pytest.raises(UserError, match=r"no tokenizer\.json"):
        build({"other": three["other"]}, entry(), base=None, where="m.yml")


def test_a_tokenizer_that_is_not_merged_gives_no_rows(three: dict[str, Member]) -> None:
    models = three | {"chat": Member(three["chat"].folder, None)}
    result = build(models, entry(source="chat"), base="base", where="m.yml")
    found = moved_rows(result, {n: t for n, t in tensors_of(models).items() if n != "chat"}, "base")
    np.testing.assert_array_equal(found["base"][3], np.zeros(COLUMNS))
    np.testing.assert_array_equal(found["base"][4], embedding("other", 4)[3])
    assert [line for line in result.warnings if "zeros" in line and "im_start" in line]
    united = build(models, entry(), base="base", where="m.yml").tokenizer.vocabulary
    assert [*united] == ["?", "a", "b", "c", "<|im_end|>"]


def test_a_plain_token_that_a_later_model_adds_stands_among_the_added(
    three: dict[str, Member], tmp_path: Path
) -> None:
    late = word_level(tmp_path / "late", {"?": 0, "b": 1, "d": 2}, {"c": 3})
    result = build(three | {"late": Member(late, 4)}, entry(), base="base", where="m.yml")
    assert [*result.tokenizer.vocabulary] == ["?", "a", "b", "d", *CHAT, "c"]
    assert [*result.tokenizer.added] == [*CHAT, "c"]


def test_ids_in_configs_are_translated(three: dict[str, Member]) -> None:
    result = build(three, entry(source="other"), base="base", where="m.yml")
    old = {
        "eos_token_id": [4, 3], "pad_token_id": 0, "bos_token_id": 1, "vocab_size": 6,
        "text_config": {"eos_token_id": 4}, "sep_token_id": None,
    }  # fmt: skip
    new, warnings = result.translate("chat", old)
    assert new == {
        "eos_token_id": [3], "pad_token_id": 0, "vocab_size": 6,
        "text_config": {"eos_token_id": 3}, "sep_token_id": None,
    }  # fmt: skip
    assert len(warnings) == 2  # one of the ends of text, and the start of text


LLAMA = {
    "model.embed_tokens.weight": (9, 4),
    "model.layers.0.self_attn.q_proj.weight": (9, 9),
    "model.norm.weight": (9,),
    "lm_head.weight": (9, 4),
    "lm_head.bias": (9,),
}


def test_tensors_by_token() -> None:
    heads = {"model.embed_tokens.weight", "lm_head.weight", "lm_head.bias"}
    assert moved.vocabulary_tensors(LLAMA, "m") == heads
    gpt2 = {"wte.weight": (9, 4), "wpe.weight": (9, 4), "h.0.attn.c_attn.weight": (4, 12)}
    assert moved.vocabulary_tensors(gpt2, "m") == {"wte.weight"}
    assert moved.embedding_rows({"wpe.weight": (7, 4), "wte.weight": (9, 4)}, "m") == 9


@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        ({"final_logits_bias": (1, 9)}, "meaning is unknown"),
        ({"output.weight": (8, 4)}, r"shape \[8, 4\]"),
    ],
)
def test_a_tensor_that_may_go_by_tokens_is_refused(
    tensor: dict[str, tuple[int, ...]], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        moved.vocabulary_tensors(LLAMA | tensor, "m")
    with pytest.raises(UserError, match="no token embedding"):
        moved.embedding_rows({"model.norm.weight": (9,)}, "m")
