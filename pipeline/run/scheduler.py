"""What happens by the clock: due times become runs, and runs are done, by one scheduler at a time.

Several schedulers may run: who holds the lease acts, and each due time is in the table once. What
was missed, as nobody was there, is made up for once, the latest of several. A time before its
schedule was known, changed or resumed is nobody's, and so is one before the stream began.

What trains or measures is a request, and a trainer does it. The rest is done here, one at a time,
in a thread beside the one that keeps the lease; what a scheduler leaves undone the next does again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import structlog

from pipeline.config import Schedule, Settings
from pipeline.errors import Away, PipelineError
from pipeline.records import Request
from pipeline.register.due import Timing
from pipeline.register.engine import in_us, moment
from pipeline.register.schedules import ACTOR, LEASE, Entry, ScheduledRun
from pipeline.register.sql import SqlRegistry
from pipeline.run.chores import CHORES, Chore

log = structlog.get_logger()

#: Kinds that are requests, and what the clock gives as their reason.
REASONS = {"retrain": "schedule", "evaluate": "evaluate"}
#: Longest time between two looks, in seconds: what people say is seen within.
LOOK_S = 5.0


class Scheduler:
    """Does what the schedules of the settings say.

    Parameters
    ----------
    owner
        Name of this process, for the lease and its runs.
    changed
        The schedules, if the settings' file says others than when it was asked last.
    chores
        Kind -> what is done here, and not by a trainer.
    """

    def __init__(
        self,
        settings: Settings,
        registry: SqlRegistry,
        *,
        owner: str,
        changed: Callable[[], Sequence[Schedule] | None] = lambda: None,
        chores: Mapping[str, Chore] = CHORES,
    ) -> None:
        self.settings = settings
        self.registry = registry
        self.owner = owner
        self.changed = changed
        self.chores = chores
        self._timings: dict[str, Timing] = {}
        #: Whether SQL has these schedules from us, since the lease is ours.
        self._adopted = False
        #: Schedule -> the due time that was added last.
        self._noted: dict[str, datetime] = {}
        #: Schedules with a chore that waits for its turn or is being done.
        self._under_way: set[str] = set()
        self._hands = ThreadPoolExecutor(1, thread_name_prefix="chore")
        self._take(settings.schedule)

    def run(self, stop: threading.Event) -> None:
        """Keep the lease and do what is due until `stop` is set; a chore under way is finished.

        Raises
        ------
        Away
            The database is, for longer than it is waited for.
        """
        if not self._timings:
            log.info("nothing_scheduled", key="[[schedule]]")
        try:
            while True:
                self.look()
                if stop.wait(self._pause(datetime.now(UTC))):
                    return
        finally:
            self.close()

    def close(self) -> None:
        """Wait for the chore under way; those behind it are another scheduler's."""
        self._hands.shutdown(wait=True, cancel_futures=True)

    def look(self, now: datetime | None = None) -> None:
        """Begin all that is to be done by now, if the lease is ours.

        What goes wrong is told and tried again.
        """
        try:
            self._look(now or datetime.now(UTC))
        except Away:
            raise
        except PipelineError as exc:
            log.warning("nothing_done", reason=str(exc))

    def _look(self, now: datetime) -> None:
        """1. Take what the settings say now.
        2. Keep the lease.
        3. Add the due times whose moment has come.
        4. Do every run that is not over, by the clock or because a person asked.
        5. Ask for a training if enough readings have come.
        """
        self._reload()  # 1
        if not self.registry.lease(LEASE, self.owner, self.settings.run.lease_s):  # 2
            self._adopted = False
            return
        if not self._adopted:
            for name in self.registry.adopt_schedules(self._definitions(), self.owner):
                log.info("schedule_changed", schedule=name)
            self._adopted = True
        for entry in self.registry.schedules():  # 3
            self._add_due(entry, now)
        for run in self.registry.unfinished_runs():  # 4
            if run.schedule not in self._under_way:
                self._do(run)
        self._ask_after_readings()  # 5

    # What is due ------------------------------------------------------------------------------

    def _reload(self) -> None:
        """Go by other schedules, if there are others that can be read; what cannot is told."""
        try:
            changed = self.changed()
            if changed is not None:
                self._take(changed)
        except PipelineError as exc:
            log.warning("schedules_not_changed", reason=str(exc))

    def _take(self, schedules: Sequence[Schedule]) -> None:
        self._timings = {each.name: Timing(each) for each in schedules}
        self._adopted = False
        self._noted.clear()

    def _definitions(self) -> list[Schedule]:
        return [timing.schedule for timing in self._timings.values()]

    def _add_due(self, entry: Entry, now: datetime) -> None:
        """Add a schedule's last due time, if it is somebody's and not there yet."""
        name = entry.definition.name
        timing = self._timings.get(name)
        if timing is None or entry.paused is not None or name in self._under_way:
            return
        due = timing.last(now)
        if due is None or due == self._noted.get(name) or in_us(due) < self._since(entry, now):
            return
        if self.registry.note_due(timing.schedule, in_us(due), self.owner):
            log.info("schedule_due", schedule=name, due=due.isoformat())
        self._noted[name] = due

    def _since(self, entry: Entry, now: datetime) -> float:
        """The first microsecond that counts; infinite, as long as no stream is there and goes on.

        What was written by a clock that has been set back since does not count.
        """
        since = entry.since if entry.since <= in_us(now) else 0
        if entry.definition.kind not in REASONS:
            return since
        stream = self.registry.stream(self._stream(entry.definition))
        if stream is None or stream.pause is not None:  # once it goes on, the last is made up for
            return float("inf")
        return max(since, stream.created)

    def _stream(self, schedule: Schedule) -> str:
        return schedule.stream or self.settings.stream.topic

    # What is done -----------------------------------------------------------------------------

    def _do(self, run: ScheduledRun) -> None:
        """Do a run, or have it done by the thread for chores."""
        timing = self._timings.get(run.schedule)
        if timing is None:
            self._end_undone(run, "no schedule of that name any more")
        elif run.kind in REASONS:
            self._request(run, timing.schedule)
        else:
            self._under_way.add(run.schedule)
            self._hands.submit(self._chore, run, timing.schedule)

    def _request(self, run: ScheduledRun, schedule: Schedule) -> None:
        """Insert the request that a trainer is to work off."""
        name = self._stream(schedule)
        stream = self.registry.stream(name)
        if stream is None:
            self._end_undone(run, f"no stream {name} yet")
            return
        reason = REASONS[run.kind]
        if reason == "schedule" and run.actor != ACTOR:  # a person's word, which no rule holds back
            reason = "manual"
        request = Request(
            stream_id=stream.id,
            reason=reason,
            actor=run.actor,
            note=f"schedule {run.schedule}: {run.reason or schedule.cron or schedule.every_s}",
            due=run.due,
        )
        number = self.registry.request_run(run, request, self.owner)
        if number is not None:
            log.info("requested", request=number, schedule=run.schedule, reason=reason)

    def _end_undone(self, run: ScheduledRun, why: str) -> None:
        if self.registry.begin_run(run, self.owner):
            self.registry.end_run(run, self.owner, ok=False, outcome=why)
            log.warning("schedule_failed", schedule=run.schedule, reason=why)

    def _chore(self, run: ScheduledRun, schedule: Schedule) -> None:
        """Do it, in the thread for chores; how it went is kept.

        If the database is away for too long it stays undone, and whoever keeps the lease ends.
        """
        try:
            if not self.registry.begin_run(run, self.owner):
                return
            ok, outcome = self._outcome(run, schedule)
            if self.registry.end_run(run, self.owner, ok=ok, outcome=outcome):
                level = log.info if ok else log.error
                level("schedule_run", schedule=run.schedule, kind=run.kind, outcome=outcome, ok=ok)
        except PipelineError as exc:
            log.warning("schedule_undone", schedule=run.schedule, reason=str(exc))
        finally:
            self._under_way.discard(run.schedule)

    def _outcome(self, run: ScheduledRun, schedule: Schedule) -> tuple[bool, str]:
        chore = self.chores.get(run.kind)
        if chore is None:
            return False, f"this installation cannot {run.kind}"
        try:
            return chore(self.settings, schedule)
        except Away:
            raise
        except PipelineError as exc:
            return False, str(exc)
        except Exception as exc:
            log.exception("chore_crashed", schedule=run.schedule)
            return False, f"{type(exc).__name__}: {exc}"

    def _ask_after_readings(self) -> None:
        stream = self.registry.stream(self.settings.stream.topic)
        if stream is None or not self.settings.retrain.after_readings:
            return
        number = self.registry.submit_after_readings(stream.id, self.settings.retrain)
        if number is not None:
            log.info("requested", request=number, reason="readings")

    def _pause(self, now: datetime) -> float:
        """Seconds until the next look: the next moment of a schedule, or soon enough for people."""
        longest = min(LOOK_S, self.settings.run.lease_s / 3)
        moments = [m for timing in self._timings.values() for m in timing.following(now, 1)]
        soonest = min(moments, default=moment(in_us(now) + int(longest * 1e6)))
        return min(longest, max(0.0, (soonest - now).total_seconds()))
