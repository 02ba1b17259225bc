"""How finely each sensor tells its values apart: a level's sigma is not smaller."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.records import IntArray

Array = NDArray[np.float64]

#: A level's sigma is at least this share of the sensor's resolution, its smallest step so far.
GRAIN = 0.6


@dataclass(frozen=True, slots=True)
class Grain:
    """The least sigma of the levels of several series: it moves at multiples of `stride` blocks."""

    #: (S, E, d) from each multiple to the next, multiple number `first` (S,) the first.
    values: Array
    first: IntArray
    stride: int

    def of(self, which: IntArray) -> Grain:
        """The same for some of the series."""
        if len(which) == len(self.first):
            return self
        return Grain(self.values[which], self.first[which], self.stride)

    def at(self, block: IntArray) -> Array:
        """(S, K, d) as of blocks (S, K), or (S, 1, d) if it does not move."""
        if self.values.shape[1] == 1:
            return self.values
        index = (block - 1) // self.stride - self.first[:, None]
        np.minimum(index, self.values.shape[1] - 1, out=index)
        np.maximum(index, 0, out=index)
        return np.asarray(self.values[np.arange(len(block))[:, None], index])


def smallest(readings: Array, before: Array) -> Array:
    """(NB, d) smallest step within each block of readings (NB, BLOCK, d); infinity: none."""
    step = np.empty_like(readings)
    np.subtract(readings[:, 0], before, out=step[:, 0])
    np.subtract(readings[:, 1:], readings[:, :-1], out=step[:, 1:])
    np.abs(step, out=step)
    np.copyto(step, np.inf, where=~(step > 0))
    return np.asarray(step.min(axis=1))


def least_sigma(step: Array, scale: Array) -> Array:
    """From a sensor's smallest step so far and its scale, in that scale."""
    return np.where(np.isfinite(step), GRAIN * step, 0.0) / scale
