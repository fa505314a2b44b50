"""Tokenizer files put together: cut to a model's rows, joined with others, written.

What a union means. The base's rules stay: normalizer, pre-tokenizer, merges, scores, template and
ids. Tokens of the other models follow behind with ids of their own:

- *added* tokens (control tokens and the like) keep their settings and are found in text, so chat
  markers of every model work;
- *plain* tokens are in the vocabulary, but no merge makes them: BPE gets entries without merges,
  Unigram gets scores so low that the base's pieces always win. So every text of characters that the
  base knows is read exactly as the base reads it. (mergekit makes them added tokens, which are cut
  out of the middle of words.) WordPiece takes the longest entry, whatever it is, so there plain
  tokens cannot be joined in and are refused.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from smelt.checkpoint import folder as files
from smelt.checkpoint.reader import read_json, read_optional_json
from smelt.core.errors import UserError

SETTINGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
# Files that spell out the vocabulary a second time; stale once it is another one.
_SECOND = ("added_tokens.json", "tokenizer.model", "vocab.json", "vocab.txt", "merges.txt")


@dataclass(frozen=True)
class TokenizerFile:
    """A tokenizer.json, read."""

    folder: Path
    data: dict[str, Any]
    vocabulary: dict[str, int]
    """Token -> id, with added tokens."""
    changed: bool = False
    """Whether it is another one than that in the folder."""

    @cached_property
    def added(self) -> dict[str, dict[str, Any]]:
        """The added tokens by their text, lowest id first."""
        listed = sorted(self.data.get("added_tokens") or [], key=lambda one: int(one["id"]))
        return {one["content"]: one for one in listed}

    @property
    def size(self) -> int:
        """One more than the highest id."""
        return max(self.vocabulary.values()) + 1

    @property
    def kind(self) -> str:
        """BPE, Unigram, WordPiece or WordLevel (old files leave it to be told)."""
        model = self.data["model"]
        told = "BPE" if "merges" in model else "WordPiece"
        return str(model.get("type") or ("Unigram" if isinstance(model["vocab"], list) else told))

    @property
    def by_bytes(self) -> bool:
        """Whether tokens are spelt in GPT-2's alphabet of bytes, where a blank is "Ġ"."""
        steps = [self.data.get(key) for key in ("pre_tokenizer", "decoder")]
        return any('"ByteLevel"' in json.dumps(step) for step in steps)


def read_tokenizer(folder: Path) -> TokenizerFile | None:
    """The tokenizer of a folder; None when there is none. Raises UserError for other formats."""
    vocabulary = files.vocabulary(folder)
    if vocabulary is None:
        other = [name for name in files.TOKENIZER_FILES if (folder / name).is_file()]
        old = sorted({"tokenizer.model", "vocab.json", "vocab.txt"} & set(other))
        if old:
            raise UserError(
                folder, f"{old[0]} but no tokenizer.json", "a tokenizer.json",
                "load and save it with transformers.AutoTokenizer once",
            )  # fmt: skip
        return None
    return TokenizerFile(folder, read_json(folder / "tokenizer.json"), vocabulary)


def cut(tokenizer: TokenizerFile, rows: int) -> TokenizerFile:
    """Without the tokens that have no embedding row (ids from `rows` on), for every kind.

    Raises UserError when a token of its template or its unknown token is among them.
    """
    if tokenizer.size <= rows:
        return tokenizer
    kept = {token: place for token, place in tokenizer.vocabulary.items() if place < rows}
    model = dict(tokenizer.data["model"])
    if isinstance(model["vocab"], list):
        model["vocab"] = model["vocab"][:rows]
        unknown_gone = int(model.get("unk_id") or 0) >= rows
    else:
        model["vocab"] = {token: place for token, place in model["vocab"].items() if place < rows}
        unknown_gone = model.get("unk_token") is not None and model["unk_token"] not in kept
    if unknown_gone:
        found = f"the unknown token lies beyond the model's {rows} rows"
        raise UserError(tokenizer.folder / "tokenizer.json", found)
    if "merges" in model:
        prefix = len(model.get("continuing_subword_prefix") or "")
        pairs = [(one, _pair(one)) for one in model["merges"]]
        vocab = model["vocab"]
        model["merges"] = [
            one for one, (left, right) in pairs
            if left in vocab and right in vocab and left + right[prefix:] in vocab
        ]  # fmt: skip
    added = [one for one in tokenizer.data.get("added_tokens") or [] if one["id"] < rows]
    data = {**tokenizer.data, "model": model, "added_tokens": added}
    return _checked(replace(tokenizer, data=data, vocabulary=kept, changed=True))


def _pair(merge: Any) -> tuple[str, str]:
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right


def unite(
    base: TokenizerFile, others: Mapping[str, TokenizerFile]
) -> tuple[TokenizerFile, list[str]]:
    """The base's tokenizer with the tokens of the others behind it, and warnings.

    Order: plain tokens of the first model, of the second, ..., then added tokens likewise, each in
    the order of their ids. Raises UserError for plain tokens beside a WordPiece base.
    """
    added = dict(base.added)
    plain: dict[str, None] = {}
    warnings = []
    for name, other in others.items():
        if other.vocabulary == base.vocabulary and other.added == base.added:
            continue
        new = [t for t in other.vocabulary if t not in base.vocabulary and t not in other.added]
        new.sort(key=lambda token: (other.vocabulary[token], token))
        if new and base.kind == "WordPiece":
            raise UserError(
                other.folder / "tokenizer.json",
                f"{len(new)} words that the WordPiece base lacks and would find ({new[0]!r})",
                "added tokens only, beyond the base's", f"tokenizer_source: {name}",
            )  # fmt: skip
        if new:
            warnings.append(_unmade(name, new, base))
        plain |= dict.fromkeys(new)
        settled = {content: added.setdefault(content, one) for content, one in other.added.items()}
        unlike = [
            content for content, one in other.added.items()
            if any(bool(settled[content].get(key)) != bool(one.get(key)) for key in SETTINGS)
        ]  # fmt: skip
        if unlike:
            warnings.append(
                f"{len(unlike)} added tokens of {name} have other settings than in the models "
                f"before it, whose settings stay ({unlike[0]!r})"
            )
    words = [token for token in plain if token not in added]
    fresh = [entry for content, entry in added.items() if content not in base.added]
    return extend(base, words, fresh), warnings


def _unmade(name: str, new: list[str], base: TokenizerFile) -> str:
    """The warning about plain tokens of a model that have rows and (nearly) never occur."""
    exceptions = []
    if singles := sum(len(token) == 1 for token in new):
        exceptions.append(f"{singles} characters that the base does not know")
    if base.data["model"].get("ignore_merges"):
        exceptions.append("whole words")
    unless = f" (but for {' and '.join(exceptions)})" if exceptions else ""
    return (
        f"{len(new)} plain tokens of {name} get rows, but text is cut by the base's rules, which "
        f"never make them{unless}; 'tokenizer_source: {name}' cuts as {name} does"
    )


def extend(
    base: TokenizerFile, plain: Iterable[str], added: Iterable[Mapping[str, Any]]
) -> TokenizerFile:
    """The tokenizer with further plain tokens, then added ones (`content` and settings).

    An added token that is a plain one of the base keeps its id.
    """
    ids = dict(base.vocabulary)
    entries = list(base.data.get("added_tokens") or [])
    words = list(plain)
    ids |= {token: place for place, token in enumerate(words, base.size)}
    following = base.size + len(words)
    for entry in added:
        content = str(entry["content"])
        if content not in ids:
            ids[content] = following
            following += 1
        settings = {key: bool(entry.get(key)) for key in SETTINGS}
        entries.append({"id": ids[content], "content": content, **settings})
    if len(entries) == len(base.data.get("added_tokens") or []) and not words:
        return base
    entries.sort(key=lambda one: int(one["id"]))
    data = {**base.data, "added_tokens": entries}
    if words:  # `_checked` would find out too, by a slow second look
        data["model"] = _with_words(data["model"], ids, base.folder)
    return _checked(replace(base, data=data, vocabulary=ids, changed=True))


def _with_words(model: dict[str, Any], ids: dict[str, int], where: Path) -> dict[str, Any]:
    """The model with every token of `ids` in its own list.

    The added tokens too: the library numbers those that are not in the list anew when it loads.
    """
    if not isinstance(model["vocab"], list):
        return {**model, "vocab": ids}
    pieces = list(model["vocab"])
    by_id = {place: token for token, place in ids.items()}
    # Less than the same span spelt in single characters, whose scores are the lowest at worst.
    lowest = min(score for _, score in pieces)
    for place in range(len(pieces), max(by_id) + 1):
        if place not in by_id:
            raise UserError(
                where / "tokenizer.json", f"no token has id {place}", "ids without gaps"
            )
        pieces.append([by_id[place], lowest * len(by_id[place]) - 1.0])
    return {**model, "vocab": pieces}


def _checked(tokenizer: TokenizerFile) -> TokenizerFile:
    """The tokenizer, once the library is seen to give each token the id that it has here."""
    path = tokenizer.folder / "tokenizer.json"
    opened = _open(tokenizer)
    if opened.get_vocab(with_added_tokens=True) != tokenizer.vocabulary:
        model = _with_words(tokenizer.data["model"], tokenizer.vocabulary, tokenizer.folder)
        tokenizer = replace(tokenizer, data={**tokenizer.data, "model": model})
        opened = _open(tokenizer)
        if opened.get_vocab(with_added_tokens=True) != tokenizer.vocabulary:
            found = "tokens change their ids when the library reads them"
            raise UserError(path, found, "one id for each token", "repair this tokenizer first")
    if max(opened.encode("a").ids, default=0) >= tokenizer.size:
        raise UserError(path, "its template names a token without an embedding row")
    return tokenizer


def _open(tokenizer: TokenizerFile) -> Tokenizer:
    try:
        return Tokenizer.from_str(json.dumps(tokenizer.data))
    except Exception as error:  # the Rust side raises bare Exception for any malformed file
        path = tokenizer.folder / "tokenizer.json"
        raise UserError(path, f"not a tokenizer ({error})", "a tokenizer.json") from error


def write_tokenizer(tokenizer: TokenizerFile, folder: Path, chat_template: str | None) -> None:
    """Write all tokenizer files: byte for byte where nothing changed, else consistent ones.

    Names of tokens that are no longer there leave the config, since transformers would add them
    again, beyond the embedding.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files.copy_tokenizer(tokenizer.folder, folder, chat_template)
    if not tokenizer.changed:
        return
    for name in _SECOND:
        (folder / name).unlink(missing_ok=True)
    text = json.dumps(tokenizer.data, ensure_ascii=False, indent=2)
    (folder / "tokenizer.json").write_text(text, encoding="utf-8")
    (folder / "tokenizer.json").chmod(0o644)
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (folder / name).is_file():
            config = _present(read_optional_json(folder / name), tokenizer.vocabulary)
            if "added_tokens_decoder" in config:
                config["added_tokens_decoder"] = {
                    str(one["id"]): {key: item for key, item in one.items() if key != "id"}
                    for one in tokenizer.added.values()
                }
            files.write_json(folder / name, config)


def _present(config: dict[str, Any], vocabulary: Mapping[str, int]) -> dict[str, Any]:
    """The config without tokens that the vocabulary lacks."""

    def known(token: Any) -> bool:
        text = token.get("content") if isinstance(token, dict) else token
        return not isinstance(text, str) or text in vocabulary

    result = {}
    for key, value in config.items():
        if key in ("additional_special_tokens", "extra_special_tokens"):
            if isinstance(value, list):
                value = [token for token in value if known(token)]
            elif isinstance(value, dict):
                value = {role: token for role, token in value.items() if known(token)}
        elif key.endswith("_token") and not known(value):
            continue
        result[key] = value
    return result
