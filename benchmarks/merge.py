"""`smelt merge` and mergekit on the same recipes: CPU seconds, wall seconds, peak memory.

    python benchmarks/merge.py [--mergekit PYTHON] [--data DIR] [--methods ties,sce] [--write]

PYTHON is the interpreter of an environment that has mergekit 0.1.5; without it only smelt is
measured. Inputs: a base and three fine-tunes of 0.47B parameters in bfloat16, made by
merge_inputs.py in DIR, 3.8 GB, unless they are there already (--preset tiny: to try the script).

One thread on one core, so that CPU seconds compare; the tools take turns, medians of --repeats
runs, inputs in the page cache. smelt runs without its smoke test, which mergekit lacks and which
has its own row. Each tool has its defaults: for DARE, DELLA and SCE those differ (docs/parity.md).
Everything that only a first run pays (compiling kernels, hashing inputs for the record) is kept
out of the table of methods and measured in rows of its own. Memory is the peak resident set of
the process, which counts pages of files that are mapped.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

SMELT = str(Path(sys.executable).with_name("smelt"))
RESULTS = Path(__file__).with_name("RESULTS.md")
BEGIN, END = "<!-- generated: merge -->", "<!-- end merge -->"
MEMORY_BAR, PLANNING_BAR, CORES_BAR = 700, 5, 1.6

PRESETS = {"bench": 18_867, "tiny": 135}  # tensors of a mixture
EXPERTS = ["ft1", "ft2", "ft3"]
PEER = "mergekit"


@dataclass(frozen=True)
class Method:
    """A recipe: what each expert gets, what the merge gets, and the bar in CPU seconds."""

    bar: float | None = None
    each: str = ""
    whole: str = ""
    experts: int = 3
    base: bool = True
    listed: bool = False


WEIGHT, DENSITY = "weight: 0.4", "weight: 0.4, density: 0.5"
BAND, RANKS = "weight: 0.4, density: 0.9, gamma: 0.01", "weight: 0.4, density: 0.5, epsilon: 0.1"
METHODS = {
    "linear": Method(3, WEIGHT, base=False),
    "task_arithmetic": Method(3, WEIGHT),
    "slerp": Method(3, whole="t: 0.4", experts=1, listed=True),
    "nuslerp": Method(3, WEIGHT, experts=2, base=False),
    "model_stock": Method(5),
    "multislerp": Method(5, WEIGHT, base=False),
    "karcher": Method(5, base=False),
    "dare_linear": Method(8, DENSITY),
    "dare_ties": Method(8, DENSITY),
    "ties": Method(10, DENSITY),
    "breadcrumbs": Method(10, BAND),
    "breadcrumbs_ties": Method(10, BAND),
    "sce": Method(12, whole="select_topk: 0.5"),
    "della": Method(15, RANKS),
    "della_linear": Method(15, RANKS),
    "ram": Method(),
    "ramplus_tl": Method(),
    "nearswap": Method(whole="t: 0.0005", experts=1, listed=True),
    "arcee_fusion": Method(experts=1, listed=True),
    "passthrough": Method(experts=1, base=False),
}


def recipe(name: str, data: Path) -> str:
    """The YAML that both tools read."""
    method = METHODS[name]
    lines = [f"merge_method: {name}", "dtype: bfloat16"]
    lines += [f"base_model: {data / 'base'}"] * method.base
    lines += [f"parameters: {{{method.whole}}}"] * bool(method.whole) + ["models:"]
    for model in ["base"] * method.listed + EXPERTS[: method.experts]:
        lines.append(f"  - model: {data / model}")
        lines += [f"    parameters: {{{method.each}}}"] * bool(method.each)
    return "\n".join(lines) + "\n"


# Measuring


@dataclass(frozen=True)
class Cost:
    """What one process cost."""

    cpu: float
    wall: float
    peak: float


def run(command: list[str], cores: int = 1, environment: dict[str, str] | None = None) -> Cost:
    """Run a command on so many cores; memory in MB. Exits when it fails.

    The kernel counts the memory of this process until the child starts its own program, so this
    one must stay small: inputs are made in another process.
    """
    if shutil.which("taskset"):
        allowed = sorted(os.sched_getaffinity(0))[:cores]
        command = ["taskset", "-c", ",".join(map(str, allowed)), *command]
    settings = {"OMP_NUM_THREADS": str(cores), "HF_HUB_OFFLINE": "1"} | (environment or {})
    with tempfile.TemporaryFile() as log:
        begun = time.perf_counter()
        child = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | settings)
        _, status, used = os.wait4(child.pid, 0)
        wall = time.perf_counter() - begun
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            log.seek(0)
            sys.exit(f"{' '.join(command)}\n{log.read().decode(errors='replace')[-3000:]}")
    return Cost(used.ru_utime + used.ru_stime, wall, used.ru_maxrss / 1024)


def median(costs: list[Cost]) -> Cost:
    """The median of each column."""
    columns = ([getattr(cost, key) for cost in costs] for key in ("cpu", "wall", "peak"))
    return Cost(*(statistics.median(column) for column in columns))


def alternate(
    tools: Mapping[str, Callable[[], Cost]], repeats: int, peer_repeats: int | None = None
) -> dict[str, Cost]:
    """Medians; the tools take turns and the first of a turn changes."""
    costs: dict[str, list[Cost]] = {name: [] for name in tools}
    for number in range(repeats):
        for name in list(tools)[:: -1 if number % 2 else 1]:
            if name == PEER and peer_repeats is not None and number >= peer_repeats:
                continue
            costs[name].append(tools[name]())
    return {name: median(found) for name, found in costs.items()}


class Bench:
    """The two tools and the floor on the models of one folder."""

    def __init__(
        self, data: Path, preset: str, mergekit: str | None, repeats: int, peer_repeats: int
    ) -> None:
        self.data, self.work, self.preset = data, data / "work", preset
        self.mergekit, self.repeats, self.peer_repeats = mergekit, repeats, peer_repeats
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir(parents=True)
        self.notes = {"SMELT_CACHE": str(self.work / "cache")}

    def _config(self, name: str) -> str:
        path = self.work / f"{name}.yaml"
        path.write_text(recipe(name, self.data), encoding="utf-8")
        return str(path)

    def smelt(
        self, name: str, *options: str, cores: int = 1, caches: dict[str, str] | None = None
    ) -> Cost:
        """One merge by smelt."""
        out = self.work / "smelt"
        command = [SMELT, "merge", self._config(name), str(out), *(options or ("--no-smoke",))]
        cost = run(command, cores, self.notes | (caches or {}))
        shutil.rmtree(out)
        return cost

    def other(self, name: str) -> Cost:
        """One merge by mergekit's command line."""
        out, python = self.work / "mergekit", self.mergekit or ""
        tool = [python, "-m", "mergekit.scripts.run_yaml", self._config(name), str(out)]
        cost = run([*tool, "--quiet", "--random-seed", "7"])
        shutil.rmtree(out)
        return cost

    def floor(self, name: str) -> Cost:
        """Read every input once and write one output."""
        method, out = METHODS[name], self.work / "floor"
        listed = ["base"] * (method.base or method.listed) + EXPERTS[: method.experts]
        first, *others = [f"{self.data / model}/*.safetensors" for model in listed]
        script = f"cat {' '.join(others) or '/dev/null'} > /dev/null; cat {first} > {out}"
        cost = run(["sh", "-c", script])
        out.unlink()
        return cost

    def methods(self, names: list[str]) -> list[str]:
        """The table of methods."""
        head = ["method", "inputs", "smelt CPU s", "bar", "mergekit CPU s", "mergekit / smelt"]
        head += ["smelt / floor", "smelt wall s", "mergekit wall s", "smelt MB", "mergekit MB"]
        lines = [row(head), row(["---"] * len(head))]
        for name in names:
            self.smelt(name)
            tools = {"smelt": partial(self.smelt, name), "floor": partial(self.floor, name)}
            if self.mergekit:
                tools["mergekit"] = partial(self.other, name)
            cost = alternate(tools, self.repeats, self.peer_repeats)
            ours, floor, theirs = cost["smelt"], cost["floor"], cost.get("mergekit")
            method = METHODS[name]
            bar = "-" if method.bar is None else f"{method.bar} {verdict(ours.cpu <= method.bar)}"
            other = [f"{theirs.cpu:.1f}", f"{theirs.cpu / ours.cpu:.1f}"] if theirs else ["-", "-"]
            walls = [f"{ours.wall:.1f}", f"{theirs.wall:.1f}" if theirs else "-"]
            peaks = [f"{ours.peak:.0f} {verdict(ours.peak <= MEMORY_BAR)}",
                     f"{theirs.peak:.0f}" if theirs else "-"]  # fmt: skip
            inputs = method.experts + (method.base or method.listed)
            cells = [f"`{name}`", str(inputs), f"{ours.cpu:.2f}", bar, *other,
                     f"{ours.cpu / floor.cpu:.1f}", *walls, *peaks]  # fmt: skip
            lines.append(row(cells))
            print(lines[-1], flush=True)
        return lines

    def rest(self, names: list[str]) -> list[str]:
        """Two cores, first runs, the smoke test, planning."""
        typical = [n for n in ("task_arithmetic", "ties", "della") if n in names] or names[:1]
        plain = typical[0]
        lines = [row(["what", "figure", "beside it, in the same run"]), row(["---"] * 3)]
        lines += [self.cores(name) for name in typical]
        lines.append(self.extra("hashing the inputs, the first time", plain, SMELT_CACHE="empty"))
        for name in typical:
            title = f"compiling the kernels of `{name}`, the first time"
            lines.append(self.extra(title, name, NUMBA_CACHE_DIR="empty"))
        lines.append(self.extra("the smoke test of a result", plain, "--smoke"))
        lines.append(self.planning())
        return lines

    def cores(self, name: str) -> str:
        """Two cores against one."""
        runs = {str(cores): partial(self.smelt, name, cores=cores) for cores in (1, 2)}
        cost = alternate(runs, self.repeats)
        faster = cost["1"].wall / cost["2"].wall
        said = f"{faster:.2f} times faster (bar {CORES_BAR} {verdict(faster >= CORES_BAR)})"
        used = f"{cost['2'].wall:.2f} s wall, {cost['2'].cpu:.2f} CPU s, {cost['2'].peak:.0f} MB"
        return row([f"`{name}` on two cores", f"{used}: {said}", f"one: {cost['1'].wall:.2f} s"])

    def extra(self, title: str, name: str, *options: str, **emptied: str) -> str:
        """What a merge costs with an option or an empty cache beyond one without."""

        def dearer() -> Cost:
            caches = {key: tempfile.mkdtemp(dir=self.work) for key in emptied}
            return self.smelt(name, *options, caches=caches)

        cost = alternate({"with": dearer, "without": partial(self.smelt, name)}, self.repeats)
        one, two = cost["with"], cost["without"]
        figure = f"{one.cpu - two.cpu:.2f} CPU s, {one.wall - two.wall:.2f} s wall more"
        without = f"`{name}` without: {two.cpu:.2f} CPU s, {two.wall:.2f} s, {two.peak:.0f} MB"
        return row([title, f"{figure}, peak {one.peak:.0f} MB", without])

    def planning(self) -> str:
        """`smelt check` of a merge of very many tensors."""
        path = self.work / "moe.yaml"
        models = [f"{{model: {self.data / f'moe{number}'}}}" for number in (1, 2)]
        path.write_text(f"base_model: {self.data / 'moe0'}\nmodels: [{', '.join(models)}]\n")
        command = [SMELT, "check", str(path)]
        cost = median([run(command, environment=self.notes) for _ in range(self.repeats + 1)][1:])
        title = f"planning three mixtures of {PRESETS[self.preset]:,} tensors, `smelt check`"
        figure = f"{cost.cpu:.2f} CPU s (bar {PLANNING_BAR} {verdict(cost.cpu <= PLANNING_BAR)})"
        nothing = run([SMELT, "--help"])
        return row(
            [title, f"{figure}, {cost.peak:.0f} MB", f"`smelt --help` {nothing.cpu:.2f} CPU s"]
        )


def verdict(good: bool) -> str:
    """Whether a bar is met."""
    return "met" if good else "MISSED"


def row(cells: list[str]) -> str:
    """One line of a table."""
    return f"| {' | '.join(cells)} |"


def versions(mergekit: str | None) -> str:
    """What was measured, in words."""
    smelt = subprocess.run([SMELT, "--version"], capture_output=True, text=True, check=True)
    ours = f"smelt {smelt.stdout.strip()}"
    if mergekit is None:
        return f"{ours}; no mergekit was given (`--mergekit PYTHON`), so only smelt is measured."
    code = (
        "from importlib.metadata import version as v; print(v('mergekit'), 'and torch', v('torch'))"
    )
    other = subprocess.run([mergekit, "-c", code], capture_output=True, text=True, check=True)
    return f"{ours} beside mergekit {other.stdout.strip()}."


def page(bench: Bench, names: list[str]) -> str:
    """The section of RESULTS.md."""
    preset, repeats = bench.preset, bench.repeats
    parameters = "0.47B parameters each" if preset == "bench" else "tiny: only a trial"
    about = (
        f"{versions(bench.mergekit)} Base and three experts in bfloat16 ({parameters}), one YAML "
        "for both tools, one thread on one core, inputs in the page cache, medians of "
        f"{repeats} runs (of mergekit {bench.peer_repeats}) in turns. The floor reads every input "
        "once and writes one output (`cat`). "
        f"Memory is the peak resident set, bar {MEMORY_BAR} MB. Each tool computes by its own "
        "defaults, which differ for DARE, DELLA and SCE (docs/parity.md). The first table holds "
        "what every merge but the first costs: kernels are compiled, and the sha256 of the inputs, "
        "which the record of a result carries, is noted in the user's cache. What a first merge "
        "pays on top is in the second table, and so is the smoke test, which mergekit lacks and "
        "which is off in the first. Load of the machine at the start: "
        f"{os.getloadavg()[0]:.1f}."
    )
    command = "python benchmarks/merge.py --mergekit PYTHON --write"
    parts = ["## Merging", f"`{command}`", about]
    parts += ["\n".join(bench.methods(names)), "\n".join(bench.rest(names))]
    return "\n\n".join(parts)


def main() -> None:
    """Make the inputs, measure, print, and with --write replace the section of RESULTS.md."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mergekit", help="python of an environment with mergekit")
    parser.add_argument("--data", type=Path, help="folder of the inputs, kept for the next time")
    parser.add_argument("--preset", choices=PRESETS, default="bench")
    parser.add_argument("--methods", help="some methods, by commas")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--peer-repeats", type=int, default=1, help="of mergekit, which takes long")
    parser.add_argument("--write", action="store_true", help="into benchmarks/RESULTS.md")
    asked = parser.parse_args()
    names = asked.methods.split(",") if asked.methods else list(METHODS)
    unknown = set(names) - set(METHODS)
    if unknown:
        parser.error(f"no recipe for {', '.join(sorted(unknown))}; there are {', '.join(METHODS)}")
    data = (asked.data or Path("out") / f"bench-merge-{asked.preset}").absolute()
    making = [sys.executable, str(Path(__file__).with_name("merge_inputs.py"))]
    subprocess.run([*making, str(data), asked.preset], check=True)
    text = page(Bench(data, asked.preset, asked.mergekit, asked.repeats, asked.peer_repeats), names)
    print(f"\n{text}")
    if asked.write:
        whole = RESULTS.read_text(encoding="utf-8")
        before, found, rest = whole.partition(BEGIN)
        after = rest.partition(END)[2] if found else "\n"
        before = before if found else before.rstrip() + "\n\n"
        RESULTS.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
