"""First readings of each series in, held until its reference can be fitted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.records import IntArray

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
        self._free: list[int] = []

    def add(self, slots: IntArray, row: IntArray, values: Array, places: IntArray) -> None:
        """Keep readings (N, d): reading number `row` (N,) of series `slots` (N,)."""
        self._make_room(slots, int(row.max()) + 1)
        at = self.row[slots]
        self.values[at, row] = values
        self.places[at, row] = places

    def first(self, slot: int, count: int) -> tuple[Array, IntArray]:
        """The first `count` readings of a series (count, d), and their places (count, 2)."""
        at = self.row[slot]
        return self.values[at, :count], self.places[at, :count]

    def release(self, slot: int) -> None:
        """The series is fitted: its readings are not needed any more."""
        self._free.append(int(self.row[slot]))
        self.row[slot] = -1

    def state(self, rows: IntArray) -> dict[str, NDArray[Any]]:
        """What is held, one series after the other; rows: (slots,) readings seen of each."""
        held = np.flatnonzero(self.row[: len(rows)] >= 0)
        counts = rows[held]
        empty = (self.values[:0].reshape(0, self.values.shape[2]), self.places[:0].reshape(0, 2))
        kept = [self.first(int(s), int(n)) for s, n in zip(held, counts, strict=True)]
        return {
            "warm_slots": held,
            "warm_counts": counts,
            "warm_values": np.concatenate([empty[0], *(v for v, _ in kept)]),
            "warm_places": np.concatenate([empty[1], *(p for _, p in kept)]),
        }

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go on from `state()`."""
        counts = state["warm_counts"]
        if not len(counts):
            return
        row = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        slots = np.repeat(state["warm_slots"], counts)
        self.add(slots, row, state["warm_values"], state["warm_places"])

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
        for name in ("values", "places"):
            old = getattr(self, name)
            new = np.zeros((series, readings, old.shape[2]), dtype=old.dtype)
            new[: old.shape[0], : old.shape[1]] = old
            setattr(self, name, new)
