"""What a chart is drawn from, against numpy on the readings themselves."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import event, insert

from pipeline.config import Database
from pipeline.errors import PipelineError
from pipeline.records import Boundary, FloatArray
from pipeline.register import tables as t
from pipeline.register.checkpoints import State
from pipeline.register.engine import reading
from pipeline.register.sql import SqlRegistry, Stream
from pipeline.register.timeline import FACTOR, READINGS, size
from pipeline.serve import bands
from pipeline.serve.answers import Answer, iso
from pipeline.serve.timeline import LEAST, drawn, plan, timeline
from tests.register.making import Clock, boundary, next_version, opened
from tests.register.timelines import START, STEP, Follower, batch_of, expected, values_of
from tests.serve.test_plans import plan as explained

ROWS = 10_000


@pytest.fixture
def registry(at_head: Database) -> Iterator[SqlRegistry]:
    with opened(at_head, Clock()) as registry:
        yield registry


@pytest.fixture
def stream(registry: SqlRegistry) -> Stream:
    return registry.open_stream("plant", ("x", "y"))


def follow(registry: SqlRegistry, stream: Stream, values: FloatArray, polls: int) -> Follower:
    """One series, without scores at first."""
    follower = Follower(registry, stream)
    score = values[:, 1].copy()
    score[: len(values) // 4] = np.nan
    for begin in range(0, len(values), polls):
        part = values[begin : begin + polls]
        ids = np.zeros(len(part), dtype=np.int64)
        follower.take(batch_of(ids, part, begin, ["a"]), score[begin : begin + polls])
        follower.save()
    return follower


def ask(registry: SqlRegistry, *args: Any, series: str = "a", **options: Any) -> Answer:
    with reading(registry.engine) as conn:
        return timeline(conn, "plant", 0, series, *args, **options)


def at(row: float) -> int:
    return START + int(STEP * row)


def assert_drawn(answer: Answer, values: FloatArray, first: int, end: int, readings: int) -> None:
    """The points are blocks first <= k < end of so many readings."""
    score = values[:, 1].copy()
    score[: len(values) // 4] = np.nan
    whole = np.column_stack([values, score])
    wanted = expected(whole, np.arange(len(values)), readings, open_=True)[first:end]
    points = answer["points"]
    assert answer["readings_per_point"] == readings
    assert points["readings"] == [each["rows"] for each in wanted]
    assert points["from"] == [iso(int(each["times"][0])) for each in wanted]
    assert points["until"] == [iso(int(each["times"][1])) for each in wanted]
    columns = [*points["sensors"].values(), points["score"]]
    for i, column in enumerate(columns):
        for name in ("low", "high", "mean"):
            found = np.array(column[name], dtype=np.float64)  # None is NaN
            np.testing.assert_allclose(found, [each[name][i] for each in wanted], rtol=4e-6)


@pytest.mark.parametrize("points", [LEAST, 100, 157, 1000])
def test_points_are_what_numpy_makes_of_the_readings(
    registry: SqlRegistry, stream: Stream, points: int
) -> None:
    """All of it, on the finest level with few enough: 157 buckets of 64, 40 of 256, 10 of 1024."""
    values = values_of(ROWS)
    follow(registry, stream, values, 3333)
    answer = ask(registry, points=points)
    readings = 256 if points < 157 else 64
    assert_drawn(answer, values, 0, -(-ROWS // readings), readings)
    assert list(answer["points"]["sensors"]) == ["x", "y"]
    assert json.loads(json.dumps(answer, allow_nan=False)) == answer
    with reading(registry.engine) as conn:
        assert drawn(conn, "plant") == [{"partition": 0, "series": "a", "rows": ROWS}]


@pytest.mark.parametrize(
    ("since", "until", "first", "end"),
    [
        (at(640), at(1279), 10, 20),  # to the reading
        (at(639.5), at(1280), 9, 21),  # a moment earlier, a reading later
        (at(-50), at(63), 0, 1),
        (at(ROWS - 16), at(ROWS + 10**6), 156, 157),
        (at(ROWS + 5), None, 156, 157),  # behind the last: what is newest
        (None, at(-1), 0, 0),
    ],
)
def test_a_range_is_of_the_blocks_that_it_touches(
    registry: SqlRegistry,
    stream: Stream,
    since: int | None,
    until: int | None,
    first: int,
    end: int,
) -> None:
    """Both ends included; a block that lies across an end is told as a whole."""
    values = values_of(ROWS)
    follow(registry, stream, values, 5000)
    assert_drawn(ask(registry, since, until), values, first, end, READINGS)


@given(
    rows=st.integers(1, 10**9),
    ends=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    points=st.integers(LEAST, 2000),
)
def test_a_plan_covers_the_range_once_on_the_finest_level(
    rows: int, ends: tuple[float, float], points: int
) -> None:
    """Complete buckets alone, without overlap or hole, and never more of them than points."""
    buckets = -(-rows // READINGS)
    first, last = sorted(int(end * (buckets - 1)) for end in ends)
    level, ranges = plan(first, last + 1, rows, points)
    assert sum(high - low for _, low, high in ranges) <= points
    covered = sorted((low * FACTOR**k, high * FACTOR**k) for k, low, high in ranges)
    assert covered[0][0] <= first < covered[0][0] + FACTOR**level
    assert last < covered[-1][1]
    assert all(a[1] == b[0] for a, b in pairwise(covered))
    for k, _, high in ranges:
        assert k <= level
        assert k == 0 or high * size(k) <= rows
    if level:  # one level below there were too many
        finer = FACTOR ** (level - 1)
        assert last // finer - first // finer + 1 + 3 * level > points


def asked_of(registry: SqlRegistry, **options: Any) -> tuple[Answer, list[tuple[str, Any]]]:
    """The answer, and the statements that it came to."""
    found: list[tuple[str, Any]] = []

    @event.listens_for(registry.engine, "before_cursor_execute")
    def on_execute(*args: Any) -> None:
        found.append((args[2], args[3]))

    answer = ask(registry, **options)
    event.remove(registry.engine, "before_cursor_execute", on_execute)
    return answer, [each for each in found if "timeline_buckets" in each[0]]


def test_a_million_readings_are_drawn_from_few_rows(registry: SqlRegistry, stream: Stream) -> None:
    """No more rows than points are read, by the index alone, of the whole as of a short stretch."""
    rows = 1_000_000
    values = np.random.default_rng(2).normal(size=(rows, 2)).astype(np.float32)
    follow(registry, stream, values, 500_000)
    for options, readings in (({}, 1024), ({"since": at(500_000), "until": at(501_000)}, 64)):
        answer, statements = asked_of(registry, **options)
        assert answer["readings_per_point"] == readings
        if not options:
            assert_drawn(answer, values, 0, 977, 1024)
        for statement, parameters in statements:
            with registry.engine.connect() as conn:
                assert len(conn.exec_driver_sql(statement, parameters).all()) <= 1000
            for line in explained(registry.engine, statement, parameters):
                assert "SCAN timeline_buckets" not in line
                assert "Seq Scan on timeline_buckets" not in line


# What went on beside it -----------------------------------------------------------------------


def step(segment: int, row: int) -> Boundary:
    made = boundary(segment, series="a", at=at(row))
    return replace(made, boundary_row=row, boundary_offset=row, detected_offset=row + 31)


def changed(registry: SqlRegistry, follower: Follower, rows: Sequence[int]) -> None:
    """Boundaries at these rows."""
    registry.save(
        follower.stream.id,
        0,
        follower.epoch,
        next_offset=follower.offset + 1,
        state=State(b"h"),
        boundaries=[step(i + 1, row) for i, row in enumerate(rows)],
    )


def test_boundaries_and_bands_are_those_of_the_range(registry: SqlRegistry, stream: Stream) -> None:
    """A band reaches from a boundary to the next; the first one may begin before the range."""
    changed(registry, follow(registry, stream, values_of(ROWS), 5000), [1000, 5000, 9000])
    whole = ask(registry)
    assert [b["boundary_row"] for b in whole["boundaries"]] == [1000, 5000, 9000]
    assert all("level 7.50 > 5.25" in b["sentence"] for b in whole["boundaries"])
    ends = [None, *(iso(at(row)) for row in (1000, 5000, 9000)), None]
    assert [(b["segment"], b["from"], b["until"]) for b in whole["bands"]] == [
        (i, ends[i], ends[i + 1]) for i in range(4)
    ]
    inner = ask(registry, at(4000), at(6000))
    assert [b["segment"] for b in inner["boundaries"]] == [2]
    assert [b["segment"] for b in inner["bands"]] == [1, 2]
    assert inner["bands"][0]["from"] == iso(at(1000))
    assert not ask(registry, at(6000), at(7000))["boundaries"]
    assert [b["segment"] for b in ask(registry, at(6000), at(7000))["bands"]] == [2]


def test_a_band_has_what_its_segment_was_named(registry: SqlRegistry, stream: Stream) -> None:
    """Task, kind, name, and whether it was back; nothing of a segment that has no name yet."""
    changed(registry, follow(registry, stream, values_of(ROWS), 5000), [1000, 5000])
    with registry.engine.begin() as conn:
        for number, (kind, name) in enumerate([("normal", None), ("fault", "leak")], start=1):
            told = {"number": number, "kind": kind, "name": name}
            conn.execute(
                insert(t.tasks).values(stream_id=stream.id, fingerprint="{}", created=1, **told)
            )
        for segment, task in ((0, 1), (1, 2)):
            conn.execute(
                insert(t.segments).values(
                    stream_id=stream.id,
                    partition=0,
                    series="a",
                    segment=segment,
                    task_id=task,
                    recurrence=segment == 1,
                    rows=900,
                    final=True,
                    named=1,
                )
            )
    names = ("task", "task_kind", "task_name", "recurrence")
    assert [tuple(band[name] for name in names) for band in ask(registry)["bands"]] == [
        (1, "normal", None, False),
        (2, "fault", "leak", True),
        (None, None, None, None),
    ]


def test_more_boundaries_than_can_be_told_are_counted(
    registry: SqlRegistry, stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In 4 parts of 10,000 readings: 1000 and 1010 in the first, 5000 in the third, 9000 in the
    last. The segments from 0, 1010, 5000 and 9000 are longer than a part, that from 1000 is not.
    What is told one by one again is told as ever."""
    changed(registry, follow(registry, stream, values_of(ROWS), 5000), [1000, 1010, 5000, 9000])
    monkeypatch.setattr(bands, "MOST", 3)
    monkeypatch.setattr(bands, "PARTS", 4)
    answer = ask(registry)
    assert (answer["boundaries"], answer["more"]) == ([], True)
    assert [(c["segment"], c["count"], c["from"], c["until"]) for c in answer["clusters"]] == [
        (1, 2, iso(at(1000)), iso(at(1010))),
        (3, 1, iso(at(5000)), iso(at(5000))),
        (4, 1, iso(at(9000)), iso(at(9000))),
    ]
    assert [(b["segment"], b["from"], b["until"]) for b in answer["bands"]] == [
        (0, None, iso(at(1000))),
        (2, iso(at(1010)), iso(at(5000))),
        (3, iso(at(5000)), iso(at(9000))),
        (4, iso(at(9000)), None),
    ]
    monkeypatch.setattr(bands, "MOST", 2)
    later = ask(registry, at(1030), None)
    assert [(c["segment"], c["count"]) for c in later["clusters"]] == [(3, 1), (4, 1)]
    assert [b["segment"] for b in later["bands"]] == [2, 3, 4]
    few = ask(registry, at(1030), at(6000))
    assert (few["more"], few["clusters"]) == (False, [])
    assert [b["segment"] for b in few["boundaries"]] == [3]


@pytest.mark.parametrize(("rows", "each"), [(10_000, 1_000), (100_000, 100)])
def test_an_answer_is_no_longer_for_a_longer_series(
    registry: SqlRegistry, stream: Stream, rows: int, each: int
) -> None:
    """10 times the readings, 100 times the boundaries and reigns: as many points, marks, bands
    and reigns at most, and at most a kilobyte of each."""
    follower = follow(registry, stream, values_of(rows), rows)
    version = next_version(registry, stream).id
    registry.save(
        stream.id,
        0,
        follower.epoch,
        next_offset=rows + 1,
        state=State(b"h"),
        boundaries=[step(i + 1, row) for i, row in enumerate(range(each, rows, each))],
        scored=[(version, row, row + each) for row in range(0, rows, each)],
    )
    for options in ({}, {"since": at(rows // 2), "until": at(rows // 2 + 5000)}):
        answer = ask(registry, points=200, **options)
        found = {name: len(answer[name]) for name in ("boundaries", "clusters", "bands", "reigns")}
        assert 0 < len(answer["points"]["from"]) <= 200
        assert found["boundaries"] + found["clusters"] <= bands.MOST
        assert found["bands"] <= bands.MOST + 2
        assert 0 < found["reigns"] <= bands.MOST + 1
        assert sum(c["count"] for c in answer["clusters"]) == (
            rows // each - 1 if answer["more"] else 0
        )
        assert len(json.dumps(answer)) <= 1000 * (200 + 3 * bands.MOST)


def test_a_reign_begins_with_the_first_point_that_the_version_scored(
    registry: SqlRegistry, stream: Stream
) -> None:
    """In the readings' own time, whenever they were read: version 1 from reading 130 on, version 2
    from 6400 on, which are the points from 128 and from 6400 on."""
    follower = follow(registry, stream, values_of(ROWS), 5000)
    one, two = next_version(registry, stream), next_version(registry, stream)
    registry.save(
        stream.id,
        0,
        follower.epoch,
        next_offset=follower.offset + 1,
        state=State(b"h"),
        scored=[(one.id, 130, 6400), (two.id, 6400, ROWS)],
    )
    told = [(each["version"], each["from"]) for each in ask(registry)["reigns"]]
    assert told == [(1, iso(at(128))), (2, iso(at(6400)))]
    later = ask(registry, at(6400), None)["reigns"]
    assert [(each["version"], each["first_offset"]) for each in later] == [(2, 6400)]
    assert ask(registry, None, at(127))["reigns"] == []
    assert [each["version"] for each in ask(registry, None, at(128))["reigns"]] == [1]


# What cannot be told --------------------------------------------------------------------------


def test_what_is_not_there_is_said_in_one_line(registry: SqlRegistry, stream: Stream) -> None:
    follow(registry, stream, values_of(10), 10)
    with pytest.raises(PipelineError, match="no timeline of b in partition 0"):
        ask(registry, series="b")
    with pytest.raises(PipelineError, match="49 points: at least 50"):
        ask(registry, points=49)
    with reading(registry.engine) as conn, pytest.raises(PipelineError, match="no stream plan"):
        timeline(conn, "plan", 0, "a")
    empty = ask(registry, None, at(-1))
    assert (empty["boundaries"], empty["bands"], empty["reigns"]) == ([], [], [])
