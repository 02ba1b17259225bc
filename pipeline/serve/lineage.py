"""The audit questions, as SQL: what was live, why it was trained, with which figures.

Read only. Every answer is plain data with ISO 8601 times, ready for JSON.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, func, or_, select

from pipeline.config import Database
from pipeline.errors import PipelineError
from pipeline.register import tables as t
from pipeline.register.engine import connect, reading

Answer = dict[str, Any]
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Lineage:
    """Questions about one database's streams."""

    def __init__(self, database: Database) -> None:
        self.engine = connect(database)

    def close(self) -> None:
        """Give the connections back."""
        self.engine.dispose()

    def live_at(self, stream: str, at: int) -> Answer:
        """The version that was live at a time (microseconds): half-open intervals.

        Raises
        ------
        PipelineError
            No such stream, or no version was live then.
        """
        with reading(self.engine) as conn:
            live = _live(conn, _stream(conn, stream), at)
            version = _version_row(conn, t.versions.c.id == live.version_id)
            return {
                "stream": stream,
                "at": iso(at),
                "version": version.number,
                "sha256": version.sha256,
                "live_from": iso(live.live_from),
                "live_until": iso(live.live_until),
                "promoted_by": live.actor,
                "because": live.reason,
            }

    def why(self, stream: str, number: int) -> Answer:
        """Why a version was trained: the boundary with its test, or who asked; and the gate."""
        with reading(self.engine) as conn:
            stream_id = _stream(conn, stream)
            version = _numbered(conn, stream_id, number)
            request = conn.execute(
                select(t.requests).where(t.requests.c.id == version.request_id)
            ).one()
            return {
                "stream": stream,
                "version": number,
                "trained_because": request.reason,
                "actor": request.actor,
                "note": request.note,
                "request": request.id,
                "requested_at": iso(request.created),
                "due": iso(request.due),
                "boundary": _boundary_of(conn, request),
                "task": _task_number(conn, request.task_id),
                "taken_along": list(_taken_along(conn, request.id)),
                "parent": _number(conn, version.parent_id),
                "inputs": json.loads(version.inputs),
                "status": version.status,
                "decision": version.decision,
            }

    def metrics_at(self, stream: str, at: int) -> Answer:
        """The figures of the version live at a time, as they were known then."""
        with reading(self.engine) as conn:
            live = _live(conn, _stream(conn, stream), at)
            version = _version_row(conn, t.versions.c.id == live.version_id)
            return {
                "stream": stream,
                "at": iso(at),
                "version": version.number,
                "measured_at": iso(version.created),
                "metrics": _metrics(conn, version.id),
                "skills": _skills(conn, version.id),
            }

    def history(self, stream: str) -> list[Answer]:
        """Every version: parent, reason, figures, fate, when it was live."""
        with reading(self.engine) as conn:
            rows = conn.execute(
                select(t.versions, t.requests.c.reason)
                .join(t.requests, t.requests.c.id == t.versions.c.request_id)
                .where(t.versions.c.stream_id == _stream(conn, stream))
                .order_by(t.versions.c.number)
            ).all()
            return [_summary(conn, row) for row in rows]

    def lineage(self, stream: str, number: int) -> list[Answer]:
        """A version and its parents, back to the bootstrap."""
        with reading(self.engine) as conn:
            stream_id = _stream(conn, stream)
            parents = (
                select(t.versions.c.id, t.versions.c.parent_id)
                .where(t.versions.c.stream_id == stream_id, t.versions.c.number == number)
                .cte("parents", recursive=True)
            )
            parents = parents.union_all(
                select(t.versions.c.id, t.versions.c.parent_id).join(
                    parents, t.versions.c.id == parents.c.parent_id
                )
            )
            rows = conn.execute(
                select(t.versions, t.requests.c.reason)
                .join(parents, parents.c.id == t.versions.c.id)
                .join(t.requests, t.requests.c.id == t.versions.c.request_id)
                .order_by(t.versions.c.number.desc())
            ).all()
            if not rows:
                raise PipelineError(f"stream {stream} has no version {number}")
            return [_summary(conn, row) for row in rows]

    def boundaries(self, stream: str) -> list[Answer]:
        """Every boundary, in the order in which it was recorded."""
        with reading(self.engine) as conn:
            rows = conn.execute(
                select(t.boundaries)
                .where(t.boundaries.c.stream_id == _stream(conn, stream))
                .order_by(t.boundaries.c.id)
            )
            return [_boundary(row) for row in rows]

    def matrix(self, stream: str) -> list[Answer]:
        """R, a row a version: its skill on each task's held-out readings, by task number."""
        with reading(self.engine) as conn:
            rows = conn.execute(
                select(t.versions.c.id, t.versions.c.number, t.versions.c.status)
                .where(t.versions.c.stream_id == _stream(conn, stream))
                .order_by(t.versions.c.number)
            ).all()
            return [
                {"version": r.number, "status": r.status, "skills": _skills(conn, r.id)}
                for r in rows
            ]


def iso(time: int | None) -> str | None:
    """Microseconds since 1970 UTC as ISO 8601 with zone."""
    if time is None:
        return None
    try:
        return (EPOCH + timedelta(microseconds=time)).isoformat(timespec="microseconds")
    except OverflowError:
        raise PipelineError(
            f"{time} is no time in microseconds: its year is not 1 to 9999"
        ) from None


def _stream(conn: Connection, name: str) -> int:
    number = conn.execute(select(t.streams.c.id).where(t.streams.c.name == name)).scalar()
    if number is None:
        names = conn.execute(select(t.streams.c.name).order_by(t.streams.c.name)).scalars()
        raise PipelineError(f"no stream {name}; known: {', '.join(names) or 'none yet'}")
    return int(number)


def _live(conn: Connection, stream_id: int, at: int) -> Row[Any]:
    row = conn.execute(
        select(t.promotions)
        .where(
            t.promotions.c.stream_id == stream_id,
            t.promotions.c.live_from <= at,
            or_(t.promotions.c.live_until.is_(None), t.promotions.c.live_until > at),
        )
        .order_by(t.promotions.c.live_from.desc())
        .limit(1)
    ).first()
    if row is None:
        first = conn.execute(
            select(func.min(t.promotions.c.live_from)).where(t.promotions.c.stream_id == stream_id)
        ).scalar()
        since = f"the first went live at {iso(first)}" if first is not None else "there is none yet"
        raise PipelineError(f"no version was live at {iso(at)}: {since}")
    return row


def _numbered(conn: Connection, stream_id: int, number: int) -> Row[Any]:
    this = (t.versions.c.stream_id == stream_id) & (t.versions.c.number == number)
    row = conn.execute(select(t.versions).where(this)).first()
    if row is None:
        last = conn.execute(
            select(func.max(t.versions.c.number)).where(t.versions.c.stream_id == stream_id)
        ).scalar()
        raise PipelineError(f"no version {number}: the stream has {last or 'none'}")
    return row


def _version_row(conn: Connection, where: Any) -> Row[Any]:
    return conn.execute(select(t.versions).where(where)).one()


def _number(conn: Connection, version_id: int | None) -> int | None:
    if version_id is None:
        return None
    return conn.execute(select(t.versions.c.number).where(t.versions.c.id == version_id)).scalar()


def _task_number(conn: Connection, task_id: int | None) -> int | None:
    if task_id is None:
        return None
    return conn.execute(select(t.tasks.c.number).where(t.tasks.c.id == task_id)).scalar()


def _boundary_of(conn: Connection, request: Row[Any]) -> Answer | None:
    row = conn.execute(
        select(t.boundaries).where(
            t.boundaries.c.stream_id == request.stream_id,
            t.boundaries.c.partition == request.partition,
            t.boundaries.c.series == request.series,
            t.boundaries.c.segment == request.segment,
        )
    ).first()
    return _boundary(row) if row else None


def _taken_along(conn: Connection, request_id: int) -> Iterator[Answer]:
    rows = conn.execute(
        select(t.requests).where(t.requests.c.folded_into == request_id).order_by(t.requests.c.id)
    )
    for row in rows.all():
        boundary = _boundary_of(conn, row)
        yield {"request": row.id, "reason": row.reason, "boundary": boundary}


def _boundary(row: Row[Any]) -> Answer:
    return {
        "partition": row.partition,
        "series": row.series,
        "segment": row.segment,
        "boundary_row": row.boundary_row,
        "detected_row": row.detected_row,
        "boundary_offset": row.boundary_offset,
        "detected_offset": row.detected_offset,
        "boundary_at": iso(row.boundary_time),
        "detected_at": iso(row.detected_time),
        "signal": row.signal,
        "statistic": row.statistic,
        "threshold": row.threshold,
        "detectors": json.loads(row.detectors),
        "sensors": json.loads(row.sensors),
    }


def _summary(conn: Connection, row: Row[Any]) -> Answer:
    live = conn.execute(
        select(t.promotions.c.live_from, t.promotions.c.live_until)
        .where(t.promotions.c.version_id == row.id)
        .order_by(t.promotions.c.live_from)
    ).all()
    return {
        "version": row.number,
        "parent": _number(conn, row.parent_id),
        "reason": row.reason,
        "fate": row.status,
        "decision": row.decision,
        "created": iso(row.created),
        "live": [{"from": iso(p.live_from), "until": iso(p.live_until)} for p in live],
        "sha256": row.sha256,
        "metrics": _metrics(conn, row.id),
        "skills": _skills(conn, row.id),
    }


def _metrics(conn: Connection, version_id: int) -> dict[str, float]:
    rows = conn.execute(
        select(t.metrics.c.name, t.metrics.c.value)
        .where(t.metrics.c.version_id == version_id)
        .order_by(t.metrics.c.name)
    )
    return {row.name: row.value for row in rows}


def _skills(conn: Connection, version_id: int) -> dict[str, float]:
    """A row of R, by task number."""
    rows = conn.execute(
        select(t.tasks.c.number, t.evaluations.c.skill)
        .join(t.tasks, t.tasks.c.id == t.evaluations.c.task_id)
        .where(t.evaluations.c.version_id == version_id)
        .order_by(t.tasks.c.number)
    )
    return {f"task {row.number}": row.skill for row in rows}
