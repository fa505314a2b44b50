"""Do these models belong together? Checks on configs, tokenizers and heads, before any merging."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from smelt.checkpoint import folder as files
from smelt.checkpoint import layout
from smelt.checkpoint.reader import FLOATS, read_json
from smelt.core.errors import UserError
from smelt.merge.model import Model


@runtime_checkable
class HasConfig(Protocol):
    """A model, as far as its configuration goes."""

    @property
    def folder(self) -> Path: ...

    @property
    def config(self) -> dict[str, Any]: ...


# Averaging across a difference in these gives noise, even where the shapes agree.
MUST_AGREE = (
    "model_type",
    "hidden_size",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
)
SHOULD_AGREE = (
    "rope_theta",
    "rope_scaling",
    "rms_norm_eps",
    "vocab_size",
    "max_position_embeddings",
    "sliding_window",
    "attention_bias",
    "partial_rotary_factor",
    "layer_types",
    "num_experts_per_tok",
    "attn_logit_softcapping",
    "final_logit_softcapping",
)
# transformers 5 spells out a default that version 4 leaves away.
_ABSENT = (None, False)
_PIECE_BYTES = 1 << 20
# A family's models often differ in a few added tokens; more than this share is another tokenizer.
_FEW_TOKENS = 0.01


def _fact(config: dict[str, Any], key: str) -> Any:
    text = config.get("text_config")
    inner = text if isinstance(text, dict) and key not in config else config
    rope = inner.get("rope_parameters")
    if isinstance(rope, dict) and any(isinstance(item, dict) for item in rope.values()):
        if key in ("rope_theta", "rope_scaling"):  # one set for each type of layer
            return rope if key == "rope_scaling" else None
    elif isinstance(rope, dict):
        if key == "rope_theta":
            return rope.get("rope_theta", inner.get("rope_theta"))
        if key == "rope_scaling":
            scaling = {name: item for name, item in rope.items() if name != "rope_theta"}
            return None if scaling.get("rope_type", "default") == "default" else scaling
    if key == "head_dim" and inner.get("head_dim") is None:
        hidden, heads = inner.get("hidden_size"), inner.get("num_attention_heads")
        if isinstance(hidden, int) and isinstance(heads, int) and heads > 0:
            return hidden // heads
        return None
    if key == "num_key_value_heads" and inner.get(key) is None:
        return inner.get("num_attention_heads")
    return inner.get(key)


def compare_configs(models: Mapping[str, HasConfig]) -> list[str]:
    """Refuse differences that make merging meaningless; warnings for those that may be meant."""
    (first, reference), *others = models.items()
    warnings = []
    for name, model in others:
        nested = ["text_config" in one.config for one in (model, reference)]
        for key in MUST_AGREE + SHOULD_AGREE:
            if key == "model_type" and nested[0] != nested[1]:
                continue  # a language model and a vision-language model around one of its kind
            expected, found = _fact(reference.config, key), _fact(model.config, key)
            if found == expected or (found in _ABSENT and expected in _ABSENT):
                continue
            if key in MUST_AGREE:
                raise UserError(
                    model.folder / "config.json", f"{key} is {found}",
                    f"{expected}, as in {first}", "models of other shapes: smelt fuse",
                )  # fmt: skip
            warnings.append(f"{key} differs: {found} in {name}, {expected} in {first}")
    for name, model in models.items():
        if "quantization_config" in model.config:
            raise UserError(model.folder / "config.json", "a quantised model", "its original")
        if "auto_map" in model.config:
            warnings.append(f"{name} brings code of its own (auto_map); it is not copied")
    return warnings


def compare_dtypes(models: dict[str, Model]) -> list[str]:
    """A warning when the models are stored in different types: the result has the first's."""
    kinds = {}
    for name, model in models.items():
        stored = {model.spec(one).dtype for one in model.names()}
        known = sorted(kind for kind, header in FLOATS.items() if header in stored)
        kinds[name] = " and ".join(known)
    if len(set(kinds.values())) < 2:
        return []
    listed = ", ".join(f"{kind} in {name}" for name, kind in kinds.items())
    first = next(iter(kinds))
    return [f"dtype differs: {listed}; each tensor of the result has its type in {first}"]


def compare_tokenizers(models: dict[str, Model], donor: str) -> list[str]:
    """Warnings about tokenizers that differ from the donor's, when no rows of embeddings move.

    Raises UserError when more than a few ids mean other tokens: that is another tokenizer.
    """
    expected = files.vocabulary(models[donor].folder)
    warnings = []
    for name, model in models.items():
        path = model.folder / "tokenizer.json"
        if name == donor or _same_bytes(path, models[donor].folder / "tokenizer.json"):
            continue
        vocabulary = files.vocabulary(model.folder)
        if expected is None or vocabulary is None:
            without = name if vocabulary is None else donor
            warnings.append(f"{without} has no tokenizer.json, its tokens cannot be compared")
        elif vocabulary != expected:
            conflicts, what = _difference(vocabulary, expected)
            if conflicts > _FEW_TOKENS * len(expected):
                raise UserError(
                    path, f"another vocabulary than {donor}: {what}",
                    "the same tokens at the same ids, or `tokenizer_source: union`, which moves "
                    "the rows of embeddings",
                    "smelt fuse merges models of different tokenizers",
                )  # fmt: skip
            mend = "; rows are merged as they stand (tokenizer_source: union would move them)"
            warnings.append(
                f"the vocabulary of {name} differs from {donor}: {what}{mend if conflicts else ''}"
            )
        elif not _same_json(path, models[donor].folder / "tokenizer.json"):
            warnings.append(
                f"tokenizer.json of {name} has the tokens of {donor} but other rules"
                f" (merges, normalizer or template); the result gets that of {donor}"
            )
    return warnings


def _same_bytes(left: Path, right: Path) -> bool:
    return left.is_file() and right.is_file() and left.read_bytes() == right.read_bytes()


def _same_json(left: Path, right: Path) -> bool:
    def text(path: Path) -> str:
        # Merges are "a b" in older files and ["a", "b"] in newer ones; settings of one call differ.
        data = read_json(path)
        model = dict(data.get("model") or {})
        merges = model.get("merges") or []
        model["merges"] = [one if isinstance(one, str) else " ".join(one) for one in merges]
        kept = {**data, "model": model, "truncation": None, "padding": None}
        return json.dumps(kept, sort_keys=True)

    return text(left) == text(right)


def _difference(found: dict[str, int], expected: dict[str, int]) -> tuple[int, str]:
    """How many ids have two meanings, and a sentence about the first difference."""
    left, right = ({place: token for token, place in one.items()} for one in (found, expected))
    places = [place for place in sorted(set(left) & set(right)) if left[place] != right[place]]
    if places:
        first = places[0]
        return len(places), f"id {first} is {left[first]!r}, not {right[first]!r}"
    return 0, f"{len(found)} tokens, not {len(expected)}"


def logical_names(
    models: dict[str, Model], donor: str
) -> tuple[dict[str, dict[str, str]], list[str]]:
    """Per model: tensor of the network -> tensor of the file, under the names that the donor uses.

    A language model and one inside a vision-language model get the same names. When one model has
    a head of its own, the others' heads are their embeddings, and the result is untied. A head that
    repeats the embedding of a tied model is left out if all are tied. Also gives warnings, and
    nothing is guessed: the first is about every mixed case.
    """
    views = {name: _renamed(model, models[donor]) for name, model in models.items()}
    own_head: dict[str, str] = {}
    tied: list[str] = []
    warnings = []
    for name, model in models.items():
        head, embedding = layout.head_and_embedding(views[name])
        if head is None:
            tied.append(name)
        elif embedding is None or not _is_copy(model, views[name][head], views[name][embedding]):
            own_head[name] = head
            if layout.declared_tied(model.config) and embedding is not None:
                warnings.append(
                    f"{name} says tie_word_embeddings but has a head of its own, which is used"
                )
        elif layout.declared_tied(model.config):
            tied.append(name)
        else:
            own_head[name] = head
    for name in tied:
        head, embedding = layout.head_and_embedding(views[name])
        if head is not None:
            views[name].pop(head)
        if own_head and embedding is not None:
            views[name][next(iter(own_head.values()))] = views[name][embedding]
    if own_head and tied:
        warnings.append(
            f"tied head in {', '.join(tied)}, own head in {', '.join(own_head)}: "
            "the result has a head of its own"
        )
    return views, warnings


def _renamed(model: Model, donor: Model) -> dict[str, str]:
    """The donor's name of each tensor -> the model's own."""
    names, wanted = model.names(), donor.names()
    own, other = layout.text_prefix(names), layout.text_prefix(wanted)
    head = layout.head_and_embedding(wanted)[0]
    own_head = layout.head_and_embedding(names)[0]
    view = {}
    for name in names:
        renamed = name
        if head is not None and own_head is not None and layout.block_of(name) == "head":
            stem = own_head.removesuffix("weight")
            if name.startswith(stem):
                renamed = head.removesuffix("weight") + name.removeprefix(stem)
        elif own != other and layout.module_of(name) == "text" and name.startswith(own):
            renamed = other + name.removeprefix(own)
        view[renamed] = name
    # Two tensors under one name would lose one of them: then every name stays as it is.
    return view if len(view) == len(names) else {name: name for name in names}


def _is_copy(model: Model, head: str, embedding: str) -> bool:
    """Whether two tensors hold the same bytes; one that differs is told by its first megabyte."""
    left, right = model.spec(head), model.spec(embedding)
    if (left.shape, left.dtype) != (right.shape, right.dtype):
        return False
    if model.touches(head) or model.touches(embedding):
        return False
    with left.file.open("rb") as one, right.file.open("rb") as other:
        one.seek(left.start)
        other.seek(right.start)
        size = left.num_bytes
        while size > 0:
            asked = min(_PIECE_BYTES, size)
            if one.read(asked) != other.read(asked):
                return False
            size -= asked
    return True
