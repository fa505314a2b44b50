"""The vocabulary of a merge, and where each model's embedding rows go: mergekit's rules.

`build` reads tokenizer files only. `Vocabulary.row_maps` then says, for the models of one tensor,
where every row comes from (see `vocab/rows.py`). A token that a model lacks gets, in this order:
what the recipe says; the row of the only model that has it; the base's; the mean of those that have
it. A token that none of the tensor's models has takes the row of the other models of the recipe by
the same rule, and zeros when there is none (mergekit: zeros at once).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int64

from smelt.checkpoint import union
from smelt.checkpoint.union import TokenizerFile
from smelt.core import digest
from smelt.core.errors import UserError, nearest
from smelt.merge.vocab.rows import Fills, RowMap
from smelt.merge.vocab.tokenizer_recipe import TokenizerEntry, TokenRow, ZeroRow

Ids = Int64[np.ndarray, " size"]


@dataclass(frozen=True)
class Member:
    """A model as far as its vocabulary goes."""

    folder: Path
    rows: int | None
    """Rows of its token embedding (`rows.embedding_rows`); None when only its tokenizer is used."""


@dataclass(frozen=True)
class Vocabulary:
    """The tokenizer of the result and the rows of every model under it."""

    tokenizer: TokenizerFile
    size: int
    """Rows of the new embedding, with padding: `vocab_size` of config.json."""
    own: dict[str, Ids]
    """Per model and new row: the model's row of the same token, -1 when it has none."""
    vocabularies: dict[str, dict[str, int]]
    """Per model: token -> id in its own tokenizer."""
    tokens: dict[int, str]
    """New row -> token."""
    given: dict[int, tuple[str, int] | None] = field(default_factory=dict)
    """New row -> (model, row) that the recipe names, None for zeros."""
    forced: frozenset[int] = frozenset()
    """New rows that are filled in models that have the token too."""
    warnings: list[str] = field(default_factory=list)

    @property
    def num_tokens(self) -> int:
        """Number of tokens; the other rows up to `size` are padding."""
        return len(self.tokens)

    def row_maps(self, models: Sequence[str], base: str | None = None) -> dict[str, RowMap]:
        """The rows of each of a tensor's models. base: the merge's base at this tensor, if any."""
        for name in models:
            if self.own[name].max(initial=-1) < 0:
                raise UserError(name, "has no embedding row of any token of the result")
        fills = self._fills(list(models), base)
        averaged = np.setdiff1d(np.arange(self.size), np.fromiter(self.tokens, np.int64))
        forced = np.fromiter(sorted(self.forced), np.int64)
        names, result = tuple(self.own), {}
        for name in models:
            rows = self.own[name].copy()
            rows[forced] = -1
            lacking = rows[fills.row] < 0
            parts = (fills.row, fills.model, fills.source, fills.weight)
            chosen = Fills(*(part[lacking] for part in parts))
            result[name] = RowMap(name, names, rows, chosen, averaged)
        return result

    def _fills(self, models: list[str], base: str | None) -> Fills:
        """Contributions to every row that at least one of the models lacks."""
        names = list(self.own)
        rows = np.stack([self.own[name] for name in names])
        here = np.array([name in models for name in names])
        asked = np.zeros(self.size, bool)
        asked[list(self.tokens)] = True
        asked &= (rows[here] < 0).any(axis=0)
        asked[list(self.forced)] = True
        given = np.fromiter(sorted(self.given), np.int64)
        ruled = asked.copy()
        ruled[given] = False
        at = names.index(base) if base in names else None
        chosen = _choose(rows, here, at)
        chosen |= _choose(rows, ~here, at) & ~(rows[here] >= 0).any(axis=0)
        chosen &= ruled
        row, model = np.nonzero(chosen.T)
        source = rows[model, row]
        weight = 1.0 / chosen.sum(axis=0)[row]
        named = [(one, *place) for one, place in sorted(self.given.items()) if place]
        row = np.append(row, [one for one, _, _ in named]).astype(np.int64)
        model = np.append(model, [names.index(of) for _, of, _ in named]).astype(np.int64)
        source = np.append(source, [place for _, _, place in named]).astype(np.int64)
        weight = np.append(weight, np.ones(len(named)))
        order = np.lexsort((model, row))
        return Fills(row[order], model[order], source[order], weight[order])

    def translate(self, model: str, config: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
        """A config.json or generation_config.json of `model` with its token ids made new ones.

        Entries named `..._token_id`, `..._token_ids` or `..._token_index`, also in nested parts. An
        id whose token is gone is left out. Also gives warnings. (mergekit leaves the old ids.)
        """
        tokens = {place: token for token, place in self.vocabularies[model].items()}
        new_ids = self.tokenizer.vocabulary
        result: dict[str, Any] = {}
        warnings = []
        for key, value in config.items():
            if isinstance(value, dict):
                value, more = self.translate(model, value)
                warnings += more
            elif key.endswith(("_token_id", "_token_ids", "_token_index")) and value is not None:
                old = value if isinstance(value, list) else [value]
                names = [tokens.get(one) for one in old if isinstance(one, int)]
                moved = [new_ids.get(name) for name in names if name is not None]
                new = [one for one in moved if one is not None]
                if len(new) < len(old):
                    warnings.append(f"{key} {value} of {model} names no token of the result")
                if not new:
                    continue
                value = new if isinstance(value, list) else new[0]
            result[key] = value
        return result, warnings

    def write(self, folder: Path, chat_template: str | None = None) -> None:
        """Write the tokenizer files; `chat_template` replaces the template."""
        union.write_tokenizer(self.tokenizer, folder, chat_template)


def _choose(
    rows: Int64[np.ndarray, "models size"], of: Bool[np.ndarray, " models"], base: int | None
) -> Bool[np.ndarray, "models size"]:
    """Which of the models `of` give each row: the base if it has it, else all that have it."""
    has: Bool[np.ndarray, "models size"] = (rows >= 0) & of[:, None]
    if base is not None and of[base]:
        others = np.arange(len(of)) != base
        has[np.ix_(others, has[base])] = False
    return has


def build(
    models: Mapping[str, Member],
    entry: TokenizerEntry,
    *,
    base: str | None,
    where: str,
    name_of: Callable[[Any], str] = str,
) -> Vocabulary:
    """The vocabulary of a merge, from tokenizer files alone.

    models: every model of the recipe by its name, base first, then in the order of the recipe
    (order decides ids of new tokens), and a `source` that is not merged, last. base: the recipe's
    base_model; without one the first model is the base of `union` and `base`. name_of: the key in
    `models` of a model as the section names it. Raises UserError.
    """
    first = base if base is not None else next(iter(models))
    read, warnings = _read(models, first)
    if entry.source == "union":
        merged = {name: one for name, one in read.items() if models[name].rows is not None}
        united, more = union.unite(read[first], {n: t for n, t in merged.items() if n != first})
        warnings += more
    elif entry.source == "base":
        united = read[first]
    else:
        united = read[_known(name_of(entry.source), models, f"{where}: tokenizer.source")]
    alien = [name for name, one in read.items() if one.by_bytes != united.by_bytes]
    if alien:
        what = "spells its tokens in another alphabet than the result; few of them match"
        warnings.append(f"{', '.join(alien)} {what}")
    entries = entry.tokens or {}
    fresh = [token for token in entries if token not in united.vocabulary]
    settings = {"normalized": True}
    united = union.extend(united, [], [{"content": token, **settings} for token in fresh])
    multiple = entry.pad_to_multiple_of or 1
    size = -(-united.size // multiple) * multiple
    tokens = {row: token for token, row in united.vocabulary.items()}
    own = {
        name: _own_rows(tokens, size, read[name].vocabulary, member.rows)
        for name, member in models.items()
        if member.rows is not None
    }
    given = {
        united.vocabulary[token]: _given(
            token, one.source, models, read, f"{where}: tokenizer.tokens.{token}", name_of
        )
        for token, one in entries.items()
        if one.source is not None
    }
    forced = frozenset(united.vocabulary[token] for token, one in entries.items() if one.force)
    somewhere = np.max([*own.values()], axis=0) >= 0
    rowless = [row for row in sorted(tokens) if not somewhere[row] and row not in given]
    if rowless:
        example = tokens[rowless[0]]
        warnings.append(f"{len(rowless)} tokens get rows of zeros: no model has them ({example!r})")
    vocabularies = {name: one.vocabulary for name, one in read.items()}
    return Vocabulary(united, size, own, vocabularies, tokens, given, forced, warnings)


def _own_rows(
    tokens: Mapping[int, str], size: int, vocabulary: Mapping[str, int], limit: int
) -> Ids:
    """Per new row the row of the same token in a model whose embedding has `limit` rows, or -1."""
    places = np.fromiter((vocabulary.get(one, -1) for one in tokens.values()), np.int64)
    result = np.full(size, -1, np.int64)
    result[np.fromiter(tokens, np.int64)] = np.where(places < limit, places, -1)
    return result


def _read(models: Mapping[str, Member], first: str) -> tuple[dict[str, TokenizerFile], list[str]]:
    """Each model's tokenizer, cut to its rows; equal files are read once."""
    known: dict[tuple[str, int | None], TokenizerFile] = {}
    result: dict[str, TokenizerFile] = {}
    missing, warnings = [], []
    for name, member in models.items():
        path = member.folder / "tokenizer.json"
        key = (digest.file(path) if path.is_file() else "", member.rows)
        if key in known:
            # The folder stays the model's own: its other files may differ.
            same = known[key]
            result[name] = TokenizerFile(member.folder, same.data, same.vocabulary, same.changed)
            continue
        found = union.read_tokenizer(member.folder)
        if found is None:
            missing.append(name)
            continue
        result[name] = known[key] = union.cut(found, member.rows or found.size)
        if result[name].changed:
            count = len(found.vocabulary) - len(result[name].vocabulary)
            warnings.append(f"{count} tokens of {name} have no embedding row and are left out")
    if first not in result:
        raise UserError(models[first].folder, "no tokenizer.json in it", "the base's tokenizer")
    for name in missing:
        if models[name].rows is None:
            raise UserError(models[name].folder, "no tokenizer.json in it", "a tokenizer")
        warnings.append(f"{name} has no tokenizer.json; it is taken to have that of {first}")
        result[name] = result[first]
    return {name: result[name] for name in models}, warnings


def _known(name: str, models: Mapping[str, Member], where: str) -> str:
    if name not in models:
        expected = f"a model of the recipe: {nearest(name, [*models])}"
        raise UserError(where, f"found {name!r}", expected)
    return name


def _given(
    token: str,
    source: Any,
    models: Mapping[str, Member],
    read: Mapping[str, TokenizerFile],
    where: str,
    name_of: Callable[[Any], str],
) -> tuple[str, int] | None:
    """The model and row that a recipe gives to a token; None for zeros."""
    if isinstance(source, ZeroRow):
        return None
    named = source.model if isinstance(source, TokenRow) else source
    of = _known(name_of(named), models, where)
    limit = models[of].rows
    if limit is None:
        raise UserError(where, f"{of} gives only the tokenizer", "one of the merged models")
    if isinstance(source, TokenRow) and source.token_id is not None:
        row = source.token_id
    else:
        wanted = token if not isinstance(source, TokenRow) else str(source.token)
        vocabulary = read[of].vocabulary
        if wanted not in vocabulary:
            raise UserError(where, f"{of} has no token {wanted!r}", "a token of that model")
        row = vocabulary[wanted]
    if row >= limit:
        raise UserError(where, f"row {row} of {of}", f"a row below {limit}")
    return of, row
