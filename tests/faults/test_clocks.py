"""Clocks that jump, and processes that die, between two looks at the time: who acts, and how often.

Nothing here sleeps: a `Day` is the clock of every scheduler and registry on a database, and a test
moves it.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import select

from pipeline.config import Database, Run, Schedule, Settings
from pipeline.register import tables as t
from pipeline.register.due import Timing
from pipeline.register.requests import PAUSE_S
from pipeline.register.schedules import LEASE
from pipeline.register.sql import SqlRegistry
from pipeline.run.scheduler import Scheduler
from tests.register.making import by_hand, claimed, hasty

LEASE_S = 30.0
BERLIN = ZoneInfo("Europe/Berlin")


class Day:
    """The time of day that everybody on a database reads."""

    def __init__(self, at: str) -> None:
        self.now = datetime.fromisoformat(at).replace(tzinfo=UTC)

    def __call__(self) -> int:
        return int(self.now.timestamp() * 1_000_000)

    def passes(self, **span: float) -> None:
        """Some time, or less than none where somebody sets the clock back."""
        self.now += timedelta(**span)


@pytest.fixture
def day() -> Day:
    """Noon, a minute after the stream began."""
    return Day("2026-03-01T11:59:00")


class Plant:
    """Schedulers on one database, each with a registry of its own, as processes have."""

    def __init__(self, database: Database, day: Day, stack: ExitStack) -> None:
        self.database, self.day, self.stack = database, day, stack
        self.registry = self._open()
        self.stream = self.registry.open_stream("readings", ["x"])
        day.passes(minutes=1)

    def _open(self) -> SqlRegistry:
        made = hasty(SqlRegistry(self.database, clock=self.day))
        self.stack.callback(made.close)
        return made

    def scheduler(self, owner: str, line: str) -> Scheduler:
        """One of a process of its own, whose loop a test turns by `look`."""
        settings = Settings(
            schedule=(Schedule(name="nightly", cron=line),), run=Run(lease_s=LEASE_S)
        )
        return Scheduler(settings, self._open(), owner=owner)

    def look(self, *schedulers: Scheduler) -> None:
        """One turn of each loop, now."""
        for each in schedulers:
            each.look(self.day.now)

    def due(self) -> list[str]:
        """The due times of all requests, in the order in which they came."""
        with self.registry.engine.connect() as conn:
            found = conn.execute(select(t.requests.c.due).order_by(t.requests.c.id)).scalars()
            return [f"{datetime.fromtimestamp(us / 1e6, UTC):%d %H:%M}" for us in found]


@pytest.fixture
def plant(at_head: Database, day: Day) -> Iterator[Plant]:
    with ExitStack() as stack:
        yield Plant(at_head, day, stack)


# Two schedulers ----------------------------------------------------------------------------------


def test_each_due_time_is_requested_once_by_whoever_holds_the_lease(plant: Plant) -> None:
    """Two loops, ten seconds a turn, ten minutes, the lease changing hands now and then."""
    both = [plant.scheduler(owner, "*/2 * * * *") for owner in ("a", "b")]
    for turn in range(61):
        plant.look(*both[:: 1 if turn % 7 else -1])
        plant.day.passes(seconds=60 if turn % 20 == 19 else 9)
    assert plant.due() == [f"01 12:{minute:02}" for minute in range(0, 12, 2)]


def test_a_scheduler_that_is_killed_is_replaced_within_its_lease(plant: Plant) -> None:
    """The first dies a second before a due time; the other has it by the lease's end."""
    first, second = (plant.scheduler(owner, "30 12 * * *") for owner in ("a", "b"))
    plant.day.passes(minutes=29, seconds=59)
    plant.look(first, second)
    waited = 0
    while not plant.due():
        plant.day.passes(seconds=1)
        waited += 1
        plant.look(second)
    assert plant.due() == ["01 12:30"]
    assert waited <= LEASE_S + 1


def test_one_that_lost_its_lease_between_asking_and_requesting_adds_nothing(plant: Plant) -> None:
    """It was stopped in between for a minute: the other has requested; the table refuses twice."""
    slow, quick = (plant.scheduler(owner, "30 12 * * *") for owner in ("a", "b"))
    plant.look(slow)
    note_due = slow.registry.note_due

    def stopped(*run):
        plant.day.passes(minutes=1)
        plant.look(quick)
        assert plant.due() == ["01 12:30"]
        return note_due(*run)

    slow.registry.note_due = stopped
    plant.day.passes(minutes=31)
    plant.look(slow)
    assert plant.due() == ["01 12:30"]


# Time jumps --------------------------------------------------------------------------------------


def test_a_laptop_that_slept_for_a_day_makes_up_for_one_run(plant: Plant) -> None:
    """24 quarters of an hour went by: the last of them is requested, and then it goes on."""
    made = plant.scheduler("a", "*/15 * * * *")
    plant.look(made)
    plant.day.passes(days=1, minutes=7)
    for _ in range(10):
        plant.look(made)
        plant.day.passes(minutes=1)
    assert plant.due() == ["01 12:00", "02 12:00", "02 12:15"]


def test_a_clock_that_is_set_back_repeats_no_run(plant: Plant) -> None:
    """Three hours back after the run at 15:00: nothing is due that was not, until it is 16:00."""
    made = plant.scheduler("a", "0 * * * *")

    def goes_on(minutes: int) -> list[str]:
        for _ in range(0, minutes, 10):
            plant.look(made)
            plant.day.passes(minutes=10)
        return plant.due()

    before = goes_on(210)
    assert before == ["01 12:00", "01 13:00", "01 14:00", "01 15:00"]
    plant.day.passes(hours=-3)
    assert goes_on(210) == before
    assert goes_on(10) == [*before, "01 16:00"]


def test_a_clock_that_was_years_ahead_ends_no_schedule(plant: Plant) -> None:
    """One run in the wrong year; put right, the days go on as if nothing had been."""
    made = plant.scheduler("a", "30 2 * * *")
    plant.look(made)
    plant.day.passes(days=4 * 365)
    plant.look(made)
    plant.day.passes(days=-4 * 365)
    for _ in range(3):
        plant.day.passes(days=1)
        plant.look(made)
    assert plant.due()[1:] == ["02 02:30", "03 02:30", "04 02:30"]


def test_a_schedule_that_a_clock_years_ahead_saw_first_counts_all_the_same(plant: Plant) -> None:
    """It was known from 2030 on; back in 2026, the stream's beginning is what counts."""
    made = plant.scheduler("a", "30 2 * * *")
    plant.day.passes(days=4 * 365)
    plant.look(made)
    plant.day.passes(days=-4 * 365 + 1)
    plant.look(made)
    assert plant.due() == ["02 02:30"]


@pytest.mark.parametrize(
    ("line", "eve", "runs"),
    [
        ("30 2 * * *", "2026-03-28", ["03:30"]),  # 02:30 is left out: an hour later
        ("30 2 * * *", "2026-10-24", ["02:30"]),  # it comes twice: the first
        ("0,30 2 * * *", "2026-10-24", ["02:00", "02:30"]),
        ("30 3 * * *", "2026-03-28", ["03:30"]),
        ("30 3 * * *", "2026-10-24", ["03:30"]),
        ("15 * * * *", "2026-03-28", ["00:15", "01:15", "03:15", "04:15"]),
        ("15 * * * *", "2026-10-24", ["00:15", "01:15", "02:15", "02:15", "03:15", "04:15"]),
    ],
)
def test_a_night_in_which_clocks_are_changed(line: str, eve: str, runs: list[str]) -> None:
    """By the wall clock of Berlin, from midnight to five, looked at every minute: as cron runs."""
    timing = Timing(Schedule(name="nightly", cron=line, timezone="Europe/Berlin"))
    midnight = datetime.fromisoformat(eve).replace(tzinfo=BERLIN) + timedelta(days=1)
    until = midnight.replace(hour=5)
    found, now = dict.fromkeys([timing.last(midnight)]), midnight.astimezone(UTC)
    while now < until:
        now += timedelta(minutes=1)
        due = timing.last(now)
        assert due <= now
        found[due] = None
    assert [f"{due.astimezone(BERLIN):%H:%M}" for due in list(found)[1:]] == runs


def test_the_last_due_time_of_any_line_at_any_time_is_found_as_by_looking() -> None:
    """Against a look at every minute of a fortnight around both changes, in three time zones."""
    rng = random.Random(3)
    for _ in range(40):
        zone = rng.choice(["Europe/Berlin", "America/St_Johns", "Australia/Lord_Howe"])
        minute, hour = rng.choice(["0", "30", "*/20"]), rng.choice(["*", "1", "2", "2,3"])
        timing = Timing(Schedule(name="any", cron=f"{minute} {hour} * * *", timezone=zone))
        trigger = timing.trigger
        now = datetime(2026, rng.choice([3, 4, 10, 11]), rng.randint(1, 28), tzinfo=UTC)
        now += timedelta(seconds=rng.randrange(86_400))
        found = timing.last(now)
        later = trigger.get_next_fire_time(None, found + timedelta(seconds=1)).astimezone(UTC)
        assert trigger.get_next_fire_time(None, found).astimezone(UTC) == found <= now
        assert later > now or (hour != "*" and later.astimezone(ZoneInfo(zone)).fold)


# Leases under a clock that is set back -----------------------------------------------------------


@pytest.mark.parametrize("back", [3600, 86_400, 5 * 365 * 86_400])
def test_a_dead_scheduler_s_lease_does_not_outlast_a_clock_that_is_set_back(
    plant: Plant, back: int
) -> None:
    """It was to end in half a minute: not in an hour and a half a minute."""
    assert plant.registry.lease(LEASE, "dead", LEASE_S)
    plant.day.passes(seconds=-back)
    assert plant.registry.lease(LEASE, "alive", LEASE_S)
    assert not plant.registry.lease(LEASE, "third", LEASE_S)


@pytest.mark.parametrize("back", [3600, 86_400])
def test_a_dead_trainer_s_claim_does_not_outlast_a_clock_that_is_set_back(
    plant: Plant, back: int
) -> None:
    """The request is another's within a lease, and with a new fencing number."""
    plant.registry.submit(by_hand(plant.stream))
    dead = plant.registry.claim("dead", LEASE_S)
    plant.day.passes(seconds=-back)
    taken = plant.registry.claim("alive", LEASE_S)
    assert (taken.id, taken.fence) == (dead.id, dead.fence + 1)
    assert plant.registry.claim("third", LEASE_S) is None


def test_clocks_that_are_a_little_apart_take_no_lease_away(plant: Plant) -> None:
    """A machine that is behind by less than a lease sees one that ends later than its own would."""
    plant.registry.submit(by_hand(plant.stream))
    plant.registry.claim("a", LEASE_S)
    plant.registry.lease(LEASE, "a", LEASE_S)
    plant.day.passes(seconds=1 - LEASE_S)
    assert plant.registry.claim("b", LEASE_S) is None
    assert not plant.registry.lease(LEASE, "b", LEASE_S)


def test_a_pause_after_a_failure_does_not_outlast_a_clock_that_is_set_back(plant: Plant) -> None:
    """The request waits for its pause, and not for the hour that was taken back."""
    plant.registry.submit(by_hand(plant.stream))
    plant.registry.fail(claimed(plant.registry), "the data was away", retry=True)
    assert plant.registry.claim("a", LEASE_S) is None
    plant.day.passes(seconds=math.ceil(PAUSE_S / 2))
    assert plant.registry.claim("a", LEASE_S) is None
    plant.day.passes(hours=-1)
    assert plant.registry.claim("a", LEASE_S) is not None
