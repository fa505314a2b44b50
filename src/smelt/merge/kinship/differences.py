"""How models differ apart from their weights, and which of them could be merged at all."""

from dataclasses import dataclass
from typing import Any

from smelt.checkpoint import layout
from smelt.checkpoint.reader import DTYPES, FLOATS
from smelt.core.errors import UserError
from smelt.merge import compatible
from smelt.merge.model import Model

_VOCABULARY = ("embedding", "head")


@dataclass(frozen=True)
class Fit:
    """What can be compared. names: tensor of the network -> per model its tensor in the files."""

    reference: str
    compared: list[str]
    """Models that fit the reference, which is first."""
    refused: dict[str, str]
    """Model -> why it cannot be merged with the reference."""
    differences: list[str]
    names: dict[str, dict[str, str]]
    left_out: dict[str, str]
    """Tensor -> why it is not compared."""


def fit(models: dict[str, Model], base: str | None) -> Fit:
    """Compare configs, tokenizers, tensor names and shapes with the base.

    Without a base the reference is the model that most others fit (the first of equals).
    Embeddings and heads of other vocabulary sizes are left out: `smelt merge` can still align them.
    """
    candidates = [base] if base is not None else list(models)
    verdicts = {
        one: {other: _refusal(models, one, other) for other in models if other != one}
        for one in candidates
    }
    reference = max(candidates, key=lambda one: sum(why is None for why in verdicts[one].values()))
    refused = {name: why for name, why in verdicts[reference].items() if why is not None}
    compared = [reference, *(name for name in models if name != reference and name not in refused)]
    chosen = {name: models[name] for name in compared}
    views, differences = compatible.logical_names(chosen, reference)
    names, left_out = _shared(chosen, views)
    return Fit(
        reference, compared, refused, [*differences, *_config_lines(chosen)], names, left_out
    )


def facts(model: Model) -> dict[str, Any]:
    """What a table says about one model."""
    head, embedding = layout.head_and_embedding(model.names())
    specs = [model.spec(name) for name in model.names()]
    return {
        "architecture": str(model.config.get("model_type", "unknown")),
        "layers": layout.num_layers(model.names()),
        "parameters": sum(spec.num_elements for spec in specs),
        "bytes": sum(spec.num_bytes for spec in specs),
        "dtype": _dtypes(model),
        "vocabulary": model.spec(embedding).shape[0] if embedding else None,
        "head": "own" if head else "tied",
    }


def _dtypes(model: Model) -> str:
    return " and ".join(sorted({DTYPES[model.spec(name).dtype].name for name in model.names()}))


def _refusal(models: dict[str, Model], reference: str, name: str) -> str | None:
    """Why a model cannot be merged with the reference, None when it can."""
    pair = {reference: models[reference], name: models[name]}
    try:
        compatible.compare_configs(pair)
    except UserError as error:
        return f"{error.found}, expected {error.expected}"
    views, _ = compatible.logical_names(pair, reference)
    for owner, lacking in ((reference, name), (name, reference)):
        # Towers (vision, audio) that one model lacks stand in no way of its language model.
        absent = set(views[owner]) - set(views[lacking])
        missing = sorted(name for name in absent if layout.module_of(name) == "text")
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            return f"{lacking} has no tensor '{missing[0]}'{more}, which {owner} has"
    for tensor in sorted(set(views[name]) & set(views[reference])):
        found, expected = (pair[one].spec(views[one][tensor]) for one in (name, reference))
        same_rows = found.shape[1:] == expected.shape[1:] and found.shape != expected.shape
        if found.shape != expected.shape and not (
            same_rows and layout.block_of(tensor) in _VOCABULARY
        ):
            return (
                f"tensor '{tensor}' has shape {list(found.shape)},"
                f" {list(expected.shape)} in {reference}"
            )
        if (found.dtype in FLOATS.values()) != (expected.dtype in FLOATS.values()):
            return f"tensor '{tensor}' is {found.dtype}, {expected.dtype} in {reference}"
    return None


def _shared(
    models: dict[str, Model], views: dict[str, dict[str, str]]
) -> tuple[dict[str, dict[str, str]], dict[str, str]]:
    """The tensors that all models have in one shape and as floats; the others with the reason."""
    names: dict[str, dict[str, str]] = {}
    left_out: dict[str, str] = {}
    for tensor in sorted(set().union(*views.values())):
        lacking = [name for name, view in views.items() if tensor not in view]
        if lacking:
            left_out[tensor] = f"not in {', '.join(lacking)}"
            continue
        specs = {name: models[name].spec(view[tensor]) for name, view in views.items()}
        shapes = {spec.shape for spec in specs.values()}
        if any(spec.dtype not in FLOATS.values() for spec in specs.values()):
            left_out[tensor] = "no floats"
        elif len(shapes) > 1:
            left_out[tensor] = "other numbers of tokens: " + ", ".join(
                f"{spec.shape[0]} in {name}" for name, spec in specs.items()
            )
        else:
            names[tensor] = {name: view[tensor] for name, view in views.items()}
    return names, left_out


def _config_lines(models: dict[str, Model]) -> list[str]:
    """Sentences about config, dtype and tokenizer, each model against the first."""
    (first, reference), *others = models.items()
    lines = []
    for name, model in others:
        pair = {first: reference, name: model}
        lines += compatible.compare_configs(pair)
        if (found := _dtypes(model)) != (expected := _dtypes(reference)):
            lines.append(f"dtype differs: {found} in {name}, {expected} in {first}")
        try:
            lines += compatible.compare_tokenizers(pair, first)
        except UserError as error:
            lines.append(f"tokenizer of {name}: {error.found}")
    return list(dict.fromkeys(lines))
