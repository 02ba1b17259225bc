"""What a signal has been of late: its last means in, sums over any stretch of them out.

Means are kept as whole numbers in steps of UNIT: sums of those are exact in floating point, so they
do not depend on how a stream was cut into polls.
"""

from __future__ import annotations

from collections.abc import Sequence
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
    """Sums over any part of some means, kept as whole numbers in steps of UNIT.

    Their sums are exact, whichever way they are made: a few by weights of 0 and 1, many from sums
    that run on.

    Parameters
    ----------
    base
        (S,) number of each series' first mean.
    values
        (S, N, F) the means from there on, in UNITs.
    """

    def __init__(self, base: IntArray, values: Array) -> None:
        self.base = base
        self.values = values
        self._powers = {False: values}
        self._running: dict[bool, Array] = {}

    @classmethod
    def joined(cls, held: Whole, first: IntArray, new: Whole) -> Stretch:
        """What a ring held (S, R, F) before number `first` (S,), and what came then (S, T, F)."""
        return cls(first - held.shape[1], np.concatenate([held, new], axis=1, dtype=np.float64))

    def of(self, which: IntArray) -> Stretch:
        """The same for some of the series."""
        return Stretch(self.base[which], self.values[which])

    def edges(self, *numbers: IntArray) -> IntArray:
        """(S, J, K) places of J numbers of means (S, K) each; of what is not there, others."""
        places = np.empty((len(self.base), len(numbers), numbers[-1].shape[1]), dtype=np.int64)
        for j, number in enumerate(numbers):
            places[:, j] = number
        places -= self.base[:, None, None]
        np.maximum(places, 0, out=places)
        return np.minimum(places, self.values.shape[1], out=places)

    def sums(
        self, edges: IntArray, ranges: Sequence[tuple[int, int]], *, squares: bool = False
    ) -> list[Array]:
        """Sums (S, K, F) of the means, or of their squares, of each of the `ranges`.

        edges: (S, J, K). A range (a, b) is from edge a up to edge b.
        """
        if squares and squares not in self._powers:
            self._powers[squares] = self.values * self.values
        values, count = self._powers[squares], edges.shape[2]
        unit = UNIT * UNIT if squares else UNIT
        if squares not in self._running and count * len(ranges) <= FEW:
            k = np.arange(values.shape[1])
            low, high = edges[:, [a for a, _ in ranges]], edges[:, [b for _, b in ranges]]
            weights = (k >= low[..., None]) & (k < high[..., None])
            flat = weights.reshape(len(edges), -1, len(k)) * unit
            total = np.matmul(flat, values)
            return [total[:, r * count : (r + 1) * count] for r in range(len(ranges))]
        if squares not in self._running:
            self._running[squares] = _run(values, unit)
        running = self._running[squares]
        s, n, f = running.shape
        if s > 1:
            edges = edges + np.arange(0, s * n, n)[:, None, None]
        at = running.reshape(-1, f).take(edges, axis=0)
        return [at[:, b] - at[:, a] for a, b in ranges]

    def means(self, i: int, low: int, high: int) -> Array:
        """Means low <= k < high of series i: (high - low, F)."""
        low, high = low - int(self.base[i]), high - int(self.base[i])
        return np.asarray(self.values[i, low:high] * UNIT)


def _run(values: Array, unit: float) -> Array:
    """(S, n + 1, F) sums of all of (S, n, F) before each, times `unit`.

    Along rows of memory, which is faster.
    """
    s, n, f = values.shape
    running = np.zeros((s, f, n + 1))
    np.add.accumulate(values.transpose(0, 2, 1), axis=2, out=running[..., 1:])
    return np.multiply(running.transpose(0, 2, 1), unit, order="C")
