"""What happens by the clock: APScheduler inserts requests, and does nothing else.

Two schedulers may run: one holds the lease and acts, and each due time is in the table once,
whoever inserts it. A time that was missed, as nobody was there, is requested once, the latest of
several; one before the stream's first day is not.

The night in which clocks go back has an hour twice: in it, a line that names hours is due the first
time only, and one for every hour both times, as with cron. A time that is left out as clocks go
forward is due an hour later.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import structlog
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.cron import CronTrigger

from pipeline.config import Settings
from pipeline.errors import Away, PipelineError, SettingsError
from pipeline.records import Request
from pipeline.register.sql import SqlRegistry

log = structlog.get_logger()

LEASE = "scheduler"
#: Place of the hours among a trigger's fields.
HOUR = CronTrigger.FIELD_NAMES.index("hour")
#: How far back the last due time is looked for, in growing steps.
LOOK_BACK = tuple(
    timedelta(seconds=s) for s in (60, 3600, 86_400, 32 * 86_400, 367 * 86_400, 5 * 366 * 86_400)
)


class Scheduler:
    """Requests a retraining at each due time of the crontab line in the settings."""

    def __init__(self, settings: Settings, registry: SqlRegistry, *, owner: str) -> None:
        self.settings = settings
        self.registry = registry
        self.owner = owner
        self.trigger = cron(settings)

    def run(self, stop: threading.Event) -> None:
        """Keep the lease and request what is due until `stop` is set.

        Raises
        ------
        Away
            The database is, for longer than it is waited for.
        """
        scheduler = BackgroundScheduler(
            timezone=UTC, job_defaults={"coalesce": True, "misfire_grace_time": None}
        )
        if self.trigger is None:
            log.info("nothing_scheduled", key="schedule.retrain_cron")
        else:
            scheduler.add_job(self._request_on_time, self.trigger, id="retrain")
        scheduler.start()
        try:
            while True:
                self.request_due()
                if stop.wait(self.settings.run.lease_s / 3):
                    return
        finally:
            scheduler.shutdown(wait=True)

    def request_due(self, now: datetime | None = None) -> int | None:
        """Insert the request of the last due time; its id, or None if there is nothing to do.

        What goes wrong is told and tried again.
        """
        try:
            return self._request_due(now or datetime.now(UTC))
        except Away:
            raise
        except PipelineError as exc:
            log.warning("nothing_requested", reason=str(exc))
            return None

    def _request_on_time(self) -> None:
        """From APScheduler's thread, which waits for nothing: `run` asks again, and does."""
        with suppress(Away):
            self.request_due()

    def _request_due(self, now: datetime) -> int | None:
        if not self.registry.lease(LEASE, self.owner, self.settings.run.lease_s):
            return None
        due = last_due(self.trigger, now) if self.trigger else None
        stream = self.registry.stream(self.settings.stream.topic)
        if due is None or stream is None or due.timestamp() * 1e6 < stream.created:
            return None
        if stream.pause is not None:  # once it goes on, the latest of the times that were missed
            return None
        request = Request(
            stream_id=stream.id,
            reason="schedule",
            actor="scheduler",
            note=self.settings.schedule.retrain_cron,
            due=int(due.timestamp() * 1_000_000),
        )
        number = self.registry.submit(request)
        if number is not None:
            log.info("retraining_requested", request=number, due=due.isoformat())
        return number


def cron(settings: Settings) -> CronTrigger | None:
    """The trigger that the settings ask for; None if they ask for none.

    Raises
    ------
    SettingsError
        The crontab line or the time zone cannot be read.
    """
    line = settings.schedule.retrain_cron
    if not line:
        return None
    try:
        return CronTrigger.from_crontab(line, timezone=settings.schedule.timezone)
    except (ValueError, LookupError) as exc:
        raise SettingsError(f"schedule.retrain_cron or .timezone: {exc}") from None


def last_due(trigger: CronTrigger, now: datetime) -> datetime | None:
    """The latest time at or before `now` at which `trigger` was due.

    >>> trigger = CronTrigger.from_crontab("30 2 * * *", timezone="UTC")
    >>> last_due(trigger, datetime(2026, 3, 1, 12, 0, tzinfo=UTC)).isoformat()
    '2026-03-01T02:30:00+00:00'
    """
    for step in LOOK_BACK:
        due = None
        for each in _due_between(trigger, now - step, now):
            due = each
        if due is not None:
            return due
    return None


def _due_between(trigger: CronTrigger, first: datetime, last: datetime) -> Iterator[datetime]:
    """When `trigger` is due, both ends included; in UTC, where no time comes twice."""
    once = not str(trigger.fields[HOUR]).startswith("*")
    after = first.astimezone(UTC)
    while (due := trigger.get_next_fire_time(None, after)) is not None and due <= last:
        at = due.astimezone(UTC)
        if not (once and at.astimezone(trigger.timezone).fold):
            yield at
        after = at + timedelta(seconds=1)
