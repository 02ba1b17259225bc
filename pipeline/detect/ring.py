"""What a signal has been of late: its last means in, sums over any stretch of them out.

Means are kept as whole numbers in steps of UNIT: sums of those are exact in floating point, so they
do not depend on how a stream was cut into polls.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.records import IntArray

Array = NDArray[np.float64]

UNIT = 2.0**-11
#: Levels may be far from where they began; features of residuals are clipped.
WHOLE: dict[str, type[np.signedinteger[Any]]] = {"level": np.int32, "residual": np.int16}
Whole = NDArray[np.signedinteger[Any]]
#: So many sums at most are made by weights.
FEW = 8


def whole(means: NDArray[Any], signal: str) -> Whole:
    """Means in steps of UNIT; what does not fit is cut: residuals at +-16, levels at 4000."""
    most = min(np.iinfo(WHOLE[signal]).max, 4000 / UNIT)
    steps = means * (1 / UNIT)
    np.minimum(steps, most, out=steps)
    np.maximum(steps, -most, out=steps)
    made: Whole = np.rint(steps, out=steps).astype(WHOLE[signal])
    return made


class Ring:
    """The last `size` means of a signal's features, stacked over series.

    Parameters
    ----------
    signal
        What it holds means of.
    features
        F, values in a mean.
    size
        How far it looks back, in means.
    """

    def __init__(self, signal: str, features: int, size: int) -> None:
        self.size = size
        self.features = features
        #: (slots, size, F), mean number k at k modulo size.
        self.means: Whole = np.zeros((0, size, features), dtype=WHOLE[signal])

    def grow(self, slots: int) -> None:
        """Make room for more series."""
        more = np.zeros((slots - len(self.means), self.size, self.features), self.means.dtype)
        self.means = np.concatenate([self.means, more])

    def add(self, slots: IntArray, first: IntArray, counts: IntArray, means: NDArray[Any]) -> None:
        """Append means (S, T, F): `counts` (S,) of them, numbered from `first` (S,) on."""
        rank = np.arange(means.shape[1])
        s, t = ((rank < counts[:, None]) & (rank >= counts[:, None] - self.size)).nonzero()
        self.means[slots[s], (first[s] + t) % self.size] = means[s, t]

    def last(self, slots: IntArray, end: IntArray) -> Whole:
        """(S, size, F) the means before number `end` (S,), oldest first; 0 before a series'."""
        number = (end - self.size)[:, None] + np.arange(self.size)
        held = self.at(slots, number)
        if (end < self.size).any():
            held[number < 0] = 0
        return held

    def at(self, slots: IntArray, number: IntArray) -> Whole:
        """(S, K, F) means of these numbers (S, K), which it still holds."""
        flat = self.means.reshape(-1, self.features)
        held: Whole = flat.take(slots[:, None] * self.size + number % self.size, axis=0)
        return held


class Stretch:
    """Sums over any part of what a ring held and of the means that came then.

    Sums of whole numbers are exact, whichever way they are made: a few by weights of 0 and 1, many
    from running sums.

    Parameters
    ----------
    held
        (S, R, F) means before number `first` (S,).
    new
        (S, T, F) means from there on.
    """

    def __init__(self, held: Whole, first: IntArray, new: Whole) -> None:
        self.base: IntArray = first - held.shape[1]
        #: (S, R + T, F); their squares and the running sums of both are made when asked for.
        self.values: Array = np.concatenate([held, new], axis=1, dtype=np.float64)
        self.squares: Array | None = None
        self.running: dict[bool, Array] = {}

    def of(self, which: IntArray) -> Stretch:
        """The same for some of the series."""
        part = Stretch.__new__(Stretch)
        part.base, part.values = self.base[which], self.values[which]
        part.squares, part.running = None, {}
        return part

    def total(self, low: IntArray, high: IntArray) -> Array:
        """Sums of the means low <= k < high (S, K): (S, K, F)."""
        low, high = low - self.base[:, None], high - self.base[:, None]
        return np.asarray(self._sum(low, high, squares=False) * UNIT)

    def halves(
        self, low: IntArray, middle: IntArray, high: IntArray, *, squares: bool = False
    ) -> tuple[Array, Array]:
        """Sums of the means, or of their squares, low <= k < middle and middle <= k < high.

        low, middle, high: (S, K). The sums: (S, K, F) each.
        """
        count = low.shape[1]
        edges = np.concatenate([low, middle, high], axis=1)
        edges -= self.base[:, None]
        total = self._sum(edges[:, :-count], edges[:, count:], squares=squares)
        total *= UNIT * UNIT if squares else UNIT
        return total[:, :count], total[:, count:]

    def means(self, i: int, low: int, high: int) -> Array:
        """Means low <= k < high of series i: (high - low, F)."""
        low, high = low - int(self.base[i]), high - int(self.base[i])
        return np.asarray(self.values[i, low:high] * UNIT)

    def _sum(self, low: IntArray, high: IntArray, *, squares: bool) -> Array:
        """low, high: (S, K), the first mean being number 0."""
        running = self.running.get(squares)
        if running is None and low.shape[1] <= FEW:
            k = np.arange(self.values.shape[1])
            weights = (k >= low[..., None]) & (k < high[..., None])
            return np.asarray(np.matmul(weights.astype(np.float64), self._of(squares)))
        if running is None:
            running = self.running[squares] = self._run(squares)
        s, n, f = running.shape
        if s > 1:
            lead = np.arange(0, s * n, n)[:, None]
            low, high = low + lead, high + lead
        flat = running.reshape(-1, f)
        total: Array = flat.take(high, axis=0)
        total -= flat.take(low, axis=0)
        return total

    def _of(self, squares: bool) -> Array:
        if not squares:
            return self.values
        if self.squares is None:
            self.squares = self.values * self.values
        return self.squares

    def _run(self, squares: bool) -> Array:
        """(S, R + T + 1, F) sums of all means before each."""
        s, n, f = self.values.shape
        running = np.zeros((s, n + 1, f))
        np.add.accumulate(self._of(squares), axis=1, out=running[:, 1:])
        return running
