"""The plan of a merge: every tensor with its sources and values, checked before any work starts."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from smelt.checkpoint import layout
from smelt.checkpoint.reader import DTYPES
from smelt.checkpoint.writer import MAX_SHARD_BYTES
from smelt.core.errors import UserError
from smelt.merge import compatible
from smelt.merge.measured import refuse_moved
from smelt.merge.method import Method, load_method
from smelt.merge.model import Model
from smelt.merge.modules import buffers, kinds_of, left_out, planned, with_kept
from smelt.merge.parts import Module, Part, modules_of
from smelt.merge.recipe import MergeRecipe, check_whole, model_name
from smelt.merge.tensors import MERGED, Planner, TensorPlan, View, try_values
from smelt.merge.vocab import vocabulary
from smelt.merge.vocab.chat_template import template_text
from smelt.merge.vocab.rows import RowMap, embedding_rows, vocabulary_tensors
from smelt.merge.vocab.vocabulary import Member, Vocabulary


@dataclass(frozen=True)
class MergePlan:
    """A checked merge: what is read, what is computed, what is written."""

    recipe: MergeRecipe
    where: str
    method: Method
    models: dict[str, Model]
    """By the name in the recipe, base first."""
    views: dict[str, View]
    """Per model that is merged: tensor of the network -> tensor of its files."""
    donor: str
    """The model that gives config and, unless another is named, the tokenizer."""
    vocabulary: Vocabulary | None
    """The tokenizer of the result when the recipe asks for one; None: the donor's files."""
    chat_template: str | None
    config: dict[str, Any]
    dtype: str | None
    """Type of the result when it is one for all tensors."""
    tensors: list[TensorPlan]
    warnings: list[str]
    max_shard_bytes: int = MAX_SHARD_BYTES

    @property
    def bytes_read(self) -> int:
        """Bytes of all source tensors (a tensor used twice counts twice), in one pass over them."""
        places = [place for item in self.tensors for place in item.places]
        return sum(self.models[model].spec(name).num_bytes for model, name in places)

    @property
    def bytes_written(self) -> int:
        """Bytes of the result's tensors."""
        return sum(item.entry.num_bytes for item in self.tensors)


def plan(recipe: MergeRecipe, where: str, *, max_shard_bytes: int = MAX_SHARD_BYTES) -> MergePlan:
    """Open all models, check that they fit, resolve every value. Raises UserError."""
    check_whole(recipe, where)
    method = load_method(recipe.merge_method)
    modules, warnings = modules_of(recipe, where, method)
    models = _open(recipe, where, method)
    # Never by chance: config and tokenizer come from the base, else from the first model.
    donor = recipe.base_model or modules[0].parts[0].experts[0].model
    merged = {one.model for module in modules for part in module.parts for one in part.sources}
    if donor not in merged:
        warnings.append(f"{method.name} takes only config and tokenizer from the base {donor}")
    checked = {name: model for name, model in models.items() if name in merged or name == donor}
    warnings += compatible.compare_configs(checked)
    warnings += compatible.compare_dtypes(
        {name: checked[name] for name in checked if name in merged}
    )
    views, more = compatible.logical_names(checked, donor)
    warnings += more
    kept = buffers(checked, views, donor)
    modules, more_kept = with_kept(modules, views, donor, sliced=recipe.slices is not None)
    kept |= more_kept
    warnings += left_out(views, donor)
    vocab, by_token = None, frozenset[str]()
    if recipe.vocabulary is None:
        warnings += compatible.compare_tokenizers(checked, donor)
    else:
        vocab, by_token = _vocabulary(recipe, where, models, checked, views)
        warnings += vocab.warnings
    planner = Planner(
        method, models, views, recipe.out_dtype or recipe.dtype, by_token,
        _row_maps(vocab, checked) if vocab is not None else None,
    )  # fmt: skip
    tensors = planned(planner, modules, where)
    tensors += [planner.copy(name, (donor, own)) for name, own in sorted(kept.items())]
    if kept:
        warnings.append(f"{len(kept)} tensors are kept from {donor}: {kinds_of(kept)}")
    refuse_moved(tensors, models, where)
    try_values(method, tensors)
    config, more = _config(models[donor].config, modules, models, tensors, donor, vocab)
    folders = [models[name].folder for name in checked]
    return MergePlan(
        recipe=recipe,
        where=where,
        method=method,
        models=models,
        views=views,
        donor=donor,
        vocabulary=vocab,
        chat_template=template_text(recipe.chat_template, folders, where),
        config=config,
        dtype=_common_dtype(tensors),
        tensors=sorted(tensors, key=lambda item: item.entry.name),
        warnings=list(dict.fromkeys(warnings + more)),
        max_shard_bytes=max_shard_bytes,
    )


def _open(recipe: MergeRecipe, where: str, method: Method) -> dict[str, Model]:
    models = {name: Model.open(name) for name in recipe.model_names()}
    seen: dict[tuple[Path, ...], str] = {}
    for name, model in models.items():
        folders = tuple(folder.resolve() for folder in model.folders().values())
        if folders in seen:
            found = f"'{seen[folders]}' and '{name}' are the same folder"
            raise UserError(where, found, "one spelling for one model")
        seen[folders] = name
    measured: dict[str, str] = {}
    for entry in recipe.entries():
        name = entry.model
        if entry.statistics is not None and method.extra is None:
            found = f"statistics, which {method.name} does not use"
            raise UserError(f"{where}: {name}", found, "no such key, or regmean or fisher")
        if entry.statistics is not None and measured.setdefault(name, entry.statistics) != (
            entry.statistics
        ):
            raise UserError(f"{where}: {name}", "two statistics folders", "one for each model")
        if entry.statistics is not None and models[name].statistics is None:
            models[name] = models[name].measured(entry.statistics)
        statistics = models[name].statistics
        if method.extra is not None and name != recipe.base_model:
            kind = statistics.kind if statistics is not None else "no statistics"
            if kind != method.extra:
                raise UserError(
                    f"{where}: {name}", kind, f"`statistics:` of kind {method.extra}",
                    f"smelt statistics {name} OUT --data ROWS --kind {method.extra}",
                )  # fmt: skip
    return models


def _vocabulary(
    recipe: MergeRecipe, where: str, models: dict[str, Model], checked: dict[str, Model],
    views: dict[str, View],
) -> tuple[Vocabulary, frozenset[str]]:  # fmt: skip
    """The vocabulary that the recipe asks for, and the network's tensors that go by token."""
    members, by_token = {}, set()
    for name, model in models.items():
        shapes = {one: model.spec(one).shape for one in model.names()}
        rows = embedding_rows(shapes, model.folder) if name in checked else None
        members[name] = Member(model.folder, rows)
        if name in checked:
            found = vocabulary_tensors(shapes, model.folder)
            by_token |= {name for name, own in views[name].items() if own in found}
    section = recipe.vocabulary
    assert section is not None
    built = vocabulary.build(
        members, section, base=recipe.base_model, where=where, name_of=model_name
    )
    return built, frozenset(by_token)


def _row_maps(vocab: Vocabulary, checked: dict[str, Model]) -> Any:
    """A function (models of a tensor, its base) -> RowMap by model, each set computed once."""

    @cache
    def row_maps(names: tuple[str, ...], base: str | None) -> Mapping[str, RowMap]:
        return vocab.row_maps(names, base)

    return row_maps


def _common_dtype(tensors: list[TensorPlan]) -> str | None:
    """The type of the result as a config.json has it, when it is one for all tensors."""
    dtypes = {item.entry.dtype for item in tensors if item.entry.dtype in MERGED}
    return DTYPES[dtypes.pop()].name if len(dtypes) == 1 else None


def _config(
    donor: dict[str, Any],
    modules: list[Module],
    models: dict[str, Model],
    tensors: list[TensorPlan],
    name: str,
    vocab: Vocabulary | None,
) -> tuple[dict[str, Any], list[str]]:
    """config.json of the result: the donor's, with layers, tie, vocabulary and token ids right."""
    config, warnings = dict(donor), list[str]()
    if vocab is not None:
        config, warnings = vocab.translate(name, config)
    inner = config
    if isinstance(config.get("text_config"), dict):
        inner = config["text_config"] = dict(config["text_config"])
    if vocab is not None:
        for one in (config, inner):
            if one is inner or "vocab_size" in one:
                one["vocab_size"] = vocab.size
    names = [item.entry.name for item in tensors]
    parts = [p for module in modules if module.name in (None, "text") for p in module.parts]
    parts = parts or [
        p for m in modules if layout.in_module("model.x", str(m.name)) for p in m.parts
    ]
    if any(one.span for part in parts for one in part.experts):
        total = layout.num_layers(names)
        key = next((one for one in ("num_hidden_layers", "n_layer") if one in inner), None)
        if key is None:
            raise UserError(
                parts[0].where, "slices, but config.json has no num_hidden_layers", "models"
            )
        inner[key] = total
        before = donor.get("text_config", donor).get(key)
        for name_of_list, values in list(inner.items()):
            if isinstance(values, list) and len(values) == before:
                inner[name_of_list] = _restacked(name_of_list, parts, models)
    if None not in layout.head_and_embedding(names):
        for one in (config, inner):
            if one is config or "tie_word_embeddings" in one:
                one["tie_word_embeddings"] = False
    return config, warnings


def _restacked(key: str, parts: list[Part], models: dict[str, Model]) -> list[Any]:
    """A list with one entry for each layer (layer_types...), stacked as the layers are."""
    stacked: list[Any] = []
    for part in parts:
        config = models[part.experts[0].model].config
        own = config.get("text_config", config).get(key) or []
        span = part.experts[0].span
        stacked += own[slice(*span)] if span else own
    return stacked
