"""Which regime each segment is, and the readings that stand for it, in the caller's transaction.

All of it follows from the requests, their order and what each brought, and from how segments were
named (naming.py).
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, func, literal, or_, select

from pipeline.register import tables as t

#: Segments behind each task's held-out readings, the newest.
HELD_OUT_SEGMENTS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A regime, and location and deviation (2, d) of its first readings in their units."""

    id: int
    number: int
    #: normal | fault | ignore | asked, and the name that a person gave it.
    kind: str
    name: str | None
    fingerprint: NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request with a segment that was named."""

    request: int
    task: int
    #: sha256 of the readings.
    segment: str
    #: When it was done or failed for good, microseconds; None: not yet.
    finished: int | None


def known(conn: Connection, stream_id: int) -> list[Task]:
    """The stream's regimes, in the order in which they appeared."""
    rows = conn.execute(
        select(t.tasks).where(t.tasks.c.stream_id == stream_id).order_by(t.tasks.c.id)
    )
    return [
        Task(
            id=row.id,
            number=row.number,
            kind=row.kind,
            name=row.name,
            fingerprint=np.array(json.loads(row.fingerprint), dtype=np.float64),
        )
        for row in rows
    ]


def of(conn: Connection, request_id: int) -> int | None:
    """The task that a request's segment was found to be, if it was."""
    this = t.requests.c.id == request_id
    return conn.execute(select(t.requests.c.task_id).where(this)).scalar()


def segments(conn: Connection, stream_id: int) -> list[Asked]:
    """Every request with a named segment, in order of arrival."""
    c = t.requests.c
    rows = conn.execute(
        select(c.id, c.task_id, c.inputs, c.finished)
        .where(c.stream_id == stream_id, c.task_id.is_not(None))
        .order_by(c.id)
    )
    return [
        Asked(
            request=row.id, task=row.task_id, segment=_readings(row.inputs), finished=row.finished
        )
        for row in rows
    ]


def newest_named(conn: Connection, stream_id: int, partition: int) -> list[tuple[str, int, int]]:
    """(series, segment, number of its task) of each series' newest segment that has a name."""
    c = t.segments.c
    newest = (
        select(c.series, func.max(c.segment).label("segment"))
        .where(c.stream_id == stream_id, c.partition == partition)
        .group_by(c.series)
        .subquery()
    )
    rows = conn.execute(
        select(c.series, c.segment, t.tasks.c.number)
        .join(newest, (newest.c.series == c.series) & (newest.c.segment == c.segment))
        .join(t.tasks, t.tasks.c.id == c.task_id)
        .where(c.stream_id == stream_id, c.partition == partition)
        .order_by(c.id)
    )
    return [(row.series, row.segment, row.number) for row in rows]


def held_out(
    conn: Connection, stream_id: int, upto: int, per_task: int, *, every_kind: bool = False
) -> dict[int, list[str]]:
    """Task id -> sha256 of its newest segments, newest first, each by its newest readings."""
    found: dict[int, list[str]] = {}
    for task_id, sha in reversed(earlier(conn, stream_id, upto, every_kind=every_kind)):
        shas = found.setdefault(task_id, [])
        if len(shas) < per_task:
            shas.append(sha)
    return found


def earlier(
    conn: Connection, stream_id: int, upto: int, *, every_kind: bool = False
) -> list[tuple[int, str]]:
    """(task id, sha256 of its newest readings) of each segment, the oldest first.

    Of normal tasks, unless every kind is wanted. The readings of an earlier request are the
    beginning of those of a later one of the segment.
    """
    newest = (
        select(func.max(t.requests.c.id))
        .where(
            t.requests.c.stream_id == stream_id,
            t.requests.c.task_id.is_not(None),
            t.requests.c.id <= upto,
        )
        .group_by(t.requests.c.partition, t.requests.c.series, t.requests.c.segment)
    )
    rows = conn.execute(
        select(t.requests.c.task_id, t.requests.c.inputs)
        .join(t.tasks, t.tasks.c.id == t.requests.c.task_id)
        .where(t.requests.c.id.in_(newest), or_(literal(every_kind), t.tasks.c.kind == "normal"))
        .order_by(t.requests.c.id)
    )
    return [(row.task_id, _readings(row.inputs)) for row in rows]


def places(conn: Connection, stream_id: int) -> dict[tuple[int, str, int], int]:
    """(partition, series, segment) -> id of its task, for every named segment."""
    c = t.segments.c
    rows = conn.execute(
        select(c.partition, c.series, c.segment, c.task_id).where(c.stream_id == stream_id)
    )
    return {(row.partition, row.series, row.segment): row.task_id for row in rows}


def latest_reservoirs(conn: Connection, stream_id: int, upto: int) -> dict[int, str]:
    """partition -> sha256 of its newest reservoir."""
    newest = (
        select(func.max(t.requests.c.id))
        .where(
            t.requests.c.stream_id == stream_id,
            t.requests.c.id <= upto,
            t.requests.c.partition.is_not(None),
        )
        .group_by(t.requests.c.partition)
    )
    rows = conn.execute(
        select(t.requests.c.partition, t.requests.c.inputs).where(t.requests.c.id.in_(newest))
    )
    found = {row.partition: json.loads(row.inputs).get("reservoir") for row in rows}
    return {partition: sha for partition, sha in found.items() if sha}


def _readings(inputs: str) -> str:
    return str(json.loads(inputs)["segment"])
