"""When an interval, or a schedule with jitter, is due; crontabs: tests/run and tests/faults."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta

import pytest

from pipeline.config import Schedule
from pipeline.register.due import Timing

NOON = datetime(2026, 3, 29, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)
JITTERED = Timing(Schedule(name="a", cron="*/10 * * * *", jitter_s=240.0))


def every(seconds: float, **options: float) -> Timing:
    return Timing(Schedule(name="a", every_s=seconds, **options))


@pytest.mark.parametrize("seconds", [1.0, 7.5, 900.0, 86_400.0, 40 * 86_400.0])
def test_an_interval_counts_from_1970(seconds: float) -> None:
    """The last multiple not after now, and the next five behind it, in whole steps."""
    now = NOON + timedelta(seconds=0.25)
    timing, step = every(seconds), timedelta(seconds=seconds)
    last = timing.last(now)
    assert last is not None
    assert last <= now < last + step
    assert (last.timestamp() / seconds) % 1 == 0
    assert timing.following(now, 5) == [last + n * step for n in range(1, 6)]


def test_jitter_is_the_same_for_everybody_and_another_for_each_time_and_name() -> None:
    """Of 100 runs, each begins in its own place within the four minutes; two schedulers agree."""
    dues = list(JITTERED.between(NOON, NOON + 99 * timedelta(minutes=10)))
    late = [JITTERED.moment(due) - due for due in dues]
    assert len(set(late)) == len(dues) == 100
    assert all(timedelta(0) <= each < 240 * SECOND for each in late)
    mean = sum(late, timedelta(0)) / 100
    five_sigma = 5 * 240 * SECOND / (12 * 100) ** 0.5  # of the mean of 100 uniform draws
    assert abs(mean - 120 * SECOND) < five_sigma
    again = Timing(Schedule(name="a", cron="*/10 * * * *", jitter_s=240.0))
    other = Timing(Schedule(name="b", cron="*/10 * * * *", jitter_s=240.0))
    assert [again.moment(due) - due for due in dues] == late
    assert [other.moment(due) - due for due in dues] != late


def test_a_due_time_is_not_there_before_its_moment() -> None:
    """At any time, the last is the newest whose moment has come, and the next moment is later."""
    rng = random.Random(5)
    dues = list(JITTERED.between(NOON - timedelta(hours=1), NOON + timedelta(hours=3)))
    moments = [JITTERED.moment(due) for due in dues]
    for _ in range(200):
        now = NOON + rng.random() * timedelta(hours=2)
        assert JITTERED.last(now) == max(
            due for due, at in zip(dues, moments, strict=True) if at <= now
        )
        assert JITTERED.following(now, 1) == [min(at for at in moments if at > now)]
    border = JITTERED.moment(NOON)
    assert JITTERED.last(border) == NOON
    assert JITTERED.last(border - timedelta(microseconds=1)) == NOON - timedelta(minutes=10)


def test_a_line_that_is_never_due_has_no_times() -> None:
    """30 February."""
    never = Timing(Schedule(name="a", cron="0 0 30 2 *"))
    assert never.last(NOON) is None
    assert never.following(NOON, 5) == []
