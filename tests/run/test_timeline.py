"""Timelines as they are written: each reading once, whatever happens on the way."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select

from pipeline.config import Database, Detect, Run, Settings
from pipeline.config import Stream as Topic
from pipeline.errors import StaleEpoch
from pipeline.ingest.memory import MemorySink, MemorySource, Message
from pipeline.records import FloatArray
from pipeline.register import tables as t
from pipeline.register.sql import SqlRegistry, Stream
from pipeline.register.timeline import READINGS, merged, size
from pipeline.run.stream import Streamer
from pipeline.run.timeline import Timeline
from tests.register.making import Clock, everything, opened
from tests.register.timelines import (
    Follower,
    assert_same,
    batch_of,
    expected,
    stored,
    values_of,
)

NAMES = ("a", "b", "c")


@pytest.fixture
def registry(at_head: Database) -> Iterator[SqlRegistry]:
    with opened(at_head, Clock()) as registry:
        yield registry


@pytest.fixture
def stream(registry: SqlRegistry) -> Stream:
    return registry.open_stream("plant", ("x", "y"))


def scored(values: FloatArray, scores: FloatArray) -> FloatArray:
    return np.column_stack([values, scores])


def test_every_level_is_what_numpy_makes_of_the_readings(
    registry: SqlRegistry, stream: Stream
) -> None:
    """Three series of unequal rates in polls of all sizes, with checkpoints and crashes between."""
    rows = 12_000
    random = np.random.default_rng(7)
    values, series = values_of(rows), random.choice(3, size=rows, p=[0.7, 0.29, 0.01])
    scores = random.random(rows).astype(np.float32)
    scores[:1500] = np.nan  # before the first champion
    follower, kinds = Follower(registry, stream), np.array([0, 1, 2, 3])
    while follower.offset < rows:
        begin = follower.offset
        end = min(begin + int(random.choice([1, 7, 400, 2500])), rows)
        batch = batch_of(series[begin:end], values[begin:end], begin, NAMES)
        # scores come in the order of the batch: its offsets say which
        follower.take(batch, None if end <= 1500 else scores[batch.offsets])
        match random.choice(kinds):
            case 0:
                follower.crash()  # what it took since the last checkpoint comes again
            case 1 | 2:
                follower.save()
    follower.save()
    slots = {name: slot for slot, name in enumerate(registry.begun(stream.id, 0))}
    assert sorted(slots) == list(NAMES)
    for number, name in enumerate(NAMES):
        at = np.flatnonzero(series == number)
        whole = scored(values[at], scores[at])
        for level in range(4):
            wanted = expected(whole, at, size(level), open_=level == 0)
            assert_same(stored(registry, slots[name], level), wanted)
    assert registry.begun(stream.id, 0) == {
        name: int((series == NAMES.index(name)).sum()) for name in slots
    }


def test_slots_are_numbered_as_the_series_appear(registry: SqlRegistry, stream: Stream) -> None:
    """The first of a partition are those that are kept, whatever their names."""
    follower = Follower(registry, stream, most=2)
    values = values_of(6)
    follower.take(batch_of(np.array([2, 0, 2, 1, 1, 0]), values, 0, NAMES))
    follower.save()
    assert list(registry.begun(stream.id, 0).items()) == [("c", 2), ("a", 2)]
    follower.crash()
    follower.take(batch_of(np.array([1, 0]), values[:2], 6, NAMES))
    follower.save()
    assert registry.begun(stream.id, 0) == {"c": 2, "a": 3}


def test_a_poll_of_other_series_alone_changes_nothing(
    registry: SqlRegistry, stream: Stream
) -> None:
    """With `run.timeline_series` at 0 nothing is kept, and what was before stays as it is."""
    follower = Follower(registry, stream)
    follower.take(batch_of(np.zeros(5, dtype=np.int64), values_of(5), 0, NAMES))
    follower.save()
    before = everything(registry.engine)["timeline_buckets"]
    off = Timeline({}, 0)
    off.add(batch_of(np.zeros(5, dtype=np.int64), values_of(5), 5, NAMES), None)
    assert off.summary() is None
    follower = Follower(registry, stream, most=1)
    follower.take(batch_of(np.ones(5, dtype=np.int64), values_of(5), 5, NAMES))
    follower.save()
    assert everything(registry.engine)["timeline_buckets"] == before


def test_a_zombie_writes_nothing(registry: SqlRegistry, stream: Stream) -> None:
    """A former owner's readings are the new owner's to summarise."""
    zombie = Follower(registry, stream)
    zombie.take(batch_of(np.zeros(5, dtype=np.int64), values_of(5), 0, NAMES))
    Follower(registry, stream)
    with pytest.raises(StaleEpoch):
        zombie.save()
    with registry.engine.connect() as conn:
        assert conn.execute(select(t.timelines)).all() == []
        assert conn.execute(select(t.timeline_buckets)).all() == []


def test_a_checkpoint_that_is_asked_again_counts_once(
    registry: SqlRegistry, stream: Stream
) -> None:
    """The answer to a COMMIT was lost: the same save again must add nothing."""
    follower = Follower(registry, stream)
    for begin in (0, 5):
        values = values_of(10)[begin : begin + 5]
        follower.take(batch_of(np.zeros(5, dtype=np.int64), values, begin, NAMES))
        summary = follower.timeline.summary()
        follower.save()
        before = everything(registry.engine)
        follower.timeline._parts = [summary.buckets] if summary else []
        follower.save()
        assert everything(registry.engine) == before
    assert stored(registry, 0, 0).rows.tolist() == [10]


def test_a_stream_summarises_each_reading_once(registry: SqlRegistry) -> None:
    """Through the process itself: bad records are none, a crash replays polls, and nothing is kept
    with the setting at 0."""
    values = np.random.default_rng(1).normal(size=(600, 2)).round(3)
    log: list[Message] = [
        (b"press", json.dumps({"time": 1_767_225_600 + row, "values": x}).encode())
        for row, x in enumerate(values.tolist())
    ]
    log.insert(100, (b"press", b"not json"))
    for topic, most in (("plant", 100), ("other", 0)):
        settings = Settings(
            stream=Topic(topic=topic),
            detect=Detect(warm_up=60, fit_after=100, settle_after=60),
            run=Run(timeline_series=most),
        )
        for polls, crash_after in ((50, 7), (90, None)):
            source = MemorySource({0: log}, topic=topic, max_poll_records=polls)
            made = Streamer(settings, source, MemorySink(), registry, owner="test")
            source.subscribe(made)
            for number in itertools.count(1):
                if number == crash_after or not (made.poll_once() or source.lag().get(0, 1)):
                    break
                if number == 3:
                    made.checkpoint()
            if crash_after is None:
                made.checkpoint()
    assert registry.begun(1, 0) == {"press": 600}
    assert registry.begun(2, 0) == {}
    level = stored(registry, 0, 0)
    assert level.rows.tolist() == [64] * 9 + [24]
    lows = [part.min(axis=0) for part in np.split(values.astype(np.float32), range(64, 600, 64))]
    np.testing.assert_array_equal(level.cells[:, 0, :2], np.array(lows))
    assert np.isnan(level.cells[:, 0, 2]).all()  # no champion, no score
    # its offsets: behind the bad record they are one more than the row
    assert level.first_offsets.tolist() == [0, 64, *(64 * k + 1 for k in range(2, 10))]


@given(cuts=st.sets(st.integers(1, 299), max_size=12))
def test_how_the_log_was_cut_does_not_matter(cuts: set[int]) -> None:
    """Buckets of the parts, merged, are those of the whole."""
    values, ids = values_of(300), np.arange(300) % 3 // 2  # two series, two readings to one
    whole, parts = Timeline({}, 100), Timeline({}, 100)
    for begin, end in zip([0, *sorted(cuts)], [*sorted(cuts), 300], strict=True):
        part = batch_of(ids[begin:end], values[begin:end], begin, NAMES)
        order = np.argsort(ids[begin:end], kind="stable")
        parts.add(part, values[begin:end, 1][order])
    order = np.argsort(ids, kind="stable")
    whole.add(batch_of(ids, values, 0, NAMES), values[:, 1][order])
    one, other = whole.summary(), parts.summary()
    assert one is not None
    assert other is not None
    a, b = merged([one.buckets]), merged([other.buckets])
    assert a.numbers.tolist() == b.numbers.tolist() == [0, 1, 2, 3, 0, 1]
    assert a.rows.tolist() == b.rows.tolist() == [READINGS, READINGS, READINGS, 8, READINGS, 36]
    np.testing.assert_allclose(a.cells, b.cells, rtol=1e-12)


def test_a_checkpoint_is_no_dearer_after_a_long_history(sqlite_at_head: Database) -> None:
    """By the steps of SQLite's machine: what is read again are buckets that are open, not all."""
    with opened(sqlite_at_head, Clock()) as registry:
        follower = Follower(registry, registry.open_stream("plant", ("x", "y")))
        series, values = np.arange(300) % 3, values_of(300)

        def steps() -> int:
            with registry.engine.connect() as conn:  # the pool has this one: it is asked again
                machine: Any = conn.connection.driver_connection
            counted = itertools.count()
            machine.set_progress_handler(lambda: next(counted) and None, 10)
            follower.save()
            machine.set_progress_handler(None, 0)
            return next(counted)

        def follow(checkpoints: int) -> int:
            """The most that one of the last 16 takes: in so many, buckets of all levels close."""
            found = []
            for _ in range(checkpoints):
                follower.take(batch_of(series, values, follower.offset, NAMES))
                found.append(steps())
            return max(found[-16:])

        early = follow(32)
        assert follow(150) < 1.5 * early
