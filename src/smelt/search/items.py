"""Which items tell candidates apart, and what those left out would have given."""

import math
import random
from collections import defaultdict
from collections.abc import Sequence

from smelt.search.candidate import Candidate

# A generation counts this much less than the one after it: what is hard changes with the search.
FADE = 0.9
# So does each candidate measured on all items, against the one after it.
FULL_FADE = 0.8
# The items of a race hold this share of all variance between candidates.
COVERED = 0.8


class Items:
    """What earlier candidates did on each item.

    weights: of the items, sum 1; groups: the benchmark or domain of each; start: number of the
    search's first candidate.
    """

    def __init__(self, weights: list[float], groups: Sequence[str], start: int) -> None:
        self.weights, self.groups, self.start = weights, groups, start
        size = len(weights)
        self._count, self._sum, self._squares = [0.0] * size, [0.0] * size, [0.0] * size
        self._full, self._whole = 0.0, [0.0] * size  # of candidates that were measured on all

    def learn(self, candidates: list[Candidate]) -> None:
        """Take in a generation (its first objective)."""
        for sums in (self._count, self._sum, self._squares):
            sums[:] = [FADE * value for value in sums]
        for one in candidates:
            if one.error is None:
                if len(one.seen) == len(self.weights):
                    self._full = FULL_FADE * self._full + 1
                    self._whole = [
                        FULL_FADE * value + one.seen[item][0]
                        for item, value in enumerate(self._whole)
                    ]
                for item, (value, *_) in one.seen.items():
                    self._count[item] += 1
                    self._sum[item] += value
                    self._squares[item] += value * value

    def order(self, generation: int, *, select: bool) -> list[int]:
        """The items of a race in their order, drawn anew for each generation.

        select: those in which candidates differed, each the earlier the more it adds to the
        variance of the mean (drawn, so that nobody fits the same few); else all, at random.
        Each group has its share of every beginning of the order.
        """
        draw = random.Random(f"{self.start} {generation}")
        chance = [draw.random() for _ in self.weights]
        spread = self._spread() if select else [1.0] * len(self.weights)
        mass = [weight * math.sqrt(one) for weight, one in zip(self.weights, spread, strict=True)]
        chosen = list(range(len(mass)))
        if select:
            power = [weight * one for weight, one in zip(self.weights, spread, strict=True)]
            chosen.sort(key=lambda item: (-power[item], chance[item]))
            wanted, held, count = COVERED * math.fsum(power), 0.0, 0
            while count < len(chosen) and held < wanted:
                held += power[chosen[count]]
                count += 1
            chosen = chosen[: max(1, count)]
        strata: dict[str, list[int]] = defaultdict(list)
        # Weighted draw without replacement: the order of exponential times (Efraimidis 2006).
        for item in sorted(chosen, key=lambda item: -math.log(1 - chance[item]) / mass[item]):
            strata[self.groups[item]].append(item)
        place: dict[int, float] = {}
        for part in strata.values():
            total, before = math.fsum(mass[item] for item in part), 0.0
            for item in part:
                place[item] = (before + mass[item] / 2) / total
                before += mass[item]
        return sorted(place, key=lambda item: (place[item], item))

    def _spread(self) -> list[float]:
        """Variance of each item between candidates; one seen in few has partly the mean one."""
        inside = [
            max(0.0, squares - total * total / count) if count else 0.0
            for count, total, squares in zip(self._count, self._sum, self._squares, strict=True)
        ]
        usual = math.fsum(inside) / max(math.fsum(self._count), 1.0)
        usual = usual if usual > 0 else 1.0
        return [(one + usual) / (count + 1) for one, count in zip(inside, self._count, strict=True)]

    def estimate(self, one: Candidate) -> float:
        """The weighted mean over all items of a candidate measured on some.

        The mean of earlier candidates that were measured on all items (means over others would
        compare survivors with everybody), moved by what it differs from them on the items that it
        has seen, in proportion to the variance that these hold: a difference estimator with ratio.
        """
        if len(one.seen) == len(self.weights) or not self._full:
            return one.mean(self.weights)
        usual = [value / self._full for value in self._whole]
        power = [weight * v for weight, v in zip(self.weights, self._spread(), strict=True)]
        gap = math.fsum(self.weights[i] * (v[0] - usual[i]) for i, v in one.seen.items())
        ratio = math.fsum(power) / math.fsum(power[item] for item in one.seen)
        mean = math.fsum(weight * v for weight, v in zip(self.weights, usual, strict=True))
        return (mean + gap * ratio) / math.fsum(self.weights)
