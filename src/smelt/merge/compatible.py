"""Do these models belong together? Checks on configs, tokenizers and heads, before any merging."""

import json
from pathlib import Path
from typing import Any

from smelt.checkpoint import folder as files
from smelt.checkpoint import layout
from smelt.checkpoint.reader import Checkpoint, read_json
from smelt.core.errors import UserError

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
)
# transformers 5 spells out a default that version 4 leaves away.
_ABSENT = (None, False)
_PIECE_BYTES = 1 << 20


def _fact(config: dict[str, Any], key: str) -> Any:
    text = config.get("text_config")
    inner = text if isinstance(text, dict) and key not in config else config
    rope = inner.get("rope_parameters")
    if isinstance(rope, dict):
        if key == "rope_theta":
            return rope.get("rope_theta", inner.get("rope_theta"))
        if key == "rope_scaling":
            scaling = {name: item for name, item in rope.items() if name != "rope_theta"}
            return None if scaling.get("rope_type", "default") == "default" else scaling
    if key == "head_dim" and inner.get("head_dim") is None:
        hidden, heads = inner.get("hidden_size"), inner.get("num_attention_heads")
        return hidden // heads if isinstance(hidden, int) and isinstance(heads, int) else None
    if key == "num_key_value_heads" and inner.get(key) is None:
        return inner.get("num_attention_heads")
    return inner.get(key)


def compare_configs(models: dict[str, Checkpoint]) -> list[str]:
    """Refuse differences that make merging meaningless; warnings for those that may be meant."""
    (first, reference), *others = models.items()
    warnings = []
    for name, model in others:
        for key in MUST_AGREE + SHOULD_AGREE:
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


def compare_tokenizers(
    models: dict[str, Checkpoint], source: str, *, source_is_named: bool
) -> list[str]:
    """Refuse tokens with other ids than the source's; warn about other differences.

    A source that the recipe names may have more or fewer tokens at the end; ids that both have
    must mean the same token, since rows of embeddings are not moved (not supported yet).
    """
    donor = files.vocabulary(models[source].folder)
    warnings = []
    for name, model in models.items():
        path = model.folder / "tokenizer.json"
        if name == source or _same_bytes(path, models[source].folder / "tokenizer.json"):
            continue
        vocabulary = files.vocabulary(model.folder)
        if donor is None or vocabulary is None:
            without = name if vocabulary is None else source
            warnings.append(f"{without} has no tokenizer.json, its tokens cannot be compared")
        elif vocabulary != donor:
            place, what = _first_difference(vocabulary, donor)
            conflict = place is not None
            if conflict or not source_is_named:
                raise UserError(
                    path, f"another vocabulary than {source}: {what}",
                    "the same tokens at the same ids (moving embedding rows is not supported yet)"
                    if conflict
                    else "the same tokens, or a tokenizer_source that says which tokenizer to take",
                    "smelt fuse merges models of different tokenizers" if conflict else "",
                )  # fmt: skip
            warnings.append(f"the vocabulary of {name} differs from {source}: {what}")
        elif not _same_json(path, models[source].folder / "tokenizer.json"):
            warnings.append(
                f"tokenizer.json of {name} has the tokens of {source} but other rules"
                f" (merges, normalizer or template); the result gets that of {source}"
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


def _first_difference(found: dict[str, int], expected: dict[str, int]) -> tuple[int | None, str]:
    """The first id with two meanings (None when one vocabulary only has more), and a sentence."""
    left, right = ({place: token for token, place in one.items()} for one in (found, expected))
    for place in sorted(set(left) & set(right)):
        if left[place] != right[place]:
            return place, f"id {place} is {left[place]!r}, not {right[place]!r}"
    return None, f"{len(found)} tokens, not {len(expected)}"


def logical_names(models: dict[str, Checkpoint]) -> tuple[dict[str, dict[str, str]], list[str]]:
    """Per model: tensor of the network -> tensor of the file, with tied heads made comparable.

    When one model has a head of its own, the others' heads are their embeddings, and the result
    is untied. A head that repeats the embedding of a tied model is left out if all are tied.
    Also gives warnings, and nothing is guessed: the first is about every mixed case.
    """
    views = {name: {tensor: tensor for tensor in model.names()} for name, model in models.items()}
    own_head: dict[str, str] = {}
    tied: list[str] = []
    warnings = []
    for name, model in models.items():
        head, embedding = layout.head_and_embedding(model.names())
        if head is None:
            tied.append(name)
        elif embedding is None or not _is_copy(model, head, embedding):
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
        head, embedding = layout.head_and_embedding(models[name].names())
        if head is not None:
            views[name].pop(head)
        if own_head and embedding is not None:
            views[name][next(iter(own_head.values()))] = embedding
    if own_head and tied:
        warnings.append(
            f"tied head in {', '.join(tied)}, own head in {', '.join(own_head)}: "
            "the result has a head of its own"
        )
    return views, warnings


def _is_copy(model: Checkpoint, head: str, embedding: str) -> bool:
    """Whether two tensors hold the same bytes; one that differs is told by its first megabyte."""
    left, right = model.spec(head), model.spec(embedding)
    if (left.shape, left.dtype) != (right.shape, right.dtype):
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
