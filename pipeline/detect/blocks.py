"""Readings in, whole blocks of five out; what is left over waits for the next poll."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.detect.signals import BLOCK, hold
from pipeline.records import FloatArray, IntArray

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocks:
    """Whole blocks of several series, one series after the other."""

    #: (S,) blocks of each series.
    counts: IntArray
    #: (NB * BLOCK, d) their readings, and the reading before each.
    readings: Array
    before: Array
    #: (NB, 2) offset and time of each block's first reading.
    first: IntArray
    #: (NB, 3) offset, time and rank in the poll of each block's last reading.
    last: IntArray


class Blocker:
    """Holds missing cells, and cuts each series' readings into blocks.

    Parameters
    ----------
    channels
        d, sensors in a reading.
    """

    def __init__(self, channels: int) -> None:
        self.channels = channels
        #: (slots, d) last finite value of each sensor.
        self.held = np.zeros((0, channels))
        #: (slots, d) last reading of the last whole block.
        self.before = np.zeros((0, channels))
        #: (slots,) readings that wait, (slots, BLOCK - 1, d) themselves, and their places.
        self.waiting = np.zeros(0, dtype=np.int64)
        self.rest = np.zeros((0, BLOCK - 1, channels))
        self.rest_places = np.zeros((0, BLOCK - 1, 3), dtype=np.int64)

    def grow(self, slots: int) -> None:
        """Make room for more series."""
        for name in ("held", "before", "waiting", "rest", "rest_places"):
            array = getattr(self, name)
            fill = np.nan if name == "held" else 0
            more = np.full((slots - len(array), *array.shape[1:]), fill, dtype=array.dtype)
            setattr(self, name, np.concatenate([array, more]))

    def clean(self, slots: IntArray, starts: IntArray, values: FloatArray) -> Array:
        """Readings (N, d) without a hole: the sensor's last value stands in."""
        cleaned = hold(values, starts, self.held[slots])
        self.held[slots] = cleaned[starts[1:] - 1]
        return cleaned

    def start(self, slot: int, before: Array) -> None:
        """A series whose first blocks were taken in elsewhere begins after this reading."""
        self.before[slot] = before

    def cut(self, slots: IntArray, starts: IntArray, readings: Array, places: IntArray) -> Blocks:
        """Blocks of what waited and of `readings` (N, d), with places (N, 3)."""
        waiting, counts = self.waiting[slots], np.diff(starts)
        total = waiting + counts
        whole = total // BLOCK
        if waiting.any():
            readings, places = self._with_rest(slots, starts, readings, places)
        begin = np.cumsum(total) - total
        if (whole * BLOCK != total).any():
            self._keep_rest(slots, begin, total, whole, readings, places)
            rows = np.arange(len(readings)) - np.repeat(begin, total)
            inside = rows < np.repeat(whole * BLOCK, total)
            readings, places = readings[inside], places[inside]
        else:
            self.waiting[slots] = 0
            self.rest[slots], self.rest_places[slots] = 0.0, 0  # equal states, equal bytes
        before = np.empty_like(readings)
        before[1:] = readings[:-1]
        here = whole > 0
        first = (np.cumsum(whole) - whole)[here] * BLOCK
        before[first] = self.before[slots[here]]
        ends = np.cumsum(whole)[here] * BLOCK - 1
        self.before[slots[here]] = readings[ends]
        return Blocks(
            counts=whole,
            readings=readings,
            before=before,
            first=places[::BLOCK, :2],
            last=places[BLOCK - 1 :: BLOCK],
        )

    def _with_rest(
        self, slots: IntArray, starts: IntArray, readings: Array, places: IntArray
    ) -> tuple[Array, IntArray]:
        """What waited, in front of each series' new readings."""
        waiting = self.waiting[slots]
        old = np.arange(BLOCK - 1) < waiting[:, None]
        joined = np.empty((len(readings) + int(waiting.sum()), self.channels))
        where = np.empty((len(joined), 3), dtype=np.int64)
        begin = starts[:-1] + np.cumsum(waiting) - waiting
        at_old = (begin[:, None] + np.arange(BLOCK - 1))[old]
        at_new = np.arange(len(readings)) + np.repeat(np.cumsum(waiting), np.diff(starts))
        joined[at_old], joined[at_new] = self.rest[slots][old], readings
        where[at_old], where[at_new] = self.rest_places[slots][old], places
        return joined, where

    def _keep_rest(
        self,
        slots: IntArray,
        begin: IntArray,
        total: IntArray,
        whole: IntArray,
        readings: Array,
        places: IntArray,
    ) -> None:
        left = total - whole * BLOCK
        self.waiting[slots] = left
        there = np.arange(BLOCK - 1) < left[:, None]
        rows = (begin + whole * BLOCK)[:, None] + np.arange(BLOCK - 1)
        rows = np.where(there, rows, 0)
        self.rest[slots] = np.where(there[..., None], readings[rows], 0.0)
        self.rest_places[slots] = np.where(there[..., None], places[rows], 0)
        self.rest_places[slots, :, 2] = 0  # a rank holds within one poll only

    def state(self, used: int) -> dict[str, NDArray[Any]]:
        """Arrays of the first `used` series."""
        names = ("held", "before", "waiting", "rest", "rest_places")
        return {name: getattr(self, name)[:used] for name in names}

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go on from `state`."""
        for name, array in state.items():
            setattr(self, name, np.array(array))
