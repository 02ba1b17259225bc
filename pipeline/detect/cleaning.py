"""Readings in; readings without a hole, and where they are only held, out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.detect.signals import hold
from pipeline.records import FloatArray, IntArray

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

#: A sensor is frozen after as many equal readings as it has never given before, times this, and
#: after LEAST at the earliest.
OFTEN, LEAST = 4, 12
NEVER = np.iinfo(np.int32).max


class Cleaner:
    """Holds what is missing, and calls frozen what does not move any more.

    Parameters
    ----------
    channels
        d, sensors in a reading.
    """

    def __init__(self, channels: int) -> None:
        #: (slots, d) last finite value of each sensor, and readings that have been equal to it.
        self.held = np.full((0, channels), np.nan)
        self.run = np.zeros((0, channels), dtype=np.int32)
        #: (slots, d) readings after which the sensor is frozen.
        self.limit = np.full((0, channels), NEVER, dtype=np.int32)

    def grow(self, slots: int) -> None:
        """Make room for more series."""
        for name, fill in (("held", np.nan), ("run", 0), ("limit", NEVER)):
            array = getattr(self, name)
            more = np.full((slots - len(array), array.shape[1]), fill, dtype=array.dtype)
            setattr(self, name, np.concatenate([array, more]))

    def clean(self, slots: IntArray, starts: IntArray, values: FloatArray) -> tuple[Array, Mask]:
        """Readings (N, d), NaN only where a sensor has not spoken yet; and what is missing (N, d).

        Missing is what is not finite, and what is frozen.
        """
        last = self.held[slots]
        readings = hold(values, starts, last)
        missing = ~np.isfinite(values)
        run = _runs(readings, starts, last, self.run[slots])
        if run.any():
            missing |= run >= np.repeat(self.limit[slots], np.diff(starts), axis=0)
        ends = starts[1:] - 1
        self.held[slots], self.run[slots] = readings[ends], run[ends]
        return readings, missing

    def learn(self, slot: int, readings: Array) -> None:
        """From a series' first readings (n, d), NaN where missing: how long a value is repeated."""
        run = _runs(readings, np.array([0, len(readings)]), readings[:1], self.run[:1] * 0)
        self.limit[slot] = np.maximum(OFTEN * run.max(axis=0), LEAST)

    def state(self, used: int) -> dict[str, NDArray[Any]]:
        """Arrays of the first `used` series."""
        return {name: getattr(self, name)[:used] for name in ("held", "run", "limit")}

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go on from `state`."""
        for name, array in state.items():
            setattr(self, name, np.array(array))


def _runs(
    readings: Array, starts: IntArray, last: Array, run: NDArray[np.int32]
) -> NDArray[np.int32]:
    """How many readings before each of `readings` (N, d) were the same, those before included."""
    same = np.empty(readings.shape, dtype=np.bool_)
    same[1:] = readings[1:] == readings[:-1]
    first = starts[:-1]
    same[first] = readings[first] == last
    out = np.zeros(readings.shape, dtype=np.int32)
    columns = np.flatnonzero(same.any(axis=0))
    if not columns.size:
        return out
    rows = np.arange(len(readings), dtype=np.int32)[:, None]
    s = same[:, columns]
    begin = np.where(s, np.int32(-1), rows)
    begin[first] = np.where(s[first], rows[first] - 1 - run[:, columns], rows[first])
    # where a run goes on, the row at which it began; a series' first row begins or carries one
    order = np.where(s, np.iinfo(np.int32).min, rows)
    order[first] = rows[first]
    at = np.maximum.accumulate(order, axis=0)
    out[:, columns] = rows - np.take_along_axis(begin, at, axis=0)
    return out
