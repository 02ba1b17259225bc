"""Which regime each segment is, and the readings that stand for it, in the caller's transaction.

All of it follows from the requests: their order, and what each brought.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, Row, func, insert, select, update

from pipeline.records import Claim
from pipeline.register import ledger, requests
from pipeline.register import tables as t
from pipeline.register.engine import inserted, next_number


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A regime, as its readings showed it first."""

    id: int
    number: int
    fingerprint: NDArray[np.float64]


def known(conn: Connection, stream_id: int) -> list[Task]:
    """The stream's regimes, in the order in which they appeared."""
    rows = conn.execute(
        select(t.tasks).where(t.tasks.c.stream_id == stream_id).order_by(t.tasks.c.id)
    )
    return [
        Task(
            id=row.id,
            number=row.number,
            fingerprint=np.array(json.loads(row.fingerprint), dtype=np.float64),
        )
        for row in rows
    ]


def of(conn: Connection, request_id: int) -> int | None:
    """The task that a request's segment was found to be, if it was."""
    this = t.requests.c.id == request_id
    return conn.execute(select(t.requests.c.task_id).where(this)).scalar()


def assign(
    conn: Connection,
    claim: Claim,
    request_id: int,
    fingerprint: NDArray[np.float64],
    task_id: int | None,
    distance: float,
    *,
    at: int,
) -> int:
    """The task of a request's segment, a new one if `task_id` is None.

    What was said of the segment before stands, by this request or an earlier one of its own.

    Raises
    ------
    LeaseLost
        The claim that the request belongs to is somebody else's now.
    """
    requests.hold(conn, claim)
    request = conn.execute(select(t.requests).where(t.requests.c.id == request_id)).one()
    if request.task_id is not None:
        return int(request.task_id)
    near = distance if np.isfinite(distance) else None
    if (first := _first(conn, request)) is not None:
        task_id, near = first, None
    elif task_id is None:
        task_id = _make(conn, request.stream_id, fingerprint, at)
    conn.execute(
        update(t.requests)
        .where(t.requests.c.id == request_id, t.requests.c.task_id.is_(None))
        .values(task_id=task_id, distance=near)
    )
    facts = {"request": request_id, "task": task_id, "distance": near}
    ledger.append(conn, "task_named", facts, at=at, stream_id=request.stream_id)
    return task_id


def segments(conn: Connection, stream_id: int) -> list[tuple[int, int, str]]:
    """(request, task, sha256 of the readings) of every named segment, in order of arrival."""
    rows = conn.execute(
        select(t.requests.c.id, t.requests.c.task_id, t.requests.c.inputs)
        .where(t.requests.c.stream_id == stream_id, t.requests.c.task_id.is_not(None))
        .order_by(t.requests.c.id)
    )
    return [(row.id, row.task_id, _readings(row.inputs)) for row in rows]


def held_out(conn: Connection, stream_id: int, upto: int, per_task: int) -> dict[int, list[str]]:
    """Task id -> sha256 of its newest segments, newest first; of each segment its newest readings.

    The readings of an earlier request are the beginning of those of a later one of the segment.
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
        .where(t.requests.c.id.in_(newest))
        .order_by(t.requests.c.id.desc())
    )
    found: dict[int, list[str]] = {}
    for row in rows:
        shas = found.setdefault(row.task_id, [])
        if len(shas) < per_task:
            shas.append(_readings(row.inputs))
    return found


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


def _first(conn: Connection, request: Row[Any]) -> int | None:
    """The task of the first request of the same segment."""
    return conn.execute(
        select(t.requests.c.task_id)
        .where(
            t.requests.c.stream_id == request.stream_id,
            t.requests.c.partition == request.partition,
            t.requests.c.series == request.series,
            t.requests.c.segment == request.segment,
            t.requests.c.task_id.is_not(None),
        )
        .order_by(t.requests.c.id)
        .limit(1)
    ).scalar()


def _make(conn: Connection, stream_id: int, fingerprint: NDArray[np.float64], at: int) -> int:
    row = {
        "stream_id": stream_id,
        "number": next_number(conn, t.tasks, stream_id),
        "kind": "normal",
        "fingerprint": ledger.canonical(fingerprint.tolist()),
        "created": at,
    }
    return inserted(conn, insert(t.tasks).values(row))


def _readings(inputs: str) -> str:
    return str(json.loads(inputs)["segment"])
