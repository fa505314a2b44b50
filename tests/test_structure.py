"""The floors, the nevers and the file sizes of the architecture, read from the source itself."""

import ast
import os
import resource
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from smelt.core import registry

SRC = registry.ROOT
FLOORS = {
    "core": 1, "verify": 1,
    "checkpoint": 2, "data": 2, "report": 2,
    "merge": 3, "models": 3,
    "search": 4, "fuse": 4, "evals": 4, "export": 4,
    "train": 5,
    "pipeline": 6, "combine": 6,
    "verbs": 7, "cli": 7,
}  # fmt: skip
NOT_CODE = {"recipes"}
# (folder, what it never imports): smelt folders and other packages alike.
NEVER = {
    "merge": {"smelt.models"},
    "search": {"smelt.evals"},
    "data": {"smelt.models", "torch", "transformers"},
    "core": {"torch", "transformers"},
    "verify": {"torch", "transformers"},
    "report": {"torch", "transformers"},
}
MAX_LINES, MAX_PLUGIN_LINES, MAX_MEDIAN = 400, 150, 170


def module_name(path: Path) -> str:
    parts = path.relative_to(SRC.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(SRC.rglob("*.py"))}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}
PLUGIN_FOLDERS = {
    registry.KINDS[kind]: kind for kind in registry.KINDS if kind not in ("recipe", "verb")
}


def imported(node: ast.AST) -> list[str]:
    """Modules named by one import statement (`from smelt import x` names smelt.x)."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        assert node.level == 0, "relative import"
        inner = [f"{node.module}.{alias.name}" for alias in node.names]
        return [name if name in MODULES else str(node.module) for name in inner]
    return []


def imports_of(name: str) -> set[str]:
    """Everything that a module imports, inside functions too."""
    return {found for node in ast.walk(TREES[name]) for found in imported(node)}


def top_imports(name: str) -> set[str]:
    """What is imported when the module is; not what only a type checker sees."""
    found: set[str] = set()
    todo: list[ast.AST] = [TREES[name]]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        found |= set(imported(node))
        todo.extend(ast.iter_child_nodes(node))
    return found


def folder_of(name: str) -> str:
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else ""


def test_every_folder_has_a_floor() -> None:
    folders = {folder_of(name) for name in MODULES} - {""}
    assert folders - NOT_CODE <= set(FLOORS), "a folder without a floor"


@pytest.mark.parametrize("name", [n for n in MODULES if folder_of(n) in FLOORS])
def test_no_import_goes_up(name: str) -> None:
    floor = FLOORS[folder_of(name)]
    found = [other for other in imports_of(name) if folder_of(other) and other in MODULES]
    up = [other for other in found if FLOORS[folder_of(other)] > floor]
    assert not up, f"{name} (floor {floor}) imports {up}"
    # `smelt` itself holds the version and the verbs; only the version may be read from below.
    assert all(other in MODULES for other in imports_of(name) if other.startswith("smelt"))


@pytest.mark.parametrize("folder", sorted(NEVER))
def test_nevers(folder: str) -> None:
    for name in MODULES:
        if folder_of(name) == folder:
            for other in imports_of(name):
                for never in NEVER[folder]:
                    assert other != never and not other.startswith(never + "."), (name, other)  # noqa: PT018


def test_report_imports_only_core() -> None:
    for name in MODULES:
        if folder_of(name) == "report":
            inside = {o for o in imports_of(name) if o.startswith("smelt.")}
            assert all(folder_of(o) in ("report", "core") for o in inside), (name, inside)


def test_no_circle() -> None:
    edges = {name: {o for o in top_imports(name) if o in MODULES} for name in MODULES}
    done: set[str] = set()

    def visit(name: str, above: list[str]) -> None:
        assert name not in above, " -> ".join([*above[above.index(name) :], name])
        if name not in done:
            for other in sorted(edges[name]):
                visit(other, [*above, name])
            done.add(name)

    for name in MODULES:
        visit(name, [])


@pytest.mark.parametrize("folder", sorted(PLUGIN_FOLDERS))
def test_a_plugin_never_imports_one_of_its_kind(folder: str) -> None:
    prefix = "smelt." + folder.replace("/", ".") + "."
    inside = {name.removeprefix(prefix) for name in MODULES if name.startswith(prefix)}
    plugins = {prefix + name for name in inside if "." not in name and not name.startswith("_")}
    assert plugins, f"no {PLUGIN_FOLDERS[folder]}: a kind needs one real inhabitant"
    for name in plugins:
        assert not imports_of(name) & plugins, name


@pytest.mark.parametrize("kind", [kind for kind in registry.KINDS if kind != "recipe"])
def test_every_plugin_has_one_summary_line(kind: str) -> None:
    for name in registry.names(kind):
        line = registry.summary(kind, name)
        assert line.strip(), (kind, name)
        assert len(line) <= 110, (kind, name)


def test_sizes() -> None:
    lines = {name: len(path.read_text().splitlines()) for name, path in MODULES.items()}
    assert [(n, k) for n, k in lines.items() if k > MAX_LINES] == []
    plugins = [n for n in MODULES if str(MODULES[n].parent.relative_to(SRC)) in PLUGIN_FOLDERS]
    too_long = [(n, lines[n]) for n in plugins if lines[n] > MAX_PLUGIN_LINES]
    # Verifiers are whole small languages with their doctests.
    assert [row for row in too_long if folder_of(row[0]) != "verify"] == []
    files = [k for n, k in lines.items() if MODULES[n].name != "__init__.py"]
    assert statistics.median(files) <= MAX_MEDIAN


def test_no_logic_in_init_and_no_utils() -> None:
    for name, path in MODULES.items():
        assert path.stem not in ("utils", "util", "helpers", "common", "misc"), path
        if path.name == "__init__.py":
            allowed = (ast.Expr, ast.Import, ast.ImportFrom, ast.Assign)
            assert all(isinstance(node, allowed) for node in TREES[name].body), path


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout


def test_help_is_quick_and_light() -> None:
    """Below 0.3 s of CPU, without torch or anything as heavy, and no verb's file is read in."""
    command = [sys.executable, "-c", "from smelt.cli import main; main()", "--help"]
    spent = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert "merge" in done.stdout
    if "COVERAGE_PROCESS_START" not in os.environ:
        assert min(spent) < 0.3
    probe = """
import sys
sys.argv = ["smelt", "--help"]
from smelt.cli import main
try:
    main()
except SystemExit:
    pass
print("LOADED", *sys.modules)
"""
    loaded = set(run(probe).partition("LOADED")[2].split())
    assert not loaded & {"torch", "transformers", "numpy", "pydantic", "yaml", "matplotlib"}
    assert not [name for name in loaded if name.startswith("smelt.verbs.")]


def test_low_floors_load_without_torch() -> None:
    low = [n for n in MODULES if folder_of(n) in ("core", "verify", "report", "pipeline")]
    verbs = [n for n in MODULES if folder_of(n) == "verbs"]
    code = "import sys, importlib\n"
    code += f"for name in {low + verbs}: importlib.import_module(name)\n"
    code += "print(*sorted({'torch', 'transformers'} & set(sys.modules)))"
    assert run(code).split() == []
