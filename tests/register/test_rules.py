"""When a training may begin: a table of cases, each read off clock and calendar by hand."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from pipeline.config import Retrain
from pipeline.register.rules import State, day_of, judge

NIGHT = Retrain(quiet_hours="22:00-06:00", timezone="Europe/Berlin")
NOON = Retrain(quiet_hours="12:00-13:00")
SLEEPY = Retrain(quiet_hours="02:15-02:45", timezone="Europe/Berlin")


def state(**changes: Any) -> State:
    """A stream with a champion, and a boundary to learn."""
    usual = {
        "has_champion": True,
        "reasons": {"boundary"},
        "last_version": None,
        "versions_today": 0,
    }
    return State(**(usual | changes))


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("rules", "now", "quiet"),
    [
        (NOON, "2026-03-01T11:59:59.999999", False),
        (NOON, "2026-03-01T12:00:00", True),
        (NOON, "2026-03-01T12:59:59.999999", True),
        (NOON, "2026-03-01T13:00:00", False),
        # over midnight; Berlin is an hour ahead of UTC in winter, two in summer
        (NIGHT, "2026-01-10T20:59:59", False),
        (NIGHT, "2026-01-10T21:00:00", True),
        (NIGHT, "2026-01-10T23:00:00", True),
        (NIGHT, "2026-01-11T04:59:59", True),
        (NIGHT, "2026-01-11T05:00:00", False),
        (NIGHT, "2026-07-10T19:59:59", False),
        (NIGHT, "2026-07-10T20:00:00", True),
        (NIGHT, "2026-07-11T03:59:59", True),
        (NIGHT, "2026-07-11T04:00:00", False),
        # 29 March: 02:00 to 03:00 is left out, so 02:15-02:45 is never
        (SLEEPY, "2026-03-29T00:59:59", False),
        (SLEEPY, "2026-03-29T01:00:00", False),
        # 25 October: 02:00 to 03:00 comes twice, so 02:15-02:45 is quiet twice
        (SLEEPY, "2026-10-25T00:15:00", True),
        (SLEEPY, "2026-10-25T00:45:00", False),
        (SLEEPY, "2026-10-25T01:14:59", False),
        (SLEEPY, "2026-10-25T01:15:00", True),
        (SLEEPY, "2026-10-25T01:45:00", False),
        # the night of the change is an hour shorter, and one longer
        (NIGHT, "2026-03-29T03:59:59", True),
        (NIGHT, "2026-03-29T04:00:00", False),
        (NIGHT, "2026-10-25T04:59:59", True),
        (NIGHT, "2026-10-25T05:00:00", False),
    ],
)
def test_quiet_hours_go_by_the_clock_on_the_wall(rules: Retrain, now: str, quiet: bool) -> None:
    """Half-open, in the zone, in the nights too in which clocks are changed."""
    said = judge(rules, state(), utc(now))
    assert said == (f"quiet hours, {rules.quiet_hours} in {rules.timezone}" if quiet else None)


@pytest.mark.parametrize(("made", "held"), [(0, False), (2, False), (3, True), (4, True)])
def test_a_budget_is_used_up_with_its_last_version(made: int, held: bool) -> None:
    """Three a day: the fourth waits for the next."""
    said = judge(Retrain(budget_per_day=3), state(versions_today=made), utc("2026-03-01T12:00:00"))
    assert said == ("the 3 a day are used up on 2026-03-01 in UTC" if held else None)


@pytest.mark.parametrize(
    ("ago", "held"), [(0.0, True), (3599.999, True), (3600.0, False), (-1.0, False)]
)
def test_a_pause_after_a_version_ends_to_the_second(ago: float, held: bool) -> None:
    """An hour; a version from the future, as the clock was set back, holds nothing up."""
    now = utc("2026-03-01T12:00:00")
    last = now - timedelta(seconds=ago)
    said = judge(Retrain(at_most_every_s=3600.0), state(last_version=last), now)
    until = f"{last + timedelta(hours=1):%FT%TZ}"
    assert said == (f"one version in 3600 s: not before {until}" if held else None)


@pytest.mark.parametrize(
    ("reasons", "held"),
    [
        ({"boundary"}, True),
        ({"bootstrap", "refine"}, True),
        ({"boundary", "schedule"}, False),
        ({"boundary", "readings"}, False),
        ({"metric"}, False),
    ],
)
def test_boundaries_may_wait_for_another_reason(reasons: set[str], held: bool) -> None:
    """A schedule, a rule or a person; what waited goes with it."""
    said = judge(Retrain(on_boundary=False), state(reasons=reasons), utc("2026-03-01T12:00:00"))
    assert said == ("boundaries wait for a schedule, a rule or a person" if held else None)


def test_all_that_holds_back_is_told() -> None:
    """Who lifts one rule must know of the others."""
    rules = Retrain(on_boundary=False, budget_per_day=1, quiet_hours="00:00-23:59")
    said = judge(rules, state(versions_today=1), utc("2026-03-01T12:00:00"))
    assert said is not None
    assert said.count("; ") == 2


def test_without_a_champion_nothing_is_held_back() -> None:
    """Nothing is scored until there is a first version: that is no time to be quiet."""
    rules = Retrain(on_boundary=False, budget_per_day=1, quiet_hours="00:00-23:59")
    first = state(has_champion=False, versions_today=5)
    assert judge(rules, first, utc("2026-03-01T12:00:00")) is None


@pytest.mark.parametrize(
    ("now", "zone", "began"),
    [
        ("2026-03-01T00:00:00", "UTC", "2026-03-01T00:00:00"),
        ("2026-03-01T23:59:59", "UTC", "2026-03-01T00:00:00"),
        ("2026-02-28T23:00:00", "Europe/Berlin", "2026-02-28T23:00:00"),
        ("2026-02-28T22:59:59", "Europe/Berlin", "2026-02-27T23:00:00"),
        ("2026-03-29T12:00:00", "Europe/Berlin", "2026-03-28T23:00:00"),  # 23 hours long
        ("2026-10-25T22:59:59", "Europe/Berlin", "2026-10-24T22:00:00"),  # 25 hours long
        ("2026-03-08T12:00:00", "America/Havana", "2026-03-08T05:00:00"),  # begins at 01:00
        ("2026-11-01T05:30:00", "America/Havana", "2026-11-01T04:00:00"),  # has 00:00 twice
    ],
)
def test_a_day_begins_with_the_first_moment_of_its_date(now: str, zone: str, began: str) -> None:
    """Of the zone; a moment before it is of another date."""
    found = day_of(utc(now), zone)
    assert found == utc(began)
    date = utc(now).astimezone(ZoneInfo(zone)).date()
    assert found.astimezone(ZoneInfo(zone)).date() == date
    assert (found - timedelta(seconds=1)).astimezone(ZoneInfo(zone)).date() < date
