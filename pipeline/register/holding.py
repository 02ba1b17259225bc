"""What the rules say of the streams with something to train, in the caller's transaction."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import ColumnElement, Connection, and_, func, or_, select, update

from pipeline.config import Retrain
from pipeline.records import Request
from pipeline.register import ledger
from pipeline.register import tables as t
from pipeline.register.engine import in_us, moment
from pipeline.register.rules import FREE, OF_THE_STREAM, State, day_of, judge

#: Nothing is held back.
NO_RULES = Retrain()


def back(conn: Connection, rules: Retrain, *, at: int) -> list[int]:
    """Streams whose trainings have to wait; their requests say why, and the ledger once."""
    if rules == NO_RULES:
        return []
    c = t.requests.c
    streams = conn.execute(select(c.stream_id).where(_may_be_held()).distinct()).scalars()
    now = moment(at)
    found = {stream: judge(rules, state(conn, stream, rules, now), now) for stream in streams}
    for stream, why in found.items():
        _note(conn, stream, why, at)
    return [stream for stream, why in found.items() if why is not None]


def state(conn: Connection, stream_id: int, rules: Retrain, now: datetime) -> State:
    """What the rules look at of a stream; of its versions, those made up to now."""
    r, v = t.requests.c, t.versions.c
    pending = select(r.reason).where(r.status == "pending", r.stream_id == stream_id).distinct()
    champion = select(v.id).where(v.stream_id == stream_id, t.is_champion)
    made = select(func.max(v.created), func.count()).where(v.stream_id == stream_id)
    upto = v.created <= in_us(now)
    today = in_us(day_of(now, rules.timezone))
    last, _ = conn.execute(made.where(upto)).one()
    _, count = conn.execute(made.where(upto, v.created >= today)).one()
    return State(
        has_champion=conn.execute(champion).first() is not None,
        reasons=frozenset(conn.execute(pending).scalars()),
        last_version=None if last is None else moment(last),
        versions_today=count,
    )


def readings(conn: Connection, stream_id: int) -> int:
    """Readings that the stream's checkpoints have taken in."""
    c = t.checkpoints.c
    total = conn.execute(select(func.sum(c.readings)).where(c.stream_id == stream_id)).scalar()
    return int(total or 0)


def after_readings(conn: Connection, stream_id: int, rules: Retrain) -> Request | None:
    """The request that is due because so many readings came since the last; None: not yet.

    Under the ledger's lock. Boundaries that wait for a reason are none themselves.
    """
    if not rules.after_readings:
        return None
    ledger.lock(conn)
    c = t.requests.c
    none = ("evaluate",) if rules.on_boundary else ("evaluate", *OF_THE_STREAM)
    last = select(func.max(c.readings)).where(c.stream_id == stream_id, c.reason.not_in(none))
    since = readings(conn, stream_id) - int(conn.execute(last).scalar() or 0)
    if since < rules.after_readings:
        return None
    return Request(
        stream_id=stream_id,
        reason="readings",
        actor="scheduler",
        note=f"{since} readings since the last request",
    )


def metric_fall(conn: Connection, stream_id: int, version_id: int, why: str) -> Request | None:
    """The request of a champion whose live scores rose; None: it is none, or was asked for once.

    Under the ledger's lock.
    """
    ledger.lock(conn)
    p, r = t.promotions.c, t.requests.c
    reign = select(p.live_from).where(p.stream_id == stream_id, t.is_live)
    since = conn.execute(reign.where(p.version_id == version_id)).scalar()
    asked = select(r.id).where(r.stream_id == stream_id, r.reason == "metric")
    if since is None or conn.execute(asked.where(r.created >= since)).first() is not None:
        return None
    return Request(stream_id=stream_id, reason="metric", actor="rollback", note=why)


def held(conn: Connection, stream_id: int) -> Sequence[tuple[int, str, str]]:
    """(number, reason, why it waits) of the stream's requests that a rule holds back."""
    c = t.requests.c
    rows = conn.execute(
        select(c.id, c.reason, c.held)
        .where(c.stream_id == stream_id, c.status == "pending", c.held.is_not(None))
        .order_by(c.id)
    )
    return [(row.id, row.reason, row.held) for row in rows]


def _note(conn: Connection, stream_id: int, why: str | None, at: int) -> None:
    """Say beside each request why it waits, if it is another reason than before."""
    c = t.requests.c
    other = c.held.is_not(None) if why is None else or_(c.held.is_(None), c.held != why)
    these = conn.execute(
        update(t.requests)
        .where(_may_be_held(), c.stream_id == stream_id, other)
        .values(held=why)
        .returning(c.id)
    ).scalars()
    numbers = sorted(these)
    if numbers and why is not None:
        facts = {"requests": numbers, "reason": why}
        ledger.append(conn, "requests_held", facts, at=at, stream_id=stream_id)


def _may_be_held() -> ColumnElement[bool]:
    c = t.requests.c
    return and_(c.status == "pending", c.reason.not_in(FREE))
