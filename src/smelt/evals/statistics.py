"""How sure is a score? Intervals over items, paired comparison of two models, pass@k.

What is resampled is always the item: several answers to one question are one observation (their
mean), for they share its difficulty. Everything is seeded, so a record is the same every time.
"""

import math
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from smelt.core.interval import wilson

Array = NDArray[np.float64]
RESAMPLES = 10_000
FEW = 64  # up to so many distinct rows, drawing their counts is quicker than drawing items
CHUNK = 4_000_000  # numbers held at once while items are drawn


def resampled_means(rows: Array, seed: int, resamples: int = RESAMPLES) -> Array:
    """Means of bootstrap resamples: rows [items, columns] -> [resamples, columns].

    All columns of an item are drawn together, so models asked the same items stay paired. Where
    few rows are distinct (right or wrong of some models) only how often each is drawn is drawn,
    which has the same distribution.
    """
    generator = np.random.default_rng(seed)
    distinct, counts = np.unique(rows, axis=0, return_counts=True)
    items = len(rows)
    if len(distinct) <= FEW:
        drawn = generator.multinomial(items, counts / items, size=resamples)
        return np.asarray(drawn @ distinct / items, dtype=np.float64)
    means = np.empty((resamples, rows.shape[1]))
    step = max(1, CHUNK // rows.size)
    for begin in range(0, resamples, step):
        picks = generator.integers(0, items, size=(min(step, resamples - begin), items))
        means[begin : begin + step] = rows[picks].mean(axis=1)
    return means


def bca_limits(values: Array, means: Array, low: float, high: float) -> tuple[float, float]:
    """Quantiles `low` and `high` of resampled means, corrected for bias and skewness (BCa, Efron
    1987). values: the items; means: of their resamples. The acceleration is that of the mean."""
    mean = values.mean()
    # Means lie on a grid: those that equal the observed one count half.
    tie = np.isclose(means, mean, rtol=0, atol=1e-12)
    below = float(((means < mean) & ~tie).mean() + tie.mean() / 2)
    normal = NormalDist()
    edge = 0.5 / len(means)
    bias = normal.inv_cdf(min(max(below, edge), 1 - edge))
    centred = values - mean
    spread = float((centred**2).sum())
    skew = float((centred**3).sum()) / (6 * spread**1.5) if spread > 0 else 0.0
    levels = []
    for level in (low, high):
        z = bias + normal.inv_cdf(level)
        levels.append(normal.cdf(bias + z / (1 - skew * z)))
    found = np.quantile(means, levels)
    return float(found[0]), float(found[1])


def bootstrap_interval(scores: list[float], seed: int = 0) -> tuple[float, float]:
    """95 % bootstrap interval (BCa) of the mean of some items' scores.

    Raises ValueError without scores. Scores that are all equal give an interval of no width: see
    `interval`.
    """
    if not scores:
        raise ValueError("no scores")
    values = np.asarray(scores, dtype=np.float64)
    if np.ptp(values) == 0:
        return float(values[0]), float(values[0])
    means = resampled_means(values[:, None], seed)[:, 0]
    return bca_limits(values, means, 0.025, 0.975)


def interval(scores: list[float], seed: int = 0) -> tuple[float, float]:
    """95 % interval of the mean of scores from 0 to 1, (0, 1) without any.

    Right or wrong: Wilson's. Partial credit: BCa bootstrap. Partial credit that is the same for
    every item has nothing to resample; it gets Wilson's limits, the widest that scores from 0 to 1
    of this mean can have.
    """
    if not scores or len(set(scores)) == 1 or set(scores) <= {0.0, 1.0}:
        return wilson(math.fsum(scores), len(scores))
    return bootstrap_interval(scores, seed)


def mcnemar(only_first: int, only_second: int) -> float:
    """Exact two-sided p of McNemar's test: of the items that one of two models alone got right,
    are both models' shares 1/2? (Binomial; 1 where they agree on everything.)"""
    total, fewer = only_first + only_second, min(only_first, only_second)
    tail, term = 0, 1
    for k in range(fewer + 1):
        tail += term
        term = term * (total - k) // (k + 1)
    return min(1.0, float(2 * tail / 2**total))


def sign_flip(differences: Array, seed: int = 0, flips: int = RESAMPLES) -> float:
    """Two-sided p of the paired permutation test: the chance that a mean difference this large
    comes about when each item's two scores may be swapped. Drawn, with the observed one counted
    (Phipson and Smyth 2010), so never 0."""
    generator = np.random.default_rng(seed)
    sizes, counts = np.unique(np.abs(differences), return_counts=True)
    sums = np.zeros(flips)
    for size, count in zip(sizes, counts, strict=True):
        if size > 0:
            sums += size * (2.0 * generator.binomial(count, 0.5, size=flips) - count)
    observed = abs(float(differences.sum())) - 1e-9 * (1 + float(sizes.max(initial=0.0)))
    return float((1 + (np.abs(sums) >= observed).sum()) / (1 + flips))


def difference_limits(
    differences: Array, seed: int = 0, *, low: float = 0.025, high: float = 0.975
) -> list[tuple[float, float]]:
    """Percentile limits of mean paired differences [items, models], from the same resamples.

    An item won and an item lost are added first (as Bonett and Price 2012 do for their interval).
    Without them, models that agree on every item seen would be proven equal, and five items won
    with none lost, which McNemar's test calls chance (p = 0.06), would be a sure gain.
    """
    most = np.abs(differences).max(axis=0)
    item = np.where(most > 0, most, 1.0)
    rows = np.vstack([differences, item, -item])
    limits = np.quantile(resampled_means(rows, seed), [low, high], axis=0)
    return [(float(limits[0, i]), float(limits[1, i])) for i in range(rows.shape[1])]


def paired(first: list[float], second: list[float], seed: int = 0) -> dict[str, float | int]:
    """Two models on the same items, in the same order: is the difference real?

    Returns difference (mean of second minus first) with its paired bootstrap interval low, high;
    p: McNemar's for right or wrong, of the sign-flip test for partial credit; only_first and
    only_second: items on which that model alone scored more; items. Raises ValueError for lists
    that are empty or of different length.
    """
    if not first or len(first) != len(second):
        raise ValueError(f"{len(first)} and {len(second)} scores are no pairs")
    differences = np.asarray(second, dtype=np.float64) - np.asarray(first, dtype=np.float64)
    ((low, high),) = difference_limits(differences[:, None], seed)
    only_first, only_second = int((differences < 0).sum()), int((differences > 0).sum())
    counted = set(first) | set(second) <= {0.0, 1.0}
    p = mcnemar(only_first, only_second) if counted else sign_flip(differences, seed)
    return {
        "difference": round(float(differences.mean()), 4),
        "low": round(low, 4),
        "high": round(high, 4),
        "p": float(f"{p:.4g}"),
        "only_first": only_first,
        "only_second": only_second,
        "items": len(first),
    }


def pass_at(samples: int, correct: int, k: int) -> float:
    """Chance that one of k answers is right, without bias, when `correct` of `samples` were:
    1 - C(n - c, k) / C(n, k) (Chen et al. 2021, arXiv:2107.03374). Raises ValueError unless
    0 <= correct <= samples and 1 <= k <= samples."""
    if not 0 <= correct <= samples or not 1 <= k <= samples:
        raise ValueError(f"pass@{k} of {correct} right ones among {samples}")
    return 1 - math.comb(samples - correct, k) / math.comb(samples, k)
