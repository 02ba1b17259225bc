"""Block means in, window means and their scale out: what a statistic has done all its life.

Sums are kept as integers (block means in steps of 2^-STEP), so that a difference of two prefix sums
is exact and the same however the stream was cut; they may wrap around, their differences do not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.detect.signals import BLOCK
from pipeline.records import IntArray

Array = NDArray[np.float64]

STEP = 20
UNIT = 2.0**-STEP
#: Block means beyond this are cut: 2 squares of it, times a window, fit into 64 bits.
LARGEST = 1e4
#: Samples of each statistic that are kept.
SAMPLES = 256
#: |x| of a normal variable is below these shares of its sigma in 50 % and 75 % of the cases.
MEDIAN, UPPER = 0.6745, 1.1503


@dataclass(frozen=True, slots=True)
class Test:
    """One comparison: the mean of the last m readings against the segment before them."""

    signal: str
    m: int
    g_min: int
    g_max: int
    armed_from: int
    #: Blocks between two evaluations.
    every: int
    #: Weight of the as-used scale.
    used: float

    @property
    def q(self) -> int:
        """Blocks in m readings."""
        return self.m // BLOCK

    @property
    def reach(self) -> int:
        """Blocks that it looks back on."""
        return (self.m + self.g_max) // BLOCK

    @property
    def stride(self) -> int:
        """Blocks between two samples of its scale."""
        return max(1, self.q // 2)


TESTS = (
    Test("level", m=25, g_min=60, g_max=480, armed_from=300, every=1, used=0.65),
    Test("residual", m=240, g_min=240, g_max=1440, armed_from=1920, every=4, used=1.0),
    Test("residual", m=480, g_min=480, g_max=2400, armed_from=3840, every=4, used=1.0),
)


class Ring:
    """Prefix sums of block means and of their squares, stacked over series.

    Parameters
    ----------
    features
        F, values in a block.
    reach
        Blocks that can be looked back on.
    """

    def __init__(self, features: int, reach: int) -> None:
        self.size = reach + 1
        #: (slots, size, 2, F): sums before each block, at block number modulo size.
        self.sums = np.zeros((0, self.size, 2, features), dtype=np.int64)

    def grow(self, slots: int) -> None:
        """Make room for more series."""
        more = np.zeros((slots - len(self.sums), *self.sums.shape[1:]), dtype=np.int64)
        self.sums = np.concatenate([self.sums, more])

    def add(self, slots: IntArray, first: IntArray, counts: IntArray, blocks: Array) -> None:
        """Append blocks (S, T, F): `counts` (S,) of them, numbered from `first` (S,) on."""
        x = np.rint(np.clip(blocks, -LARGEST, LARGEST) / UNIT)
        pair = np.stack([x, np.rint(x * x * UNIT)], axis=2).astype(np.int64)
        before = self.sums[slots, first % self.size][:, None]
        sums = np.cumsum(np.concatenate([before, pair], axis=1), axis=1)[:, 1:]
        s, t = np.nonzero(np.arange(blocks.shape[1]) < counts[:, None])
        self.sums[slots[s], (first[s] + t + 1) % self.size] = sums[s, t]

    def between(self, slots: IntArray, low: IntArray, high: IntArray) -> tuple[Array, Array]:
        """Sums of block means, and of their squares, of blocks low <= b < high: (..., F) each."""
        total: Array = (
            self.sums[slots, high % self.size] - self.sums[slots, low % self.size]
        ).astype(np.float64)
        return total[..., 0, :] * UNIT, total[..., 1, :] * UNIT

    def blocks(self, slot: int, low: int, high: int) -> Array:
        """Block means (high - low, F) of one series."""
        sums = self.sums[slot, np.arange(low, high + 1) % self.size, 0]
        return np.asarray(np.diff(sums, axis=0) * UNIT)


class Scale:
    """sigma of one test's statistic per feature, in units of one reading's deviation.

    Two histories of it: *local* (against the 2m readings before, boundaries ignored) and *as used*
    (against the segment so far), each blended with a prior of five samples.
    """

    def __init__(self, test: Test, features: int) -> None:
        self.test = test
        self.local = np.zeros((0, SAMPLES, features), dtype=np.float32)
        self.used = np.zeros((0, SAMPLES, features), dtype=np.float32)
        self.n_local = np.zeros(0, dtype=np.int64)
        self.n_used = np.zeros(0, dtype=np.int64)
        self.prior = np.zeros((0, features))
        self.sigma = np.zeros((0, features))

    def grow(self, slots: int) -> None:
        """Make room for more series."""
        for name in ("local", "used", "n_local", "n_used", "prior", "sigma"):
            array = getattr(self, name)
            more = np.zeros((slots - len(array), *array.shape[1:]), dtype=array.dtype)
            setattr(self, name, np.concatenate([array, more]))

    def start(self, slot: int, prior: Array) -> None:
        """The first scale of a series, from the readings that its reference was fitted on."""
        self.prior[slot] = np.maximum(prior, 1e-9)
        self.sigma[slot] = self._sigma(np.array([slot]))[0]

    def sample(
        self, ring: Ring, slots: IntArray, low: IntArray, high: IntArray, segment: IntArray
    ) -> None:
        """Take the samples due at blocks low < t <= high (S,), in the segment since `segment`."""
        test, stride = self.test, self.test.stride
        first = (low // stride + 1) * stride
        most = int(((high - first) // stride).max(initial=-1)) + 1
        if most <= 0:
            return
        t = first[:, None] + np.arange(most) * stride
        here = t <= high[:, None]
        due = here & (t >= 3 * test.q)
        if due.any():
            self._push("local", slots, due, self._local(ring, slots, np.where(due, t, 3 * test.q)))
        length = t - test.q - segment[:, None]
        due = here & (length >= test.g_min // BLOCK)
        if due.any():
            g = np.where(due, np.minimum(length, test.g_max // BLOCK), 1)
            t = np.where(due, t, segment[:, None] + test.q + 1)
            self._push("used", slots, due, self._as_used(ring, slots, t, g))

    def update(self, slots: IntArray) -> None:
        """Recompute sigma from the samples; called at fixed block numbers only."""
        self.sigma[slots] = self._sigma(slots)

    def _local(self, ring: Ring, slots: IntArray, t: IntArray) -> Array:
        """Against the 2m readings before, at blocks t (S, K): (S, K, F)."""
        q, m = self.test.q, self.test.m
        at = slots[:, None]
        after, _ = ring.between(at, t - q, t)
        before, _ = ring.between(at, t - 3 * q, t - q)
        return np.asarray(np.abs(after / q - before / (2 * q)) / np.sqrt(1 / m + 1 / (2 * m)))

    def _as_used(self, ring: Ring, slots: IntArray, t: IntArray, g: IntArray) -> Array:
        """Against the g blocks before, at blocks t (S, K): (S, K, F)."""
        q, m = self.test.q, self.test.m
        at, n = slots[:, None], g[..., None]
        after, _ = ring.between(at, t - q, t)
        before, _ = ring.between(at, t - q - g, t - q)
        return np.asarray(np.abs(after / q - before / n) / np.sqrt(1 / m + 1 / (n * BLOCK)))

    def _push(self, which: str, slots: IntArray, due: NDArray[np.bool_], values: Array) -> None:
        """Keep the values (S, K, F) that are due (S, K), oldest first."""
        counts = getattr(self, f"n_{which}")
        rank = np.cumsum(due, axis=1) - 1
        s, k = np.nonzero(due)
        at = (counts[slots[s]] + rank[s, k]) % SAMPLES
        getattr(self, which)[slots[s], at] = values[s, k]
        counts[slots] += due.sum(axis=1)

    def _sigma(self, slots: IntArray) -> Array:
        prior = self.prior[slots]
        local = _blend(self.local[slots], self.n_local[slots], prior, upper=True)
        used = _blend(self.used[slots], self.n_used[slots], prior, upper=False)
        young = 1 + 3.0 / (np.maximum(self.n_local[slots], 1) + 5)
        return np.asarray(np.maximum(local, self.test.used * used) * young[:, None] + 1e-9)

    def state(self, used: int) -> dict[str, NDArray[Any]]:
        """Arrays of the first `used` series."""
        names = ("local", "used", "n_local", "n_used", "prior", "sigma")
        return {name: getattr(self, name)[:used] for name in names}

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go on from `state`."""
        for name, array in state.items():
            setattr(self, name, np.array(array))


def _blend(samples: NDArray[np.float32], n: IntArray, prior: Array, *, upper: bool) -> Array:
    """sqrt(w e^2 + (1 - w) prior^2), w = n / (n + 5); e from the median, or the upper quartile.

    samples: (S, SAMPLES, F), of which the first min(n, SAMPLES) are there.
    """
    held = np.minimum(n, SAMPLES)
    there = np.arange(SAMPLES)[None, :, None] < held[:, None, None]
    ordered = np.sort(np.where(there, samples, np.inf), axis=1)
    estimate = _at(ordered, held, 0.5) / MEDIAN
    if upper:
        estimate = np.maximum(estimate, _at(ordered, held, 0.75) / UPPER)
    w = (n / (n + 5.0))[:, None]
    return np.asarray(np.sqrt(w * estimate * estimate + (1 - w) * prior * prior))


def _at(ordered: NDArray[np.float32], held: IntArray, share: float) -> Array:
    """The sample at `share` of those held, (S, F); 0 where there is none."""
    index = np.minimum((held * share).astype(np.int64), np.maximum(held - 1, 0))
    value = ordered[np.arange(len(held)), index].astype(np.float64)
    return np.where((held > 0)[:, None], value, 0.0)
