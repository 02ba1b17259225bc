"""A schedule of the settings in; when it is due, and when it begins, out. Pure.

The night in which clocks go back has an hour twice: in it, a line that names hours is due the first
time only, and one for every hour both times, as with cron. A time that is left out as clocks go
forward is due an hour later. An interval counts from 1970 UTC, whatever clocks on walls do.

Jitter follows from the schedule's name and the due time: every scheduler begins at the same moment.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from heapq import nsmallest

from apscheduler.triggers.cron import CronTrigger

from pipeline.config import Schedule
from pipeline.errors import SettingsError
from pipeline.register.engine import EPOCH, in_us

#: Place of the hours among a trigger's fields.
HOUR = CronTrigger.FIELD_NAMES.index("hour")
#: How far back the last due time is looked for, and forward the next, in growing steps.
SPANS = tuple(
    timedelta(seconds=s) for s in (60, 3600, 86_400, 32 * 86_400, 367 * 86_400, 5 * 366 * 86_400)
)


class Timing:
    """When a schedule is due; all times are UTC.

    Raises
    ------
    SettingsError
        The crontab line cannot be read.
    """

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self.trigger = _cron(schedule) if schedule.cron else None

    def last(self, now: datetime) -> datetime | None:
        """The latest due time whose moment has come by `now`.

        >>> nightly = Timing(Schedule(name="nightly", cron="30 2 * * *"))
        >>> nightly.last(datetime(2026, 3, 1, 12, 0, tzinfo=UTC)).isoformat()
        '2026-03-01T02:30:00+00:00'
        """
        for span in SPANS:
            come = [due for due in self.between(now - span, now) if self.moment(due) <= now]
            if come:
                return come[-1]
        return None

    def following(self, after: datetime, count: int) -> list[datetime]:
        """The next moments after a time at which it begins; fewer if there are no more in sight."""
        found: list[datetime] = []
        jitter = timedelta(seconds=self.schedule.jitter_s)
        for span in SPANS:
            moments = map(self.moment, self.between(after - jitter, after + span))
            found = nsmallest(count, (moment for moment in moments if moment > after))
            if len(found) == count and found[-1] <= after + span:
                break
        return found

    def moment(self, due: datetime) -> datetime:
        """When the run of a due time begins: later by up to the jitter."""
        if not self.schedule.jitter_s:
            return due
        text = f"{self.schedule.name}/{in_us(due)}"
        share = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64
        return due + timedelta(seconds=share * self.schedule.jitter_s)

    def between(self, first: datetime, last: datetime) -> Iterator[datetime]:
        """When it is due, both ends included."""
        if self.trigger is None:
            yield from _multiples(timedelta(seconds=self.schedule.every_s), first, last)
            return
        once = not str(self.trigger.fields[HOUR]).startswith("*")
        after = first.astimezone(UTC)
        while (due := self.trigger.get_next_fire_time(None, after)) is not None and due <= last:
            at = due.astimezone(UTC)
            if not (once and at.astimezone(self.trigger.timezone).fold):
                yield at
            after = at + timedelta(seconds=1)


def _multiples(step: timedelta, first: datetime, last: datetime) -> Iterator[datetime]:
    for number in range(-((EPOCH - first) // step), (last - EPOCH) // step + 1):
        yield EPOCH + number * step


def _cron(schedule: Schedule) -> CronTrigger:
    try:
        return CronTrigger.from_crontab(schedule.cron, timezone=schedule.timezone)
    except (ValueError, LookupError) as exc:
        raise SettingsError(f"schedule {schedule.name}: cron: {exc}") from None
