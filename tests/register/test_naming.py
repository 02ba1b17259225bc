"""Segments named in SQL: by each fingerprint, in order of arrival, once each."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from typing import Any

import numpy as np
import pytest

from pipeline.config import Database
from pipeline.detect.prints import Print
from pipeline.detect.tasks import NEW_FROM, Fingerprint, distance, merge
from pipeline.records import Named
from pipeline.register.checkpoints import State
from pipeline.register.sql import SqlRegistry, Stream
from pipeline.serve.lineage import Lineage
from tests.register.making import (
    LEASE_S,
    Clock,
    asked,
    boundary,
    column,
    everything,
    marked,
    opened,
    race,
)

#: Racing threads meet often enough in this many rounds.
ROUNDS = 6


@pytest.fixture
def clock() -> Clock:
    """The registry's."""
    return Clock()


@pytest.fixture
def registry(at_head: Database, clock: Clock) -> Iterator[SqlRegistry]:
    """A registry over a new schema."""
    with opened(at_head, clock) as registry:
        yield registry


@pytest.fixture
def second(at_head: Database) -> Iterator[SqlRegistry]:
    """Another process's, over the same database."""
    with opened(at_head, Clock()) as registry:
        yield registry


@pytest.fixture
def stream(registry: SqlRegistry) -> Stream:
    """The stream that is followed."""
    return registry.open_stream("readings", ["pressure", "speed"])


def fingerprint(level: float, rows: int = 1000) -> Fingerprint:
    """One sensor about a level that stands in its robust scales and in its units."""
    return Fingerprint(
        rows=rows,
        level_rows=rows,
        mean=np.full(4, level),
        variance=np.ones(4),
        centre=np.zeros(1),
        level=np.array([level]),
        level_variance=np.ones(1),
        units=np.array([[level], [1.0]]),
    )


def print_of(
    segment: int, level: float, rows: int = 1200, *, series: str = "pump", final: bool = True
) -> Print:
    return Print(
        series=series,
        segment=segment,
        rows=rows,
        final=final,
        fingerprint=fingerprint(level, rows),
    )


class Partitions:
    """Checkpoints of partitions, which bring prints."""

    def __init__(self, registry: SqlRegistry, stream: Stream) -> None:
        self.registry, self.stream = registry, stream
        self.epochs: dict[int, int] = {}
        self.offsets = count(1)

    def save(self, *prints: Print, partition: int = 0, **more: Any) -> list[Named]:
        if partition not in self.epochs:
            epoch = self.registry.acquire(self.stream.id, partition, "a").epoch
            self.epochs[partition] = epoch
        return self.registry.save(
            self.stream.id,
            partition,
            self.epochs[partition],
            next_offset=next(self.offsets),
            state=State(b""),
            prints=prints,
            **more,
        )


@pytest.fixture
def at(registry: SqlRegistry, stream: Stream) -> Partitions:
    """The stream's partitions."""
    return Partitions(registry, stream)


def answers(named: list[Named]) -> list[tuple[int, bool]]:
    return [(each.task, each.recurrence) for each in named]


def test_a_regime_that_returns_is_its_task_again(at: Partitions) -> None:
    """Levels 0, 9, 0, 9, 30: tasks 1, 2, 1, 2, 3."""
    named = at.save(*(print_of(n, level) for n, level in enumerate((0, 9, 0.01, 9, 30))))
    assert answers(named) == [(1, False), (2, False), (1, True), (2, True), (3, False)]
    assert named[0].distance is None
    expected = distance(fingerprint(0.01, 1200), fingerprint(0, 1200)) / NEW_FROM
    assert named[2].distance == pytest.approx(expected)


def test_the_last_word_is_the_final_one(at: Partitions, registry: SqlRegistry) -> None:
    """Early on the segment looked new; more of it says that it is task 1 again; then no more."""
    at.save(print_of(0, 0))
    early = at.save(print_of(1, 9, rows=256, final=False))
    assert answers(early) == [(2, False)]
    assert answers(at.save(print_of(1, 0, rows=480, final=False))) == [(1, True)]
    assert answers(at.save(print_of(1, 9, rows=1200))) == [(3, False)]
    before = everything(registry.engine)
    for late in (print_of(1, 0, rows=1200), print_of(1, 0, rows=3000), print_of(1, 0, rows=256)):
        assert at.save(late) == []
    after = everything(registry.engine)
    assert {n: r for n, r in after.items() if n != "checkpoints"} == {
        n: r for n, r in before.items() if n != "checkpoints"
    }


def test_what_is_new_at_first_stays_the_same_task(at: Partitions, registry: SqlRegistry) -> None:
    """Three fingerprints of a new regime make one task; only the last one teaches it."""
    at.save(print_of(0, 0))
    prints = [print_of(1, 9, rows=n, final=n == 1200) for n in (256, 480, 1200)]
    told = [answers(at.save(made)) for made in prints]
    assert told == [[(2, False)]] * 3
    assert column(registry.engine, "SELECT number FROM tasks ORDER BY number") == [1, 2]
    kept = column(registry.engine, "SELECT fingerprint FROM task_prints ORDER BY task_id")
    assert kept[1] == prints[-1].fingerprint.to_json()


def test_a_task_learns_by_rows(at: Partitions, registry: SqlRegistry) -> None:
    """What is kept is the merged fingerprint of its final segments."""
    prints = [print_of(0, 0, rows=300), print_of(1, 0.02, rows=900)]
    at.save(*prints)
    (kept,) = column(registry.engine, "SELECT fingerprint FROM task_prints")
    assert kept == merge(*(made.fingerprint for made in prints)).to_json()
    assert json.loads(kept)["mean"] == pytest.approx([0.015] * 4)


def test_another_series_knows_a_task_by_its_units(at: Partitions, registry: SqlRegistry) -> None:
    """Its own coordinates are its own; the same place in the sensors' units is the same task."""
    at.save(print_of(0, 0), print_of(1, 9))
    own = replace(fingerprint(55.0), units=np.array([[9.0], [1.0]]))
    told = at.save(
        Print(series="fan", segment=0, rows=1200, final=True, fingerprint=own), partition=1
    )
    assert answers(told) == [(2, True)]
    again = replace(own, units=np.array([[0.0], [1.0]]))
    told = at.save(
        Print(series="fan", segment=1, rows=1200, final=True, fingerprint=again), partition=1
    )
    assert answers(told) == [(2, True)], "by its own fingerprint first"


def test_requests_are_of_the_segments_task(
    at: Partitions, registry: SqlRegistry, stream: Stream
) -> None:
    """Named by its readings first, then by fingerprints: the requests follow."""
    at.save(print_of(0, 0), print_of(1, 9))
    number = registry.submit(asked(stream, 2)) or 0
    claim = registry.claim("t", LEASE_S)
    assert claim is not None
    units = np.array([[9.0], [1.0]])
    assert registry.assign(claim, number, units) == registry.tasks(stream.id)[1].id
    at.save(print_of(2, 0))
    first = registry.tasks(stream.id)[0].id
    assert registry.task_of(number) == first
    later = registry.submit(asked(stream, 2, reason="refine")) or 0
    assert registry.assign(claim, later, units) == first


def test_what_a_checkpoint_named_can_be_asked_for_again(
    at: Partitions, registry: SqlRegistry, stream: Stream, clock: Clock
) -> None:
    """Of a partition's last checkpoint that named anything; no trainer's and no other's word."""
    assert registry.last_named(stream.id, 0) == []
    at.save(print_of(0, 0))
    clock.pass_s(1)
    said = at.save(print_of(1, 9), print_of(2, 0.01, rows=256, final=False))
    clock.pass_s(1)
    at.save(print_of(0, 0, series="fan"), partition=1)
    at.save()
    number = registry.submit(asked(stream, 3)) or 0
    claim = registry.claim("t", LEASE_S)
    assert claim is not None
    registry.assign(claim, number, np.array([[9.0], [1.0]]))
    assert registry.last_named(stream.id, 0) == said


def test_a_boundary_says_its_task(at: Partitions, registry: SqlRegistry) -> None:
    """In the audit's answers: new or again, and how near."""
    at.save(print_of(0, 0), print_of(1, 9), print_of(2, 0.01), boundaries=[boundary(2)])
    lineage = Lineage(registry.database)
    try:
        (told,) = lineage.boundaries("readings")
        segments = lineage.segments("readings")
    finally:
        lineage.close()
    assert (told["task"], told["recurrence"]) == (1, True)
    assert told["distance"] == segments[2]["distance"]
    assert [s["task"] for s in segments] == [1, 2, 1]


def test_partitions_that_name_at_once_make_one_task_of_a_regime(
    at: Partitions, registry: SqlRegistry, second: SqlRegistry, stream: Stream
) -> None:
    """The second to come sees what the first said, whichever that is."""
    other = Partitions(second, stream)
    for round_ in range(ROUNDS):
        level = 10.0 * round_
        one, two = race(
            lambda n=round_, x=level: at.save(print_of(n, x)),
            lambda n=round_, x=level: other.save(print_of(n, x, series="fan"), partition=1),
        )
        assert one[0].task == two[0].task == round_ + 1
        assert [one[0].recurrence, two[0].recurrence].count(False) == 1


def test_the_order_of_arrival_decides_and_gives_the_same_again(at_head: Database) -> None:
    """The same prints in the same order, in another stream: the same tasks and distances."""
    levels = (0, 9, 0.01, 30, 9.01, 0)
    with opened(at_head, Clock()) as registry:
        told = []
        for name in ("one", "two"):
            partitions = Partitions(registry, registry.open_stream(name, ["pressure", "speed"]))
            told.append(
                [
                    named
                    for n, level in enumerate(levels)
                    for named in partitions.save(
                        print_of(n // 2, level, series=f"s{n % 2}"), partition=n % 2
                    )
                ]
            )
    assert told[0] == told[1]
    assert len(told[0]) == len(levels)


def test_what_people_said_of_a_task_is_told_with_it(
    at: Partitions, registry: SqlRegistry, stream: Stream, clock: Clock
) -> None:
    """A fault is recognised when it returns: marking it leaves its fingerprints."""
    at.save(print_of(0, 0), print_of(1, 9))
    marked(registry, stream.id, 2, kind="fault", name="bearing", why="it shook")
    clock.pass_s(1)
    told = at.save(print_of(2, 9.01), print_of(3, 0))
    assert [(n.task, n.recurrence, n.kind, n.name) for n in told] == [
        (2, True, "fault", "bearing"),
        (1, True, "normal", None),
    ]
    assert registry.last_named(stream.id, 0) == told


def test_what_is_said_again_of_a_segment_is_no_change(
    at: Partitions, registry: SqlRegistry, stream: Stream, clock: Clock
) -> None:
    """Task 2, the same, then task 1; the next owner cannot know what was said, and says it."""
    at.save(print_of(0, 0), print_of(1, 9))
    prints = [(9, 256, False), (9, 480, False), (0, 1200, True)]
    told = [at.save(print_of(2, level, rows=n, final=final)) for level, n, final in prints]
    assert [[n.changed for n in each] for each in told] == [[True], [False], [True]]
    at.save(print_of(3, 9, rows=256, final=False))
    clock.pass_s(1)
    at.save(print_of(3, 9, rows=480, final=False))
    assert [n.changed for n in registry.last_named(stream.id, 0)] == [True]


def test_a_new_regime_waits_where_that_is_asked_for(at: Partitions, registry: SqlRegistry) -> None:
    """But for the stream's first one; a known one's return makes nobody wait."""
    told = at.save(print_of(0, 0), print_of(1, 9), print_of(2, 0.01), ask=True)
    assert [n.kind for n in told] == ["normal", "asked", "normal"]
    assert [n.kind for n in at.save(print_of(3, 9.01))] == ["asked"]
    assert [n.kind for n in at.save(print_of(4, 30))] == ["normal"]
