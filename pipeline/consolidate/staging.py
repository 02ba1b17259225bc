"""Readings of open segments in; ended segments, and segments long enough to be learned, out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.config import Learn
from pipeline.consolidate.readings import Readings
from pipeline.records import Batch, Boundary, IntArray

#: Newest readings that are kept of a long segment: where a boundary lies further back, the next
#: segment begins with these.
TAIL = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Closed:
    """A segment that ended."""

    series: str
    segment: int
    readings: Readings
    #: Rank in the poll of the reading that ended it.
    order: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """An open segment that has become long enough: its first readings."""

    series: str
    segment: int
    reason: str
    readings: Readings
    order: int


class Staging:
    """The first readings of each series' open segment, and the newest ones of a long segment.

    The result is a function of each series' readings and boundaries: a segment's readings are its
    first `segment_capacity`, whatever the polls.
    """

    def __init__(self, channels: int, learn: Learn) -> None:
        self.channels = channels
        self.learn = learn
        self.capacity = max(learn.segment_capacity, learn.adapt_after, learn.refine_after)
        self._values = np.zeros((0, 0, channels), dtype=np.float32)
        self._offsets = np.zeros((0, 0), dtype=np.int64)
        #: (slots, TAIL) newest readings by row modulo TAIL.
        self._tail = np.zeros((0, TAIL, channels), dtype=np.float32)
        self._tail_offsets = np.zeros((0, TAIL), dtype=np.int64)
        self._rows = np.zeros(0, dtype=np.int64)
        self._first = np.zeros(0, dtype=np.int64)  # row that the open segment began with
        self._segment = np.zeros(0, dtype=np.int64)
        #: Readings that the open segment has room for: the capacity, or what it had room for when
        #: it outgrew a smaller one, before a start with other settings.
        self._room = np.zeros(0, dtype=np.int64)

    def advance(
        self, batch: Batch, slots: IntArray, boundaries: Sequence[Boundary]
    ) -> list[Closed | Due]:
        """Take a batch in, with the boundaries found in it; what happened, in the log's order."""
        self._grow(int(slots.max(initial=-1)) + 1)
        eventful = self._eventful(batch, slots, boundaries)
        if not eventful:
            self._append(batch, slots, batch.starts[:-1], batch.starts[1:])
            return []
        quiet = np.array([name not in eventful for name in batch.series])
        self._append(batch, slots[quiet], batch.starts[:-1][quiet], batch.starts[1:][quiet])
        events: list[Closed | Due] = []
        for i in np.flatnonzero(~quiet):
            mine = [b for b in boundaries if b.series == batch.series[i]]
            events += self._pieces(batch, slots[i : i + 1], int(i), mine)
        return sorted(events, key=lambda event: event.order)

    def _eventful(self, batch: Batch, slots: IntArray, boundaries: Sequence[Boundary]) -> set[str]:
        """Series in which something happens in this batch: they are taken piece by piece."""
        before = self._rows[slots] - self._first[slots]
        after = before + np.diff(batch.starts)
        passed = np.zeros(len(slots), dtype=bool)
        for length in self._lengths():
            passed |= (before < length) & (after >= length)
        return {batch.series[i] for i in np.flatnonzero(passed)} | {b.series for b in boundaries}

    def _lengths(self) -> tuple[int, ...]:
        refine = self.learn.refine_after
        wanted = (self.learn.adapt_after, refine)
        return tuple(n for n in wanted if n) if refine > self.learn.adapt_after else wanted[:1]

    def _pieces(
        self, batch: Batch, slot: IntArray, i: int, boundaries: Sequence[Boundary]
    ) -> list[Closed | Due]:
        """One series, from event to event; rows are counted since the series' first reading."""
        events: list[Closed | Due] = []
        at, end = int(batch.starts[i]), int(batch.starts[i + 1])
        one = int(slot[0])
        marks = list(boundaries)
        while True:
            row = int(self._rows[one])
            stop = row + end - at
            mark = marks[0].detected_row + 1 if marks else stop + 1
            due = [self._first[one] + n for n in self._lengths() if self._first[one] + n > row]
            upto = min(stop, mark, *(int(n) for n in due))
            self._append(batch, slot, np.array([at]), np.array([at + upto - row]))
            at += upto - row
            order = int(batch.order[at - 1])
            if upto in due:
                events.append(self._due(batch.series[i], one, order))
            if upto == mark:
                events.append(self._close(one, marks.pop(0), order))
                # what counts for the new segment already may make it long enough at once
                if self._rows[one] - self._first[one] >= self.learn.adapt_after:
                    events.append(self._due(batch.series[i], one, order))
            if at >= end and not (marks and marks[0].detected_row + 1 <= self._rows[one]):
                return events

    def _due(self, series: str, slot: int, order: int) -> Due:
        length = int(self._rows[slot] - self._first[slot])
        refine = length >= self.learn.refine_after > self.learn.adapt_after
        n = self.learn.refine_after if refine else self.learn.adapt_after
        first = "bootstrap" if self._segment[slot] == 0 else "boundary"
        return Due(
            series=series,
            segment=int(self._segment[slot]),
            reason="refine" if refine else first,
            readings=self._readings(slot, n),
            order=order,
        )

    def _close(self, slot: int, boundary: Boundary, order: int) -> Closed:
        """End the segment before `boundary_row`; later rows begin the next one.

        Rows between a boundary far back and the tail belong to neither.
        """
        row, first = int(self._rows[slot]), int(self._first[slot])
        begin = max(boundary.boundary_row, first, row - TAIL)
        ended = int(self._segment[slot])
        readings = self._readings(slot, max(boundary.boundary_row - first, 0))
        rows = np.arange(begin, row) % TAIL
        values, offsets = self._tail[slot, rows].copy(), self._tail_offsets[slot, rows].copy()
        self._first[slot], self._segment[slot] = begin, boundary.segment
        self._room[slot] = self.capacity
        kept = min(len(values), self.capacity)
        self._widen(kept)
        self._values[slot, :kept], self._offsets[slot, :kept] = values[:kept], offsets[:kept]
        return Closed(series=boundary.series, segment=ended, readings=readings, order=order)

    def _readings(self, slot: int, n: int) -> Readings:
        n = min(n, int(self._room[slot]))
        return Readings(
            values=self._values[slot, :n].copy(), offsets=self._offsets[slot, :n].copy()
        )

    def _append(self, batch: Batch, slots: IntArray, first: IntArray, end: IntArray) -> None:
        """Rows first ... end of each series: the start of its segment, and its tail."""
        counts = end - first
        total = int(counts.sum())
        if not total:
            return
        rank = np.arange(total) - np.repeat(np.cumsum(counts) - counts, counts)
        source = np.repeat(first, counts) + rank
        slot = np.repeat(slots, counts)
        row = self._rows[slot] + rank
        place = row - self._first[slot]
        head = place < self._room[slot]
        if head.any():
            self._widen(int(place[head].max()) + 1)
            self._values[slot[head], place[head]] = batch.values[source[head]]
            self._offsets[slot[head], place[head]] = batch.offsets[source[head]]
        newest = rank >= np.repeat(counts, counts) - TAIL
        at = (slot[newest], row[newest] % TAIL)
        self._tail[at] = batch.values[source[newest]]
        self._tail_offsets[at] = batch.offsets[source[newest]]
        self._rows[slots] += counts

    def _grow(self, slots: int) -> None:
        have = len(self._rows)
        if slots <= have:
            return
        room = max(slots, 2 * have)
        for name in (
            "_values",
            "_offsets",
            "_tail",
            "_tail_offsets",
            "_rows",
            "_first",
            "_segment",
            "_room",
        ):
            old = getattr(self, name)
            new = np.zeros((room - have, *old.shape[1:]), dtype=old.dtype)
            setattr(self, name, np.concatenate([old, new]))
        self._room[have:] = self.capacity

    def _widen(self, readings: int) -> None:
        have = self._values.shape[1]
        if readings <= have:
            return
        room = min(self.capacity, max(readings, 2 * have, 64))
        for name in ("_values", "_offsets"):
            old = getattr(self, name)
            new = np.zeros((old.shape[0], room, *old.shape[2:]), dtype=old.dtype)
            new[:, :have] = old
            setattr(self, name, new)

    def state(self) -> dict[str, NDArray[Any]]:
        """Arrays that `restore` goes on from: only what is used, one series after the other."""
        used = int(np.flatnonzero(self._rows).max(initial=-1)) + 1
        rows, first = self._rows[:used], self._first[:used]
        kept = np.minimum(rows - first, self._room[:used])
        head = np.arange(self._values.shape[1]) < kept[:, None]
        held = np.arange(TAIL) < rows[:, None]
        return {
            "rows": rows,
            "first": first,
            "segment": self._segment[:used],
            "kept": kept,
            "values": self._values[:used][head],
            "offsets": self._offsets[:used][head],
            "tail": self._tail[:used][held],
            "tail_offsets": self._tail_offsets[:used][held],
        }

    @classmethod
    def restore(cls, state: Mapping[str, NDArray[Any]], channels: int, learn: Learn) -> Staging:
        """Go on from `state()`; `adapt_after` and `refine_after` may have changed since."""
        staging = cls(channels, learn)
        rows, first, before = state["rows"], state["first"], state["kept"]
        n = len(rows)
        kept = np.minimum(before, staging.capacity)
        staging._grow(n)
        staging._rows[:n], staging._first[:n] = rows, first
        staging._segment[:n] = state["segment"]
        # one that has outgrown its room would go on behind a hole
        staging._room[:n] = np.where(kept < rows - first, kept, staging.capacity)
        staging._widen(int(kept.max(initial=0)))
        head = np.arange(staging._values.shape[1]) < kept[:, None]
        rank = np.arange(before.sum()) - np.repeat(np.cumsum(before) - before, before)
        still = rank < np.repeat(kept, before)
        staging._values[:n][head] = state["values"][still]
        staging._offsets[:n][head] = state["offsets"][still]
        held = np.arange(TAIL) < rows[:, None]
        staging._tail[:n][held] = state["tail"]
        staging._tail_offsets[:n][held] = state["tail_offsets"]
        return staging
