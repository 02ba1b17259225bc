"""The durable list of consolidations to do: submit, claim, give back, finish.

A claim is a lease with a fencing number. Requests of one stream run one at a time (an index allows
one claim a stream); those that piled up behind the oldest are taken along with it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, select, update

from pipeline.errors import LeaseLost
from pipeline.records import Claim, Request
from pipeline.register import ledger
from pipeline.register.engine import inserting
from pipeline.register.tables import requests

#: Pending requests that one claim takes along, at most.
FOLD_LIMIT = 64


def submit(conn: Connection, request: Request, *, at: int) -> int | None:
    """Insert a pending request; None if the same one is there already."""
    row = {
        "stream_id": request.stream_id,
        "reason": request.reason,
        "actor": request.actor,
        "note": request.note,
        "partition": request.partition,
        "series": request.series,
        "segment": request.segment,
        "inputs": ledger.canonical(dict(request.inputs)),
        "due": request.due,
    }
    values = row | {"status": "pending", "fence": 0, "attempts": 0, "created": at}
    number = conn.execute(
        inserting(conn, requests).values(values).on_conflict_do_nothing().returning(requests.c.id)
    ).scalar()
    if number is None:
        return None
    entry = row | {"request": number, "inputs": dict(request.inputs)}
    ledger.append(conn, "request", entry, at=at, actor=request.actor, stream_id=request.stream_id)
    return int(number)


def claim(conn: Connection, owner: str, lease: int, max_attempts: int, *, at: int) -> Claim | None:
    """Take the oldest request of a stream that nobody works on; None if there is none.

    lease: microseconds. A claim whose lease is over is pending again first; a request that was
    tried `max_attempts` times fails, with its last reason kept.
    """
    _expire(conn, at)
    busy = select(requests.c.stream_id).where(requests.c.status == "claimed")
    oldest = (
        select(requests)
        .where(requests.c.status == "pending", requests.c.stream_id.not_in(busy))
        .order_by(requests.c.id)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    while (row := conn.execute(oldest).first()) is not None:
        if row.attempts < max_attempts:
            return _take(conn, row, owner, at + lease)
        _end(conn, row.id, "failed", f"given up after {row.attempts} attempts: {row.outcome}", at)
        facts = {"request": row.id, "attempts": row.attempts, "reason": row.outcome}
        ledger.append(conn, "request_failed", facts, at=at, stream_id=row.stream_id)
    return None


def renew(conn: Connection, claim_: Claim, until: int) -> None:
    """Move the end of the lease.

    Raises
    ------
    LeaseLost
        Somebody else holds the request, or it is done.
    """
    _hold(conn, claim_, {"lease_until": until})


def finish(conn: Connection, claim_: Claim, outcome: str, *, at: int) -> None:
    """The request and those folded into it are done; LeaseLost if the claim is not ours."""
    _hold(conn, claim_, {"status": "done", "finished": at, "outcome": outcome})
    folded = [number for number, _ in claim_.folded]
    if folded:
        conn.execute(
            update(requests)
            .where(requests.c.id.in_(folded))
            .values(status="done", finished=at, outcome=f"with request {claim_.id}: {outcome}")
        )


def give_back(conn: Connection, claim_: Claim, reason: str, *, retry: bool, at: int) -> None:
    """The attempt failed: pending again, or failed for good; what was folded is pending again."""
    ended: dict[str, Any] = {"status": "pending"} if retry else {"status": "failed", "finished": at}
    _hold(conn, claim_, ended | {"owner": None, "lease_until": None, "outcome": reason})
    _unfold(conn, [claim_.id])


def _take(conn: Connection, row: Row[Any], owner: str, until: int) -> Claim:
    others = conn.execute(
        select(requests)
        .where(
            requests.c.status == "pending",
            requests.c.stream_id == row.stream_id,
            requests.c.id > row.id,
        )
        .order_by(requests.c.id)
        .limit(FOLD_LIMIT)
        .with_for_update(skip_locked=True)
    ).all()
    conn.execute(
        update(requests)
        .where(requests.c.id == row.id)
        .values(
            status="claimed",
            owner=owner,
            lease_until=until,
            fence=row.fence + 1,
            attempts=row.attempts + 1,
        )
    )
    conn.execute(
        update(requests)
        .where(requests.c.id.in_([other.id for other in others]))
        .values(status="folded", folded_into=row.id)
    )
    return Claim(
        id=row.id,
        request=_request(row),
        fence=row.fence + 1,
        attempts=row.attempts + 1,
        folded=tuple((other.id, _request(other)) for other in others),
    )


def _expire(conn: Connection, at: int) -> None:
    """Claims whose lease is over are pending again, and so is what they took along."""
    late = conn.execute(
        select(requests.c.id)
        .where(requests.c.status == "claimed", requests.c.lease_until < at)
        .with_for_update(skip_locked=True)
    ).scalars()
    ids = list(late)
    if ids:
        conn.execute(
            update(requests)
            .where(requests.c.id.in_(ids))
            .values(status="pending", owner=None, lease_until=None, outcome="the lease ran out")
        )
        _unfold(conn, ids)


def _unfold(conn: Connection, ids: Sequence[int]) -> None:
    conn.execute(
        update(requests)
        .where(requests.c.status == "folded", requests.c.folded_into.in_(ids))
        .values(status="pending", folded_into=None)
    )


def _hold(conn: Connection, claim_: Claim, values: dict[str, Any]) -> None:
    """Change the claimed row if it still is this claim's."""
    changed = conn.execute(
        update(requests)
        .where(
            requests.c.id == claim_.id,
            requests.c.status == "claimed",
            requests.c.fence == claim_.fence,
        )
        .values(**values)
    )
    if changed.rowcount != 1:
        raise LeaseLost(f"request {claim_.id} is no longer ours (fence {claim_.fence})")


def _end(conn: Connection, number: int, status: str, outcome: str, at: int) -> None:
    conn.execute(
        update(requests)
        .where(requests.c.id == number)
        .values(status=status, finished=at, outcome=outcome)
    )


def _request(row: Row[Any]) -> Request:
    return Request(
        stream_id=row.stream_id,
        reason=row.reason,
        actor=row.actor,
        note=row.note,
        partition=row.partition,
        series=row.series,
        segment=row.segment,
        inputs=json.loads(row.inputs),
        due=row.due,
    )
