"""The `tokenizer` section of a merge recipe: mergekit's keys, strictly."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from smelt.core.config import Recipe


class ZeroRow(Recipe):
    """A row of zeros."""

    kind: Literal["zero"]
    """`zero`."""


class TokenRow(Recipe):
    """The row of one token of one model."""

    kind: Literal["model_token"]
    """`model_token`."""
    model: Any
    """The model whose row it is."""
    token: str | None = None
    """The token, as its tokenizer spells it. Exactly one of `token` and `token_id`."""
    token_id: int | None = Field(default=None, ge=0)
    """The row's number in that model; a row without a token can be named too."""

    @model_validator(mode="after")
    def _one_of_two(self) -> "TokenRow":
        if (self.token is None) == (self.token_id is None):
            raise ValueError("exactly one of 'token' and 'token_id'")
        return self


def _kind(value: Any) -> str | None:
    """Which form a row's source has; a mapping without `kind` names a model."""
    if isinstance(value, ZeroRow | TokenRow):
        return value.kind
    if isinstance(value, dict) and "kind" in value:
        return value["kind"] if value["kind"] in ("zero", "model_token") else None
    return "model"


def _named(value: Any) -> Any:
    if value is None or value == "":
        raise ValueError("{kind: zero}, {kind: model_token, ...} or a model")
    return value


RowSource = Annotated[
    Annotated[ZeroRow, Tag("zero")]
    | Annotated[TokenRow, Tag("model_token")]
    | Annotated[Any, AfterValidator(_named), Tag("model")],
    Discriminator(
        _kind,
        custom_error_type="row_source",
        custom_error_message="{{kind: zero}}, {{kind: model_token, ...}} or a model",
    ),
]


class TokenEntry(Recipe):
    """Where the embedding row of one token comes from."""

    source: RowSource | None = None
    """`{kind: zero}`, `{kind: model_token, model: M, token: T}` (or `token_id: N`), or a model: its
    row of the same token. Without it the rule for all tokens holds: the base's row, else the only
    row there is, else the average of all."""
    force: bool = False
    """Give this row to the models that have the token too; else only to those that lack it."""


class TokenizerEntry(Recipe):
    """The vocabulary of the result and the embedding rows of tokens that some models lack."""

    source: Annotated[Any, AfterValidator(_named)] = "union"
    """`union` (the base's tokenizer and what the others have beyond it), `base`, or a model."""
    tokens: dict[str, TokenEntry] | None = None
    """Single tokens, by their text; one that no tokenizer has is added."""
    pad_to_multiple_of: int | None = Field(default=None, ge=1)
    """Rows are added until their number divides by this; they hold the mean of all rows."""

    def named_models(self) -> list[Any]:
        """Every model that the section names, in its order, as the recipe spells it."""
        named = [] if self.source in ("union", "base") else [self.source]
        for entry in (self.tokens or {}).values():
            if isinstance(entry.source, TokenRow):
                named.append(entry.source.model)
            elif entry.source is not None and not isinstance(entry.source, ZeroRow):
                named.append(entry.source)
        return named
