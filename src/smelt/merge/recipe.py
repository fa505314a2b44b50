"""The merge recipe: mergekit's YAML as it is, but strict. Keys not supported yet are refused."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from smelt.core import config
from smelt.core.config import Recipe
from smelt.core.errors import UserError
from smelt.merge.method import DEFAULT
from smelt.merge.parameters import check_setting


def _refuse(value: Any) -> Any:
    if value is not None:
        raise ValueError("no such key here: smelt does not support this key of mergekit yet")
    return value


def _plain_model(value: Any) -> str:
    if isinstance(value, dict):
        raise ValueError(
            "a path or hub name; mergekit's {path, revision, lora} is not supported yet"
        )
    if not isinstance(value, str) or not value:
        raise ValueError("a path or a hub name")
    if "+" in value:
        raise ValueError("a path or a hub name; 'model+lora' is not supported yet")
    if "@" in value:
        raise ValueError("a path or a hub name; 'model@revision' is not supported yet")
    return value


def _layers(value: Any) -> Any:
    good = isinstance(value, list) and len(value) == 2
    if not good or not all(type(item) is int for item in value) or not 0 <= value[0] < value[1]:
        raise ValueError("[first layer, layer after the last], counted from 0")
    return value


TEMPLATES = ("auto", "alpaca", "chatml", "mistral", "llama3", "exaone")
Unsupported = Annotated[Any, AfterValidator(_refuse)]
ModelName = Annotated[Any, AfterValidator(_plain_model)]
Setting = Annotated[Any, AfterValidator(check_setting)]
LayerRange = Annotated[Any, AfterValidator(_layers)]
Dtype = Literal["float32", "float16", "bfloat16"]


class ModelEntry(Recipe):
    """One expert (or the base, listed among them)."""

    model: ModelName
    """Checkpoint folder or hub name."""
    parameters: dict[str, Setting] | None = None
    """Values of this model: a number, a gradient over depth, or a list of {filter, value}."""


class SliceSource(ModelEntry):
    """Consecutive layers of one model."""

    layer_range: LayerRange
    """[first, after the last], counted from 0."""


class SliceEntry(Recipe):
    """A run of layers of the merged model and the layers it is merged from."""

    sources: list[SliceSource] = Field(min_length=1)
    """Layers of the models, the same number from each."""
    base_model: Unsupported = None
    """Not supported yet: a base of this slice's own."""
    residual_weight: Unsupported = None
    """Not supported yet."""
    parameters: dict[str, Setting] | None = None
    """Values of this slice."""


class TokenizerEntry(Recipe):
    """Which model gives the tokenizer."""

    source: ModelName = "base"
    """`base`, or a model."""
    tokens: Unsupported = None
    """Not supported yet: embeddings of single tokens."""
    pad_to_multiple_of: Unsupported = None
    """Not supported yet."""


class MergeRecipe(Recipe):
    """A merge: method, models (or slices of them), parameters."""

    merge_method: str = DEFAULT
    """Name of a merge method; `smelt ls merge-method` lists them."""
    models: list[ModelEntry] | None = Field(default=None, min_length=1)
    """The models to merge, whole. Exactly one of `models` and `slices`."""
    slices: list[SliceEntry] | None = Field(default=None, min_length=1)
    """Runs of layers, first layer first."""
    modules: Unsupported = None
    """Not supported yet: parts of multi-module models."""
    base_model: ModelName | None = None
    """The common ancestor; it also gives config and tokenizer."""
    parameters: dict[str, Setting] | None = None
    """Values for the whole merge."""
    dtype: Dtype | None = None
    """Type of the output when `out_dtype` is not set. Arithmetic is float32 or better always."""
    out_dtype: Dtype | None = None
    """Type of the output; by default each tensor keeps the type it has in the base."""
    tokenizer_source: ModelName | None = None
    """The model whose tokenizer the result gets, `base` by default."""
    tokenizer: TokenizerEntry | None = None
    """The same in mergekit's longer form."""
    chat_template: str | None = None
    """Jinja text that replaces the chat template."""
    name: str | None = None
    """A name for the model card."""

    @property
    def tokenizer_from(self) -> str | None:
        """The named tokenizer source, if any."""
        return self.tokenizer.source if self.tokenizer is not None else self.tokenizer_source

    def model_names(self) -> list[str]:
        """Every model named, base first, then in the order of the recipe, each once."""
        listed: list[str] = [self.base_model] if self.base_model else []
        listed += [entry.model for entry in self.models or []]
        listed += [source.model for entry in self.slices or [] for source in entry.sources]
        if self.tokenizer_from not in (None, "base"):
            listed.append(str(self.tokenizer_from))
        return list(dict.fromkeys(listed))


def parse_recipe(data: Any, where: str) -> MergeRecipe:
    """A checked merge recipe. Raises UserError with key path and nearest match."""
    recipe = config.parse(MergeRecipe, data, where, see="smelt show verb merge")
    check_whole(recipe, where)
    return recipe


def check_whole(recipe: MergeRecipe, where: str) -> None:
    """Refuse keys that do not go together. Raises UserError."""
    if (recipe.models is None) == (recipe.slices is None):
        found = "neither models nor slices" if recipe.models is None else "models and slices"
        raise UserError(where, found, "exactly one of 'models' and 'slices'")
    if recipe.tokenizer is not None and recipe.tokenizer_source is not None:
        raise UserError(where, "tokenizer and tokenizer_source", "only one of them")
    source = recipe.tokenizer_from
    key = "tokenizer_source" if recipe.tokenizer is None else "tokenizer.source"
    if source == "union":
        raise UserError(f"{where}: {key}", "'union' is not supported yet", "'base' or a model")
    if source == "base" and recipe.base_model is None:
        raise UserError(f"{where}: {key}", "'base' without a base_model", "a base_model or a model")
    if recipe.chat_template in TEMPLATES:
        found = f"mergekit's template name '{recipe.chat_template}' is not supported yet"
        raise UserError(f"{where}: chat_template", found, "the Jinja text of a template")
