"""Schedules in, runs and requests out: what is due, who asks, what is left undone."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from msgspec.structs import replace

from pipeline.config import Database, Retrain, Run, Schedule, Settings
from pipeline.errors import PipelineError, SettingsError
from pipeline.register.due import Timing
from pipeline.register.orders import (
    Act,
    Pause,
    PauseSchedule,
    Resume,
    ResumeSchedule,
    RunSchedule,
)
from pipeline.register.sql import SqlRegistry
from pipeline.run.chores import CHORES
from pipeline.run.scheduler import Scheduler
from tests.register.making import change, column, opened


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("line", "now", "due"),
    [
        ("* * * * *", "2026-03-01T12:00:30", "2026-03-01T12:00:00"),
        ("*/15 * * * *", "2026-03-01T12:14:59", "2026-03-01T12:00:00"),
        ("30 2 * * *", "2026-03-01T02:30:00", "2026-03-01T02:30:00"),
        ("30 2 * * *", "2026-03-01T02:29:59", "2026-02-28T02:30:00"),
        ("0 0 1 1 *", "2026-11-21T00:00:00", "2026-01-01T00:00:00"),
        ("0 0 29 2 *", "2026-11-21T00:00:00", "2024-02-29T00:00:00"),
    ],
)
def test_the_last_due_time_is_the_latest_one_not_after_now(line: str, now: str, due: str) -> None:
    """Read off the crontab line by hand; the borders belong to the due time."""
    found = Timing(Schedule(name="a", cron=line)).last(at(now))
    assert found == at(due)


def test_a_due_time_follows_the_time_zone_across_a_clock_change() -> None:
    """03:00 in Berlin is 02:00 UTC on the last winter day and 01:00 UTC on the first summer day."""
    berlin = Timing(Schedule(name="a", cron="0 3 * * *", timezone="Europe/Berlin"))
    winter = berlin.last(datetime(2026, 3, 28, 12, tzinfo=UTC))
    summer = berlin.last(datetime(2026, 3, 29, 12, tzinfo=UTC))
    assert winter == datetime(2026, 3, 28, 2, tzinfo=UTC)
    assert summer == datetime(2026, 3, 29, 1, tzinfo=UTC)


@pytest.mark.parametrize("line", ["61 * * * *", "x", "* * * *", "* * * * * *"])
def test_a_line_that_cannot_be_read_names_its_schedule(line: str) -> None:
    """The start stops with what is at fault."""
    settings = Settings(schedule=(Schedule(name="nightly", cron=line),))
    with pytest.raises(SettingsError, match="schedule nightly: cron: "):
        Scheduler(settings, None, owner="a")  # type: ignore[arg-type]


class Now:
    """A clock that stands at one time, in microseconds."""

    def __init__(self, at: str) -> None:
        self.at = datetime.fromisoformat(at).replace(tzinfo=UTC)

    def __call__(self) -> int:
        return int(self.at.timestamp() * 1e6)


@pytest.fixture
def registry(sqlite_at_head: Database) -> Iterator[SqlRegistry]:
    with opened(sqlite_at_head, Now("2026-03-01T12:00:00")) as made:  # type: ignore[arg-type]
        yield made


NIGHTLY = Schedule(name="nightly", cron="30 2 * * *")


def settings(*schedules: Schedule, **rules: float) -> Settings:
    return Settings(schedule=schedules, run=Run(lease_s=0.3), retrain=Retrain(**rules))


def made(
    registry: SqlRegistry, *schedules: Schedule, owner: str = "a", **options: object
) -> Scheduler:
    """A scheduler that has looked once, at noon of the stream's first day."""
    registry.open_stream(Settings().stream.topic, ["x"])
    scheduler = Scheduler(settings(*schedules), registry, owner=owner, **options)  # type: ignore[arg-type]
    look(scheduler, "2026-03-01T12:00:00")
    return scheduler


def look(scheduler: Scheduler, now: str) -> None:
    """One turn of its loop at a time of day, and its chores to their end."""
    scheduler.registry.clock.at = at(now)  # type: ignore[attr-defined]
    scheduler.look(at(now))
    scheduler._hands.submit(lambda: None).result()


def told(registry: SqlRegistry, name: str = "nightly") -> list[tuple[str, str | None]]:
    """(day and time that a run was due, what came of it), the oldest first."""
    runs = reversed(registry.schedule_runs(name, 100))
    return [(f"{datetime.fromtimestamp(r.due / 1e6, UTC):%d %H:%M}", r.outcome) for r in runs]


def test_a_time_that_was_missed_is_requested_once(registry: SqlRegistry) -> None:
    """Nobody was there for three nights: one request, of the last of them."""
    scheduler = made(registry, NIGHTLY)
    for now in ("2026-03-04T09:00:00", "2026-03-04T09:00:10", "2026-03-05T02:30:00"):
        look(scheduler, now)
    assert told(registry) == [("04 02:30", "request 1"), ("05 02:30", "request 2")]


def test_while_a_stream_is_paused_nothing_is_requested(registry: SqlRegistry) -> None:
    """Of the times that were missed, the latest is made up for once it goes on."""
    scheduler = made(registry, NIGHTLY)
    stream = registry.streams()[0].id
    registry.act(stream, Pause(), Act(actor="ada", reason="stocktaking"))
    for day in (2, 3, 4):
        look(scheduler, f"2026-03-0{day}T02:30:00")
    assert told(registry) == []
    registry.act(stream, Resume(), Act(actor="ada", reason="done"))
    for second in (0, 1):
        look(scheduler, f"2026-03-04T09:00:0{second}")
    assert told(registry) == [("04 02:30", "request 1")]


def test_a_time_before_a_schedule_was_known_is_nobody_s(registry: SqlRegistry) -> None:
    """It was written at noon: half past two of that day is not made up for."""
    scheduler = made(registry, NIGHTLY)
    assert told(registry) == []
    look(scheduler, "2026-03-02T02:30:00")
    assert told(registry) == [("02 02:30", "request 1")]


def test_a_time_before_the_stream_began_is_nobody_s(registry: SqlRegistry) -> None:
    """The schedule is of noon, the stream of three days later."""
    other = Schedule(name="other", cron="30 2 * * *", stream="later")
    scheduler = made(registry, other)
    look(scheduler, "2026-03-03T12:00:00")
    registry.open_stream("later", ["x"])
    look(scheduler, "2026-03-03T12:00:01")
    assert told(registry, "other") == []
    look(scheduler, "2026-03-04T02:30:00")
    assert told(registry, "other") == [("04 02:30", "request 1")]


def test_a_scheduler_makes_up_for_another_that_died_with_the_lease(registry: SqlRegistry) -> None:
    """Its lease has to end first; what was due meanwhile is not lost."""
    dead, alive = made(registry, NIGHTLY), made(registry, NIGHTLY, owner="alive")
    look(dead, "2026-03-02T02:29:59.9")
    look(alive, "2026-03-02T02:30:00")
    assert told(registry) == []
    look(alive, "2026-03-02T02:30:00.3")
    assert told(registry) == [("02 02:30", "request 1")]


def test_the_loop_looks_until_it_is_stopped(registry: SqlRegistry) -> None:
    """One run at noon, and then by the machine's clock, in the second that it is."""
    every = Schedule(name="nightly", every_s=1.0)
    scheduler, stop = made(registry, every), threading.Event()
    registry.clock = lambda: int(datetime.now(UTC).timestamp() * 1e6)
    request_run = registry.request_run

    def requested(*run: object) -> int | None:
        stop.set()
        return request_run(*run)  # type: ignore[arg-type]

    registry.request_run = requested  # type: ignore[method-assign]
    scheduler.run(stop)
    assert [outcome for _, outcome in told(registry)] == ["request 1", "request 2"]


def test_what_a_person_asks_for_is_done_at_once_and_by_his_name(registry: SqlRegistry) -> None:
    """Also while the schedule is paused; asked twice before it is done, it is done once."""
    scheduler = made(registry, NIGHTLY)
    registry.act(None, PauseSchedule(schedule=NIGHTLY), Act(actor="ada", reason="repair"))
    look(scheduler, "2026-03-02T08:00:00")
    for _ in range(2):
        registry.act(None, RunSchedule(schedule=NIGHTLY), Act(actor="bob", reason="it is done"))
    look(scheduler, "2026-03-02T08:00:01")
    (run,) = registry.schedule_runs("nightly", 9)
    assert (run.actor, run.reason, run.outcome) == ("bob", "it is done", "request 1")
    claim = registry.claim("t", 60.0)
    assert claim is not None
    assert (claim.request.reason, claim.request.actor) == ("manual", "bob")


def test_what_was_due_in_a_pause_is_not_made_up_for(registry: SqlRegistry) -> None:
    """Two nights pass; resumed on the third morning, it goes on with the fourth night."""
    scheduler = made(registry, NIGHTLY)
    registry.act(None, PauseSchedule(schedule=NIGHTLY), Act(actor="ada", reason="repair"))
    for day in (2, 3):
        look(scheduler, f"2026-03-0{day}T02:31:00")
    registry.act(None, ResumeSchedule(schedule=NIGHTLY), Act(actor="ada", reason="done"))
    look(scheduler, "2026-03-03T02:31:01")
    assert told(registry) == []
    look(scheduler, "2026-03-04T02:31:00")
    assert told(registry) == [("04 02:30", "request 1")]


def test_schedules_change_without_a_restart(registry: SqlRegistry) -> None:
    """Another hour counts from when it is seen; what is gone is due no more; what cannot be read
    changes nothing."""
    waiting: list[object] = []

    def changed() -> object:
        found = waiting.pop() if waiting else None
        if isinstance(found, Exception):
            raise found
        return found

    scheduler = made(registry, NIGHTLY, changed=changed)
    waiting.append([Schedule(name="nightly", cron="0 11 * * *")])
    look(scheduler, "2026-03-01T12:30:00")
    look(scheduler, "2026-03-02T02:31:00")
    waiting.append(SettingsError("no TOML"))
    look(scheduler, "2026-03-02T11:00:00")
    waiting.append([])
    look(scheduler, "2026-03-03T11:00:00")
    assert told(registry) == [("02 11:00", "request 1")]
    (entry,) = registry.schedules()
    assert entry.gone is not None
    waiting.append([NIGHTLY])
    look(scheduler, "2026-03-05T12:00:00")
    look(scheduler, "2026-03-06T12:00:00")
    assert told(registry)[1:] == [("06 02:30", "request 2")]


# Chores ------------------------------------------------------------------------------------------

VERIFY = Schedule(name="check", every_s=3600.0, kind="verify")


@pytest.mark.parametrize(
    ("chore", "ok", "outcome"),
    [
        (lambda *_: (True, "fine"), True, "fine"),
        (lambda *_: (False, "broken at 5"), False, "broken at 5"),
        (lambda *_: [][0], False, "IndexError: list index out of range"),
    ],
)
def test_how_a_chore_went_is_kept(registry: SqlRegistry, chore, ok: bool, outcome: str) -> None:
    """Whatever it does, the next is done too."""
    scheduler = made(registry, VERIFY, chores={"verify": chore})
    look(scheduler, "2026-03-01T13:00:00")
    look(scheduler, "2026-03-01T14:00:00")
    runs = registry.schedule_runs("check", 9)
    assert [(run.ok, run.outcome) for run in runs] == [(ok, outcome)] * 3


def test_a_history_that_is_not_as_it_was_is_in_the_ledger(registry: SqlRegistry) -> None:
    """So receivers are told, as they are when a person has it verified; the same finding once."""
    verified = replace(settings(VERIFY), database=registry.database)
    assert CHORES["verify"](verified, VERIFY)[0]
    registry.open_stream("readings", ["x"])
    change(registry.engine, "UPDATE streams SET name = 'else'")
    for _ in range(2):
        assert not CHORES["verify"](verified, VERIFY)[0]
    kinds = column(registry.engine, "SELECT kind FROM ledger")
    assert kinds.count("verify_failed") == 1


def test_a_failure_that_was_foreseen_is_its_sentence(registry: SqlRegistry) -> None:
    """A topic for anchors that is not there, say."""

    def fails(*_: object) -> tuple[bool, str]:
        raise PipelineError("no topic anchors")

    made(registry, VERIFY, chores={"verify": fails})
    (run,) = registry.schedule_runs("check", 9)
    assert (run.ok, run.outcome) == (False, "no topic anchors")


def test_a_kind_that_nobody_can_do_says_so(registry: SqlRegistry) -> None:
    """Instead of being asked for for ever."""
    made(registry, VERIFY, chores={})
    (run,) = registry.schedule_runs("check", 9)
    assert (run.ok, run.outcome) == (False, "this installation cannot verify")


def test_a_chore_that_was_left_in_its_midst_is_done_by_the_next(registry: SqlRegistry) -> None:
    """The first is killed with the run begun; what it still says, as a ghost, is not heard."""
    begun: list[Schedule] = []

    def killed(_: object, schedule: Schedule) -> tuple[bool, str]:
        begun.append(schedule)
        look(second, "2026-03-01T12:00:01")
        return True, "by a ghost"

    done = {"verify": lambda *_: (True, "done")}
    second = Scheduler(settings(VERIFY), registry, owner="b", chores=done)
    made(registry, VERIFY, owner="a", chores={"verify": killed})
    assert len(begun) == 1
    (run,) = registry.schedule_runs("check", 9)
    assert (run.owner, run.outcome) == ("b", "done")


def test_what_waits_for_its_turn_is_not_asked_for_twice(registry: SqlRegistry) -> None:
    """A chore takes three hours: of the two due times meanwhile, the last is made up for."""
    hold, free = threading.Event(), threading.Event()

    def slow(*_: object) -> tuple[bool, str]:
        hold.set()
        free.wait(30)
        return True, "done"

    registry.open_stream(Settings().stream.topic, ["x"])
    scheduler = Scheduler(settings(VERIFY), registry, owner="a", chores={"verify": slow})
    for hour in (12, 13, 14):
        registry.clock.at = at(f"2026-03-01T{hour}:00:00")  # type: ignore[attr-defined]
        scheduler.look(at(f"2026-03-01T{hour}:00:00"))
        assert hold.wait(30)
    free.set()
    scheduler._hands.submit(lambda: None).result()
    look(scheduler, "2026-03-01T14:30:00")
    assert told(registry, "check") == [("01 12:00", "done"), ("01 14:00", "done")]
