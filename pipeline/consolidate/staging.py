"""Readings of open segments in; ended segments, and segments long enough to be learned, out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.config import Learn
from pipeline.consolidate.readings import Readings
from pipeline.records import CHUNK, LONG_CHUNK, Batch, Boundary, FloatArray, IntArray, Log

#: Newest readings that are kept of a long segment: where a boundary lies further back, the next
#: segment begins with these.
TAIL = 512
#: Places for them: more, so that a checkpoint's chunk of rows is there as long as one of it counts.
HELD = TAIL + CHUNK


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
        #: (slots, HELD) newest readings by row modulo HELD.
        self._tail = np.zeros((0, HELD, channels), dtype=np.float32)
        self._tail_offsets = np.zeros((0, HELD), dtype=np.int64)
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
        rows = np.arange(begin, row) % HELD
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
        newest = rank >= np.repeat(counts, counts) - HELD
        at = (slot[newest], row[newest] % HELD)
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
            new = np.zeros((room, *old.shape[1:]), dtype=old.dtype)
            new[:have] = old
            setattr(self, name, new)
        self._room[have:] = self.capacity

    def _widen(self, readings: int) -> None:
        have = self._values.shape[1]
        if readings <= have:
            return
        room = max(readings, min(self.capacity, max(2 * have, 64)))
        for name in ("_values", "_offsets"):
            old = getattr(self, name)
            new = np.zeros((old.shape[0], room, *old.shape[2:]), dtype=old.dtype)
            new[:, :have] = old
            setattr(self, name, new)

    # State: arrays, and two logs of rows that do not change once they are there ---------------

    def state(self, slots: IntArray) -> dict[str, NDArray[Any]]:
        """Arrays (S,) of some series; `kept`: readings of the open segment."""
        names = ("_rows", "_first", "_segment")
        state = {name[1:]: getattr(self, name)[slots] for name in names}
        return state | {"kept": self._kept(slots)}

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go on from `state` of every series, having seen nothing; the logs' rows are for `write`.

        `adapt_after` and `refine_after` may have changed since.
        """
        n = len(state["rows"])
        self._grow(n)
        self._rows[:n], self._first[:n] = state["rows"], state["first"]
        self._segment[:n] = state["segment"]
        kept = state["kept"]
        # one that has outgrown its room would go on behind a hole; none is cut
        whole = kept == state["rows"] - state["first"]
        self._room[:n] = np.where(whole, np.maximum(kept, self.capacity), kept)
        self._widen(int(kept.max(initial=0)))

    def _kept(self, slots: IntArray) -> IntArray:
        kept: IntArray = np.minimum(self._rows[slots] - self._first[slots], self._room[slots])
        return kept

    @property
    def logs(self) -> dict[str, Log]:
        """`head`: of each open segment's first readings, by their number in it, in long chunks;
        `rest`: of those that fill none; `tail`: of the newest that it has no room for, by their
        number in the series. The tail is written last.
        """
        dtype = np.dtype([("values", "<f4", self.channels), ("offset", "<i8")])
        how = partial(self._read_head, dtype), self._write_head
        head = Log(dtype, self._head_spans, *how, chunk=LONG_CHUNK)
        rest = Log(dtype, self._rest_spans, *how)
        tail = Log(dtype, self._tail_spans, partial(self._read_tail, dtype), self._write_tail)
        return {"head": head, "rest": rest, "tail": tail}

    def _head_spans(self, slots: IntArray) -> tuple[IntArray, IntArray, IntArray]:
        kept = self._kept(slots)
        return self._segment[slots], np.zeros_like(kept), kept // LONG_CHUNK * LONG_CHUNK

    def _rest_spans(self, slots: IntArray) -> tuple[IntArray, IntArray, IntArray]:
        kept = self._kept(slots)
        return self._segment[slots], kept // LONG_CHUNK * LONG_CHUNK, kept

    def _read_head(
        self, dtype: np.dtype[np.void], slots: IntArray, rows: IntArray
    ) -> NDArray[np.void]:
        found = np.empty(len(slots), dtype=dtype)
        found["values"], found["offset"] = self._values[slots, rows], self._offsets[slots, rows]
        return found

    def _write_head(self, slots: IntArray, rows: IntArray, found: NDArray[np.void]) -> None:
        _put(self._values, self._offsets, slots, rows, found)
        row = rows + self._first[slots]
        newest = row >= self._rows[slots] - HELD
        self._write_tail(slots[newest], row[newest], found[newest])

    def _tail_spans(self, slots: IntArray) -> tuple[IntArray, IntArray, IntArray]:
        end = self._rows[slots]
        first = np.maximum(end - TAIL, self._first[slots] + self._kept(slots))
        return np.zeros_like(end), np.minimum(first, end), end

    def _read_tail(
        self, dtype: np.dtype[np.void], slots: IntArray, rows: IntArray
    ) -> NDArray[np.void]:
        found, at = np.empty(len(slots), dtype=dtype), (slots, rows % HELD)
        found["values"], found["offset"] = self._tail[at], self._tail_offsets[at]
        return found

    def _write_tail(self, slots: IntArray, rows: IntArray, found: NDArray[np.void]) -> None:
        _put(self._tail, self._tail_offsets, slots, rows % HELD, found)


def _put(
    values: FloatArray, offsets: IntArray, slots: IntArray, rows: IntArray, found: NDArray[np.void]
) -> None:
    """Write (N,) rows of series where they belong, in stretches of one series that follow each
    other: a row by itself costs as much as ten.
    """
    if not len(rows):
        return
    breaks = np.flatnonzero((np.diff(slots) != 0) | (np.diff(rows) != 1)) + 1
    edges = [0, *breaks.tolist(), len(rows)]
    first = slots[edges[:-1]].tolist(), rows[edges[:-1]].tolist()
    from_values, from_offsets = found["values"], found["offset"]
    for slot, row, (begin, end) in zip(*first, pairwise(edges), strict=True):
        there = slice(row, row + end - begin)
        values[slot, there] = from_values[begin:end]
        offsets[slot, there] = from_offsets[begin:end]
