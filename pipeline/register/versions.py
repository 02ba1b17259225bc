"""Versions, their tasks, figures and promotions, inside the caller's transaction."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from pipeline.errors import VersionConflict
from pipeline.records import Candidate, Claim, Decision, Version
from pipeline.register import artifacts, ledger, requests
from pipeline.register import tables as t
from pipeline.register.engine import inserted


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A candidate and everything that is to be known of it."""

    candidate: Candidate
    decision: Decision
    parent: Version | None
    inputs: Mapping[str, Any]
    settings: Mapping[str, Any]
    strategy: str
    seed: int
    code_version: str


def register(conn: Connection, claim: Claim, made: Made, *, at: int) -> Version:
    """Artifacts, version, metrics, R's row, request done, promotion, ledger."""
    stream_id = claim.request.stream_id
    number = _next_number(conn, t.versions, stream_id)
    word = "promoted" if made.decision.promote else "rejected"
    requests.finish(conn, claim, f"version {number} {word}: {made.decision.reason}", at=at)
    sha256 = artifacts.put(conn, "weights", made.candidate.weights, at=at)
    ewc = artifacts.put(conn, "ewc", made.candidate.ewc, at=at) if made.candidate.ewc else None
    row = {
        "stream_id": stream_id,
        "number": number,
        "parent_id": made.parent.id if made.parent else None,
        "request_id": claim.id,
        "sha256": sha256,
        "ewc_sha256": ewc,
        "status": "candidate" if made.decision.promote else "rejected",
        "decision": made.decision.reason,
        "figures": ledger.canonical(made.decision.figures),
        "strategy": made.strategy,
        "seed": made.seed,
        "inputs": ledger.canonical(made.inputs),
        "settings": ledger.canonical(made.settings),
        "code_version": made.code_version,
        "created": at,
    }
    version_id = inserted(conn, insert(t.versions).values(row))
    _insert_figures(conn, version_id, made.candidate)
    entry = row | {"metrics": dict(made.candidate.metrics), "skills": dict(made.candidate.skills)}
    ledger.append(conn, "version", entry, at=at, stream_id=stream_id)
    if made.decision.promote:
        promote(conn, stream_id, version_id, made.parent, made.decision.reason, at=at)
    return _version(conn, version_id)


def promote(
    conn: Connection,
    stream_id: int,
    version_id: int,
    instead_of: Version | None,
    reason: str,
    *,
    actor: str = "gate",
    at: int,
) -> None:
    """Make a candidate the champion if the champion still is `instead_of`.

    Raises
    ------
    VersionConflict
        It is another one.
    """
    try:
        if instead_of is not None:
            _move(conn, instead_of.id, "champion", "retired")
            at = max(at, _close_live(conn, stream_id, at))
        _move(conn, version_id, "candidate", "champion")
        conn.execute(
            insert(t.promotions).values(
                stream_id=stream_id,
                version_id=version_id,
                live_from=at,
                actor=actor,
                reason=reason,
            )
        )
    except IntegrityError as exc:  # the index allows one champion a stream
        raise VersionConflict("the stream has another champion by now") from exc
    facts = {"version": version_id, "instead_of": instead_of.id if instead_of else None}
    ledger.append(
        conn, "promotion", facts | {"reason": reason}, at=at, actor=actor, stream_id=stream_id
    )


def assign(
    conn: Connection,
    request_id: int,
    fingerprint: NDArray[np.float64],
    task_id: int | None,
    distance: float,
    *,
    at: int,
) -> int:
    """The task of a request's segment, a new one if `task_id` is None."""
    request = conn.execute(select(t.requests).where(t.requests.c.id == request_id)).one()
    if task_id is None:
        row = {
            "stream_id": request.stream_id,
            "number": _next_number(conn, t.tasks, request.stream_id),
            "kind": "normal",
            "fingerprint": ledger.canonical(fingerprint.tolist()),
        }
        task_id = inserted(conn, insert(t.tasks).values(created=at, **row))
    near = distance if np.isfinite(distance) else None
    conn.execute(
        update(t.requests)
        .where(t.requests.c.id == request_id)
        .values(task_id=task_id, distance=near)
    )
    facts = {"request": request_id, "task": task_id, "distance": near}
    ledger.append(conn, "task_named", facts, at=at, stream_id=request.stream_id)
    return task_id


def champion(conn: Connection, stream_id: int) -> Version | None:
    """The version that is live."""
    row = conn.execute(
        select(t.versions.c.id).where(t.versions.c.stream_id == stream_id, t.is_champion)
    ).first()
    return _version(conn, row.id) if row else None


def first(conn: Connection, stream_id: int) -> Version | None:
    """The version that was live first."""
    row = conn.execute(
        select(t.promotions.c.version_id)
        .where(t.promotions.c.stream_id == stream_id)
        .order_by(t.promotions.c.id)
        .limit(1)
    ).first()
    return _version(conn, row.version_id) if row else None


def segments(conn: Connection, stream_id: int) -> list[tuple[int, int, str]]:
    """(request, task, sha256 of the readings) of every named segment, in order of arrival."""
    rows = conn.execute(
        select(t.requests.c.id, t.requests.c.task_id, t.requests.c.inputs)
        .where(t.requests.c.stream_id == stream_id, t.requests.c.task_id.is_not(None))
        .order_by(t.requests.c.id)
    )
    return [(row.id, row.task_id, json.loads(row.inputs)["segment"]) for row in rows]


def skills(conn: Connection, version_id: int) -> dict[int, float]:
    """A version's row of R."""
    rows = conn.execute(
        select(t.evaluations.c.task_id, t.evaluations.c.skill).where(
            t.evaluations.c.version_id == version_id
        )
    )
    return {row.task_id: row.skill for row in rows}


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


def held_out(conn: Connection, stream_id: int, upto: int, per_task: int) -> dict[int, list[str]]:
    """Task id -> sha256 of its newest segments, newest first."""
    known = conn.execute(select(t.tasks.c.id).where(t.tasks.c.stream_id == stream_id)).scalars()
    found: dict[int, list[str]] = {}
    for task_id in list(known):
        rows = conn.execute(
            select(t.requests.c.inputs)
            .where(t.requests.c.task_id == task_id, t.requests.c.id <= upto)
            .order_by(t.requests.c.id.desc())
            .limit(per_task)
        ).scalars()
        segments = [json.loads(inputs).get("segment") for inputs in rows]
        if any(segments):
            found[task_id] = [sha for sha in segments if sha]
    return found


def _insert_figures(conn: Connection, version_id: int, candidate: Candidate) -> None:
    """A figure that is not finite has no row: SQLite keeps NaN as NULL; the ledger has it."""
    figures = [
        {"version_id": version_id, "name": name, "value": value}
        for name, value in candidate.metrics.items()
        if isfinite(value)
    ]
    if figures:
        conn.execute(insert(t.metrics), figures)
    row_of_r = [
        {
            "version_id": version_id,
            "task_id": task,
            "skill": skill,
            "parent_skill": candidate.parent_skills.get(task),
            "windows": candidate.sizes[task],
        }
        for task, skill in candidate.skills.items()
        if isfinite(skill)
    ]
    if row_of_r:
        conn.execute(insert(t.evaluations), row_of_r)


def _close_live(conn: Connection, stream_id: int, at: int) -> int:
    """End the live interval, never before it began; when it ended."""
    live = conn.execute(
        select(t.promotions).where(t.promotions.c.stream_id == stream_id, t.is_live)
    ).one()
    until = max(at, int(live.live_from))
    conn.execute(update(t.promotions).where(t.promotions.c.id == live.id).values(live_until=until))
    return until


def _move(conn: Connection, version_id: int, before: str, after: str) -> None:
    """Change a version's status if it still is `before`."""
    this = (t.versions.c.id == version_id) & (t.versions.c.status == before)
    if conn.execute(update(t.versions).where(this).values(status=after)).rowcount != 1:
        raise VersionConflict(f"version id {version_id} is no longer {before}")


def _next_number(conn: Connection, table: Any, stream_id: int) -> int:
    last = conn.execute(
        select(func.max(table.c.number)).where(table.c.stream_id == stream_id)
    ).scalar()
    return int(last or 0) + 1


def _version(conn: Connection, version_id: int) -> Version:
    row = conn.execute(select(t.versions).where(t.versions.c.id == version_id)).one()
    return Version(
        id=row.id,
        stream_id=row.stream_id,
        number=row.number,
        parent_id=row.parent_id,
        sha256=row.sha256,
        ewc_sha256=row.ewc_sha256,
        status=row.status,
    )
