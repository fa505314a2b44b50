"""Plots as inline SVG: text stays text, ink follows the page, the same bytes every time."""

import io
import math
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from smelt.core.errors import needs

INK = "#010203"  # stands for the text colour of the page; becomes `currentColor`
COLOURS = ("#3b82f6", "#f97316", "#16a34a", "#a855f7", "#e11d48", "#0891b2", "#ca8a04", "#64748b")
MAX_POINTS = 250
WIDTH = 4.6  # inches: at this width the text is readable on a phone, unscaled

STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "smelt",
    "text.parse_math": False,  # a name with two dollar signs is a name
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
}

Point = tuple[float, float]


def _inline(svg: str, name: str) -> str:
    """The <svg> element alone: no prolog, metadata or namespaces, ids unique in the page."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", svg)
    svg = re.sub(r'(<[^<>]*?\s)id="', rf'\1id="{name}-', svg)
    svg = re.sub(r'(<[^<>]*?\s)xlink:href="#', rf'\1href="#{name}-', svg)
    svg = svg.replace("url(#", f"url(#{name}-").replace(INK, "currentColor")
    return re.sub(r"<svg\b", '<svg role="img"', svg, count=1).strip()


def draw(name: str, paint: Callable[[Any], None], *, height: float = 3.2) -> str:
    """An SVG of `height` inches that `paint(axes)` fills; `name` makes its ids unique.

    Raises UserError when matplotlib is not installed.
    """
    try:
        import matplotlib as mpl
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure
    except ImportError as error:
        raise needs("report", "matplotlib") from error
    with mpl.rc_context(), warnings.catch_warnings():
        # The browser has the glyphs that matplotlib's own font lacks.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        mpl.rcdefaults()  # a user's matplotlibrc must not change the bytes
        mpl.rcParams.update(STYLE)
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        canvas = FigureCanvasSVG(figure)
        figure.patch.set_alpha(0.0)
        axes = figure.add_subplot()
        axes.patch.set_alpha(0.0)
        axes.grid(True, color=INK, alpha=0.12, linewidth=0.6)
        paint(axes)
        stream = io.StringIO()
        canvas.print_svg(stream, metadata={"Date": None, "Creator": None})  # type: ignore[no-untyped-call]
    return _inline(stream.getvalue(), name)


def thin(points: list[Point], limit: int = MAX_POINTS) -> tuple[list[Point], int]:
    """At most `limit` points, each the mean over a run of neighbours; and the run's length."""
    stride = math.ceil(len(points) / limit) if points else 1
    runs = [points[start : start + stride] for start in range(0, len(points), stride)]
    means = [(sum(x for x, _ in run) / len(run), sum(y for _, y in run) / len(run)) for run in runs]
    return means, max(1, stride)


def losses(name: str, seeds: dict[int, list[Point]], phases: list[tuple[float, str]]) -> str:
    """Loss over steps, one line a seed; phases: (first step, label), marked by dashed lines."""

    def paint(axes: Any) -> None:
        for (seed, points), colour in zip(seeds.items(), COLOURS * len(seeds), strict=False):
            xs, ys = zip(*points, strict=True) if points else ((), ())
            axes.plot(xs, ys, color=colour, linewidth=1.2, label=f"seed {seed}")
        for index, (step, label) in enumerate(phases):
            if index:
                axes.axvline(step, color=INK, alpha=0.5, linestyle="--", linewidth=0.8)
            axes.text(
                step, 1.01, f" {label}", transform=axes.get_xaxis_transform(), fontsize=8,
                va="bottom", clip_on=False,
            )  # fmt: skip
        values = [y for points in seeds.values() for _, y in points]
        if values and min(values) > 0 and max(values) / min(values) > 20:
            axes.set_yscale("log")
        axes.set_xlabel("step")
        axes.set_ylabel("loss")
        if len(seeds) > 1:
            axes.legend(fontsize=8)

    return draw(name, paint, height=2.7)


@dataclass(frozen=True)
class Course:
    """A search of one seed: candidates (x, fitness) measured on all items, those that a race left
    early (fitness estimated), best so far (x, fitness), and the fitness of the start."""

    whole: list[Point]
    early: list[Point]
    best: list[Point]
    start: float | None = None


def search_progress(
    name: str, seeds: dict[int, Course], *, xlabel: str = "candidate", stages: Sequence[float] = ()
) -> str:
    """Fitness of every candidate as dots (faint where estimated), best so far as a line, the start
    as a dotted line; stages: where a later one begins, marked by dashed lines."""

    def paint(axes: Any) -> None:
        for (seed, course), colour in zip(seeds.items(), COLOURS * len(seeds), strict=False):
            label = f"seed {seed}: " if len(seeds) > 1 else ""
            for points, strength in ((course.early, 0.18), (course.whole, 0.5)):
                if points:
                    axes.scatter(*zip(*points, strict=True), s=9, color=colour, alpha=strength,
                                 linewidths=0)  # fmt: skip
            if course.best:
                axes.plot(*zip(*course.best, strict=True), color=colour, linewidth=1.6,
                          drawstyle="steps-post", label=f"{label}best so far")  # fmt: skip
            if course.start is not None:
                axes.axhline(course.start, color=colour, linestyle=":", linewidth=1.2,
                             label=f"{label}start")  # fmt: skip
        for x in stages:
            axes.axvline(x, color=INK, alpha=0.5, linestyle="--", linewidth=0.8)
        axes.set_xlabel(xlabel)
        axes.set_ylabel("fitness")
        axes.legend(fontsize=8, loc="lower right")

    return draw(name, paint)


def front(name: str, points: list[Point], others: list[Point], labels: tuple[str, str]) -> str:
    """Two objectives of a search, more is better in both: all candidates, the front joined."""

    def paint(axes: Any) -> None:
        if others:
            axes.scatter(*zip(*others, strict=True), s=9, color=COLOURS[7], alpha=0.45,
                         linewidths=0, label="candidates")  # fmt: skip
        line = sorted(points)
        axes.plot(*zip(*line, strict=True), color=COLOURS[0], marker="o", markersize=5,
                  linewidth=1.2, drawstyle="steps-pre", label="front")  # fmt: skip
        axes.set_xlabel(labels[0])
        axes.set_ylabel(labels[1])
        axes.legend(fontsize=8)

    return draw(name, paint)


def gains(name: str, bars: list[tuple[str, float, float, float, str]], label: str) -> str:
    """Differences with their intervals, (name, value, low, high, verdict) from the top down, and
    where 0 is; verdict: beats is green, loses orange, all else grey."""
    colours = {"beats": COLOURS[2], "loses": COLOURS[1]}

    def paint(axes: Any) -> None:
        axes.axvline(0, color=INK, alpha=0.7, linewidth=1)
        for index, (_, value, low, high, verdict) in enumerate(bars):
            colour = colours.get(verdict, COLOURS[7])
            axes.plot([low, high], [index, index], color=colour, linewidth=2, alpha=0.7)
            axes.plot([value], [index], marker="o", color=colour, markersize=6)
        axes.set_yticks(range(len(bars)), [bar[0] for bar in bars])
        axes.invert_yaxis()
        axes.set_xlabel(label)

    return draw(name, paint, height=0.9 + 0.26 * len(bars))


def scores(name: str, bars: list[tuple[str, float, float, float, str]], label: str) -> str:
    """Accuracy with interval of each model: (name, mean, low, high, role), in order, top down."""
    roles = list(dict.fromkeys(bar[4] for bar in bars))

    def paint(axes: Any) -> None:
        for index, (_, mean, low, high, role) in enumerate(bars):
            colour = COLOURS[roles.index(role) % len(COLOURS)]
            axes.plot([low, high], [index, index], color=colour, linewidth=2, alpha=0.6)
            axes.plot([mean], [index], marker="o", color=colour, markersize=6)
        for role in roles:
            axes.plot([], [], marker="o", color=COLOURS[roles.index(role) % len(COLOURS)],
                      label=role or "model", linewidth=2)  # fmt: skip
        axes.set_yticks(range(len(bars)), [bar[0] for bar in bars])
        axes.invert_yaxis()
        axes.set_xlabel(label)
        if len(roles) > 1:
            axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.18 * 3.2 / (
                0.8 + 0.28 * len(bars))), ncols=4)  # fmt: skip

    return draw(name, paint, height=1.1 + 0.28 * len(bars))
