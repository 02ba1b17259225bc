"""First readings of each series in, held until its reference can be fitted."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.records import IntArray, Log

Array = NDArray[np.float64]


class WarmUp:
    """The first `capacity` readings of each series, stacked; a full series is let go.

    Parameters
    ----------
    channels
        d, sensors in a reading.
    capacity
        Readings held of a series.
    """

    def __init__(self, channels: int, capacity: int) -> None:
        self.capacity = capacity
        self.values = np.zeros((0, 0, channels))
        #: Offset and time of each reading.
        self.places = np.zeros((0, 0, 2), dtype=np.int64)
        #: (slots,) this class' row for a series; -1: none.
        self.row = np.zeros(0, dtype=np.int64)
        #: Readings held in each of this class' rows.
        self.counts = np.zeros(0, dtype=np.int64)
        self._free: list[int] = []

    def add(self, slots: IntArray, row: IntArray, values: Array, places: IntArray) -> None:
        """Keep readings (N, d): reading number `row` (N,) of series `slots` (N,)."""
        self._make_room(slots, int(row.max()) + 1)
        at = self.row[slots]
        self.values[at, row] = values
        self.places[at, row] = places
        np.maximum.at(self.counts, at, row + 1)

    def first(self, slot: int, count: int) -> tuple[Array, IntArray]:
        """The first `count` readings of a series (count, d), and their places (count, 2)."""
        at = self.row[slot]
        return self.values[at, :count], self.places[at, :count]

    def release(self, slot: int) -> None:
        """The series is fitted: its readings are not needed any more."""
        self._free.append(int(self.row[slot]))
        self.counts[self.row[slot]] = 0
        self.row[slot] = -1

    def state(self, slots: IntArray) -> dict[str, NDArray[Any]]:
        """(S,) readings held of some series; -1: let go, or none yet."""
        row = np.full(len(slots), -1)
        known = slots < len(self.row)
        row[known] = self.row[slots[known]]
        held = np.full(len(slots), -1)
        held[row >= 0] = self.counts[row[row >= 0]]
        return {"held": held}

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go on from `state` of every series; the readings are for `write`."""
        slots = np.flatnonzero(state["held"] >= 0)
        if slots.size:
            held = state["held"][slots]
            self._make_room(slots, int(held.max()))
            self.counts[self.row[slots]] = held

    @property
    def log(self) -> Log:
        """Of the readings and their places."""
        dtype = np.dtype([("values", "<f8", self.values.shape[2]), ("places", "<i8", 2)])
        return Log(dtype, self._spans, partial(self._read, dtype), self._write)

    def _spans(self, slots: IntArray) -> tuple[IntArray, IntArray, IntArray]:
        held = self.state(slots)["held"]
        return (held < 0).astype(np.int64), np.zeros_like(held), np.maximum(held, 0)

    def _read(self, dtype: np.dtype[np.void], slots: IntArray, rows: IntArray) -> NDArray[np.void]:
        found, at = np.empty(len(slots), dtype=dtype), (self.row[slots], rows)
        found["values"], found["places"] = self.values[at], self.places[at]
        return found

    def _write(self, slots: IntArray, rows: IntArray, found: NDArray[np.void]) -> None:
        at = (self.row[slots], rows)
        self.values[at], self.places[at] = found["values"], found["places"]

    def _make_room(self, slots: IntArray, readings: int) -> None:
        most = int(slots.max()) + 1
        if most > len(self.row):
            self.row = np.concatenate(
                [self.row, np.full(max(most, 2 * len(self.row)) - len(self.row), -1)]
            )
        new = np.unique(slots[self.row[slots] < 0])
        while len(self._free) < len(new):
            self._widen(max(4, 2 * len(self.values)), self.values.shape[1])
        for slot in new:
            self.row[slot] = self._free.pop()
        if readings > self.values.shape[1]:
            longer = min(self.capacity, max(readings, 2 * self.values.shape[1], 64))
            self._widen(len(self.values), longer)

    def _widen(self, series: int, readings: int) -> None:
        self._free += range(series - 1, len(self.values) - 1, -1)
        self.counts = np.concatenate([self.counts, np.zeros(series - len(self.counts), np.int64)])
        for name in ("values", "places"):
            old = getattr(self, name)
            new = np.zeros((series, readings, old.shape[2]), dtype=old.dtype)
            new[: old.shape[0], : old.shape[1]] = old
            setattr(self, name, new)
