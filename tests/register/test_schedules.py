"""Schedules and their runs in SQL: who may do what, once; on both databases."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from msgspec.structs import replace

from pipeline.config import Database, Schedule
from pipeline.errors import PipelineError, RegistryError
from pipeline.register.orders import Act, Order, PauseSchedule, ResumeSchedule, RunSchedule
from pipeline.register.schedules import LEASE, ScheduledRun
from pipeline.register.sql import SqlRegistry, Stream
from tests.register.making import (
    LEASE_S,
    SECOND,
    Clock,
    by_hand,
    column,
    everything,
    opened,
    race,
)

NIGHTLY = Schedule(name="nightly", cron="30 2 * * *")
CHECK = Schedule(name="check", every_s=60.0, kind="verify")
DUE = 2_000 * SECOND


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def registry(at_head: Database, clock: Clock) -> Iterator[SqlRegistry]:
    """Its lease is a's."""
    with opened(at_head, clock) as made:
        assert made.lease(LEASE, "a", LEASE_S)
        yield made


@pytest.fixture
def stream(registry: SqlRegistry) -> Stream:
    return registry.open_stream("readings", ["x"])


def told(registry: SqlRegistry, kind: str) -> list[dict[str, object]]:
    found = column(registry.engine, "SELECT entry FROM ledger WHERE kind = :k ORDER BY id", k=kind)
    return [json.loads(entry) for entry in found]


def waiting(registry: SqlRegistry) -> ScheduledRun:
    (run,) = registry.unfinished_runs()
    return run


def test_what_is_new_changed_and_gone_is_in_the_ledger(registry: SqlRegistry, clock: Clock) -> None:
    """Once each; a change counts from when it is seen, what stayed from before."""
    assert registry.adopt_schedules([NIGHTLY, CHECK], "a") == ["check", "nightly"]
    assert registry.adopt_schedules([NIGHTLY, CHECK], "a") == []
    begun = clock.now
    clock.pass_s(60)
    later = Schedule(name="nightly", cron="0 3 * * *")
    assert registry.adopt_schedules([later, CHECK], "a") == ["nightly"]
    assert [entry.since for entry in registry.schedules()] == [begun, clock.now]
    assert registry.adopt_schedules([CHECK], "a") == ["nightly"]
    assert registry.adopt_schedules([later, CHECK], "a") == ["nightly"]
    changes = told(registry, "schedule_changed")[2:]
    lines = [
        (e["before"] and e["before"]["cron"], e["after"] and e["after"]["cron"]) for e in changes
    ]
    assert lines == [("30 2 * * *", "0 3 * * *"), ("0 3 * * *", None), (None, "0 3 * * *")]


def test_without_the_lease_nothing_is_done(registry: SqlRegistry, stream: Stream) -> None:
    """Of whoever was stopped for too long, no row changes."""
    registry.adopt_schedules([NIGHTLY], "a")
    registry.note_due(NIGHTLY, DUE, "a")
    run, before = waiting(registry), everything(registry.engine)
    assert registry.adopt_schedules([CHECK], "b") == []
    assert not registry.note_due(NIGHTLY, DUE + 1, "b")
    assert not registry.begin_run(run, "b")
    assert not registry.end_run(run, "b", ok=True, outcome="done")
    assert registry.request_run(run, by_hand(stream), "b") is None
    assert everything(registry.engine) == before


def test_a_run_that_is_a_request_is_one_transaction(registry: SqlRegistry, stream: Stream) -> None:
    """Asked again, as if its answer had been lost, it does nothing; and its request is there."""
    registry.note_due(NIGHTLY, DUE, "a")
    run = waiting(registry)
    request = by_hand(stream, reason="schedule", due=DUE)
    number = registry.request_run(run, request, "a")
    before = everything(registry.engine)
    assert registry.request_run(run, request, "a") is None
    assert not registry.note_due(NIGHTLY, DUE, "a")
    assert everything(registry.engine) == before
    (done,) = registry.schedule_runs("nightly", 9)
    assert (done.ok, done.outcome, done.request) == (True, f"request {number}", number)
    (entry,) = told(registry, "schedule_run")
    assert (entry["due"], entry["outcome"]) == (DUE, f"request {number}")


def test_two_schedules_of_one_moment_make_one_request(
    registry: SqlRegistry, stream: Stream
) -> None:
    """One that trains and one that measures are two, though."""
    for name in ("one", "two"):
        registry.note_due(Schedule(name=name, every_s=60.0), DUE, "a")
        request = by_hand(stream, reason="schedule", due=DUE)
        registry.request_run(waiting(registry), request, "a")
    outcomes = [registry.schedule_runs(name, 1)[0].outcome for name in ("one", "two")]
    assert outcomes == ["request 1", "was asked for already"]
    assert registry.submit(by_hand(stream, reason="evaluate", due=DUE)) is not None


def test_a_run_that_was_left_is_begun_again_and_its_ghost_is_not_heard(
    registry: SqlRegistry, clock: Clock
) -> None:
    """The owner before may still be at it: what he says comes too late."""
    registry.note_due(CHECK, DUE, "a")
    run = waiting(registry)
    assert registry.begin_run(run, "a")
    clock.pass_s(LEASE_S + 1)
    assert registry.lease(LEASE, "b", LEASE_S)
    assert registry.begin_run(run, "b")
    assert not registry.end_run(run, "a", ok=True, outcome="by a ghost")
    assert registry.end_run(run, "b", ok=False, outcome="broken at 5")
    assert not registry.begin_run(run, "b")
    (done,) = registry.schedule_runs("check", 9)
    assert (done.owner, done.ok, done.outcome) == ("b", False, "broken at 5")
    assert [entry["ok"] for entry in told(registry, "schedule_run")] == [False]


def test_what_is_due_again_takes_the_place_of_what_was_left_undone(registry: SqlRegistry) -> None:
    """But not of what a person asked for."""
    registry.act(None, RunSchedule(schedule=CHECK), Act(actor="ada", reason="an audit"))
    asked = waiting(registry)
    for n in range(3):
        registry.note_due(CHECK, DUE + n, "a")
    assert [run.due for run in registry.unfinished_runs()] == [asked.due, DUE + 2]
    left = [run.outcome for run in registry.schedule_runs("check", 9) if run.finished]
    assert left == ["left out: it was due again"] * 2


def test_pauses_and_orders_are_told_once_with_who_and_why(registry: SqlRegistry) -> None:
    """Before any scheduler has seen the schedule, too; what is so already has no entry."""
    pause, run, resume = (
        kind(schedule=NIGHTLY) for kind in (PauseSchedule, RunSchedule, ResumeSchedule)
    )

    def changed(order: Order, actor: str, reason: str, request_id: str) -> bool:
        act = Act(actor=actor, reason=reason, request_id=request_id)
        return registry.act(None, order, act).changed

    assert changed(pause, "ada", "repair", "1")
    assert not changed(pause, "bob", "repair", "2")
    (entry,) = registry.schedules()
    assert (entry.definition, entry.paused_by, entry.paused_because) == (NIGHTLY, "ada", "repair")
    assert changed(run, "ada", "a look", "3")
    asked = waiting(registry)
    assert not changed(run, "bob", "a look", "4")
    assert waiting(registry) == asked
    assert changed(resume, "ada", "done", "5")
    assert not changed(resume, "ada", "done", "6")
    kinds = ("schedule_paused", "schedule_ordered", "schedule_resumed")
    assert [told(registry, kind) for kind in kinds] == [
        [{"schedule": "nightly", "reason": "repair", "request_id": "1"}],
        [
            {
                "schedule": "nightly",
                "kind": "retrain",
                "due": asked.due,
                "reason": "a look",
                "request_id": "3",
            }
        ],
        [{"schedule": "nightly", "reason": "done", "request_id": "5"}],
    ]


@pytest.mark.parametrize("kind", [PauseSchedule, RunSchedule, ResumeSchedule])
def test_the_same_request_steers_a_schedule_once(
    registry: SqlRegistry, clock: Clock, kind: type[Order]
) -> None:
    """It gets the same answer, whatever the schedule has become meanwhile; nothing is written."""
    if kind is ResumeSchedule:
        registry.act(None, PauseSchedule(schedule=CHECK), Act(actor="ada", reason="repair"))
    order, act = kind(schedule=CHECK), Act(actor="ada", reason="plan 12", request_id="r-1")
    first = registry.act(None, order, act)
    assert first.changed
    for run in registry.unfinished_runs():
        assert registry.begin_run(run, "a")
        assert registry.end_run(run, "a", ok=True, outcome="done")
    clock.pass_s(1)
    opposite = ResumeSchedule if kind is PauseSchedule else PauseSchedule
    registry.act(None, opposite(schedule=CHECK), Act(actor="bob", reason="other"))
    before = everything(registry.engine)
    assert registry.act(None, order, act) == first
    other = replace(CHECK, every_s=CHECK.every_s + 60)  # the settings were changed meanwhile
    assert registry.act(None, kind(schedule=other), act) == first
    with pytest.raises(RegistryError, match="request id r-1 was used for another act"):
        registry.act(None, opposite(schedule=CHECK), act)
    assert everything(registry.engine) == before


@pytest.mark.parametrize("actor", ["", "scheduler"])
def test_nobody_acts_by_the_clock_s_name(registry: SqlRegistry, actor: str) -> None:
    """What a person asked for must be told from what was due."""
    before = everything(registry.engine)
    for kind in (PauseSchedule, RunSchedule, ResumeSchedule):
        with pytest.raises(PipelineError, match="nobody's name"):
            registry.act(None, kind(schedule=NIGHTLY), Act(actor=actor, reason="x"))
    assert everything(registry.engine) == before


def test_a_due_time_is_added_once_however_many_ask(at_head: Database, clock: Clock) -> None:
    """Two processes of one owner's name, in the same moment."""
    with opened(at_head, clock) as one, opened(at_head, clock) as two:
        assert one.lease(LEASE, "a", LEASE_S)
        for n in range(5):
            found = race(
                lambda n=n: one.note_due(CHECK, DUE + n, "a"),
                lambda n=n: two.note_due(CHECK, DUE + n, "a"),
            )
            assert sorted(found) == [False, True]
