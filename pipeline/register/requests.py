"""The durable list of consolidations to do: submit, claim, admit, give back, finish.

A claim is a lease with a fencing number. Requests of one stream run one at a time (an index allows
one claim a stream) and in their order; those that piled up behind the oldest are taken along with
it. One that failed before is tried again after a pause, and alone. One of a task that waits for a
person's word is claimed once there is one. What the rules (rules.py) hold back stays pending, says
why, and is taken along by the next that they do not. Leases end as leases.py says; a pause that a
clock which was set back would make longer than the longest is over.

Whatever ends in the ledger takes its lock before any request's row, as naming.py does: neither can
wait for the other for ever.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, and_, exists, func, insert, select, update

from pipeline.config import Retrain
from pipeline.errors import LeaseLost
from pipeline.records import Claim, Request
from pipeline.register import holding, ledger
from pipeline.register.engine import inserting
from pipeline.register.leases import is_over
from pipeline.register.rules import FREE
from pipeline.register.tables import request_inputs, requests, streams, tasks

#: Pending requests that one claim takes along, at most.
FOLD_LIMIT = 64
#: Pause after a first failed attempt, doubled with each further one, and the longest; in seconds.
PAUSE_S, LONGEST_S = 5, 320
#: What follows from a task's kind for a request of it.
NOT_LEARNED = {
    "fault": "is a fault: not learned",
    "ignore": "is to be ignored: not learned",
    "asked": "waits: nobody has said yet what it is",
}
#: Requests whose task waits for a person's word.
_waits = exists().where(tasks.c.id == requests.c.task_id, tasks.c.kind == "asked")


def submit(
    conn: Connection, request: Request, *, at: int, more: Mapping[str, Any] | None = None
) -> int | None:
    """Insert a pending request; None if the same one is there already.

    more: further facts for the ledger.

    Under the ledger's lock, so that requests can be seen in the order of their numbers.
    """
    ledger.lock(conn)
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
        "without_task": request.without_task,
    }
    values = row | {"status": "pending", "fence": 0, "attempts": 0, "created": at}
    values["readings"] = holding.readings(conn, request.stream_id)
    number = conn.execute(
        inserting(conn, requests).values(values).on_conflict_do_nothing().returning(requests.c.id)
    ).scalar()
    if number is None:
        return None
    _note_inputs(conn, number, request)
    entry = row | {"request": number, "inputs": dict(request.inputs), **(more or {})}
    ledger.append(conn, "request", entry, at=at, actor=request.actor, stream_id=request.stream_id)
    return int(number)


def _note_inputs(conn: Connection, number: int, request: Request) -> None:
    """Each artifact by its hash, so that whoever has the hash finds the request."""
    for role, sha256 in request.inputs.items():
        row = {"request_id": number, "role": role, "sha256": sha256}
        if role == "segment" and request.extent is not None:
            row |= asdict(request.extent)
        conn.execute(insert(request_inputs).values(row))


def claim(
    conn: Connection, owner: str, lease: int, max_attempts: int, rules: Retrain, *, at: int
) -> Claim | None:
    """Take the oldest request of a stream that nobody works on; None if there is none.

    lease: microseconds. rules: when a training may begin. A claim whose lease is over is pending
    again first; a request that was tried `max_attempts` times fails, with its last reason kept.
    While a request's pause lasts, its stream is left alone, and so is one that a person has paused.
    """
    ledger.lock(conn)
    _expire(conn, lease, at)
    pauses = (requests.c.status == "pending") & requests.c.not_before.between(
        at + 1, at + LONGEST_S * 1_000_000
    )
    busy = select(requests.c.stream_id).where((requests.c.status == "claimed") | pauses)
    paused = select(streams.c.id).where(streams.c.paused.is_not(None))
    held = holding.back(conn, rules, at=at)
    may_begin = requests.c.stream_id.not_in(held) | requests.c.reason.in_(FREE)
    oldest = (
        select(requests)
        .where(
            requests.c.status == "pending",
            requests.c.stream_id.not_in(busy),
            requests.c.stream_id.not_in(paused),
            ~_waits,
            may_begin,
        )
        .order_by(requests.c.id)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    while (row := conn.execute(oldest).first()) is not None:
        if row.attempts < max_attempts:
            return _take(conn, row, owner, at + lease, at)
        _end(conn, row.id, "failed", f"given up after {row.attempts} attempts: {row.outcome}", at)
        facts = {"request": row.id, "attempts": row.attempts, "reason": row.outcome}
        ledger.append(conn, "request_failed", facts, at=at, stream_id=row.stream_id)
    return None


def admit(conn: Connection, claim_: Claim, *, at: int) -> Claim | None:
    """What of a claim may be learned; None if its own request may not: then the claim is over.

    A request of a fault, or of a task to be ignored, is done, with a sentence. One of a task that
    waits for a person's word is pending again.

    Raises
    ------
    LeaseLost
        The claim is somebody else's now.
    """
    ledger.lock(conn)
    hold(conn, claim_)
    ids = [claim_.id, *(number for number, _ in claim_.folded)]
    not_learned = conn.execute(
        select(requests.c.id, requests.c.status, requests.c.attempts, tasks.c.number, tasks.c.kind)
        .join(tasks, tasks.c.id == requests.c.task_id)
        .where(requests.c.id.in_(ids), tasks.c.kind != "normal")
        .order_by(requests.c.id)
    ).all()
    for row in not_learned:
        if row.status not in ("claimed", "folded"):  # refused by an earlier call
            continue
        outcome = f"task {row.number} {NOT_LEARNED[row.kind]}"
        values: dict[str, Any] = {"owner": None, "lease_until": None, "folded_into": None}
        values["outcome"] = outcome
        if row.kind == "asked":
            values |= {"status": "pending", "attempts": max(row.attempts - 1, 0)}
        else:
            values |= {"status": "done", "finished": at}
        conn.execute(update(requests).where(requests.c.id == row.id).values(values))
        kind = "request_released" if row.kind == "asked" else "request_done"
        facts = {"request": row.id, "outcome": outcome}
        ledger.append(conn, kind, facts, at=at, stream_id=claim_.request.stream_id)
    gone = {row.id for row in not_learned}
    if claim_.id in gone:
        _unfold(conn, [claim_.id])
        return None
    return replace(claim_, folded=tuple(one for one in claim_.folded if one[0] not in gone))


def renew(conn: Connection, claim_: Claim, until: int) -> None:
    """Move the end of the lease.

    Raises
    ------
    LeaseLost
        Somebody else holds the request, or it is done.
    """
    _change(conn, claim_, {"lease_until": until})


def finish(conn: Connection, claim_: Claim, outcome: str, *, at: int) -> bool:
    """The request and those folded into it are done; LeaseLost if the claim is not ours.

    The answer: whether this call did it, not an earlier one of the same claim.
    """
    ledger.lock(conn)
    if not _change(conn, claim_, {"status": "done", "finished": at, "outcome": outcome}):
        return False
    folded = [number for number, _ in claim_.folded]
    if folded:
        conn.execute(
            update(requests)
            .where(requests.c.id.in_(folded))
            .values(status="done", finished=at, outcome=f"with request {claim_.id}: {outcome}")
        )
    return True


def is_done(conn: Connection, claim_: Claim) -> bool:
    """Whether this very claim has ended its request."""
    c = requests.c
    this = (c.id == claim_.id) & (c.fence == claim_.fence) & (c.status == "done")
    return conn.execute(select(c.id).where(this)).first() is not None


def finish_without_version(
    conn: Connection, claim_: Claim, outcome: str, as_of: int | None, *, at: int
) -> None:
    """Nothing had to be trained, as things stood after entry `as_of` of the ledger."""
    if finish(conn, claim_, outcome, at=at):
        folded = [number for number, _ in claim_.folded]
        facts = {"folded": folded, "outcome": outcome, "as_of": as_of}
        _note(conn, claim_, "request_done", facts, at)


def release(conn: Connection, claim_: Claim, reason: str, *, at: int) -> None:
    """Pending again at once, and so is what was folded; it does not count as an attempt."""
    if _give_back(conn, claim_, reason, {"status": "pending", "attempts": claim_.attempts - 1}):
        _note(conn, claim_, "request_released", {"reason": reason}, at)


def fail(conn: Connection, claim_: Claim, reason: str, *, retry: bool, at: int) -> None:
    """Failed: pending again after a pause, or failed for good; what was folded is pending again."""
    pause = min(PAUSE_S * 2 ** (claim_.attempts - 1), LONGEST_S) * 1_000_000
    later: dict[str, Any] = {"status": "pending", "not_before": at + pause}
    failed = later if retry else {"status": "failed", "finished": at}
    if _give_back(conn, claim_, reason, failed):
        _note(conn, claim_, "request_failed", {"reason": reason, "retry": retry}, at)


def hold(conn: Connection, claim_: Claim) -> None:
    """Keep the claim from changing until the transaction's end; LeaseLost if it is not ours."""
    ours = select(requests.c.id).where(_is_ours(claim_)).with_for_update()
    if conn.execute(ours).first() is None:
        raise _lost(claim_)


def last(conn: Connection, stream_id: int) -> int:
    """Number of the stream's newest request; 0 without one."""
    newest = select(func.max(requests.c.id)).where(requests.c.stream_id == stream_id)
    return int(conn.execute(newest).scalar() or 0)


def unfinished(conn: Connection) -> int:
    """How many requests, of all streams, are not done and not failed."""
    is_open = requests.c.status.in_(("pending", "claimed", "folded"))
    return conn.execute(select(func.count()).select_from(requests).where(is_open)).scalar_one()


def _take(conn: Connection, row: Row[Any], owner: str, until: int, at: int) -> Claim:
    alone = row.attempts > 0 or row.without_task is not None or row.reason == "evaluate"
    others = [] if alone else _fold(conn, row)
    claim_ = Claim(
        id=row.id,
        request=_request(row),
        fence=row.fence + 1,
        attempts=row.attempts + 1,
        folded=tuple((other.id, _request(other)) for other in others),
    )
    conn.execute(
        update(requests)
        .where(requests.c.id == row.id)
        .values(
            status="claimed",
            owner=owner,
            lease_until=until,
            fence=claim_.fence,
            attempts=claim_.attempts,
            held=None,
        )
    )
    folded = [number for number, _ in claim_.folded]
    facts = {"owner": owner, "fence": claim_.fence, "attempts": claim_.attempts, "folded": folded}
    _note(conn, claim_, "request_claimed", facts, at)
    return claim_


def _fold(conn: Connection, row: Row[Any]) -> Sequence[Row[Any]]:
    """The requests of the stream that piled up beside this one, and never failed, go with it.

    One for a version without a task runs alone, and so does one that trains nothing.
    """
    others = conn.execute(
        select(requests)
        .where(
            requests.c.status == "pending",
            requests.c.stream_id == row.stream_id,
            requests.c.id != row.id,
            requests.c.attempts == 0,
            requests.c.without_task.is_(None),
            requests.c.reason != "evaluate",
            ~_waits,
        )
        .order_by(requests.c.id)
        .limit(FOLD_LIMIT)
        .with_for_update(skip_locked=True)
    ).all()
    conn.execute(
        update(requests)
        .where(requests.c.id.in_([other.id for other in others]))
        .values(status="folded", folded_into=row.id, held=None)
    )
    return others


def _expire(conn: Connection, lease: int, at: int) -> None:
    """Claims whose lease is over are pending again, and so is what they took along."""
    late = conn.execute(
        select(requests.c.id, requests.c.stream_id, requests.c.owner)
        .where(requests.c.status == "claimed", is_over(requests.c.lease_until, lease, at))
        .order_by(requests.c.id)
        .with_for_update(skip_locked=True)
    ).all()
    if not late:
        return
    ids = [row.id for row in late]
    conn.execute(
        update(requests)
        .where(requests.c.id.in_(ids))
        .values(status="pending", owner=None, lease_until=None, outcome="the lease ran out")
    )
    _unfold(conn, ids)
    for row in late:
        facts = {"request": row.id, "owner": row.owner}
        ledger.append(conn, "request_expired", facts, at=at, stream_id=row.stream_id)


def _unfold(conn: Connection, ids: Sequence[int]) -> None:
    conn.execute(
        update(requests)
        .where(requests.c.status == "folded", requests.c.folded_into.in_(ids))
        .values(status="pending", folded_into=None)
    )


def _give_back(conn: Connection, claim_: Claim, reason: str, values: dict[str, Any]) -> bool:
    ledger.lock(conn)
    given = _change(conn, claim_, values | {"owner": None, "lease_until": None, "outcome": reason})
    if given:
        _unfold(conn, [claim_.id])
    return given


def _change(conn: Connection, claim_: Claim, values: dict[str, Any]) -> bool:
    """Change the claimed row if it still is this claim's; False: this claim has ended so before."""
    if conn.execute(update(requests).where(_is_ours(claim_)).values(**values)).rowcount == 1:
        return True
    c = requests.c
    ended = (c.id == claim_.id) & (c.fence == claim_.fence) & (c.status != "claimed")
    row = conn.execute(select(c.status, c.outcome).where(ended)).first()
    if row is None or row != (values.get("status"), values.get("outcome")):
        raise _lost(claim_)
    return False


def _is_ours(claim_: Claim) -> ColumnElement[bool]:
    return and_(
        requests.c.id == claim_.id,
        requests.c.status == "claimed",
        requests.c.fence == claim_.fence,
    )


def _lost(claim_: Claim) -> LeaseLost:
    return LeaseLost(f"request {claim_.id} is no longer ours (fence {claim_.fence})")


def _note(conn: Connection, claim_: Claim, kind: str, facts: dict[str, Any], at: int) -> None:
    facts = facts | {"request": claim_.id}
    ledger.append(conn, kind, facts, at=at, stream_id=claim_.request.stream_id)


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
        without_task=row.without_task,
    )
