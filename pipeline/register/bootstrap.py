"""How sure a mean change is: a paired bootstrap over blocks of consecutive windows. Pure.

Held-out windows overlap, so their losses are no independent sample: whole blocks are drawn, as long
as windows of one held-out run share readings (moving blocks: Kuensch 1989; closed to a circle, so
that each window is drawn as often as any other: Politis and Romano 1992).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, stdtrit

Values = NDArray[np.float64]

#: With fewer blocks nothing says how much the mean varies.
LEAST_BLOCKS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """A mean change and its bootstrap interval; None: too few blocks, only the mean is known."""

    mean: float
    low: float | None
    high: float | None
    windows: int

    @property
    def is_rise(self) -> bool:
        """Whether it is above 0 as far as anything is known."""
        return self.mean > 0 and (self.low is None or self.low > 0)

    @property
    def is_fall(self) -> bool:
        """Whether it is below 0 as far as anything is known."""
        return self.mean < 0 and (self.high is None or self.high < 0)


def resampled_means(
    values: Values, block: int, draws: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """(draws,) means of `values` (n,) made anew from random blocks of consecutive ones, n each."""
    n = len(values)
    block = min(block, n)
    count = -(-n // block)
    lengths = np.full(count, block)
    lengths[-1] = n - (count - 1) * block
    sums = np.concatenate([[0.0], np.cumsum(np.concatenate([values, values[: block - 1]]))])
    first = rng.integers(n, size=(draws, count))
    means: Values = (sums[first + lengths] - sums[first]).sum(axis=1) / n
    return means


def interval(means: Values, blocks: int, confidence: float) -> tuple[float, float] | None:
    """Percentiles of resampled means that hold the true one with `confidence`.

    Few blocks vary less among themselves than the truth does: percentiles are moved outwards to
    Phi(sqrt(k / (k - 1)) t_(k-1)) for k blocks, t the quantile at (1 - confidence) / 2 (expanded
    percentile interval: Hesterberg 2015). Two blocks give all that was drawn; fewer give None.
    """
    if blocks < LEAST_BLOCKS:
        return None
    quantile = stdtrit(blocks - 1, (1 - confidence) / 2)
    tail = float(ndtr(math.sqrt(blocks / (blocks - 1)) * quantile))
    low, high = np.quantile(means, (tail, 1 - tail))
    return float(low), float(high)


def effect(
    parts: Sequence[Values], block: int, draws: int, confidence: float, seed: Sequence[int]
) -> Effect:
    """The mean over parts of each part's mean; the one with the fewest blocks sets the percentiles.

    parts: (n_i,) paired differences of windows in their order, each resampled by itself.
    seed: the same gives the same interval.
    """
    rng = np.random.default_rng(list(seed))
    means = [resampled_means(part, block, draws, rng) for part in parts]
    found = interval(np.mean(means, axis=0), min(len(p) // block for p in parts), confidence)
    low, high = found or (None, None)
    mean = float(np.mean([part.mean() for part in parts]))
    return Effect(mean=mean, low=low, high=high, windows=sum(map(len, parts)))
