"""Registry over SQL; each method is one transaction."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from pipeline.config import Database
from pipeline.errors import RegistryError
from pipeline.records import Boundary, Candidate, Claim, Decision, Request, Version
from pipeline.register import artifacts, checkpoints, ledger, migrate, requests, versions
from pipeline.register import tables as t
from pipeline.register.checkpoints import Checkpoint
from pipeline.register.engine import connect, inserting, now_us, reading, writing


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """A topic with one model."""

    id: int
    name: str
    #: Names of the sensors; empty until the first reading.
    channels: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A regime, as its readings showed it first."""

    id: int
    number: int
    kind: str
    fingerprint: NDArray[np.float64]


class SqlRegistry:
    """Everything that is kept, on SQLite or PostgreSQL.

    Parameters
    ----------
    clock
        Microseconds since 1970 UTC.
    """

    def __init__(self, database: Database, *, clock: Callable[[], int] = now_us) -> None:
        self.database = database
        self.clock = clock
        self.engine = connect(database)

    def close(self) -> None:
        """Give the connections back."""
        self.engine.dispose()

    def check_schema(self) -> None:
        """Raise RegistryError unless the schema is at head."""
        migrate.check_schema(self.database)

    # Streams ----------------------------------------------------------------------------------

    def open_stream(self, name: str, channels: Sequence[str]) -> Stream:
        """The stream of that name, made if need be; the first channels given are its channels.

        Raises
        ------
        RegistryError
            It has other channels already.
        """
        this = select(t.streams).where(t.streams.c.name == name).with_for_update()
        with writing(self.engine) as conn:
            text, now = ledger.canonical(list(channels)), self.clock()
            if conn.execute(this).first() is None:
                made = {"name": name, "channels": text, "created": now}
                number = conn.execute(
                    inserting(conn, t.streams)
                    .values(made)
                    .on_conflict_do_nothing()
                    .returning(t.streams.c.id)
                ).scalar()
                if number is not None:
                    ledger.append(conn, "stream", made, at=now, stream_id=number)
            row = conn.execute(this).one()  # ours, or another process's of the same moment
            known = tuple(json.loads(row.channels))
            if channels and not known:
                mine = t.streams.c.id == row.id
                conn.execute(update(t.streams).where(mine).values(channels=text))
            elif channels and tuple(channels) != known:
                raise RegistryError(f"stream {name} has the channels {', '.join(known)}")
            return Stream(id=row.id, name=name, channels=known or tuple(channels))

    def stream(self, name: str) -> Stream | None:
        """The stream of that name."""
        return next((s for s in self.streams() if s.name == name), None)

    def streams(self) -> list[Stream]:
        """Every stream."""
        with reading(self.engine) as conn:
            rows = conn.execute(select(t.streams).order_by(t.streams.c.id))
            return [
                Stream(id=r.id, name=r.name, channels=tuple(json.loads(r.channels))) for r in rows
            ]

    def progress(self) -> tuple[int, int]:
        """Records that checkpoints have passed, and requests that are not finished."""
        is_open = t.requests.c.status.in_(("pending", "claimed", "folded"))
        with reading(self.engine) as conn:
            done = conn.execute(select(func.sum(t.checkpoints.c.next_offset))).scalar()
            left = conn.execute(select(func.count()).select_from(t.requests).where(is_open))
            return int(done or 0), int(left.scalar_one())

    # Partitions -------------------------------------------------------------------------------

    def acquire(self, stream_id: int, partition: int, owner: str) -> Checkpoint:
        """Become the partition's owner: a new epoch, and what to go on from."""
        with writing(self.engine) as conn:
            return checkpoints.acquire(conn, stream_id, partition, owner, at=self.clock())

    def save(
        self,
        stream_id: int,
        partition: int,
        epoch: int,
        *,
        next_offset: int,
        state: bytes,
        boundaries: Sequence[Boundary] = (),
        requests: Sequence[Request] = (),
        artifacts: Mapping[str, tuple[str, bytes]] | None = None,
        scored: Sequence[tuple[int, int, int]] = (),
    ) -> None:
        """Write what a partition has become; raises StaleEpoch, and then nothing is written."""
        with writing(self.engine) as conn:
            now = self.clock()
            checkpoints.write(
                conn, stream_id, partition, epoch, next_offset=next_offset, state=state, at=now
            )
            for kind, content in (artifacts or {}).values():
                self._put(conn, kind, content, now)
            for boundary in boundaries:
                _insert_boundary(conn, stream_id, partition, boundary, now)
            for request in requests:
                self._submit(conn, request, now)
            checkpoints.note_scored(conn, stream_id, partition, scored)

    # Artifacts --------------------------------------------------------------------------------

    def put(self, kind: str, content: bytes) -> str:
        """Keep `content`; its sha256."""
        with writing(self.engine) as conn:
            return self._put(conn, kind, content, self.clock())

    def get(self, sha256: str) -> bytes:
        """The bytes behind a hash; ArtifactCorrupt if they are not what it says."""
        with reading(self.engine) as conn:
            return artifacts.get(conn, sha256)

    @staticmethod
    def _put(conn: Connection, kind: str, content: bytes, now: int) -> str:
        return artifacts.put(conn, kind, content, at=now)

    # Requests ---------------------------------------------------------------------------------

    def submit(self, request: Request) -> int | None:
        """Insert a request; None if the same one is there already."""
        with writing(self.engine) as conn:
            return requests.submit(conn, request, at=self.clock())

    @staticmethod
    def _submit(conn: Connection, request: Request, now: int) -> None:
        if requests.submit(conn, request, at=now) is None:
            raise RegistryError(
                f"the same request is there already: {request.reason} of partition "
                f"{request.partition}, series {request.series}, segment {request.segment}"
            )

    def claim(self, owner: str, lease_s: float, max_attempts: int = 3) -> Claim | None:
        """Take the oldest request that may be worked on; None if there is none."""
        try:
            with writing(self.engine) as conn:
                now = self.clock()
                return requests.claim(conn, owner, int(lease_s * 1e6), max_attempts, at=now)
        except IntegrityError:  # another process claimed one of this stream in the same moment
            return None

    def renew(self, claim: Claim, lease_s: float) -> None:
        """Keep a claim; LeaseLost if it is somebody else's."""
        with writing(self.engine) as conn:
            requests.renew(conn, claim, self.clock() + int(lease_s * 1e6))

    def finish(self, claim: Claim, outcome: str) -> None:
        """Done without a version."""
        with writing(self.engine) as conn:
            now = self.clock()
            requests.finish(conn, claim, outcome, at=now)
            facts = {"request": claim.id, "folded": [n for n, _ in claim.folded]}
            ledger.append(
                conn,
                "request_done",
                facts | {"outcome": outcome},
                at=now,
                stream_id=claim.request.stream_id,
            )

    def fail(self, claim: Claim, reason: str, *, retry: bool) -> None:
        """The attempt failed: try again later, or never."""
        with writing(self.engine) as conn:
            now = self.clock()
            requests.give_back(conn, claim, reason, retry=retry, at=now)
            facts = {"request": claim.id, "reason": reason, "retry": retry}
            ledger.append(conn, "request_failed", facts, at=now, stream_id=claim.request.stream_id)

    # Tasks ------------------------------------------------------------------------------------

    def tasks(self, stream_id: int) -> list[Task]:
        """The stream's known regimes."""
        with reading(self.engine) as conn:
            rows = conn.execute(
                select(t.tasks).where(t.tasks.c.stream_id == stream_id).order_by(t.tasks.c.id)
            )
            return [
                Task(
                    id=r.id,
                    number=r.number,
                    kind=r.kind,
                    fingerprint=np.array(json.loads(r.fingerprint), dtype=np.float64),
                )
                for r in rows
            ]

    def task_of(self, request_id: int) -> int | None:
        """The task that a request's segment was found to be, if it was."""
        with reading(self.engine) as conn:
            return conn.execute(
                select(t.requests.c.task_id).where(t.requests.c.id == request_id)
            ).scalar()

    def assign(
        self,
        request_id: int,
        fingerprint: NDArray[np.float64],
        task_id: int | None,
        distance: float,
    ) -> int:
        """Name the task of a request's segment: a known one, or (None) a new one; its id."""
        with writing(self.engine) as conn:
            return versions.assign(
                conn, request_id, fingerprint, task_id, distance, at=self.clock()
            )

    def latest_reservoirs(self, stream_id: int, upto: int) -> dict[int, str]:
        """partition -> sha256 of its newest reservoir among the requests up to `upto`."""
        with reading(self.engine) as conn:
            return versions.latest_reservoirs(conn, stream_id, upto)

    def held_out(self, stream_id: int, upto: int, per_task: int) -> dict[int, list[str]]:
        """Task id -> sha256 of its newest segments among the requests up to `upto`."""
        with reading(self.engine) as conn:
            return versions.held_out(conn, stream_id, upto, per_task)

    def segments(self, stream_id: int) -> list[tuple[int, int, str]]:
        """(request, task, sha256 of the readings) of every named segment, in order of arrival."""
        with reading(self.engine) as conn:
            return versions.segments(conn, stream_id)

    def last_request(self, stream_id: int) -> int:
        """Number of the stream's newest request; 0 without one."""
        with reading(self.engine) as conn:
            mine = t.requests.c.stream_id == stream_id
            return int(conn.execute(select(func.max(t.requests.c.id)).where(mine)).scalar() or 0)

    # Versions ---------------------------------------------------------------------------------

    def first_version(self, stream_id: int) -> Version | None:
        """The first version that was ever live."""
        with reading(self.engine) as conn:
            return versions.first(conn, stream_id)

    def champion(self, stream_id: int) -> Version | None:
        """The version that is live."""
        with reading(self.engine) as conn:
            return versions.champion(conn, stream_id)

    def skills(self, version_id: int) -> dict[int, float]:
        """Task id -> skill, as measured when the version was registered."""
        with reading(self.engine) as conn:
            return versions.skills(conn, version_id)

    def register(
        self,
        claim: Claim,
        candidate: Candidate,
        decision: Decision,
        *,
        parent: Version | None,
        inputs: Mapping[str, Any],
        settings: Mapping[str, Any],
        strategy: str,
        seed: int,
        code_version: str,
    ) -> Version:
        """Keep a candidate with all that is known of it, and promote it if that was decided.

        Raises
        ------
        LeaseLost
            The request is somebody else's now.
        VersionConflict
            The champion is no longer `parent`. In both cases nothing is written.
        """
        with writing(self.engine) as conn:
            made = versions.Made(
                candidate=candidate,
                decision=decision,
                parent=parent,
                inputs=inputs,
                settings=settings,
                strategy=strategy,
                seed=seed,
                code_version=code_version,
            )
            return versions.register(conn, claim, made, at=self.clock())

    # Leases -----------------------------------------------------------------------------------

    def lease(self, name: str, owner: str, lease_s: float) -> bool:
        """Take or keep a named lease; whether it is ours now."""
        now = self.clock()
        free = (t.leases.c.owner == owner) | (t.leases.c.until < now)
        values = {"owner": owner, "until": now + int(lease_s * 1e6)}
        try:
            with writing(self.engine) as conn:
                taken = conn.execute(
                    update(t.leases).where(t.leases.c.name == name, free).values(values)
                )
                if taken.rowcount == 0:
                    conn.execute(insert(t.leases).values(name=name, **values))
        except IntegrityError:  # somebody else's, and not over
            return False
        return True


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


def _insert_boundary(
    conn: Connection, stream_id: int, partition: int, boundary: Boundary, now: int
) -> None:
    row = {
        "stream_id": stream_id,
        "partition": partition,
        "series": boundary.series,
        "segment": boundary.segment,
        "boundary_row": boundary.boundary_row,
        "detected_row": boundary.detected_row,
        "boundary_offset": boundary.boundary_offset,
        "detected_offset": boundary.detected_offset,
        "boundary_time": boundary.boundary_time,
        "detected_time": boundary.detected_time,
        "signal": boundary.signal,
        "statistic": boundary.statistic,
        "threshold": boundary.threshold,
        "detectors": ledger.canonical(list(boundary.detectors)),
        "sensors": ledger.canonical([list(sensor) for sensor in boundary.sensors]),
    }
    conn.execute(insert(t.boundaries).values(recorded=now, **row))
    ledger.append(conn, "boundary", row, at=now, stream_id=stream_id)
