"""By the clock and by rule, from the settings to what the ledger says of it; on both databases."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from sqlalchemy import select

from pipeline.config import Database, Learn, Retrain, Run, Schedule, Score, Settings
from pipeline.register import tables as t
from pipeline.register.checkpoints import State
from pipeline.register.engine import reading
from pipeline.register.schedules import ScheduledRun
from pipeline.register.sql import SqlRegistry
from pipeline.run.anchoring import kept
from pipeline.run.scheduler import Scheduler
from pipeline.run.trainer import Trainer
from pipeline.serve.events import happened
from tests.register.making import SECOND, Clock, change, column, opened
from tests.run.test_trainer import STREAM, ask, segment

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOUR_S = 3600.0


@pytest.fixture
def clock() -> Clock:
    return Clock(int(NOON.timestamp()) * SECOND)


@pytest.fixture
def registry(at_head: Database, clock: Clock) -> Iterator[SqlRegistry]:
    with opened(at_head, clock) as made:
        assert made.open_stream("readings", ("a", "b")).id == STREAM
        yield made


@pytest.fixture
def settings(at_head: Database) -> Settings:
    return Settings(
        database=at_head,
        score=Score(window=8, hidden=8),
        learn=Learn(epochs=8, lr=0.01, reservoir_capacity=100),
        run=Run(lease_s=30.0),
    )


def hourly(kind: str, **options: Any) -> Schedule:
    return Schedule(name="hourly", every_s=HOUR_S, kind=kind, **options)


def due(settings: Settings, registry: SqlRegistry, *schedules: Schedule) -> Scheduler:
    """A scheduler that has looked at noon, when all of them are due, with its chores done."""
    scheduler = Scheduler(replace(settings, schedule=schedules), registry, owner="a")
    look(scheduler)
    return scheduler


def look(scheduler: Scheduler) -> None:
    scheduler.look(datetime.fromtimestamp(scheduler.registry.clock() / SECOND, UTC))
    scheduler._hands.submit(lambda: None).result()


def outcome(registry: SqlRegistry) -> ScheduledRun:
    """The newest run, of which the ledger's last entry of its kind says the same."""
    run = registry.schedule_runs("hourly", 1)[0]
    entry = entries(registry, "schedule_run")[-1]
    told = {name: getattr(run, name) for name in ("schedule", "kind", "due", "ok", "outcome")}
    assert entry == told | {"reason": ""}
    return run


def entries(registry: SqlRegistry, kind: str) -> list[dict[str, Any]]:
    query = "SELECT entry FROM ledger WHERE kind = :kind AND actor = 'scheduler' ORDER BY id"
    return [json.loads(entry) for entry in column(registry.engine, query, kind=kind)]


# Chores ------------------------------------------------------------------------------------------


def test_a_sound_history_is_said_to_be(settings: Settings, registry: SqlRegistry) -> None:
    """All entries up to the one that says so were looked at."""
    due(settings, registry, hourly("verify"))
    run = outcome(registry)
    (before,) = column(registry.engine, "SELECT id - 1 FROM ledger WHERE kind = 'schedule_run'")
    assert run.ok
    assert run.outcome == f"{before} entries and the tables are as they were written"
    assert entries(registry, "verify_failed") == []


def test_damage_that_is_found_by_the_clock_is_told(
    settings: Settings, registry: SqlRegistry, clock: Clock
) -> None:
    """In the run, and as an event of its own: once, however often it is found."""
    change(registry.engine, "UPDATE streams SET name = 'else'")
    scheduler = due(settings, registry, hourly("verify"))
    clock.pass_s(HOUR_S)
    look(scheduler)
    run = outcome(registry)
    assert not run.ok
    assert str(run.outcome).startswith("changed behind the ledger's back: streams")
    assert len(registry.schedule_runs("hourly", 9)) == 2
    (found,) = entries(registry, "verify_failed")
    assert found["count"] == 1
    with reading(registry.engine) as conn:
        (event,) = happened(conn, ("verify_failed",), after=0, until=99)
    assert (event.severity, event.facts["findings"]) == ("error", found["findings"])


def test_the_head_is_kept_elsewhere(
    settings: Settings, registry: SqlRegistry, tmp_path: Path
) -> None:
    """The file's anchor is the head as it was, which the ledger says next."""
    file = str(tmp_path / "anchors.jsonl")
    due(settings, registry, hourly("anchor", to=file))
    run = outcome(registry)
    ((_, anchor),) = kept(settings, [file])
    query = "SELECT hash FROM ledger WHERE id = :n"
    assert column(registry.engine, query, n=anchor.entries) == [anchor.hash]
    (noted,) = entries(registry, "anchored")
    assert (noted["entries"], noted["hash"], noted["to"]) == (anchor.entries, anchor.hash, file)
    assert (run.ok, run.outcome) == (True, f"entry {anchor.entries} noted in {file}")


def test_an_anchor_that_cannot_be_kept_is_a_run_that_failed(
    settings: Settings, registry: SqlRegistry, tmp_path: Path
) -> None:
    """Its sentence says why."""
    due(settings, registry, hourly("anchor", to=str(tmp_path / "none" / "anchors")))
    run = outcome(registry)
    assert not run.ok
    assert str(run.outcome).endswith("No such file or directory")
    assert entries(registry, "anchored") == []


def test_what_nobody_needs_goes(settings: Settings, registry: SqlRegistry, clock: Clock) -> None:
    """Bytes of five years before, by the settings; those of noon stay."""
    noon, clock.now = clock.now, clock.now - 5 * 366 * 86_400 * SECOND
    old = registry.put("segment", b"old")
    clock.now = noon
    due(settings, registry, hourly("prune"))
    run = outcome(registry)
    (pruned,) = entries(registry, "pruned")
    assert (pruned["hashes"], pruned["bytes"]) == ([old], 3)
    assert pruned["reason"] == "schedule hourly"
    assert column(registry.engine, "SELECT sha256 FROM artifacts WHERE pruned > 0") == [old]
    assert run.ok
    assert str(run.outcome).startswith("pruned: 1 segment, 3 bytes that nobody used since ")


def test_the_champion_is_measured(settings: Settings, registry: SqlRegistry) -> None:
    """The scheduler asks, a trainer measures; no version is made."""
    worker = Trainer(settings, registry, owner="t")
    ask(registry, 0, segment(0.0, 0), "bootstrap")
    assert worker.work_once()
    due(settings, registry, hourly("evaluate"))
    run = outcome(registry)
    assert (run.ok, run.outcome) == (True, f"request {run.request}")
    assert worker.work_once()
    with registry.engine.connect() as conn:
        (measured,) = conn.execute(select(t.measurements)).all()
    query = "SELECT entry FROM ledger WHERE kind = 'measured'"
    (told,) = map(json.loads, column(registry.engine, query))
    assert (measured.request_id, measured.version_id) == (run.request, 1)
    assert told == {
        "request": run.request,
        "version": 1,
        "skills": {str(measured.task_id): measured.skill},
    }
    assert column(registry.engine, "SELECT number FROM versions") == [1]


# Rules -------------------------------------------------------------------------------------------

DAY_S = 24 * HOUR_S
#: Rules -> why the second training of the day at noon waits, and for how many seconds.
HOLD = {
    "quiet hours": (
        Retrain(quiet_hours="11:30-13:00"),
        "quiet hours, 11:30-13:00 in UTC",
        HOUR_S,
    ),
    "at most every": (
        Retrain(at_most_every_s=1800.0),
        "one version in 1800 s: not before 2026-03-01T12:30:00Z",
        HOUR_S / 2,
    ),
    "budget a day": (
        Retrain(budget_per_day=1),
        "the 1 a day are used up on 2026-03-01 in UTC",
        DAY_S / 2,
    ),
}


@pytest.mark.parametrize(("rules", "why", "seconds"), HOLD.values(), ids=HOLD)
def test_a_trainer_waits_until_the_rules_let_it(
    settings: Settings,
    registry: SqlRegistry,
    clock: Clock,
    rules: Retrain,
    why: str,
    seconds: float,
) -> None:
    """Not before, to the microsecond; the ledger says why it waited. The first of all waits for
    nothing."""
    worker = Trainer(replace(settings, retrain=rules), registry, owner="t")
    ask(registry, 0, segment(0.0, 0), "bootstrap")
    assert worker.work_once()
    number = ask(registry, 1, segment(9.0, 1))
    assert not worker.work_once()
    clock.pass_s(seconds - 1e-6)
    assert not worker.work_once()
    assert registry.held(STREAM) == [(number, "boundary", why)]
    query = "SELECT entry FROM ledger WHERE kind = 'requests_held'"
    told = {"requests": [number], "reason": why}
    assert list(map(json.loads, column(registry.engine, query))) == [told]
    clock.now += 1
    assert worker.work_once()
    query = "SELECT status FROM requests ORDER BY id"
    assert column(registry.engine, query) == ["done", "done"]


def test_enough_readings_ask_for_a_training_that_takes_along_what_waited(
    settings: Settings, registry: SqlRegistry
) -> None:
    """The boundary waits for 1,000 readings: 999 ask for nothing, one more does, once."""
    rules = Retrain(on_boundary=False, after_readings=1000)
    patient = replace(settings, retrain=rules)
    worker = Trainer(patient, registry, owner="t")
    scheduler = Scheduler(patient, registry, owner="a")
    ask(registry, 0, segment(0.0, 0), "bootstrap")
    assert worker.work_once()
    ask(registry, 1, segment(9.0, 1))
    for readings in (999, 1, 0):
        kept = registry.acquire(STREAM, 0, "s")
        at = (kept.next_offset or 0) + 1
        registry.save(
            STREAM, 0, kept.epoch, next_offset=at, state=State(head=b"{}"), readings=readings
        )
        look(scheduler)
        assert worker.work_once() is (readings == 1)
    scheduler.close()
    assert column(registry.engine, "SELECT reason FROM requests ORDER BY id") == [
        "bootstrap",
        "boundary",
        "readings",
    ]
    assert column(registry.engine, "SELECT status FROM requests") == ["done"] * 3
