from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from pipeline.config import Database, Run, Schedule, Settings
from pipeline.errors import SettingsError
from pipeline.register.orders import Act, Pause, Resume
from pipeline.register.sql import SqlRegistry
from pipeline.run.scheduler import LEASE, Scheduler, cron, last_due
from tests.register.making import opened


def trigger(line: str, timezone: str = "UTC"):
    return cron(Settings(schedule=Schedule(retrain_cron=line, timezone=timezone)))


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
    found = last_due(trigger(line), datetime.fromisoformat(now).replace(tzinfo=UTC))
    assert found == datetime.fromisoformat(due).replace(tzinfo=UTC)


def test_a_due_time_follows_the_time_zone_across_a_clock_change() -> None:
    """03:00 in Berlin is 02:00 UTC on the last winter day and 01:00 UTC on the first summer day."""
    berlin = trigger("0 3 * * *", "Europe/Berlin")
    winter = last_due(berlin, datetime(2026, 3, 28, 12, tzinfo=UTC))
    summer = last_due(berlin, datetime(2026, 3, 29, 12, tzinfo=UTC))
    assert winter == datetime(2026, 3, 28, 2, tzinfo=UTC)
    assert summer == datetime(2026, 3, 29, 1, tzinfo=UTC)


def test_no_line_means_no_trigger() -> None:
    """Retraining by the clock is off by default."""
    assert cron(Settings()) is None


@pytest.mark.parametrize(
    "schedule",
    [
        Schedule(retrain_cron="61 * * * *"),
        Schedule(retrain_cron="x"),
        Schedule(retrain_cron="0 0 * * *", timezone="Mars/Base"),
    ],
)
def test_a_line_that_cannot_be_read_names_the_key(schedule: Schedule) -> None:
    """The start stops with the key at fault."""
    with pytest.raises(SettingsError, match=r"schedule\.retrain_cron"):
        cron(Settings(schedule=schedule))


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


SETTINGS = Settings(schedule=Schedule(retrain_cron="30 2 * * *"), run=Run(lease_s=0.3))


def scheduler(registry: SqlRegistry, owner: str = "a") -> Scheduler:
    registry.open_stream(SETTINGS.stream.topic, ["x"])
    return Scheduler(SETTINGS, registry, owner=owner)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def test_a_time_that_was_missed_is_requested_once(registry: SqlRegistry) -> None:
    """Nobody was there for three nights: one request, of the last of them."""
    made = scheduler(registry)
    assert made.request_due(at("2026-03-04T09:00:00")) is not None
    assert made.request_due(at("2026-03-04T09:00:10")) is None
    assert made.request_due(at("2026-03-05T02:30:00")) is not None


def test_while_a_stream_is_paused_nothing_is_requested(registry: SqlRegistry) -> None:
    """Of the times that were missed, the latest is made up for once it goes on."""
    made = scheduler(registry)
    stream = registry.streams()[0].id
    registry.act(stream, Pause(), Act(actor="ada", reason="stocktaking"))
    for day in (2, 3, 4):
        assert made.request_due(at(f"2026-03-0{day}T02:30:00")) is None
    registry.act(stream, Resume(), Act(actor="ada", reason="done"))
    assert made.request_due(at("2026-03-04T09:00:00")) is not None
    assert made.request_due(at("2026-03-04T09:00:10")) is None


def test_a_time_before_the_stream_began_is_not_requested(registry: SqlRegistry) -> None:
    """The stream is of noon: half past two of that day is nobody's."""
    made = scheduler(registry)
    assert made.request_due(at("2026-03-01T12:00:01")) is None
    assert made.request_due(at("2026-03-02T02:30:00")) is not None


def test_a_scheduler_makes_up_for_another_that_died_with_the_lease(registry: SqlRegistry) -> None:
    """Its lease has to end first; what was due meanwhile is not lost."""
    registry.lease(LEASE, "dead", 0.3)
    made, stop = scheduler(registry, "alive"), threading.Event()
    due = []

    def request_due() -> None:
        due.append(Scheduler.request_due(made, at("2026-03-02T03:00:00")))
        if len(due) == 2:
            stop.set()
        registry.clock.at = at("2026-03-02T03:00:00")  # type: ignore[attr-defined]

    made.request_due = request_due  # type: ignore[method-assign, assignment]
    made.run(stop)
    assert due[0] is None
    assert due[1] is not None
