from __future__ import annotations

from datetime import UTC, datetime

import pytest

from pipeline.config import Schedule, Settings
from pipeline.errors import SettingsError
from pipeline.run.scheduler import cron, last_due


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
