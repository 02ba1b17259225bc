"""Requests that a rule holds back: they wait, say why, and nothing of them is lost."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from pipeline.config import Database, Retrain
from pipeline.register.checkpoints import State
from pipeline.register.sql import SqlRegistry, Stream
from tests.register.making import (
    LEASE_S,
    SECOND,
    Clock,
    asked,
    by_hand,
    column,
    next_version,
    opened,
)

NOON = int(datetime(2026, 3, 1, 12, tzinfo=UTC).timestamp()) * SECOND
QUIET = Retrain(quiet_hours="12:00-13:00")
PATIENT = Retrain(on_boundary=False, after_readings=1000)
HOUR = 3600.0


@pytest.fixture
def clock() -> Clock:
    return Clock(NOON)


@pytest.fixture
def registry(at_head: Database, clock: Clock) -> Iterator[SqlRegistry]:
    with opened(at_head, clock) as made:
        yield made


@pytest.fixture
def stream(registry: SqlRegistry) -> Stream:
    """With a champion, made by hand at noon."""
    found = registry.open_stream("readings", ["x"])
    next_version(registry, found)
    return found


def claimed(registry: SqlRegistry, rules: Retrain) -> list[int] | None:
    """Numbers of the requests that a claim is of, in order."""
    claim = registry.claim("t", LEASE_S, rules=rules)
    if claim is None:
        return None
    registry.finish(claim, "done")
    return sorted([claim.id, *(number for number, _ in claim.folded)])


def entries(registry: SqlRegistry) -> list[dict[str, object]]:
    found = column(registry.engine, "SELECT entry FROM ledger WHERE kind = 'requests_held'")
    return [json.loads(entry) for entry in found]


def took_in(registry: SqlRegistry, stream: Stream, *readings: int) -> None:
    """Checkpoints of partitions 0, 1, ... after so many readings each."""
    for number, count in enumerate(readings):
        kept = registry.acquire(stream.id, number, "s")
        registry.save(
            stream.id, number, kept.epoch,
            next_offset=(kept.next_offset or 0) + 1, state=State(head=b"{}"), readings=count,
        )  # fmt: skip


def test_what_is_held_back_waits_with_its_reason_and_goes_as_one(
    registry: SqlRegistry, stream: Stream, clock: Clock
) -> None:
    """Two boundaries in the quiet hour: one claim of both at its end; the ledger has each once."""
    first = registry.submit(asked(stream, 1))
    assert [claimed(registry, QUIET) for _ in range(3)] == [None] * 3
    second = registry.submit(asked(stream, 2))
    assert claimed(registry, QUIET) is None
    why = "quiet hours, 12:00-13:00 in UTC"
    assert registry.held(stream.id) == [(n, "boundary", why) for n in (first, second)]
    assert entries(registry) == [{"requests": [n], "reason": why} for n in (first, second)]
    clock.pass_s(HOUR - 1e-6)
    assert claimed(registry, QUIET) is None
    clock.pass_s(1e-6)
    assert claimed(registry, QUIET) == [first, second]
    assert registry.held(stream.id) == []


def test_what_a_person_asks_for_takes_along_what_is_held_back(
    registry: SqlRegistry, stream: Stream
) -> None:
    """The older boundary and the newer one."""
    numbers = [registry.submit(asked(stream, 1))]
    assert claimed(registry, QUIET) is None
    numbers += [registry.submit(by_hand(stream)), registry.submit(asked(stream, 2))]
    assert claimed(registry, QUIET) == numbers


def test_what_trains_nothing_is_not_held_back_and_goes_alone(
    registry: SqlRegistry, stream: Stream, clock: Clock
) -> None:
    """Measured in the quiet hour; the boundary waits, and does not go with it later either."""
    boundary = registry.submit(asked(stream, 1))
    measure = registry.submit(by_hand(stream, reason="evaluate", due=1))
    assert claimed(registry, QUIET) == [measure]
    again = registry.submit(by_hand(stream, reason="evaluate", due=2))
    clock.pass_s(HOUR)
    assert claimed(registry, QUIET) == [boundary]
    assert claimed(registry, QUIET) == [again]


def test_one_stream_s_rules_hold_no_other_up(registry: SqlRegistry, stream: Stream) -> None:
    """A stream without a champion learns its first version in the quiet hour too."""
    registry.submit(asked(stream, 1))
    other = registry.open_stream("other", ["x"])
    first = registry.submit(asked(other, 1, reason="bootstrap"))
    assert claimed(registry, QUIET) == [first]


def test_versions_are_counted_by_day_and_by_the_time_between_them(
    registry: SqlRegistry, stream: Stream, clock: Clock
) -> None:
    """One was made at noon: the next in an hour, the third after midnight."""
    pause, budget = Retrain(at_most_every_s=HOUR), Retrain(budget_per_day=2)
    registry.submit(asked(stream, 1))
    clock.pass_s(HOUR - 1)
    assert claimed(registry, pause) is None
    clock.pass_s(1)
    assert claimed(registry, pause) is not None
    next_version(registry, stream)
    registry.submit(asked(stream, 2))
    assert claimed(registry, budget) is None
    clock.pass_s(11 * HOUR - 1)
    assert claimed(registry, budget) is None
    clock.pass_s(1)
    assert claimed(registry, budget) is not None


def test_boundaries_wait_for_so_many_readings(registry: SqlRegistry, stream: Stream) -> None:
    """Of all partitions, since the last training was asked for; asked once."""
    waits = registry.submit(asked(stream, 1))
    took_in(registry, stream, 500, 499)
    assert registry.submit_after_readings(stream.id, PATIENT) is None
    assert claimed(registry, PATIENT) is None
    took_in(registry, stream, 0, 1)
    due = registry.submit_after_readings(stream.id, PATIENT)
    assert due is not None
    assert registry.submit_after_readings(stream.id, PATIENT) is None
    assert claimed(registry, PATIENT) == [waits, due]
    took_in(registry, stream, 999)
    assert registry.submit_after_readings(stream.id, PATIENT) is None
    took_in(registry, stream, 1)
    assert registry.submit_after_readings(stream.id, PATIENT) is not None


def test_a_checkpoint_that_is_written_twice_counts_once(
    registry: SqlRegistry, stream: Stream
) -> None:
    """Its answer was lost: the same is asked for again."""
    kept = registry.acquire(stream.id, 0, "s")
    for _ in range(2):
        registry.save(
            stream.id, 0, kept.epoch, next_offset=7, state=State(head=b"{}"), readings=70
        )  # fmt: skip
    assert column(registry.engine, "SELECT readings FROM checkpoints") == [70]


def test_a_champion_s_scores_ask_for_a_training_once(
    registry: SqlRegistry, stream: Stream, clock: Clock
) -> None:
    """After a restart the stream asks again, and nothing is added; the next champion may ask."""
    champion = registry.champion(stream.id)
    assert champion is not None
    asked_for = registry.submit_metric_fall(champion, "task 1 rose")
    assert asked_for is not None
    assert registry.submit_metric_fall(champion, "task 1 rose") is None
    assert claimed(registry, PATIENT) == [asked_for]
    clock.pass_s(1)
    assert registry.submit_metric_fall(champion, "task 1 rose") is None
    successor = next_version(registry, stream)
    clock.pass_s(1)
    assert registry.submit_metric_fall(champion, "it is not champion any more") is None
    assert registry.submit_metric_fall(successor, "task 2 rose") is not None
