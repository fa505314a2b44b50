"""The table of merge methods, read from their files: facts, and what their docstrings say."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from smelt.core import registry
from smelt.merge import parameters
from smelt.merge.method import Method, load_method

GROUPS: dict[str, tuple[str, ...]] = {
    "Averages and copies": ("linear", "model_stock", "passthrough"),
    "Task vectors": ("task_arithmetic", "ties", "expo", "varm", "ram", "ramplus_tl"),
    "Sparsified task vectors": (
        "dare_linear", "dare_ties", "della", "della_linear", "breadcrumbs", "breadcrumbs_ties",
    ),
    "On the sphere": ("slerp", "nuslerp", "multislerp", "karcher"),
    "Selection": ("sce", "magmax", "consensus", "nearswap", "arcee_fusion"),
    "Singular and eigenvectors": ("iso_c", "tsv_m", "wudi", "swudi"),
    "Data-informed": ("regmean", "fisher"),
}  # fmt: skip
"""For reading only: a method that stands in none is listed under OTHERS."""
OTHERS = "Others"

_LABEL = re.compile(r"(When|Evidence|Memory\b[^:]*): ?")


@dataclass(frozen=True)
class Row:
    """One method, in words."""

    name: str
    group: str
    idea: str
    source: str
    """Where it is from: `arXiv:2306.01708`, or an author."""
    models: str
    """How many experts, beside the base."""
    base: str
    when: str
    evidence: str
    parameters: tuple[str, ...]


def rows() -> list[Row]:
    """Every method, by group and in its order there, others by name."""
    listed = [name for names in GROUPS.values() for name in names]
    found = [_row(name) for name in registry.names("merge-method")]
    placed = [row for name in listed for row in found if row.name == name]
    return placed + [row for row in found if row.group == OTHERS]


def _row(name: str) -> Row:
    method, first = load_method(name), registry.summary("merge-method", name)
    _, _, line = first.partition(": ")
    idea, _, source = line.rpartition(" (")
    said = sections(registry.doc("merge-method", name))
    return Row(
        name=name,
        group=next((title for title, names in GROUPS.items() if name in names), OTHERS),
        idea=idea.rstrip("."),
        source=source.rstrip(")."),
        models=models_of(method),
        base=base_of(method),
        when=said.get("When", ""),
        evidence=said.get("Evidence", ""),
        parameters=tuple(method.parameters),
    )


def models_of(method: Method) -> str:
    """`2`, or `1 or more`: experts beside the base."""
    least, most = method.num_experts
    return f"{least}" if least == most else f"{least} or more"


def base_of(method: Method) -> str:
    """Whether a base is needed, and statistics, which are in its place where they are."""
    if method.extra is not None:
        return f"not used; `{method.extra}` statistics of each model"
    if method.base_is_expert:
        return "counts as the first model"
    if method.needs_base == "optional":
        return "optional"
    return "needed" if method.needs_base else "not used"


def sections(doc: str) -> dict[str, str]:
    """The labelled paragraphs of a method's docstring: a line with a label, and those after it.

    >>> sections("Idea.\\n\\nWhen: it\\n  rains.\\nEvidence: none; against: much.")
    {'When': 'it rains.', 'Evidence': 'none; against: much.'}
    """
    found: dict[str, str] = {}
    label = ""
    for line in doc.splitlines():
        match = _LABEL.match(line)
        if match:
            label = match.group(1)
            found[label] = line[match.end() :].strip()
        elif not line.strip():
            label = ""
        elif label:
            found[label] += " " + line.strip()
    return found


def meanings(name: str) -> dict[str, str]:
    """Recipe key -> what it means, from the text below its type. Switches explain themselves in the
    method's prose and are left out."""
    own = registry.path_of("merge-method", name)
    texts = _types(Path(parameters.__file__)) | _types(own)
    found: dict[str, str] = {}
    for node in ast.parse(own.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef) and node.name in ("statistics", name):
            for argument in node.args.kwonlyargs:
                annotation = argument.annotation
                kind = annotation.id if isinstance(annotation, ast.Name) else ""
                if kind in texts and kind != "Switch":
                    found[argument.arg.rstrip("_")] = texts[kind]
    return found


def _types(file: Path) -> dict[str, str]:
    """Name -> text of every assignment in a file that is followed by a string."""
    body = ast.parse(file.read_text(encoding="utf-8")).body
    return dict(_described(body))


def _described(body: list[ast.stmt]) -> Iterator[tuple[str, str]]:
    for node, after in pairwise(body):
        if not isinstance(node, ast.Assign | ast.AnnAssign) or not isinstance(after, ast.Expr):
            continue
        target = node.targets[0] if isinstance(node, ast.Assign) else node.target
        text = after.value.value if isinstance(after.value, ast.Constant) else None
        if isinstance(target, ast.Name) and isinstance(text, str):
            yield target.id, " ".join(text.split())
