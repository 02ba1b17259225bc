from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.config import Learn
from pipeline.consolidate.readings import Readings, split
from pipeline.consolidate.staging import TAIL, Closed, Due, Staging
from pipeline.errors import ArtifactCorrupt
from pipeline.records import Batch, Boundary, IntArray
from pipeline.records import Log as Rows

CHANNELS = 2
#: A busy machine is no failure.
PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

#: One happening as plain values: (rank in the log, kind, series, segment, reason, offsets).
Happening = tuple[int, str, str, int, str | None, tuple[int, ...]]


# A log, its boundaries, and the plain-loop answer ---------------------------------------------


@dataclass(frozen=True)
class Log:
    """Readings of several series in the order of the log, and where their segments end."""

    #: Series of each reading; its rank in the log is its offset and its value.
    series: tuple[str, ...]
    #: series -> (boundary_row, detected_row) of each boundary, by detection.
    marks: dict[str, tuple[tuple[int, int], ...]] = field(default_factory=dict)

    def rows(self, name: str) -> list[int]:
        """Ranks of a series' readings."""
        return [rank for rank, other in enumerate(self.series) if other == name]

    def boundaries(self, first: int, end: int) -> list[Boundary]:
        """Those detected at a reading of rank first ... end, in the log's order."""
        return [boundary for rank, boundary in self._boundaries if first <= rank < end]

    @cached_property
    def _boundaries(self) -> list[tuple[int, Boundary]]:
        found = []
        for name, marks in self.marks.items():
            ranks = self.rows(name)
            for number, (row, detected) in enumerate(marks, start=1):
                if detected < len(ranks):
                    found.append((ranks[detected], _boundary(name, number, row, detected)))
        return sorted(found, key=lambda pair: pair[0])

    def batch(self, first: int, end: int) -> Batch:
        """A poll of the readings of rank first ... end, grouped by series in order of name."""
        names = sorted(set(self.series[first:end]))
        groups = [[r for r in range(first, end) if self.series[r] == name] for name in names]
        ranks = np.array([r for group in groups for r in group], dtype=np.int64)
        values = np.stack([ranks, -ranks], axis=1).astype(np.float32)
        values[ranks % 7 == 3, 1] = np.nan
        return Batch(
            topic="readings",
            partition=0,
            series=tuple(names),
            starts=np.cumsum([0, *map(len, groups)]),
            offsets=ranks,
            order=ranks - first,
            times=ranks * 1000,
            values=values,
            next_offset=end,
        )


def _boundary(series: str, segment: int, row: int, detected: int) -> Boundary:
    return Boundary(
        series=series,
        segment=segment,
        boundary_row=row,
        detected_row=detected,
        boundary_offset=-1,
        detected_offset=-1,
        boundary_time=-1,
        detected_time=-1,
        signal="level",
        statistic=9.0,
        threshold=5.0,
        detectors=("ADWIN",),
    )


def plain(log: Log, learn: Learn) -> list[Happening]:
    """What staging promises, one reading at a time, with lists that forget nothing.

    A segment is due when it has exactly `adapt_after` or `refine_after` readings, or has them at
    once when it begins in the past. It ends where its boundary lies. Of an ended segment the first
    `capacity` readings are kept.
    """
    adapt, refine = learn.adapt_after, learn.refine_after
    lengths = [adapt, refine] if refine > adapt else [adapt]
    capacity = max(learn.segment_capacity, adapt, refine)
    seen: dict[str, list[int]] = {}
    first: dict[str, int] = {}
    segment: dict[str, int] = {}
    happened: list[Happening] = []

    def due(rank: int, name: str, n: int) -> Happening:
        begun = "bootstrap" if segment[name] == 0 else "boundary"
        reason = "refine" if n == refine and refine > adapt else begun
        begin = first[name]
        return rank, "due", name, segment[name], reason, tuple(seen[name][begin : begin + n])

    for rank, name in enumerate(log.series):
        rows = seen.setdefault(name, [])
        first.setdefault(name, 0)
        segment.setdefault(name, 0)
        rows.append(rank)
        if len(rows) - first[name] in lengths:
            happened.append(due(rank, name, len(rows) - first[name]))
        for number, (row, detected) in enumerate(log.marks.get(name, ()), start=1):
            if detected == len(rows) - 1:
                ended = tuple(rows[first[name] : row][:capacity])
                happened.append((rank, "closed", name, segment[name], None, ended))
                first[name], segment[name] = row, number
                reached = [n for n in lengths if len(rows) - row >= n]
                if reached:
                    happened.append(due(rank, name, reached[-1]))
    return happened


def happening(event: Closed | Due, first: int) -> Happening:
    """An event as plain values; its readings must be those that came in."""
    offsets = event.readings.offsets
    expected = np.stack([offsets, -offsets], axis=1).astype(np.float32)
    expected[offsets % 7 == 3, 1] = np.nan
    assert np.array_equal(event.readings.values, expected, equal_nan=True)
    kind, reason = ("due", event.reason) if isinstance(event, Due) else ("closed", None)
    who = event.series, event.segment, reason
    return (first + event.order, kind, *who, tuple(offsets.tolist()))


class Run:
    """Staging over a log, with slots numbered as the partition does: by first appearance."""

    def __init__(self, log: Log, learn: Learn, numbers: Sequence[int] = range(100)) -> None:
        self.log, self.learn, self.numbers = log, learn, numbers
        self.staging = Staging(CHANNELS, learn)
        self.slots: dict[str, int] = {}
        self.happened: list[Happening] = []

    def poll(self, first: int, end: int) -> None:
        """One poll of the readings of rank first ... end."""
        for name in self.log.series[first:end]:
            self.slots.setdefault(name, self.numbers[len(self.slots)])
        batch = self.log.batch(first, end)
        slots = np.array([self.slots[name] for name in batch.series], dtype=np.int64)
        events = self.staging.advance(batch, slots, self.log.boundaries(first, end))
        self.happened += [happening(event, first) for event in events]

    def polls(self, cuts: Sequence[int] = ()) -> Run:
        """The whole log, cut into polls."""
        edges = [0, *sorted({min(cut, len(self.log.series)) for cut in cuts} - {0})]
        for first, end in pairwise([*edges, len(self.log.series)]):
            if end > first:
                self.poll(first, end)
        return self

    def restart(self) -> None:
        """A crash: go on from a checkpoint's arrays."""
        before, self.staging = self.staging, Staging(CHANNELS, self.learn)
        self.staging.restore(before.state(self.used()))
        for kind, log in before.logs.items():
            of, rows = self._rows(log)
            self.staging.logs[kind].write(of, rows, log.read(of, rows))

    def used(self) -> IntArray:
        """Slots up to the last one in use."""
        return np.arange(max(self.slots.values(), default=-1) + 1)

    def _rows(self, log: Rows) -> tuple[IntArray, IntArray]:
        """Series and number of every row that a log keeps."""
        _, low, high = log.spans(self.used())
        rows = [np.arange(a, b) for a, b in zip(low.tolist(), high.tolist(), strict=True)]
        of = np.repeat(self.used(), high - low)
        return of, np.concatenate([np.zeros(0, dtype=np.int64), *rows])

    def state(self) -> dict[str, tuple[Any, ...]]:
        """The checkpoint, bit for bit."""
        arrays = self.staging.state(self.used())
        arrays |= {kind: log.read(*self._rows(log)) for kind, log in self.staging.logs.items()}
        return {n: (a.shape, a.dtype, a.tobytes()) for n, a in arrays.items()}


@st.composite
def logs(draw: st.DrawFn) -> Log:
    """Up to four series of up to 90 readings, with segments of any length, some too short."""
    names = "abcd"[: draw(st.integers(1, 4))]
    n = draw(st.integers(0, 90))
    series = draw(st.lists(st.sampled_from(names), min_size=n, max_size=n))
    marks = {}
    for name in names:
        found, begin, detected = [], 0, -1
        for _ in range(draw(st.integers(0, 5))):
            detected += draw(st.integers(1, 20))
            # the detector marks a boundary after the last one, at or before its detection
            if detected <= begin:
                continue
            begin = draw(st.integers(begin + 1, detected))
            found.append((begin, detected))
        marks[name] = tuple(found)
    return Log(series=tuple(series), marks=marks)


def learns() -> st.SearchStrategy[Learn]:
    """Lengths small enough for a short log to pass them all, in any order of size."""
    return st.builds(
        Learn,
        adapt_after=st.integers(1, 12),
        refine_after=st.integers(0, 30),
        segment_capacity=st.integers(1, 40),
    )


# The law --------------------------------------------------------------------------------------


@PATIENT
@given(log=logs(), learn=learns(), cuts=st.lists(st.integers(0, 90), max_size=12))
def test_what_happens_is_a_function_of_the_log_not_of_the_polls(
    log: Log, learn: Learn, cuts: list[int]
) -> None:
    """THE LAW: for any cut into polls, what a plain loop over single readings says, in its order.

    Polls may hold several boundaries of one series, or none, or one reading.
    """
    assert Run(log, learn).polls(cuts).happened == plain(log, learn)


@PATIENT
@given(log=logs(), learn=learns(), cuts=st.lists(st.integers(0, 90), max_size=12))
def test_the_checkpoint_is_a_function_of_the_log_not_of_the_polls(
    log: Log, learn: Learn, cuts: list[int]
) -> None:
    """Bit for bit the same after one poll, some, or one for each reading."""
    whole = Run(log, learn).polls().state()
    assert Run(log, learn).polls(cuts).state() == whole
    assert Run(log, learn).polls(range(len(log.series))).state() == whole


@PATIENT
@given(log=logs(), learn=learns(), at=st.integers(0, 90), cuts=st.lists(st.integers(0, 90)))
def test_a_restart_at_any_reading_changes_nothing(
    log: Log, learn: Learn, at: int, cuts: list[int]
) -> None:
    """Restored at reading `at`, the rest of the log brings the same, and the same state."""
    at = min(at, len(log.series))
    undisturbed = Run(log, learn).polls([*cuts, at])
    run = Run(log, learn)
    for first, end in pairwise(sorted({0, *(min(c, at) for c in cuts), at})):
        run.poll(first, end)
    before = run.state()
    run.restart()
    assert run.state() == before
    for first, end in pairwise(sorted({at, *(max(c, at) for c in cuts), len(log.series)})):
        if end <= len(log.series):
            run.poll(first, end)
    assert run.happened == undisturbed.happened
    assert run.state() == undisturbed.state()


@PATIENT
@given(
    log=logs(),
    learn=learns(),
    cuts=st.lists(st.integers(0, 90), max_size=6),
    numbers=st.permutations(range(7)),
)
def test_what_happens_does_not_depend_on_the_slots(
    log: Log, learn: Learn, cuts: list[int], numbers: list[int]
) -> None:
    """A slot is only a place: any numbering, with holes in it, brings the same."""
    run = Run(log, learn, numbers).polls(cuts)
    assert run.happened == plain(log, learn)
    run.restart()
    rows = run.staging.state(run.used())["rows"]
    for name, slot in run.slots.items():
        assert rows[slot] == len(log.rows(name))


def long_log(seed: int) -> Log:
    """Three series of thousands of readings: the tail wraps, segments outgrow their capacity."""
    rng = np.random.default_rng(seed)
    series = tuple(rng.choice(list("abc"), 6000, p=[0.5, 0.3, 0.2]).tolist())
    marks = {}
    for name in "abc":
        begin, detected, found = 0, 0, []
        while True:
            detected += int(rng.choice([30, 300, 900, 1500])) + int(rng.integers(0, 99))
            begin = max(begin + 1, detected + 1 - int(rng.integers(1, 501)))
            if detected >= len([s for s in series if s == name]):
                break
            found.append((begin, detected))
        marks[name] = tuple(found)
    return Log(series=series, marks=marks)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("size", [5000, 700, 61, 1])
def test_the_law_holds_for_long_segments(seed: int, size: int) -> None:
    """Boundaries up to 500 readings back, from a tail of 512 that has gone round many times."""
    log = long_log(seed)
    learn = Learn(adapt_after=64, refine_after=400, segment_capacity=300)
    assert sum(map(len, log.marks.values())) >= 6
    run = Run(log, learn).polls(range(0, len(log.series), size))
    assert run.happened == plain(log, learn)


def test_a_restart_within_a_long_segment_changes_nothing() -> None:
    """The tail is kept by row modulo its length: it goes on where it was."""
    log, learn = long_log(7), Learn(adapt_after=64, refine_after=400, segment_capacity=300)
    run = Run(log, learn)
    for first in range(0, len(log.series), 173):
        run.poll(first, min(first + 173, len(log.series)))
        run.restart()
    assert run.happened == plain(log, learn)


# What happens, by hand ------------------------------------------------------------------------


def of_one(n: int, *marks: tuple[int, int]) -> Log:
    """A log of one series."""
    return Log(series=("a",) * n, marks={"a": marks})


def brief(happened: list[Happening]) -> list[tuple[int, str, int, int]]:
    """(rank, reason or "closed", first offset, readings) of each."""
    return [
        (rank, reason or kind, offsets[0] if offsets else -1, len(offsets))
        for rank, kind, _, _, reason, offsets in happened
    ]


SMALL = Learn(adapt_after=4, refine_after=10, segment_capacity=6)


def test_the_first_segment_is_due_as_a_bootstrap_and_then_once_more_to_refine() -> None:
    """At its 4th and its 10th reading, and never again."""
    run = Run(of_one(50), SMALL).polls([7])
    assert brief(run.happened) == [(3, "bootstrap", 0, 4), (9, "refine", 0, 10)]


def test_refining_can_be_turned_off() -> None:
    """`refine_after` 0, or not after `adapt_after`: a segment is learned once."""
    for refine_after in (0, 3, 4):
        learn = Learn(adapt_after=4, refine_after=refine_after, segment_capacity=6)
        assert brief(Run(of_one(50), learn).polls().happened) == [(3, "bootstrap", 0, 4)]


def test_a_segment_that_ends_before_it_is_long_enough_is_only_kept() -> None:
    """Boundary at row 3, detected at row 3: no bootstrap of what was too short; the next counts."""
    run = Run(of_one(9, (3, 3)), SMALL).polls()
    assert brief(run.happened) == [
        (3, "bootstrap", 0, 4),
        (3, "closed", 0, 3),
        (6, "boundary", 3, 4),
    ]
    run = Run(of_one(9, (2, 2)), SMALL).polls()
    assert brief(run.happened) == [(2, "closed", 0, 2), (5, "boundary", 2, 4)]


def test_readings_between_boundary_and_detection_belong_to_the_new_segment() -> None:
    """Boundary at row 20, detected at row 22: 0 ... 19 closed, 20 ... 23 due at row 23."""
    run = Run(of_one(40, (20, 22)), Learn(adapt_after=4, refine_after=0, segment_capacity=64))
    assert brief(run.polls().happened) == [
        (3, "bootstrap", 0, 4),
        (22, "closed", 0, 20),
        (23, "boundary", 20, 4),
    ]


def test_a_boundary_found_late_makes_the_new_segment_due_at_once() -> None:
    """Boundary at row 20, detected at row 26: 7 readings are there already, the first 4 count."""
    run = Run(of_one(27, (20, 26)), SMALL).polls()
    assert brief(run.happened)[-2:] == [(26, "closed", 0, 10), (26, "boundary", 20, 4)]


def test_a_boundary_beyond_the_tail_leaves_what_lies_between_to_no_segment() -> None:
    """Boundary at row 20, detected 100 rows after the tail: just 0 ... 19 are closed."""
    detected = 20 + TAIL + 100
    learn = Learn(adapt_after=4, refine_after=0, segment_capacity=64)
    run = Run(of_one(detected + 1, (20, detected)), learn).polls()
    assert [h[-1] for h in run.happened if h[1] == "closed"] == [tuple(range(20))]


def test_of_an_ended_segment_the_first_readings_are_kept() -> None:
    """`segment_capacity` 12 of 30: from its start, for that is where the regime began."""
    learn = Learn(adapt_after=4, refine_after=0, segment_capacity=12)
    run = Run(of_one(40, (30, 32)), learn).polls()
    (closed,) = [h for h in run.happened if h[1] == "closed"]
    assert closed[-1] == tuple(range(12))


def test_capacity_is_never_less_than_what_is_to_be_learned() -> None:
    """`refine_after` 10 with room for 6: the request still has its 10 readings."""
    assert Staging(CHANNELS, SMALL).capacity == 10


def test_two_boundaries_in_one_poll_close_two_segments() -> None:
    """Rows 0-9, 10-14, 15-: in one poll as in many."""
    run = Run(of_one(30, (10, 12), (15, 16)), Learn(adapt_after=9, refine_after=0)).polls()
    assert brief(run.happened) == [
        (8, "bootstrap", 0, 9),
        (12, "closed", 0, 10),
        (16, "closed", 10, 5),
        (23, "boundary", 15, 9),
    ]
    assert [h[3] for h in run.happened if h[1] == "due"] == [0, 2]


def test_events_of_several_series_come_in_the_order_of_the_log() -> None:
    """Not series by series: requests are numbered as they come, and b's was due first."""
    log = Log(series=("b", "a", "b", "b", "a", "b", "a", "a"))
    run = Run(log, Learn(adapt_after=4, refine_after=0)).polls()
    assert [(rank, name) for rank, _, name, *_ in run.happened] == [(5, "b"), (7, "a")]


def test_an_events_readings_are_its_own() -> None:
    """Staging goes on writing into its arrays; a request must not change under way."""
    run = Run(of_one(60, (20, 22), (40, 44)), SMALL)
    events = []
    for first in range(0, 60, 5):
        batch = run.log.batch(first, first + 5)
        events += run.staging.advance(batch, np.array([0]), run.log.boundaries(first, first + 5))
    kept = [(e, e.readings.to_bytes()) for e in events]
    run.staging.advance(run.log.batch(0, 60), np.array([0]), [])
    assert len(kept) > 3
    assert all(event.readings.to_bytes() == content for event, content in kept)


# A checkpoint and other settings --------------------------------------------------------------


@pytest.mark.parametrize(
    ("adapt_after", "refine_after"), [(4, 40), (4, 0), (30, 0), (2, 3), (35, 50)]
)
@pytest.mark.parametrize("at", [2, 8, 20, 33])
def test_a_checkpoint_is_gone_on_from_with_other_lengths(
    at: int, adapt_after: int, refine_after: int
) -> None:
    """`adapt_after` and `refine_after` may change between starts: nothing crashes or is made up.

    A segment that has outgrown the room it had keeps its first readings, without a hole in them;
    the next segment is as if the new settings had always been there.
    """
    old = Learn(adapt_after=4, refine_after=10, segment_capacity=6)
    new = Learn(adapt_after=adapt_after, refine_after=refine_after, segment_capacity=6)
    log = of_one(140, (60, 62))
    run = Run(log, old)
    run.poll(0, at)
    run.happened.clear()
    run.learn = new
    run.restart()
    for first, end in pairwise([at, 37, 61, 62, 63, 140]):
        run.poll(first, end)
    for _, _, _, segment, _, offsets in run.happened:
        begin = 60 if segment == 1 else 0
        assert offsets == tuple(range(begin, begin + len(offsets)))
    (closed,) = [h for h in run.happened if h[1] == "closed"]
    room, now = (max(s.segment_capacity, s.adapt_after, s.refine_after) for s in (old, new))
    kept = min(at, room)
    grown = max(kept, now) if at <= room else kept
    assert len(closed[-1]) == min(60, grown)
    after = [h for h in run.happened if h[0] > closed[0]]
    assert after == [h for h in plain(log, new) if h[0] > closed[0]]


def test_a_restart_with_other_lengths_leaves_a_state_that_can_be_restored() -> None:
    """Twice over: a checkpoint taken after the change is good as well."""
    run = Run(of_one(200, (90, 95)), Learn(adapt_after=4, refine_after=10, segment_capacity=6))
    run.poll(0, 30)
    run.learn = Learn(adapt_after=4, refine_after=50, segment_capacity=6)
    for first, end in pairwise(range(30, 201, 10)):
        run.restart()
        run.poll(first, end)
    assert run.happened[-1][-1] == tuple(range(90, 140))


# Readings -------------------------------------------------------------------------------------


def readings(n: int, channels: int = CHANNELS) -> Readings:
    """Readings that carry their row, whose offsets are 10 apart."""
    row = np.arange(n)
    return Readings(
        values=np.repeat(row[:, None], channels, axis=1).astype(np.float32), offsets=row * 10
    )


def test_readings_come_back_from_their_bytes() -> None:
    """Holes included; equal readings, equal bytes; a view as well as a copy."""
    one = readings(20)
    one.values[3, 1] = np.nan
    after = Readings.from_bytes(one.to_bytes())
    assert np.array_equal(after.values, one.values, equal_nan=True)
    assert np.array_equal(after.offsets, one.offsets)
    assert after.to_bytes() == one.to_bytes()
    wide = np.repeat(one.values, 2, axis=1)
    view = Readings(values=wide[:, ::2], offsets=np.repeat(one.offsets, 2)[::2])
    assert view.to_bytes() == one.to_bytes()
    empty = readings(0)
    assert Readings.from_bytes(empty.to_bytes()).values.shape == (0, CHANNELS)


@pytest.mark.parametrize("content", [b"", b"garbage", readings(3).to_bytes()[:-1]])
def test_anything_else_is_corrupt(content: bytes) -> None:
    """A damaged segment is not learned."""
    with pytest.raises(ArtifactCorrupt):
        Readings.from_bytes(content)


# Split ----------------------------------------------------------------------------------------


@PATIENT
@given(
    n=st.integers(0, 400),
    window=st.integers(1, 40),
    held_out=st.floats(0.001, 0.599),
)
def test_no_reading_is_both_trained_on_and_held_out(n: int, window: int, held_out: float) -> None:
    """Not only no window: by values and by offsets, for any settings that the config admits."""
    train, held = split(readings(n), window, held_out)
    rows = [{int(v) for v in part.values[:, :, 0].ravel()} for part in (train, held)]
    assert not rows[0] & rows[1]
    spans = [
        {o for first, last in part.offsets.tolist() for o in range(first, last + 1, 10)}
        for part in (train, held)
    ]
    assert spans == [{10 * row for row in part} for part in rows]


@PATIENT
@given(
    n=st.integers(0, 400),
    window=st.integers(1, 40),
    held_out=st.floats(0.001, 0.599),
)
def test_windows_are_consecutive_readings_that_are_there(
    n: int, window: int, held_out: float
) -> None:
    """W readings and the next one, in order, none twice, with the offsets of both ends."""
    for part in split(readings(n), window, held_out):
        assert part.values.shape == (len(part), window + 1, CHANNELS)
        first = part.values[:, 0, 0]
        expected = first[:, None, None] + np.arange(window + 1)[:, None]
        assert np.array_equal(part.values, np.broadcast_to(expected, part.values.shape))
        assert (np.diff(first) > 0).all()
        assert np.array_equal(part.offsets[:, 0], first * 10)
        assert np.array_equal(part.offsets[:, 1], (first + window) * 10)


@PATIENT
@given(n=st.sampled_from([128, 256]), held_out=st.floats(0.001, 0.599))
def test_both_parts_have_windows_at_the_usual_lengths(n: int, held_out: float) -> None:
    """A segment of `adapt_after` readings can be learned and measured, whatever the share."""
    train, held = split(readings(n), 16, held_out)
    assert len(train) > 0
    assert len(held) > 0


def test_a_split_by_hand() -> None:
    """W = 1: runs of 4 rows held out, then, at a share of 1/2, 4 to train on; W rows fall between.

    Rows 0-3 held out, 4-7 trained on, 8-11 held out: windows begin at 0 1 2, 4 5 6, 8 9 10.
    """
    train, held = split(readings(12), 1, 0.5)
    assert train.values[:, 0, 0].tolist() == [4, 5, 6]
    assert held.values[:, 0, 0].tolist() == [0, 1, 2, 8, 9, 10]


@pytest.mark.parametrize("held_out", [0.1, 0.25, 0.5])
def test_the_share_held_out_is_about_what_was_asked(held_out: float) -> None:
    """Of the readings of a long segment that are in any window."""
    train, held = split(readings(20_000), 16, held_out)
    used = [len(np.unique(part.values)) for part in (train, held)]
    assert used[1] / sum(used) == pytest.approx(held_out, abs=0.01)


@PATIENT
@given(n=st.integers(0, 300), more=st.integers(0, 300), window=st.integers(1, 20))
def test_what_is_held_out_stays_held_out_as_the_segment_grows(
    n: int, more: int, window: int
) -> None:
    """A refinement, or the replay of the ended segment, must not train on what measures it."""
    short, long = split(readings(n), window, 0.25), split(readings(n + more), window, 0.25)
    for before, after in zip(short, long, strict=True):
        assert np.array_equal(before.values, after.values[: len(before)])


def test_boundaries_of_many_sensors_lie_within_the_tail() -> None:
    """What the detector looks back must be there still when a segment is closed."""
    from pipeline.detect.boundary import BLOCK, LOOK_BACK

    assert TAIL >= LOOK_BACK + BLOCK
