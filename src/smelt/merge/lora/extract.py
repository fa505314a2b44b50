"""Which tensors of a fine-tuned model an adapter can hold, and how: the plan of an extraction.

The difference to the base is taken tensor by tensor (as mergekit-extract-lora and LoRD do); what
is no matrix is kept whole, or left out with its name and reason.
"""

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import AfterValidator, Field

from smelt.checkpoint import layout, peft
from smelt.checkpoint.reader import FLOATS
from smelt.core import config, progress
from smelt.core.config import Recipe
from smelt.core.errors import UserError
from smelt.merge import compatible
from smelt.merge.model import Model
from smelt.merge.recipe import ModelName

HEAD = "lm_head"


def _expression(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"a regular expression ({error})") from error
    return text


Pattern = Annotated[str, AfterValidator(_expression)]


class ExtractRecipe(Recipe):
    """A model as a LoRA adapter of its base."""

    model: ModelName
    """The fine-tuned model: a folder, a hub name, or `model+adapter`."""
    base: ModelName
    """The model that it was tuned from: a folder or a hub name."""
    rank: int = Field(default=32, ge=1)
    """Largest rank of a tensor."""
    energy: float | None = Field(default=None, gt=0, le=1)
    """Per tensor the smallest rank that keeps this share of the squared singular values."""
    exclude: list[Pattern] = Field(default=[])
    """Regular expressions: tensors in whose name one is found are left out."""
    save: list[Pattern] = Field(default=[])
    """Regular expressions: modules of these tensors are stored whole (modules_to_save)."""


@dataclass(frozen=True)
class Extraction:
    """A checked extraction; no tensor was read yet.

    names: the base's tensors, without a head that is its embedding; embedding: its name if base
    and head are one matrix, else None.
    """

    recipe: ExtractRecipe
    model: Model
    base: Model
    names: list[str]
    embedding: str | None
    warnings: list[str]

    @property
    def prefix(self) -> str:
        """What PEFT's module names have in front of the base's."""
        return peft.peft_prefix(self.base.names(), self.base.config)

    def recipe_data(self) -> dict[str, Any]:
        """The recipe as JSON data, its local folders as absolute paths."""
        own = {"model": self.model, "base": self.base}
        data = {name: model.reference.data(_absolute(model)) for name, model in own.items()}
        return self.recipe.model_dump() | data

    def base_name(self) -> str:
        """What the adapter calls its base: an absolute path, or the name on the hub."""
        path = self.base.reference.path
        return _absolute(self.base).get(path, path)

    @property
    def head(self) -> str:
        """The head of a tied base in the model: a tensor of its own, or the embedding."""
        assert self.embedding is not None
        own = layout.head_and_embedding(self.model.names())[0]
        return self.embedding if own is None or layout.declared_tied(self.model.config) else own


def _absolute(model: Model) -> dict[str, str]:
    """Local folders of a model as its reference writes them -> absolute paths."""
    words = [model.reference.path, model.reference.lora]
    folders = [model.folder, model.adapter.folder if model.adapter else None]
    return {
        word: str(folder.absolute())
        for word, folder in zip(words, folders, strict=True)
        if word and folder and Path(word).expanduser().is_dir()
    }


def plan(data: dict[str, Any], where: str) -> Extraction:
    """Open both models and check that they fit. Raises UserError before any tensor is read."""
    recipe = config.parse(ExtractRecipe, data, where, "smelt extract --help")
    model, base = Model.open(recipe.model), Model.open(recipe.base)
    if base.adapter is not None:
        found = f"the base '{base.reference}' has an adapter of its own"
        raise UserError(where, found, "a plain checkpoint, which the result can name as its base")
    if model.adapter is None and model.folder.resolve() == base.folder.resolve():
        raise UserError(where, "model and base are the same folder", "two models")
    warnings = compatible.compare_configs({recipe.base: base, recipe.model: model})
    head, embedding = layout.head_and_embedding(base.names())
    is_tied = embedding is not None and (head is None or layout.declared_tied(base.config))
    own_head = layout.head_and_embedding(model.names())[0]
    heads = {head, own_head} if is_tied else set()
    names = [name for name in base.names() if name not in heads]
    of_model = set(model.names()) - heads
    for name in sorted(of_model - set(names)):
        raise UserError(model.folder, f"tensor '{name}' is not in the base", "tensors of both")
    for name in names:
        if name not in of_model:
            raise UserError(model.folder, f"no tensor '{name}'", f"the tensors of {base.folder}")
        shape, wanted = model.spec(name).shape, base.spec(name).shape
        if shape != wanted:
            raise UserError(
                model.folder, f"'{name}' is {list(shape)}", f"{list(wanted)} as in the base",
                "resize the vocabulary of the base first" if shape[1:] == wanted[1:] else "",
            )  # fmt: skip
    for key, patterns in (("exclude", recipe.exclude), ("save", recipe.save)):
        for pattern in patterns:
            if not any(re.search(pattern, name) for name in names):
                raise UserError(f"{where}: {key}", f"'{pattern}' is in no tensor name", "a part")
    return Extraction(recipe, model, base, names, embedding if is_tied else None, warnings)


Way = Literal["low", "whole", "bias"]


@dataclass
class Contents:
    """What goes into the adapter, decided when it is known which tensors changed."""

    low: list[str] = field(default_factory=list)
    """Matrices and embeddings, to be approximated."""
    biases: list[str] = field(default_factory=list)
    """Biases of modules in `low`, stored as they are in the model."""
    whole: dict[str, list[str]] = field(default_factory=dict)
    """Module -> its tensors, stored as they are in the model."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Changed tensor that the adapter does not hold -> why."""
    unchanged: int = 0

    def reasons(self) -> dict[str, int]:
        """Why changed tensors are missing, counted."""
        return dict(sorted(Counter(self.left_out.values()).items()))


def contents(job: Extraction) -> Contents:
    """Compare all tensors and choose a way for each that changed.

    Reads both models once. Raises UserError if nothing that LoRA can hold changed.
    """
    found = Contents()
    changed = []
    for name in progress.track(job.names, "compare", len(job.names)):
        if _same(job.base, name, job.model, name):
            found.unchanged += 1
        else:
            changed.append(name)
    _choose_embedding(job, changed, found)
    later = []
    for name in changed:
        spec = job.base.spec(name)
        module, _, kind = name.rpartition(".")
        if spec.dtype not in FLOATS.values():
            raise UserError(job.model.folder, f"'{name}' differs and is {spec.dtype}", "floats")
        if _any(job.recipe.exclude, name):
            found.left_out[name] = "excluded"
        elif len(spec.shape) == 2 and kind == "weight" and not _any(job.recipe.save, name):
            found.low.append(name)
        else:
            later.append(name)
    for name in later:
        module, _, kind = name.rpartition(".")
        if kind == "bias" and f"{module}.weight" in found.low and not _any(job.recipe.save, name):
            found.biases.append(name)
        else:
            _keep_whole(job, name, found)
    for module in found.whole:  # a module is stored whole or as factors, never both
        found.low = [name for name in found.low if name != f"{module}.weight"]
    if not found.low:
        raise UserError(
            job.model.folder, "no matrix differs from the base that is not excluded or saved",
            "a fine-tuned model", "check --base, --exclude and --save",
        )  # fmt: skip
    return found


def _choose_embedding(job: Extraction, changed: list[str], found: Contents) -> None:
    """The matrix of a tied base: PEFT adds the updates of embedding and head to the one matrix when
    it merges an adapter, so a changed one is stored whole, once for each of the two."""
    name = job.embedding
    if name is None:
        return
    head_changed = not _same(job.base, name, job.model, job.head)
    if name in changed:
        changed.remove(name)
    elif not head_changed:
        return
    if _any(job.recipe.exclude, name):
        found.left_out[name] = "excluded"
    else:
        found.whole[name.removesuffix(".weight")] = [name]
        found.whole[HEAD] = [f"{HEAD}.weight"]


def _keep_whole(job: Extraction, name: str, found: Contents) -> None:
    module = name.rpartition(".")[0]
    members = [one for one in job.names if one.startswith(f"{module}.")]
    if not module or any("." in one.removeprefix(f"{module}.") for one in members):
        if _any(job.recipe.save, name):
            what = f"'{name}' belongs to a module with modules inside it"
            raise UserError("save", what, "tensors of single layers")
        found.left_out[name] = "no matrix, and in a module with modules inside it"
    elif any(_any(job.recipe.exclude, one) for one in members):
        found.left_out[name] = "in one module with an excluded tensor"
    else:
        found.whole[module] = members


def _any(patterns: list[str], name: str) -> bool:
    return any(re.search(pattern, name) for pattern in patterns)


def _same(one: Model, name: str, other: Model, other_name: str) -> bool:
    left, right = one.array(name), other.array(other_name)
    # NaN is unequal to itself: a damaged tensor counts as changed and is refused when it is used.
    return bool(np.array_equal(left, right))
