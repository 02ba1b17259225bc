"""Readings in, whole blocks of five out; what is left over waits for the next poll."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.detect.signals import BLOCK, touched
from pipeline.records import IntArray

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Readings of several series, one series after the other."""

    #: (N, d) without a hole, and what is only held.
    readings: Array
    missing: Mask
    #: (N, 3) offset, time and rank in the poll.
    places: IntArray

    def __getitem__(self, rows: Any) -> Rows:
        return Rows(
            readings=self.readings[rows], missing=self.missing[rows], places=self.places[rows]
        )

    def __len__(self) -> int:
        return len(self.readings)


@dataclass(frozen=True, kw_only=True)
class Blocks:
    """Whole blocks of several series, one series after the other."""

    #: (S,) blocks of each series.
    counts: IntArray
    #: (NB, BLOCK, d) their readings, and what is missing of them.
    readings: Array
    missing: Mask
    #: (NB, d) the reading before each, and what is missing of it.
    before: Array
    before_missing: Mask
    #: (NB, 2) offset and time of each block's first reading.
    first: IntArray
    #: (NB, 3) offset, time and rank in the poll of each block's last reading.
    last: IntArray

    @cached_property
    def holed(self) -> IntArray:
        """(H,) the blocks in which, or in front of which, something is missing."""
        return np.flatnonzero(self.missing.any(axis=(1, 2)) | self.before_missing.any(axis=1))

    @cached_property
    def blanks(self) -> IntArray:
        """The blocks throughout which something is missing."""
        some = np.any(touched(self.missing[self.holed], self.before_missing[self.holed]), axis=2)
        return self.holed[np.all(some, axis=1)]

    def part(self, rows: IntArray, counts: IntArray) -> Blocks:
        """`counts` (S,) blocks from row `rows` (S,) on, of each series."""
        at = np.repeat(rows - (np.cumsum(counts) - counts), counts) + np.arange(counts.sum())
        names = ("readings", "missing", "before", "before_missing", "first", "last")
        return Blocks(counts=counts, **{name: getattr(self, name)[at] for name in names})


class Blocker:
    """Cuts each series' readings into blocks.

    Parameters
    ----------
    channels
        d, sensors in a reading.
    """

    _names = ("before", "before_missing", "waiting", "rest", "rest_missing", "rest_places")

    def __init__(self, channels: int) -> None:
        self.channels = channels
        #: (slots, d) last reading of the last whole block, and what was missing of it.
        self.before = np.zeros((0, channels))
        self.before_missing = np.zeros((0, channels), dtype=np.bool_)
        #: (slots,) readings that wait, and (slots, BLOCK - 1, ...) themselves.
        self.waiting = np.zeros(0, dtype=np.int64)
        self.rest = np.zeros((0, BLOCK - 1, channels))
        self.rest_missing = np.zeros((0, BLOCK - 1, channels), dtype=np.bool_)
        self.rest_places = np.zeros((0, BLOCK - 1, 3), dtype=np.int64)

    def grow(self, slots: int) -> None:
        """Make room for more series."""
        for name in self._names:
            array = getattr(self, name)
            more = np.zeros((slots - len(array), *array.shape[1:]), dtype=array.dtype)
            setattr(self, name, np.concatenate([array, more]))

    def start(self, slot: int, before: Array, missing: Mask) -> None:
        """A series whose first blocks were taken in elsewhere begins after this reading."""
        self.before[slot], self.before_missing[slot] = before, missing

    def cut(self, slots: IntArray, starts: IntArray, rows: Rows) -> Blocks:
        """Blocks of what waited and of `rows`."""
        total = self.waiting[slots] + np.diff(starts)
        whole = total // BLOCK
        if self.waiting[slots].any():
            rows = self._with_rest(slots, starts, rows)
        begin = np.cumsum(total) - total
        if (whole * BLOCK != total).any():
            self._keep_rest(slots, begin, total, whole, rows)
            rank = np.arange(len(rows)) - np.repeat(begin, total)
            rows = rows[rank < np.repeat(whole * BLOCK, total)]
        else:
            self.waiting[slots] = 0  # equal states, equal bytes
            self.rest[slots], self.rest_missing[slots], self.rest_places[slots] = 0.0, False, 0
        here = whole > 0
        first = (np.cumsum(whole) - whole)[here]
        ends = np.cumsum(whole)[here] * BLOCK - 1
        readings = rows.readings.reshape(-1, BLOCK, self.channels)
        missing = rows.missing.reshape(-1, BLOCK, self.channels)
        before, before_missing = np.empty_like(readings[:, 0]), np.empty_like(missing[:, 0])
        before[1:], before_missing[1:] = readings[:-1, -1], missing[:-1, -1]
        before[first], before_missing[first] = (
            self.before[slots[here]],
            self.before_missing[slots[here]],
        )
        self.before[slots[here]] = rows.readings[ends]
        self.before_missing[slots[here]] = rows.missing[ends]
        return Blocks(
            counts=whole,
            readings=readings,
            missing=missing,
            before=before,
            before_missing=before_missing,
            first=rows.places[::BLOCK, :2],
            last=rows.places[BLOCK - 1 :: BLOCK],
        )

    def _with_rest(self, slots: IntArray, starts: IntArray, rows: Rows) -> Rows:
        """What waited, in front of each series' new readings."""
        waiting = self.waiting[slots]
        old = np.arange(BLOCK - 1) < waiting[:, None]
        begin = starts[:-1] + np.cumsum(waiting) - waiting
        at_old = (begin[:, None] + np.arange(BLOCK - 1))[old]
        at_new = np.arange(len(rows)) + np.repeat(np.cumsum(waiting), np.diff(starts))

        def joined(rest: NDArray[Any], new: NDArray[Any]) -> NDArray[Any]:
            out = np.empty((len(at_old) + len(at_new), *new.shape[1:]), dtype=new.dtype)
            out[at_old], out[at_new] = rest[slots][old], new
            return out

        return Rows(
            readings=joined(self.rest, rows.readings),
            missing=joined(self.rest_missing, rows.missing),
            places=joined(self.rest_places, rows.places),
        )

    def _keep_rest(
        self, slots: IntArray, begin: IntArray, total: IntArray, whole: IntArray, rows: Rows
    ) -> None:
        left = total - whole * BLOCK
        self.waiting[slots] = left
        there = np.arange(BLOCK - 1) < left[:, None]
        at = (begin + whole * BLOCK)[:, None] + np.arange(BLOCK - 1)
        kept = rows[np.where(there, at, 0)]
        self.rest[slots] = np.where(there[..., None], kept.readings, 0.0)
        self.rest_missing[slots] = kept.missing & there[..., None]
        self.rest_places[slots] = np.where(there[..., None], kept.places, 0)
        self.rest_places[slots, :, 2] = 0  # a rank holds within one poll only

    def state(self, slots: IntArray) -> dict[str, NDArray[Any]]:
        """Arrays (S, ...) of some series."""
        return {name: getattr(self, name)[slots] for name in self._names}

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go on from `state`."""
        for name, array in state.items():
            setattr(self, name, np.array(array))
