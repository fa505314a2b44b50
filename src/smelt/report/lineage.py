"""The lineage graph: which result went into which, drawn as boxes and arrows in SVG."""

import html

from smelt.report.stages import Stage

WIDTH, HEIGHT, GAP_X, GAP_Y, MARGIN = 132, 38, 48, 14, 8


def edges(stages: list[Stage]) -> list[tuple[int, int]]:
    """(from, to) index pairs: the result of the first is an input of the second."""
    return [
        (source, target)
        for target, taker in enumerate(stages)
        for source, giver in enumerate(stages)
        if source != target and taker.uses(giver)
    ]


def levels(count: int, arrows: list[tuple[int, int]]) -> list[int]:
    """The column of each box: one more than the largest of its sources (keys admit no circle)."""
    found = [0] * count
    for _ in range(count):
        for source, target in arrows:
            found[target] = max(found[target], min(found[source] + 1, count - 1))
    return found


def _implied(arrow: tuple[int, int], arrows: list[tuple[int, int]]) -> bool:
    """Whether a longer way leads from the arrow's start to its end."""
    source, target = arrow
    seen: set[int] = set()
    border = [end for start, end in arrows if start == source and end != target]
    while border:
        here = border.pop()
        if here == target:
            return True
        if here not in seen:
            seen.add(here)
            border.extend(end for start, end in arrows if start == here)
    return False


def _rows(column: list[int], taken: dict[int, float], arrows: list[tuple[int, int]]) -> list[int]:
    """A column's boxes, ordered by the mean height of their sources so that few arrows cross."""

    def height(box: int) -> float:
        sources = [taken[start] for start, end in arrows if end == box and start in taken]
        return sum(sources) / len(sources) if sources else 0.0

    return sorted(column, key=lambda box: (height(box), box))


def _box(stage: Stage, x: float, y: float) -> str:
    name = stage.name if len(stage.name) <= 18 else stage.name[:17] + "\N{HORIZONTAL ELLIPSIS}"
    verb = stage.record.verb + (
        f" \N{MIDDLE DOT} {stage.record.method}" if stage.record.method else ""
    )
    verb = verb if len(verb) <= 24 else verb[:23] + "\N{HORIZONTAL ELLIPSIS}"
    middle = x + WIDTH / 2
    return (
        f'<g><title>{html.escape(stage.name)}</title><rect class="box" x="{x:.0f}" y="{y:.0f}" '
        f'width="{WIDTH}" height="{HEIGHT}" rx="6"/>'
        f'<text x="{middle:.0f}" y="{y + 16:.0f}" class="name">{html.escape(name)}</text>'
        f'<text x="{middle:.0f}" y="{y + 30:.0f}" class="verb">{html.escape(verb)}</text></g>'
    )


def graph(stages: list[Stage]) -> str:
    """SVG of the stages, sources left of what they went into.

    Arrows that a longer way implies are drawn fainter.
    """
    arrows = edges(stages)
    level = levels(len(stages), arrows)
    columns = [[i for i in range(len(stages)) if level[i] == c] for c in range(max(level) + 1)]
    tallest = max(len(column) for column in columns)
    place: dict[int, tuple[float, float]] = {}
    for number, column in enumerate(columns):
        ordered = _rows(column, {box: y for box, (_, y) in place.items()}, arrows)
        top = MARGIN + (tallest - len(column)) * (HEIGHT + GAP_Y) / 2
        for row, box in enumerate(ordered):
            place[box] = (MARGIN + number * (WIDTH + GAP_X), top + row * (HEIGHT + GAP_Y))
    width = 2 * MARGIN + len(columns) * (WIDTH + GAP_X) - GAP_X
    height = 2 * MARGIN + tallest * (HEIGHT + GAP_Y) - GAP_Y
    parts = [
        f'<svg role="img" class="lineage" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}"><title>lineage</title><defs><marker id="arrow" '
        'viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0L8 4L0 8z" fill="currentColor"/></marker></defs>'
    ]
    for arrow in arrows:
        (x1, y1), (x2, y2) = place[arrow[0]], place[arrow[1]]
        x1, y1, y2 = x1 + WIDTH, y1 + HEIGHT / 2, y2 + HEIGHT / 2
        bend = (x2 - x1) / 2
        style = "edge implied" if _implied(arrow, arrows) else "edge"
        parts.append(
            f'<path class="{style}" d="M{x1:.0f} {y1:.0f}C{x1 + bend:.0f} {y1:.0f} '
            f'{x2 - bend:.0f} {y2:.0f} {x2 - 1:.0f} {y2:.0f}" marker-end="url(#arrow)"/>'
        )
    parts += [_box(stages[box], *place[box]) for box in range(len(stages))]
    return "".join(parts) + "</svg>"
