"""Curation: sources, filters, exact and near de-duplication, splits, decontamination, tokenizers.

The order of InfiR's stages (arXiv:2502.11573); every row that goes is counted under its step and
reason. Rows are held in memory: this is for corpora of one machine.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from smelt.core import progress, registry
from smelt.core.errors import UserError
from smelt.core.seed import seed_for
from smelt.data import dedup, split
from smelt.data.decontaminate import Index, benchmark_texts, problem, written_steps
from smelt.data.document import Document, Skipped, Verdict, make, write_jsonl
from smelt.data.recipe import DataRecipe, Filter, Source
from smelt.data.tally import Tally

MAX_HITS_NAMED = 20


def curate(recipe: DataRecipe, folder: Path, *, seed: int, where: str) -> dict[str, Any]:
    """Write train, fitness and test.jsonl and tokenizers/ into the folder; returns the notes.

    Raises UserError when a split would be empty, with the reasons of the drops.
    """
    tally = Tally(_step_names(recipe))
    docs, fixed = _collect(recipe, seed, tally)
    if recipe.near_dedup:
        docs, fixed = _near(recipe, docs, fixed, tally)
    shares = recipe.splits
    chosen = split.assign(docs, fixed, fitness=shares.fitness, test=shares.test)
    parts = _divide(docs, fixed, chosen, shares.max_per_domain, tally)
    parts["train"], hits = _decontaminate(recipe, parts, tally)
    wanted = {"train": True, "fitness": shares.fitness > 0, "test": shares.test > 0}
    for name, needed in wanted.items():
        if needed and not parts[name]:
            found = f"no row left for {name} (dropped: {tally.reasons()})"
            raise UserError(where, found, "more documents, or milder filters")
    for name, rows in parts.items():
        write_jsonl(folder / f"{name}.jsonl", rows)
    _train_tokenizers(recipe, parts["train"], folder)
    counts = {name: _by_domain(rows) for name, rows in parts.items()}
    return {**tally.notes(), "splits": counts, "contamination": hits}


def _step_names(recipe: DataRecipe) -> list[str]:
    names = [f"source:{entry.name}" for entry in recipe.sources]
    names += [f"filter:{entry.name}" for entry in recipe.filters]
    names += ["exact_dedup", *(["near_dedup"] if recipe.near_dedup else []), "split"]
    return [*names, "decontaminate"]


def _collect(
    recipe: DataRecipe, seed: int, tally: Tally
) -> tuple[list[Document], list[str | None]]:
    docs: list[Document] = []
    fixed: list[str | None] = []
    seen: set[bytes] = set()
    rules = [(entry, registry.load("filter", entry.name)) for entry in recipe.filters]
    occurrences: Counter[str] = Counter()
    for entry in recipe.sources:
        occurrences[entry.name] += 1
        source_seed = seed_for(seed, "source", entry.name, str(occurrences[entry.name]))
        with progress.Bar(f"data: {entry.name}", expected_rows(entry) or 0) as bar:
            for doc in _read(entry, source_seed, tally):
                bar.move()
                if not _passes(doc, entry, rules, tally):
                    continue
                key = dedup.content_key(doc)
                if tally.count("exact_dedup", "duplicate" if key in seen else None, doc.text):
                    seen.add(key)
                    docs.append(doc)
                    fixed.append(entry.split)
    return docs, fixed


def _read(entry: Source, seed: int, tally: Tally) -> Iterator[Document]:
    step = f"source:{entry.name}"
    for item in registry.load("source", entry.name)(seed, **entry.options):
        if isinstance(item, Skipped):
            tally.count(step, item.reason, item.text)
            continue
        tally.count(step, None, item.text)
        if entry.domain is None:
            yield item
        else:
            yield make(item.text, source=item.source, domain=entry.domain, prompt=item.prompt,
                       meta=item.meta)  # fmt: skip


def _passes(
    doc: Document, source: Source, rules: list[tuple[Filter, Callable[..., Verdict]]], tally: Tally
) -> bool:
    for entry, rule in rules:
        if entry.only is None or source.name in entry.only:
            verdict = rule(doc, **entry.options)
            if not tally.count(f"filter:{entry.name}", verdict.reason, doc.text):
                return False
    return True


def _near(
    recipe: DataRecipe, docs: list[Document], fixed: list[str | None], tally: Tally
) -> tuple[list[Document], list[str | None]]:
    assert recipe.near_dedup is not None
    settings = recipe.near_dedup
    places = [place for place, doc in enumerate(docs) if settings.pairs or not doc.prompt]
    texts = [docs[place].text for place in places]
    copies = dedup.near_copies(
        texts, threshold=settings.threshold, permutations=settings.permutations
    )
    dropped = {places[place] for place in copies}
    kept = [
        place
        for place, doc in enumerate(docs)
        if tally.count("near_dedup", "near_duplicate" if place in dropped else None, doc.text)
    ]
    return [docs[place] for place in kept], [fixed[place] for place in kept]


def _divide(
    docs: list[Document],
    fixed: list[str | None],
    chosen: list[str],
    most: int | None,
    tally: Tally,
) -> dict[str, list[Document]]:
    """The splits, without held-out chains that another split solves on its way.

    Of held-out rows (not counting demanded ones) at most so many a domain stay, chosen by content,
    so that every source of a domain keeps its share.
    """
    solved: set[str] = set()
    asked: set[str] = set()
    for doc, name in zip(docs, chosen, strict=True):
        if name == "train":
            solved |= written_steps(doc)
        elif name == "test":
            asked.add(problem(doc))

    def leak(doc: Document, name: str) -> str | None:
        steps = written_steps(doc)
        if not steps or name == "train":
            return None
        if problem(doc) in solved:
            return "step_of_train"
        return "holds_test_problem" if name == "fitness" and steps & asked else None

    leaks = [leak(doc, name) for doc, name in zip(docs, chosen, strict=True)]
    open_ = [
        place
        for place, name in enumerate(chosen)
        if name != "train" and fixed[place] is None and leaks[place] is None
    ]
    counts: Counter[tuple[str, str]] = Counter()
    surplus = set()
    for place in sorted(open_, key=lambda place: docs[place].id):
        key = (chosen[place], docs[place].domain)
        counts[key] += 1
        if most is not None and counts[key] > most:
            surplus.add(place)
    parts: dict[str, list[Document]] = {name: [] for name in split.SPLITS}
    for place, (doc, name) in enumerate(zip(docs, chosen, strict=True)):
        reason = f"surplus_of_{name}" if place in surplus else leaks[place]
        if tally.count("split", reason, doc.text):
            parts[name].append(doc)
    return parts


def _decontaminate(
    recipe: DataRecipe, parts: dict[str, list[Document]], tally: Tally
) -> tuple[list[Document], list[dict[str, str]]]:
    index = Index(recipe.decontaminate.ngram)
    names: Counter[str] = Counter()
    for path in map(Path, recipe.decontaminate.against):
        names[path.name] += 1
        # Paths are no part of a result; files of one name are told apart by their order.
        name = f"{path.name}#{names[path.name]}" if names[path.name] > 1 else path.name
        for text in benchmark_texts(path, recipe.decontaminate.fields):
            index.add(text, name)
    for name in ("fitness", "test"):
        for doc in parts[name]:
            index.add(doc.prompt or doc.text, name)
    kept: list[Document] = []
    hits: list[dict[str, str]] = []
    total = len(parts["train"])
    for doc in progress.track(parts["train"], "data: decontaminate", total):
        hit = index.hit(doc)
        reason = f"overlaps_{hit.benchmark}" if hit else None
        if tally.count("decontaminate", reason, doc.text):
            kept.append(doc)
        elif hit and len(hits) < MAX_HITS_NAMED:
            hits.append({"id": doc.id, "benchmark": hit.benchmark, "ngram": hit.ngram})
    return kept, hits


def _train_tokenizers(recipe: DataRecipe, train: list[Document], folder: Path) -> None:
    if not recipe.tokenizers:
        return
    from smelt.checkpoint.tokenizer import train_tokenizer

    for name, wanted in sorted(recipe.tokenizers.items()):
        progress.say(f"data: training tokenizer '{name}' ({wanted.kind}, {wanted.vocab_size})")
        target = folder / "tokenizers" / name
        train_tokenizer(
            (doc.text for doc in train),
            target,
            kind=wanted.kind,
            vocab_size=wanted.vocab_size,
        )


def _by_domain(rows: list[Document]) -> dict[str, int]:
    return dict(sorted(Counter(doc.domain for doc in rows).items()))


def expected_rows(entry: Source) -> int | None:
    """How many rows a source gives at most, as far as its options tell."""
    count = entry.options.get("count", entry.options.get("max_documents"))
    tasks = entry.options.get("tasks", [None])
    return count * len(tasks) if isinstance(count, int) else None
