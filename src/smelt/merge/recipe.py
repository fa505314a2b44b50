"""The merge recipe: mergekit's YAML as it is, but strict, and a few keys of our own."""

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import AfterValidator, BeforeValidator, model_validator

from smelt.checkpoint.reference import parse_model_reference
from smelt.core import config
from smelt.core.config import Recipe
from smelt.core.errors import UserError
from smelt.merge.method import DEFAULT
from smelt.merge.parameters import check_setting
from smelt.merge.vocab.chat_template import check_template
from smelt.merge.vocab.tokenizer_recipe import TokenizerEntry


def model_name(value: Any) -> str:
    """A model as text, whichever of its forms it was written in; nothing is looked up yet."""
    try:
        return str(parse_model_reference(value))
    except UserError as error:
        if error.where == "model" and error.found.startswith("found "):
            raise ValueError(error.expected) from error  # what was found is told with the key
        inner = error.where.removeprefix("model").removeprefix(".")
        why = f"{inner}: {error.found}" if inner else error.found
        raise ValueError(f"{error.expected} ({why})") from error


def _layers(value: Any) -> Any:
    good = isinstance(value, list) and len(value) == 2
    if not good or not all(type(item) is int for item in value) or not 0 <= value[0] < value[1]:
        raise ValueError("[first layer, layer after the last], counted from 0")
    return value


def _without_torch(value: Any) -> Any:
    return value.removeprefix("torch.") if isinstance(value, str) else value


Item = TypeVar("Item")


def _some(items: Item) -> Item:
    if not items:
        raise ValueError("at least one entry, found none")
    return items


ModelName = Annotated[str, BeforeValidator(model_name)]
Setting = Annotated[Any, AfterValidator(check_setting)]
LayerRange = Annotated[Any, AfterValidator(_layers)]
Dtype = Annotated[
    Literal["float64", "float32", "float16", "bfloat16"], BeforeValidator(_without_torch)
]
Settings = dict[str, Setting] | None


class Entry(Recipe):
    """A mapping inside a merge recipe."""

    form: ClassVar[str]
    """What it looks like, for who wrote something else."""

    @model_validator(mode="before")
    @classmethod
    def _is_mapping(cls, data: Any) -> Any:
        if not isinstance(data, dict | cls):
            raise ValueError(f"a mapping with {cls.form}")
        return data


class ModelEntry(Entry):
    """One expert (or the base, listed among them)."""

    form: ClassVar[str] = "`model`"
    model: ModelName
    """Folder or hub name, `name@revision`, `model+adapter` (LoRA), or {model, lora}."""
    parameters: Settings = None
    """Values of this model: a number, a gradient over depth, or a list of {filter, value}."""
    statistics: str | None = None
    """Result folder of `smelt statistics` for this model (methods regmean and fisher)."""


class SliceSource(ModelEntry):
    """Consecutive layers of one model."""

    form: ClassVar[str] = "`model` and `layer_range`"
    layer_range: LayerRange
    """[first, after the last], counted from 0."""


class SliceEntry(Entry):
    """A run of layers of the merged model and the layers it is merged from."""

    form: ClassVar[str] = "`sources`"
    sources: Annotated[list[SliceSource], AfterValidator(_some)]
    """Layers of the models, the same number from each."""
    base_model: ModelName | None = None
    """A base of this slice's own."""
    residual_weight: float | None = None
    """Read and without effect, in mergekit as here."""
    parameters: Settings = None
    """Values of this slice."""


class ModuleEntry(Entry):
    """What one module of a multi-module model is merged from."""

    form: ClassVar[str] = "`models` or `slices`"
    models: Annotated[list[ModelEntry], AfterValidator(_some)] | None = None
    """The models, whole. Exactly one of `models` and `slices`."""
    slices: Annotated[list[SliceEntry], AfterValidator(_some)] | None = None
    """Runs of layers, first layer first."""
    parameters: Settings = None
    """Values of this module."""


class MergeRecipe(Recipe):
    """A merge: method, models (or slices of them), parameters."""

    merge_method: str = DEFAULT
    """Name of a merge method; `smelt ls merge-method` lists them."""
    models: Annotated[list[ModelEntry], AfterValidator(_some)] | None = None
    """The models to merge, whole. Exactly one of `models`, `slices` and `modules`."""
    slices: Annotated[list[SliceEntry], AfterValidator(_some)] | None = None
    """Runs of layers, first layer first."""
    modules: Annotated[dict[str, ModuleEntry], AfterValidator(_some)] | None = None
    """By module (text_decoder, vision_tower, multi_modal_projector...); others stay the base's."""
    base_model: ModelName | None = None
    """The common ancestor; it also gives config and tokenizer."""
    parameters: Settings = None
    """Values for the whole merge."""
    dtype: Dtype | None = None
    """Type of the output when `out_dtype` is not set. Arithmetic is float32, or float64 for it."""
    out_dtype: Dtype | None = None
    """Type of the output; by default each tensor keeps the type it has in the base."""
    tokenizer_source: ModelName | None = None
    """`union`, `base` or a model: the tokenizer of the result; embedding rows move to its ids."""
    tokenizer: TokenizerEntry | None = None
    """The same in mergekit's longer form, with rows for single tokens."""
    chat_template: str | None = None
    """`auto`, alpaca, chatml, exaone, llama3, mistral, or Jinja text."""
    name: str | None = None
    """A name for the model card."""
    nonfinite: Literal["refuse", "count"] = "refuse"
    """NaN and infinity in a model: refuse it, or count them in the run record and go on."""

    @property
    def vocabulary(self) -> TokenizerEntry | None:
        """The tokenizer section, in its longer form; None when the recipe has none."""
        if self.tokenizer is None and self.tokenizer_source is not None:
            return TokenizerEntry(source=self.tokenizer_source)
        return self.tokenizer

    def entries(self) -> Iterator[ModelEntry]:
        """Every model entry, in the order of the recipe."""
        groups: list[MergeRecipe | ModuleEntry] = [self, *(self.modules or {}).values()]
        for group in groups:
            yield from group.models or []
            for part in group.slices or []:
                yield from part.sources

    def model_names(self) -> list[str]:
        """Every model named, base first, then in the order of the recipe, each once."""
        listed: list[str] = [self.base_model] if self.base_model else []
        listed += [entry.model for entry in self.entries()]
        groups: list[MergeRecipe | ModuleEntry] = [self, *(self.modules or {}).values()]
        listed += [p.base_model for g in groups for p in g.slices or [] if p.base_model]
        named = self.vocabulary.named_models() if self.vocabulary is not None else []
        listed += [model_name(one) for one in named if one not in ("base", "union")]
        return list(dict.fromkeys(listed))


def parse_recipe(data: Any, where: str) -> MergeRecipe:
    """A checked merge recipe. Raises UserError with key path and nearest match."""
    recipe = config.parse(MergeRecipe, data, where, see="smelt show verb merge")
    check_whole(recipe, where)
    return recipe


def check_whole(recipe: MergeRecipe, where: str) -> None:
    """Refuse keys that do not go together. Raises UserError."""
    _one_of(["models", "slices", "modules"], recipe, where)
    for name, module in (recipe.modules or {}).items():
        _one_of(["models", "slices"], module, f"{where}: modules.{name}")
    if recipe.tokenizer is not None and recipe.tokenizer_source is not None:
        raise UserError(where, "tokenizer and tokenizer_source", "only one of them")
    section = recipe.vocabulary
    if section is not None and section.source == "base" and recipe.base_model is None:
        key = "tokenizer_source" if recipe.tokenizer is None else "tokenizer.source"
        raise UserError(f"{where}: {key}", "'base' without a base_model", "a base_model or a model")
    if recipe.chat_template is not None:
        check_template(recipe.chat_template, where)


def _one_of(keys: list[str], entry: Recipe, where: str) -> None:
    given = [key for key in keys if getattr(entry, key) is not None]
    if len(given) != 1:
        found = " and ".join(given) or f"none of {', '.join(keys)}"
        raise UserError(where, found, f"exactly one of {', '.join(map(repr, keys))}")
