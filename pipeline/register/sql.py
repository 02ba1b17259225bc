"""Registry over SQL; each method is one transaction, and asked again as a whole."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from functools import wraps
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Row
from sqlalchemy.exc import IntegrityError

from pipeline.config import Database, Retrain, Schedule
from pipeline.detect.prints import Print
from pipeline.outage import Outage
from pipeline.records import (
    Boundary,
    Candidate,
    Claim,
    Decision,
    Gap,
    Named,
    Request,
    RolledBack,
    SensorEvent,
    Settled,
    Version,
)
from pipeline.register import (
    acts,
    checkpoints,
    envelopes,
    holding,
    leases,
    ledger,
    marks,
    measurements,
    migrate,
    naming,
    presence,
    prune,
    recorded,
    rollback,
    schedules,
    streams,
    tasks,
    timeline,
    versions,
)
from pipeline.register import artifacts as blobs
from pipeline.register import boundaries as changes
from pipeline.register import requests as queue
from pipeline.register.checkpoints import Checkpoint, Key, Piece, State
from pipeline.register.engine import connect, now_us, reading, writing
from pipeline.register.envelopes import Envelope, Judgement
from pipeline.register.orders import Act, Done, Order, Prune
from pipeline.register.recorded import Recipe
from pipeline.register.schedules import Entry, ScheduledRun
from pipeline.register.streams import Stream
from pipeline.register.tasks import Asked, Task
from pipeline.register.timeline import Summary

__all__ = ["SqlRegistry", "Stream", "journal_mode"]

T = TypeVar("T")


def _asked_again(registry: type[SqlRegistry]) -> type[SqlRegistry]:
    """Have every public method waited for while the database is away."""

    def waiting(method: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(method)
        def wait(self: SqlRegistry, *args: Any, **kwargs: Any) -> Any:
            return self.outage.ask(lambda: method(self, *args, **kwargs))

        return wait

    for name, method in list(vars(registry).items()):
        if not name.startswith("_") and name != "close":
            setattr(registry, name, waiting(method))
    return registry


@_asked_again
class SqlRegistry:
    """Everything that is kept, on SQLite or PostgreSQL.

    A commit whose answer was lost is asked for again. So a method that was done already answers the
    same and does nothing; only a claim stays behind, until its lease is over.

    Parameters
    ----------
    clock
        Microseconds since 1970 UTC.
    outage
        How long to wait for a database that is away; by default not at all.
    """

    def __init__(
        self,
        database: Database,
        *,
        clock: Callable[[], int] = now_us,
        outage: Outage | None = None,
    ) -> None:
        self.database = database
        self.outage = outage or Outage("database")
        self.clock = clock
        self.engine = connect(database, stop=self.outage.stop)
        self._leave: Callable[[], None] | None = None

    def run_as(self, owner: str, idle_s: float = 60.0) -> None:
        """Run on the database until `close`: nobody migrates, restores or copies it meanwhile.

        idle_s: as `presence.share` has it.

        Raises
        ------
        RegistryError
            Somebody does just that.
        """
        self._leave = presence.share(self.engine, owner, idle_s)

    def close(self) -> None:
        """Give the connections back."""
        self.engine.dispose()
        if self._leave is not None:
            self._leave()
            self._leave = None

    def check_schema(self) -> None:
        """Raise RegistryError unless the schema is at head."""
        migrate.check_schema(self.database)

    def note_settings(self, role: str, topic: str, settings: Mapping[str, Any], actor: str) -> None:
        """Record the settings that a process begins with, if they are others than the last."""
        with writing(self.engine) as conn:
            recorded.note_settings(conn, role, topic, settings, actor=actor, at=self.clock())

    def at_once(self, ask: Callable[[SqlRegistry], T]) -> tuple[int, T]:
        """The number of the ledger's last entry, and what `ask` finds as of that very moment.

        Every decision is written together with its entry, so the same is found again after the same
        entries. `ask` only reads, and is called again if the database goes meanwhile.
        """
        with reading(self.engine) as conn:
            then = copy(self)
            then.engine = conn  # type: ignore[assignment]  # `reading` takes either
            then.outage = Outage("database")
            return ledger.last(conn), ask(then)

    # Streams ----------------------------------------------------------------------------------

    def open_stream(self, name: str, channels: Sequence[str]) -> Stream:
        """The stream of that name, made if need be; RegistryError if it has other channels."""
        with writing(self.engine) as conn:
            return streams.open_(conn, name, channels, at=self.clock())

    def follow(self, stream: Stream, topic_id: str | None, starts: Mapping[int, int]) -> None:
        """Follow the stream's topic; `starts`: next offset by partition, for the first time of all.

        Raises
        ------
        MadeAnew
            The topic is not the one that was followed before.
        """
        with writing(self.engine) as conn:
            streams.follow(conn, stream, topic_id, starts, at=self.clock())

    def stream(self, name: str) -> Stream | None:
        """The stream of that name."""
        return next((s for s in self.streams() if s.name == name), None)

    def streams(self) -> list[Stream]:
        """Every stream."""
        with reading(self.engine) as conn:
            return streams.known(conn)

    def progress(self) -> tuple[int, int]:
        """Sum of the offsets that all checkpoints stand at, and requests not at their end.

        The sum is a number of records only where every log begins at 0 and has no hole.
        """
        with reading(self.engine) as conn:
            return checkpoints.reached(conn), queue.unfinished(conn)

    # Partitions -------------------------------------------------------------------------------

    def acquire(self, stream_id: int, partition: int, owner: str) -> Checkpoint:
        """Become the partition's owner: a new epoch, and what to go on from."""
        with writing(self.engine) as conn:
            return checkpoints.acquire(conn, stream_id, partition, owner, at=self.clock())

    def pieces(
        self, stream_id: int, partition: int, epoch: int, kind: str, after: Key | None
    ) -> list[Piece]:
        """A page of the partition's state, for its owner; [] is the end.

        Raises
        ------
        StaleEpoch
            Another process owns the partition.
        ArtifactCorrupt
            A piece is not what was written.
        """
        with reading(self.engine) as conn:
            return checkpoints.read(conn, stream_id, partition, epoch, kind, after)

    def save(
        self,
        stream_id: int,
        partition: int,
        epoch: int,
        *,
        next_offset: int,
        state: State,
        boundaries: Sequence[Boundary] = (),
        events: Sequence[SensorEvent] = (),
        settled: Sequence[Settled] = (),
        requests: Sequence[Request] = (),
        artifacts: Mapping[str, tuple[str, bytes]] | None = None,
        scored: Sequence[tuple[int, int, int]] = (),
        prints: Sequence[Print] = (),
        gaps: Sequence[Gap] = (),
        summary: Summary | None = None,
        readings: int = 0,
        ask: bool = False,
    ) -> list[Named]:
        """Write what a partition has become; raises StaleEpoch, and then nothing is written.

        readings: taken in since the last checkpoint.

        Segments are named by their fingerprints; what they were named is the answer. ask: a new
        task waits until a person says what it is.

        A request that is there already stays as it is: the first readings of a segment become due
        again when `learn.adapt_after` or `learn.refine_after` is raised while it is open.
        """
        with writing(self.engine, large=state.large) as conn:
            at = self.clock()
            if checkpoints.stands_at(conn, stream_id, partition, epoch, next_offset):
                return naming.last_named(conn, stream_id, partition) if prints else []
            checkpoints.write(
                conn,
                stream_id,
                partition,
                epoch,
                next_offset=next_offset,
                state=state,
                readings=readings,
                at=at,
            )
            for kind, content in (artifacts or {}).values():
                blobs.put(conn, kind, content, at=at)
            changes.record(conn, stream_id, partition, boundaries, at=at)
            changes.settle(conn, stream_id, partition, settled, at=at)
            changes.record_events(conn, stream_id, partition, events, at=at)
            changes.record_gaps(conn, stream_id, partition, gaps, at=at)
            for request in requests:
                queue.submit(conn, request, at=at)
            checkpoints.note_scored(conn, stream_id, partition, scored)
            if summary is not None:
                timeline.write(conn, stream_id, partition, summary)
            return list(naming.name(conn, stream_id, partition, prints, ask=ask, at=at))

    def begun(self, stream_id: int, partition: int) -> dict[str, int]:
        """Series -> readings in its timeline, in the order of appearance."""
        with reading(self.engine) as conn:
            return timeline.begun(conn, stream_id, partition)

    # Artifacts --------------------------------------------------------------------------------

    def put(self, kind: str, content: bytes) -> str:
        """Keep `content`; its sha256."""
        with writing(self.engine) as conn:
            return blobs.put(conn, kind, content, at=self.clock())

    def get(self, sha256: str) -> bytes:
        """The bytes behind a hash; ArtifactCorrupt if they are not what it says."""
        with reading(self.engine) as conn:
            return blobs.get(conn, sha256)

    # Requests ---------------------------------------------------------------------------------

    def submit(self, request: Request) -> int | None:
        """Insert a request; None if the same one is there already."""
        with writing(self.engine) as conn:
            return queue.submit(conn, request, at=self.clock())

    def claim(
        self,
        owner: str,
        lease_s: float,
        max_attempts: int = 3,
        rules: Retrain = holding.NO_RULES,
    ) -> Claim | None:
        """Take the oldest request that may be worked on, by the rules too; None without one."""
        try:
            with writing(self.engine) as conn:
                at = self.clock()
                return queue.claim(conn, owner, _us(lease_s), max_attempts, rules, at=at)
        except IntegrityError:  # another process claimed one of this stream in the same moment
            return None

    def submit_after_readings(self, stream_id: int, rules: Retrain) -> int | None:
        """Insert the request that enough readings make due; None if none is."""
        with writing(self.engine) as conn:
            request = holding.after_readings(conn, stream_id, rules)
            return None if request is None else queue.submit(conn, request, at=self.clock())

    def submit_metric_fall(self, champion: Version, why: str) -> int | None:
        """Insert a request because the champion's scores rose, once while it is champion."""
        with writing(self.engine) as conn:
            request = holding.metric_fall(conn, champion.stream_id, champion.id, why)
            return None if request is None else queue.submit(conn, request, at=self.clock())

    def held(self, stream_id: int) -> Sequence[tuple[int, str, str]]:
        """(number, reason, why it waits) of the requests that a rule holds back."""
        with reading(self.engine) as conn:
            return holding.held(conn, stream_id)

    def admit(self, claim: Claim) -> Claim | None:
        """What of a claim may be learned, by the kinds of its tasks; None: the claim is over."""
        with writing(self.engine) as conn:
            return queue.admit(conn, claim, at=self.clock())

    def renew(self, claim: Claim, lease_s: float) -> None:
        """Keep a claim; LeaseLost if it is somebody else's."""
        with writing(self.engine) as conn:
            queue.renew(conn, claim, self.clock() + _us(lease_s))

    def finish(self, claim: Claim, outcome: str, *, as_of: int | None = None) -> None:
        """Done without a version, as things stood after entry `as_of` of the ledger."""
        with writing(self.engine) as conn:
            queue.finish_without_version(conn, claim, outcome, as_of, at=self.clock())

    def release(self, claim: Claim, reason: str) -> None:
        """Give a claim back that says nothing about its request: it was no attempt."""
        with writing(self.engine) as conn:
            queue.release(conn, claim, reason, at=self.clock())

    def fail(self, claim: Claim, reason: str, *, retry: bool) -> None:
        """The attempt failed: try again after a pause, or never."""
        with writing(self.engine) as conn:
            queue.fail(conn, claim, reason, retry=retry, at=self.clock())

    # Tasks ------------------------------------------------------------------------------------

    def tasks(self, stream_id: int) -> list[Task]:
        """The stream's known regimes."""
        with reading(self.engine) as conn:
            return tasks.known(conn, stream_id)

    def task_of(self, request_id: int) -> int | None:
        """The task that a request's segment was found to be, if it was."""
        with reading(self.engine) as conn:
            return tasks.of(conn, request_id)

    def last_named(self, stream_id: int, partition: int) -> list[Named]:
        """What a partition's last checkpoint that named segments named them."""
        with reading(self.engine) as conn:
            return naming.last_named(conn, stream_id, partition)

    def assign(
        self, claim: Claim, request_id: int, units: NDArray[np.float64], *, ask: bool = False
    ) -> int:
        """The id of the task of a request's segment: as it was named, or what its readings say.

        units: of the readings, as `detect.tasks.in_units` makes them. ask: as `save` has it.

        Raises
        ------
        LeaseLost
            The request is somebody else's now.
        """
        with writing(self.engine) as conn:
            return naming.assign(conn, claim, request_id, units, ask=ask, at=self.clock())

    def places(self, stream_id: int) -> dict[tuple[int, str, int], int]:
        """(partition, series, segment) -> id of its task, for every named segment."""
        with reading(self.engine) as conn:
            return tasks.places(conn, stream_id)

    def newest_named(self, stream_id: int, partition: int) -> list[tuple[str, int, int]]:
        """(series, segment, number of its task) of each series' newest segment that has a name."""
        with reading(self.engine) as conn:
            return tasks.newest_named(conn, stream_id, partition)

    def latest_reservoirs(self, stream_id: int, upto: int) -> dict[int, str]:
        """partition -> sha256 of its newest reservoir among the requests up to `upto`."""
        with reading(self.engine) as conn:
            return tasks.latest_reservoirs(conn, stream_id, upto)

    def held_out(self, stream_id: int, upto: int, per_task: int) -> dict[int, list[str]]:
        """Task id -> sha256 of its newest segments among the requests up to `upto`."""
        with reading(self.engine) as conn:
            return tasks.held_out(conn, stream_id, upto, per_task)

    def earlier(self, stream_id: int, upto: int) -> list[tuple[int, str]]:
        """(task id, sha256 of its newest readings) of each segment of the requests up to `upto`,
        the oldest first."""
        with reading(self.engine) as conn:
            return tasks.earlier(conn, stream_id, upto)

    def segments(self, stream_id: int) -> list[Asked]:
        """Every request with a named segment, in order of arrival."""
        with reading(self.engine) as conn:
            return tasks.segments(conn, stream_id)

    def last_request(self, stream_id: int) -> int:
        """Number of the stream's newest request; 0 without one."""
        with reading(self.engine) as conn:
            return queue.last(conn, stream_id)

    # Versions ---------------------------------------------------------------------------------

    def first_version(self, stream_id: int) -> Version | None:
        """The first version that was ever live."""
        with reading(self.engine) as conn:
            return versions.first(conn, stream_id)

    def lives(self, stream_id: int) -> list[tuple[int, str]]:
        """(since when, sha256 of the weights) of every version that was live, in order."""
        with reading(self.engine) as conn:
            return versions.lives(conn, stream_id)

    def champion(self, stream_id: int) -> Version | None:
        """The version that is live."""
        with reading(self.engine) as conn:
            return versions.champion(conn, stream_id)

    def unaware(self, stream_id: int, task: int) -> Version | None:
        """The newest version, from the champion back, that never learned the task of a number."""
        with reading(self.engine) as conn:
            found = marks.unaware(conn, stream_id, task)
            return None if found is None else versions.of(conn, found)

    def skills(self, version_id: int) -> dict[int, float]:
        """Task id -> skill, as measured when the version was registered."""
        with reading(self.engine) as conn:
            return versions.skills(conn, version_id)

    def learned(self, version_id: int) -> list[str]:
        """sha256 of the readings that a version was made to learn."""
        with reading(self.engine) as conn:
            return versions.learned(conn, version_id)

    def rows_of_r(self, version: Version) -> list[tuple[dict[int, float], dict[int, float]]]:
        """(skills, parent's skills) by task id of a version and its forebears, the first first."""
        with reading(self.engine) as conn:
            return versions.rows_of_r(conn, version.id)

    def recipe(self, stream_id: int, number: int) -> Recipe:
        """How a version was made; PipelineError if the stream has none of that number."""
        with reading(self.engine) as conn:
            return recorded.recipe(conn, stream_id, number)

    def register(
        self,
        claim: Claim,
        candidate: Candidate,
        decision: Decision,
        *,
        parent: Version | None,
        champion: Version | None = None,
        inputs: Mapping[str, Any],
        settings: Mapping[str, Any],
        strategy: str,
        seed: int,
        code_version: str,
    ) -> Version:
        """Keep a candidate with all that is known of it, and promote it if that was decided.

        champion: what it is to replace, if that is not its parent.

        Raises
        ------
        LeaseLost
            The request is somebody else's now.
        VersionConflict
            It was to be promoted, and the champion is no longer the one to replace: a rejected
            version is kept whoever is champion. Or it was made from readings of a task that is not
            normal by now. In all cases nothing is written.
        """
        made = versions.Made(
            candidate=candidate,
            decision=decision,
            parent=parent,
            champion=champion,
            inputs=inputs,
            settings=settings,
            strategy=strategy,
            seed=seed,
            code_version=code_version,
        )
        with writing(self.engine) as conn:
            return versions.register(conn, claim, made, at=self.clock())

    def roll_back(
        self,
        stream_id: int,
        *,
        actor: str,
        reason: str,
        leave: Version | None = None,
        to: int | None = None,
    ) -> RolledBack:
        """Make the champion before, or version `to`, champion again; `leave`: only if it is that.

        Raises
        ------
        VersionConflict
            `leave` is no longer champion, or the actor is no person and it came back itself.
        RegistryError
            There is no version to leave or to go back to. In both cases nothing is written.
        """
        with writing(self.engine) as conn:
            return rollback.roll_back(
                conn, stream_id, leave=leave, to=to, actor=actor, reason=reason, at=self.clock()
            )

    def on_trial(self, champion: Version) -> bool:
        """Whether it may be left without a person's word: not the first, nor one that came back."""
        with reading(self.engine) as conn:
            return rollback.on_trial(conn, champion)

    def expected_scores(self, version: Version) -> dict[int, tuple[float, float]]:
        """Task's number -> mean and spread of the scores that the gate saw of it."""
        with reading(self.engine) as conn:
            return rollback.expected_scores(conn, version)

    # What people do ---------------------------------------------------------------------------

    def act(self, stream_id: int | None, order: Order, act: Act) -> Done:
        """Do what a person orders, once; what was done, by an earlier call if there was one.

        stream_id: None for what is done to all streams.

        Raises
        ------
        PipelineError
            It cannot be done, or the request id belongs to another act: nothing is written.
        """
        with writing(self.engine) as conn:
            return acts.perform(conn, stream_id, order, act, at=self.clock())

    def acts(self, stream_id: int) -> list[tuple[Act, str, Done]]:
        """(act, what was ordered, what was done) of everything that people did to a stream."""
        with reading(self.engine) as conn:
            return acts.done_by_people(conn, stream_id)

    def prunable(self, order: Prune) -> prune.Old:
        """What an order to prune would let go."""
        with reading(self.engine) as conn:
            return prune.old(
                conn, keep_days=order.keep_days, replays_all=order.replays_all, at=self.clock()
            )

    def envelopes(self, stream_id: int) -> list[Envelope]:
        """Every envelope that was agreed on, in order; the last one holds."""
        with reading(self.engine) as conn:
            return envelopes.history(conn, stream_id)

    def promotions(self, stream_id: int) -> list[tuple[Row[Any], Judgement | None]]:
        """Every beginning of a reign, with the envelope that the version was held against."""
        with reading(self.engine) as conn:
            return envelopes.promotions(conn, stream_id)

    def waiting(self, stream_id: int) -> list[tuple[Row[Any], Judgement]]:
        """Versions that wait for a person's word, and why."""
        with reading(self.engine) as conn:
            return envelopes.waiting(conn, stream_id)

    def measured(
        self, claim: Claim, version: Version, skills: Mapping[int, float], sizes: Mapping[int, int]
    ) -> None:
        """Keep what a champion's skills are by now, and end the request for it.

        sizes: windows behind each task's.

        Raises
        ------
        LeaseLost
            The request is somebody else's now.
        """
        with writing(self.engine) as conn:
            measurements.keep(conn, claim, version, skills, sizes, at=self.clock())

    # Schedules --------------------------------------------------------------------------------

    def adopt_schedules(self, definitions: Sequence[Schedule], owner: str) -> list[str]:
        """Go by these definitions from now on; names of those that are new, changed or gone."""
        with writing(self.engine) as conn:
            return schedules.adopt(conn, definitions, owner, at=self.clock())

    def schedules(self) -> list[Entry]:
        """What is scheduled, and whether a person has paused it."""
        with reading(self.engine) as conn:
            return schedules.known(conn)

    def note_due(self, definition: Schedule, due: int, owner: str) -> bool:
        """A schedule is due, in place of what it left undone; False: it is known, or not ours."""
        with writing(self.engine) as conn:
            return schedules.note_due(conn, definition, due, owner, at=self.clock())

    def unfinished_runs(self) -> list[ScheduledRun]:
        """Runs that are not over, in order."""
        with reading(self.engine) as conn:
            return schedules.unfinished(conn)

    def begin_run(self, run: ScheduledRun, owner: str) -> bool:
        """Begin it, or begin it again in place of another owner; False: it is not ours to do."""
        with writing(self.engine) as conn:
            return schedules.begin(conn, run, owner, at=self.clock())

    def end_run(self, run: ScheduledRun, owner: str, *, ok: bool, outcome: str) -> bool:
        """Keep how it went; False: another has it by now."""
        with writing(self.engine) as conn:
            return schedules.end(conn, run, owner, ok=ok, outcome=outcome, at=self.clock())

    def request_run(self, run: ScheduledRun, request: Request, owner: str) -> int | None:
        """A run that is a request and nothing else: all of it; the request's number."""
        with writing(self.engine) as conn:
            return schedules.request(conn, run, request, owner, at=self.clock())

    def schedule_runs(self, name: str, count: int) -> list[ScheduledRun]:
        """The last runs of a schedule, the newest first."""
        with reading(self.engine) as conn:
            return schedules.last(conn, name, count)

    # Leases -----------------------------------------------------------------------------------

    def lease(self, name: str, owner: str, lease_s: float) -> bool:
        """Take or keep a named lease; whether it is ours now."""
        now = self.clock()
        with writing(self.engine) as conn:
            return leases.take(conn, name, owner, now + _us(lease_s), at=now)

    def end_lease(self, name: str, owner: str) -> None:
        """Give a named lease up, if it is ours."""
        with writing(self.engine) as conn:
            leases.give_up(conn, name, owner)


def journal_mode(database: Database) -> str | None:
    """SQLite's journal mode; None on PostgreSQL."""
    engine = connect(database)
    try:
        if engine.dialect.name != "sqlite":
            return None
        with reading(engine) as conn:
            return str(conn.exec_driver_sql("PRAGMA journal_mode").scalar())
    finally:
        engine.dispose()


def _us(seconds: float) -> int:
    return int(seconds * 1_000_000)
