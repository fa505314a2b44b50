"""What a search maximises, as far as files tell: rows of pairs, never those of a test."""

from pathlib import Path

from smelt.core import registry
from smelt.core.errors import UserError
from smelt.data.document import Document, read_jsonl, split_key
from smelt.search.recipe import Fitness, SearchSection

Rows = dict[str, list[Document]]
"""By domain."""

OF_ROWS = ("domains", "test")
OF_BENCHMARKS = ("folder", "form", "max_new_tokens", "batch_size")


def check_section(section: SearchSection, where: str) -> None:
    """Refuse settings that do not go together. Raises UserError with the key path."""
    fitness, place = section.fitness, f"{where}.fitness"
    if (fitness.data is None) == (not fitness.benchmarks):
        found = "neither data nor benchmarks" if fitness.data is None else "data and benchmarks"
        raise UserError(place, found, "one of the two", "smelt show verb search")
    for name in fitness.benchmarks:
        if registry.load("benchmark", name).fitness_split is None:
            raise UserError(
                f"{place}.benchmarks.{name}", "a benchmark with a test split only",
                f"one whose fitness split a search may use: {', '.join(_searchable())}",
            )  # fmt: skip
    kind, other = ("data", "benchmarks") if fitness.data is not None else ("benchmarks", "data")
    for key in OF_BENCHMARKS if kind == "data" else OF_ROWS:
        if key in fitness.model_fields_set:
            found = f"a key that goes with {other}, and the fitness is of {kind}"
            raise UserError(f"{place}.{key}", found, f"no `{key}`")
    if fitness.data is not None and not fitness.domains:
        raise UserError(f"{place}.domains", "no domain", "domains of the rows, each with a weight")
    if fitness.benchmarks and fitness.measure not in (None, "score"):
        raise UserError(f"{place}.measure", f"found '{fitness.measure}'", "score, for benchmarks")
    if fitness.data is not None:
        if fitness.measure == "score":
            expected = (
                "exact or likelihood, for rows; benchmarks: {chains: 1} scores written chains"
            )
            raise UserError(f"{place}.measure", "found 'score'", expected)
        if "length" in section.objectives:
            raise UserError(f"{where}.objectives", "length, and rows that nobody answers",
                            "fitness.benchmarks, whose answers have a length")  # fmt: skip
    if len(set(section.objectives)) < len(section.objectives):
        raise UserError(f"{where}.objectives", "one of them twice", "each once")
    if section.racing is not None and len(section.objectives) > 1:
        raise UserError(f"{where}.racing", "several objectives", "one objective: score")
    stages = len(section.stages)
    if not stages:
        raise UserError(f"{where}.layer_groups", "an empty list", "at least one stage")
    for key, given in (("evaluations", section.evaluations), ("options", section.options)):
        if isinstance(given, list) and len(given) != stages:
            found = f"{len(given)} of them for {stages} stages of layer_groups"
            raise UserError(f"{where}.{key}", found, f"{stages}, or one for all stages")
    if isinstance(section.evaluations, int) and section.evaluations < stages:
        found = f"{section.evaluations} for {stages} stages of layer_groups"
        raise UserError(f"{where}.evaluations", found, "at least one candidate for each stage")


def _searchable() -> list[str]:
    known = registry.names("benchmark")
    return [name for name in known if registry.load("benchmark", name).fitness_split is not None]


def per_stage(section: SearchSection) -> list[tuple[int, dict[str, object]]]:
    """Evaluations and options of each stage: what is said once is shared out evenly."""
    stages = len(section.stages)
    given = section.evaluations
    if isinstance(given, list):
        evaluations = given
    else:
        evaluations = [(n + 1) * given // stages - n * given // stages for n in range(stages)]
    options = section.options if isinstance(section.options, list) else [section.options] * stages
    return list(zip(evaluations, options, strict=True))


def read_fitness(fitness: Fitness, where: str) -> Rows:
    """The rows that candidates are scored on. Raises UserError for any that a test will ask."""
    if fitness.data is None:
        return {}
    path = Path(fitness.data)
    if not path.is_file():
        raise UserError(where, f"no such file: {path}", "JSONL rows")
    for place in (path, path.resolve()):
        if place.name.partition(".")[0].lower() == "test":
            raise UserError(where, f"{path} is a test split", "rows that no test will ask")
    # By what is asked: an id may be written anew, and a prompt is no other with another answer.
    asked = {split_key(row): test for test in test_files(fitness, where)
             for row in read_jsonl(test)}  # fmt: skip
    for row in read_jsonl(path) if asked else ():
        if (test := asked.get(split_key(row))) is not None:
            shared = f"row {row.id} of {path} also stands in the test split {test}"
            raise UserError(where, shared, "rows that no test will ask")
    found, seen = _by_domain(path, fitness)
    for name, rows in found.items():
        if not rows:
            raise UserError(
                where, f"no pairs of domain '{name}' in {path}", ", ".join(seen) or "none"
            )
    return found


def read_test(fitness: Fitness, where: str) -> Rows:
    """As many rows of the same domains from the test split; empty where there is none."""
    files = test_files(fitness, where)
    if not files:
        return {}
    found, _ = _by_domain(files[0], fitness)
    return {name: rows for name, rows in found.items() if rows}


def test_files(fitness: Fitness, where: str) -> list[Path]:
    """The test splits at hand: as the recipe says, and beside the fitness rows (where they are
    named, and where a link leads). The first one is shown. Raises UserError."""
    if fitness.data is None:
        return []
    given = [] if fitness.test is None else [Path(fitness.test)]
    if given and not given[0].is_file():
        raise UserError(f"{where}.test", f"no such file: {fitness.test}", "JSONL rows")
    named = Path(fitness.data)
    beside = [
        path.with_name(f"test.jsonl{ending}")
        for path in (named, named.resolve())
        for ending in ("", ".gz")
    ]
    return given + [path for path in beside if path.is_file()]


def _by_domain(path: Path, fitness: Fitness) -> tuple[Rows, list[str]]:
    """The first rows of each wanted domain, and all domains of the file."""
    rows: Rows = {name: [] for name in fitness.domains}
    seen = set()
    for row in read_jsonl(path):
        seen.add(row.domain)
        if row.prompt and row.domain in rows and len(rows[row.domain]) < fitness.limit:
            rows[row.domain].append(row)
    return rows, sorted(seen)
