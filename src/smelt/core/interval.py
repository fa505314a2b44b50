"""Intervals for counted answers and for differences over seeds."""

import math
from typing import Literal

Z95 = 1.959963984540054

# 97.5 % points of Student's t, degrees of freedom 1 to 30 (any table of the distribution).
T95 = (
    12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281,
    2.2010, 2.1788, 2.1604, 2.1448, 2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860,
    2.0796, 2.0739, 2.0687, 2.0639, 2.0595, 2.0555, 2.0518, 2.0484, 2.0452, 2.0423,
)  # fmt: skip


def wilson(correct: float, total: int, z: float = Z95) -> tuple[float, float]:
    """Wilson score interval of a proportion (Wilson 1927); (0, 1) when nothing was counted.

    correct: a count, or a sum of scores from 0 to 1, for which it is rather too wide.
    Raises ValueError unless 0 <= correct <= total.
    """
    if not 0 <= correct <= total:
        raise ValueError(f"{correct} correct of {total}")
    if total == 0:
        return 0.0, 1.0
    share = correct / total
    scale = 1 + z * z / total
    centre = (share + z * z / (2 * total)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    # At the ends the exact limits are 0 and 1, which rounding would miss by an ulp.
    low = 0.0 if correct == 0 else max(0.0, centre - half)
    high = 1.0 if correct == total else min(1.0, centre + half)
    return low, high


def student(values: list[float]) -> tuple[float, float]:
    """95 % interval of the mean of independent values (one per seed) by Student's t.

    Raises ValueError for fewer than two values. Above 31 values the t of 31 is used (wider).
    """
    if len(values) < 2:
        raise ValueError("an interval over seeds needs two seeds")
    mean = math.fsum(values) / len(values)
    spread = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))
    half = T95[min(len(values) - 1, len(T95)) - 1] * spread / math.sqrt(len(values))
    return mean - half, mean + half


def mean_interval(cells: list[tuple[float, float, float]]) -> tuple[float, float]:
    """Interval of the plain mean of independent estimates, each (value, low, high).

    Recovers each variance from its own limits (MOVER: Zou and Donner 2008), so that benchmarks of
    unequal size and accuracies near 0 or 1 are treated rightly.
    """
    count = len(cells)
    mean = math.fsum(value for value, _, _ in cells) / count
    below = math.sqrt(math.fsum((value - low) ** 2 for value, low, _ in cells)) / count
    above = math.sqrt(math.fsum((high - value) ** 2 for value, _, high in cells)) / count
    return mean - below, mean + above


def seeds_interval(
    cells: list[tuple[float, float, float]], *, same_items: bool
) -> tuple[float, float]:
    """Interval over items of the mean over seeds, each (value, low, high).

    Seeds with items of their own are independent estimates. On the same items they go up and down
    together, and asking once more tells nothing new: then it is as wide as those of the seeds.
    """
    if not same_items:
        return mean_interval(cells)
    lows, highs = [low for _, low, _ in cells], [high for _, _, high in cells]
    return math.fsum(lows) / len(cells), math.fsum(highs) / len(cells)


def decided(ranges: list[tuple[float, float]]) -> Literal["beats", "loses"] | None:
    """What intervals of a difference agree on; None when one of them holds 0."""
    if all(low > 0 for low, _ in ranges):
        return "beats"
    return "loses" if all(high < 0 for _, high in ranges) else None


def difference_interval(
    one: tuple[float, float, float], other: tuple[float, float, float]
) -> tuple[float, float]:
    """Interval of `one - other`, each (value, low, high), as if independent (MOVER).

    For two models on the same items this is wider than a paired interval, never falsely narrow
    as long as their answers are not negatively correlated.
    """
    gap = one[0] - other[0]
    below = math.hypot(one[0] - one[1], other[2] - other[0])
    above = math.hypot(one[2] - one[0], other[0] - other[1])
    return gap - below, gap + above
