"""Readings in; readings without a hole, where they are only held, and sensors that stop, out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
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
#: A sensor is silent after so many readings without it.
SILENT = 30
#: What a sensor is, and what is told when it becomes so.
FINE, GONE, STUCK = 0, 1, 2
KINDS = ("sensor_back", "sensor_silent", "sensor_frozen")


@dataclass(frozen=True, slots=True)
class Cleaned:
    """Readings of several series, one series after the other."""

    #: (N, d), NaN only where a sensor has not spoken yet.
    readings: Array
    #: (N, d) what is not finite, and what is frozen.
    missing: Mask
    #: Rows, channels and new states (E,) of the sensors that stopped or are back.
    changes: tuple[IntArray, IntArray, IntArray]


class Cleaner:
    """Holds what is missing, and calls frozen what does not move any more.

    Parameters
    ----------
    channels
        d, sensors in a reading.
    error_channel
        That which is never frozen, as it says one of two things; -1: none.
    """

    _empty = (("held", np.nan), ("run", 0), ("gone", 0), ("limit", NEVER), ("fate", FINE))

    def __init__(self, channels: int, error_channel: int = -1) -> None:
        self.error_channel = error_channel
        #: (slots, d) last finite value of each sensor, readings that have been equal to it, and
        #: readings without the sensor.
        self.held = np.full((0, channels), np.nan)
        self.run = np.zeros((0, channels), dtype=np.int32)
        self.gone = np.zeros((0, channels), dtype=np.int32)
        #: (slots, d) readings after which the sensor is frozen.
        self.limit = np.full((0, channels), NEVER, dtype=np.int32)
        #: (slots, d) FINE, GONE or STUCK.
        self.fate = np.zeros((0, channels), dtype=np.int8)

    def grow(self, slots: int) -> None:
        """Make room for more series."""
        for name, fill in self._empty:
            array = getattr(self, name)
            more = np.full((slots - len(array), array.shape[1]), fill, dtype=array.dtype)
            setattr(self, name, np.concatenate([array, more]))

    def clean(self, slots: IntArray, starts: IntArray, values: FloatArray) -> Cleaned:
        """Values (N, d) of the series in `slots` (S,), whose rows begin at `starts` (S + 1,)."""
        last = self.held[slots]
        readings = hold(values, starts, last)
        finite = np.isfinite(values)
        same = np.empty(readings.shape, dtype=np.bool_)
        same[1:] = readings[1:] == readings[:-1]
        same[starts[:-1]] = readings[starts[:-1]] == last
        run = _streaks(same, starts, self.run[slots])
        gone = _streaks(~finite, starts, self.gone[slots])
        stuck = run >= np.repeat(self.limit[slots], np.diff(starts), axis=0)
        changes = self._changes(slots, starts, finite, gone, stuck)
        ends = starts[1:] - 1
        self.held[slots], self.run[slots], self.gone[slots] = readings[ends], run[ends], gone[ends]
        return Cleaned(readings=readings, missing=~finite | stuck, changes=changes)

    def _changes(
        self, slots: IntArray, starts: IntArray, finite: Mask, gone: NDArray[np.int32], stuck: Mask
    ) -> tuple[IntArray, IntArray, IntArray]:
        """Where a sensor's state becomes another; a short gap leaves it as it was."""
        before, none = self.fate[slots], np.zeros(0, dtype=np.int64)
        if not (before.any() or stuck.any() or (gone >= SILENT).any()):
            return none, none, none
        state = np.where(gone >= SILENT, GONE, np.where(stuck, STUCK, FINE)).astype(np.int8)
        told = finite | (gone >= SILENT)
        first = starts[:-1]
        state[first] = np.where(told[first], state[first], before)
        told[first] = True
        at = np.maximum.accumulate(np.where(told, np.arange(len(told))[:, None], 0), axis=0)
        state = np.take_along_axis(state, at, axis=0)
        earlier = np.empty_like(state)
        earlier[1:], earlier[first] = state[:-1], before
        self.fate[slots] = state[starts[1:] - 1]
        rows, channels = np.nonzero(state != earlier)
        return rows, channels, state[rows, channels].astype(np.int64)

    def learn(self, slot: int, readings: Array) -> None:
        """From a series' first readings (n, d), NaN where missing: how long a value is repeated."""
        same = np.concatenate([np.zeros_like(readings[:1], bool), readings[1:] == readings[:-1]])
        run = _streaks(same, np.array([0, len(readings)]), self.run[:1] * 0)
        self.limit[slot] = np.maximum(OFTEN * run.max(axis=0), LEAST)
        if self.error_channel >= 0:
            self.limit[slot, self.error_channel] = NEVER

    def state(self, slots: IntArray) -> dict[str, NDArray[Any]]:
        """Arrays (S, d) of some series."""
        return {name: getattr(self, name)[slots] for name, _ in self._empty}

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go on from `state`."""
        for name, array in state.items():
            setattr(self, name, np.array(array))


def _streaks(flags: Mask, starts: IntArray, before: NDArray[np.int32]) -> NDArray[np.int32]:
    """How many rows up to each of `flags` (N, d) have it set, `before` (S, d) them included."""
    out = np.zeros(flags.shape, dtype=np.int32)
    columns = np.flatnonzero(flags.any(axis=0))
    if not columns.size:
        return out
    first, set_ = starts[:-1], flags[:, columns]
    rows = np.broadcast_to(np.arange(len(flags), dtype=np.int32)[:, None], set_.shape)
    begin = rows.copy()
    begin[first] = np.where(set_[first], rows[first] - 1 - before[:, columns], rows[first])
    last = np.where(set_, np.int32(0), rows)  # the row that a streak counts from
    last[first] = rows[first]
    out[:, columns] = rows - np.take_along_axis(begin, np.maximum.accumulate(last, axis=0), axis=0)
    return out
