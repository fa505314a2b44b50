"""Fill the generated parts of README.md and docs/*.md from the code; `--check` only compares.

A part stands between `<!-- generated: NAME ARGUMENTS -->` and `<!-- end -->`. Names: verbs,
merge-methods, method-groups, method-rules, benchmarks, tree, kinds, keys VERB, options VERB,
plug-ins KIND.
"""

import ast
import inspect
import re
import sys
import typing
from collections.abc import Callable
from pathlib import Path

from typer.models import OptionInfo

from smelt.core import registry
from smelt.evals.benchmark import Benchmark, Form
from smelt.merge import table
from smelt.merge.method import load_method
from smelt.verbs import show

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"(<!-- generated: ([a-z-]+)((?: [a-z_-]+)*) -->\n).*?(<!-- end -->)", re.DOTALL)
# What has no package docstring to read.
FOLDERS = {
    "docs": "These pages; generated parts by scripts/docs.py.",
    "tests": "Mirror of src/smelt; contracts/ tests every plug-in of a kind, new ones too.",
    "scripts": "Upkeep of this repository.",
}
WORDS = {"int": "INT", "path": "PATH"}
PAGES = {"ls": "check", "show": "check", "fetch": "benchmarks"}


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    cells = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    return "".join("| " + " | ".join(line) + " |\n" for line in cells)


def verbs(page: Path) -> str:
    """Every verb with a link to its page."""
    folder = "docs/" if page.parent == ROOT else ""
    return _table(
        ["verb", "what it does"],
        [
            [f"[`{name}`]({folder}{PAGES.get(name, name)}.md)", registry.summary("verb", name)]
            for name in registry.names("verb")
        ],
    )


def merge_methods(page: Path) -> str:
    """Every merge method, in short: idea, models, base."""
    rows = [[f"`{row.name}`", row.idea, row.models, row.base] for row in table.rows()]
    return _table(["method", "idea", "models", "base"], rows)


def method_groups(page: Path) -> str:
    """Every merge method in full, a table for each group."""
    head = ["method", "idea", "models", "base", "when to use it", "evidence, for and against"]
    parts: dict[str, list[list[str]]] = {}
    for row in table.rows():
        name = f"`{row.name}` ({_linked(row.source)})"
        line = [name, row.idea, row.models, row.base, _linked(row.when), _linked(row.evidence)]
        parts.setdefault(row.group, []).append(line)
    return "\n".join(f"## {group}\n\n{_table(head, rows)}" for group, rows in parts.items())


def method_rules(page: Path) -> str:
    """The methods with a `rule`, and which rule is the default."""
    rows = []
    for row in table.rows():
        rule = load_method(row.name).parameters.get("rule")
        if rule is not None:
            others = [f"`{one}`" for one in rule.choices if one != rule.default]
            rows.append([f"`{row.name}`", f"`{rule.default}`", ", ".join(others)])
    return _table(["method", "default", "other rules"], rows)


def _linked(text: str) -> str:
    """Text with its arXiv numbers as links."""
    return re.sub(r"arXiv:(\d+\.\d+)", r"[\1](https://arxiv.org/abs/\1)", text)


def tree(page: Path) -> str:
    """The folders with the first line of their docstring."""
    root = ROOT / "src" / "smelt"
    rows = [("src/smelt/", _docstring(root)), ("  cli.py", _docstring(root / "cli.py"))]
    for path in sorted(item.parent for item in root.rglob("__init__.py") if item.parent != root):
        name = path.relative_to(root)
        rows.append(("  " * len(name.parts) + name.name + "/", _docstring(path)))
    rows += [(name + "/", text) for name, text in FOLDERS.items()]
    width = max(len(name) for name, _ in rows) + 2
    return "```\n" + "".join(f"{name:{width}}{text}\n" for name, text in rows) + "```\n"


def _docstring(path: Path) -> str:
    file = path / "__init__.py" if path.is_dir() else path
    found = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))
    assert found, f"{file} has no docstring"
    return found.splitlines()[0]


def kinds(page: Path) -> str:
    """Every kind of plug-in, its folder and its names."""
    rows = [
        [f"`{kind}`", f"`src/smelt/{folder}/`", ", ".join(registry.names(kind))]
        for kind, folder in registry.KINDS.items()
    ]
    return _table(["kind", "folder", "plug-ins"], rows)


def plug_ins(page: Path, kind: str) -> str:
    """The plug-ins of a kind with their first line."""
    rows = [[f"`{name}`", registry.summary(kind, name)] for name in registry.names(kind)]
    return _table([kind.replace("-", " "), "what it is"], rows)


def benchmarks(page: Path) -> str:
    """Every benchmark: what it is, its data, and how it is asked and read."""
    head = ["benchmark", "source", "licence", "items", "fitness", "shots", "forms"]
    rows = []
    for name in registry.names("benchmark"):
        record: Benchmark = registry.load("benchmark", name)
        items = ", ".join(
            f"{'**' * (split == record.test_split)}{split}{'**' * (split == record.test_split)} {n}"
            for split, n in record.splits.items()
        )
        source = re.sub(r"https://(\S+?)(?=[,;\s]|$)", r"[\1](https://\1)", record.source)
        forms = "; ".join(_form(key, form) for key, form in record.forms.items())
        row = [f"`{name}` v{record.version}", _linked(source), record.licence]
        row += [items or "as made", record.fitness_split or "none", record.shots_split or "none"]
        rows.append([*row, forms])
    return _table(head, rows)


def _form(name: str, form: Form) -> str:
    shots = f", {form.shots}-shot" if form.shots else ""
    if form.job is not None:
        return f"{name}{shots}: a program, by its tests"
    if form.options is not None:
        norm = " per character" if form.per_character else ""
        return f"{name}{shots}: likelihood{norm}"
    return f"{name}{shots}: " + ", ".join(f"`{rule}`" for rule in form.rules)


def keys(page: Path, verb: str) -> str:
    """The recipe keys of a verb, each where it first stands."""
    found = dict(show.recipe_rows(verb))
    assert found, f"{verb} has no recipe"
    rows = [
        [f"`{key}`", *_parts(text)]
        for key, text in found.items()
        # What means the same one level up (slices inside modules) stands there.
        if found.get(key.partition(".")[2]) != text
    ]
    return _table(["key", "type and default", "meaning"], rows)


def _parts(text: str) -> list[str]:
    """A row of `smelt show`, cut after the type and default."""
    head, _, meaning = text.partition(". ")
    return [head.rstrip("."), meaning]


def options(page: Path, verb: str) -> str:
    """The arguments and options of a verb, from its signature."""
    rows = []
    function = registry.load("verb", verb)
    hints = typing.get_type_hints(function, include_extras=True)
    for name, parameter in inspect.signature(function).parameters.items():
        kind, info = typing.get_args(hints[name])
        shown = info.metavar or name.upper()
        if isinstance(info, OptionInfo):
            # In Annotated the first name of an option is its `default`.
            flag = ", ".join([str(info.default), *(info.param_decls or ())])
            switch = kind is bool or bool in typing.get_args(kind)
            shown = flag if switch else f"{flag} {info.metavar or _kind(kind)}"
        text = str(info.help or "")
        if parameter.default is inspect.Parameter.empty:
            text += " Required."
        elif parameter.default is not None and parameter.default is not False:
            text += f" Default: {parameter.default}."
        rows.append([f"`{shown}`", text])
    return _table(["argument", "meaning"], rows)


def _kind(annotation: object) -> str:
    """What stands for the value of an option: INT, TEXT, PATH."""
    names = show.type_name(annotation)
    return next((word for part, word in WORDS.items() if part in names.lower()), "TEXT")


MAKERS: dict[str, Callable[..., str]] = {
    "verbs": verbs,
    "merge-methods": merge_methods,
    "method-groups": method_groups,
    "method-rules": method_rules,
    "tree": tree,
    "kinds": kinds,
    "plug-ins": plug_ins,
    "benchmarks": benchmarks,
    "keys": keys,
    "options": options,
}


def pages() -> list[Path]:
    """README.md and every page of docs/."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def filled(page: Path) -> str:
    """The text of a page with its generated parts made anew. Fails on an unknown name."""

    def make(found: re.Match[str]) -> str:
        head, name, arguments, tail = found.groups()
        if name not in MAKERS:
            raise SystemExit(f"{page}: unknown generated part '{name}'; known: {', '.join(MAKERS)}")
        return head + MAKERS[name](page, *arguments.split()) + tail

    text = page.read_text(encoding="utf-8")
    if text.count("<!-- generated:") != len(BLOCK.findall(text)):
        raise SystemExit(f"{page}: a generated part has no <!-- end -->, or its name is malformed")
    return BLOCK.sub(make, text)


def main(arguments: list[str]) -> int:
    """Rewrite all pages, or with --check list those that are stale and return 1."""
    if arguments not in ([], ["--check"]):
        raise SystemExit("usage: python scripts/docs.py [--check]")
    stale = [page for page in pages() if filled(page) != page.read_text(encoding="utf-8")]
    for page in stale:
        if arguments:
            print(f"{page.relative_to(ROOT)}: stale. Next: python scripts/docs.py")
        else:
            page.write_text(filled(page), encoding="utf-8")
            print(f"wrote {page.relative_to(ROOT)}")
    return 1 if arguments and stale else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
