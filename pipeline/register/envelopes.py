"""Envelopes and how versions were held against them, inside the caller's transaction."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import msgspec
from sqlalchemy import Connection, Row, Select, bindparam, exists, func, insert, or_, select

from pipeline.records import Version
from pipeline.register import ledger
from pipeline.register import tables as t
from pipeline.register.engine import EPOCH, inserted, moment, next_number
from pipeline.register.envelope import Facts, Limits, Passed, day_of, judge

_JUDGEMENT = (
    select(t.judgements, t.envelopes.c.number)
    .join(t.envelopes, t.envelopes.c.id == t.judgements.c.envelope_id)
    .where(t.judgements.c.version_id == bindparam("version"))
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """Limits that somebody set for a stream."""

    id: int
    number: int
    limits: Limits
    actor: str
    reason: str
    #: Microseconds since 1970 UTC.
    created: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """A version beside the envelope that held when it might have become champion."""

    #: Number of the envelope.
    envelope: int
    #: Id of the champion that it was to replace; None: there was none.
    instead_of: int | None
    #: Empty: it was inside.
    outside: tuple[Passed, ...]

    def told(self) -> dict[str, Any]:
        """For the ledger."""
        return {"envelope": self.envelope, "outside": [each.said for each in self.outside]}


def agree(
    conn: Connection,
    stream_id: int,
    limits: Limits,
    *,
    actor: str,
    reason: str,
    at: int,
    more: Mapping[str, Any],
) -> Envelope:
    """Set the limits that hold from now on; what waits already goes on waiting."""
    before = current(conn, stream_id)
    row = {
        "stream_id": stream_id,
        "number": next_number(conn, t.envelopes, stream_id),
        "limits": ledger.canonical(limits),
        "actor": actor,
        "reason": reason,
        "created": at,
    }
    number = inserted(conn, insert(t.envelopes).values(row))
    entry = {
        "envelope": row["number"],
        "limits": limits,
        "before": before.limits if before else None,
        "reason": reason,
    }
    ledger.append(conn, "envelope", entry | dict(more), at=at, actor=actor, stream_id=stream_id)
    return _envelope(conn.execute(select(t.envelopes).where(t.envelopes.c.id == number)).one())


def current(conn: Connection, stream_id: int) -> Envelope | None:
    """The envelope that holds; None: everything is allowed."""
    mine = select(t.envelopes).where(t.envelopes.c.stream_id == stream_id)
    row = conn.execute(mine.order_by(t.envelopes.c.number.desc()).limit(1)).first()
    return _envelope(row) if row else None


def history(conn: Connection, stream_id: int) -> list[Envelope]:
    """Every envelope that was set, the first first."""
    mine = select(t.envelopes).where(t.envelopes.c.stream_id == stream_id)
    return [_envelope(row) for row in conn.execute(mine.order_by(t.envelopes.c.number))]


def hold(
    conn: Connection, stream_id: int, version_id: int, instead_of: Version | None, *, at: int
) -> Judgement | None:
    """Hold a version against the envelope, once; None: there is no envelope."""
    envelope = current(conn, stream_id)
    if envelope is None:
        return None
    now = moment(at)
    since = (day_of(now, envelope.limits) - EPOCH) // timedelta(microseconds=1)
    facts = facts_of(conn, version_id)
    outside = judge(facts, envelope.limits, now, _firsts(conn, stream_id, since))
    conn.execute(
        insert(t.judgements).values(
            version_id=version_id,
            envelope_id=envelope.id,
            instead_of=instead_of.id if instead_of else None,
            outside=ledger.canonical(outside),
            judged=at,
        )
    )
    return judgement(conn, version_id)


def judgement(conn: Connection, version_id: int) -> Judgement | None:
    """How a version was held against an envelope; None: it never was."""
    row = conn.execute(_JUDGEMENT, {"version": version_id}).first()
    return _judgement(row) if row else None


def as_judged(envelope: int, instead_of: int | None, outside: str) -> Judgement:
    """A judgement as its row tells it; envelope: its number."""
    return Judgement(
        envelope=envelope,
        instead_of=instead_of,
        outside=msgspec.json.decode(outside, type=tuple[Passed, ...]),
    )


def promotions(conn: Connection, stream_id: int) -> list[tuple[Row[Any], Judgement | None]]:
    """Every beginning of a reign in order, with the version's number and judgement."""
    j = t.judgements.c
    rows = conn.execute(
        select(
            t.promotions,
            t.versions.c.number.label("version"),
            t.envelopes.c.number,
            j.instead_of,
            j.outside,
        )
        .join(t.versions, t.versions.c.id == t.promotions.c.version_id)
        .outerjoin(t.judgements, j.version_id == t.versions.c.id)
        .outerjoin(t.envelopes, t.envelopes.c.id == j.envelope_id)
        .where(t.promotions.c.stream_id == stream_id)
        .order_by(t.promotions.c.id)
    )
    return [(row, None if row.number is None else _judgement(row)) for row in rows]


def waiting(conn: Connection, stream_id: int) -> list[tuple[Row[Any], Judgement]]:
    """Versions that wait for a person's word, the oldest first."""
    query: Select[Any] = (
        select(
            t.versions.c.number.label("version"),
            t.versions.c.created,
            t.versions.c.decision,
            t.envelopes.c.number,
            t.judgements.c.instead_of,
            t.judgements.c.outside,
        )
        .join(t.judgements, t.judgements.c.version_id == t.versions.c.id)
        .join(t.envelopes, t.envelopes.c.id == t.judgements.c.envelope_id)
        .where(t.versions.c.stream_id == stream_id, t.versions.c.status == "waiting")
        .order_by(t.versions.c.number)
    )
    return [(row, _judgement(row)) for row in conn.execute(query)]


def facts_of(conn: Connection, version_id: int) -> Facts:
    """What is judged of a version, as it was registered."""
    v, m, e, r = t.versions.c, t.metrics.c, t.evaluations.c, t.requests.c
    made = conn.execute(select(v.parent_id, v.request_id).where(v.id == version_id)).one()
    change = select(m.value).where(m.version_id == version_id, m.name == "weight_change")
    row_of_r = (
        select(t.tasks.c.number, e.skill)
        .join(t.tasks, t.tasks.c.id == e.task_id)
        .where(e.version_id == version_id)
    )
    answered = or_(r.id == made.request_id, r.folded_into == made.request_id)
    return Facts(
        has_parent=made.parent_id is not None,
        weight_change=conn.execute(change).scalar(),
        skills={row.number: row.skill for row in conn.execute(row_of_r)},
        triggers=frozenset(conn.execute(select(r.reason).where(answered)).scalars()),
    )


def _firsts(conn: Connection, stream_id: int, since: int) -> int:
    """Versions that became champion for the first time from then on."""
    p, q = t.promotions, t.promotions.alias("before")
    before = exists().where(
        q.c.stream_id == stream_id, q.c.version_id == p.c.version_id, q.c.id < p.c.id
    )
    today = (p.c.stream_id == stream_id) & (p.c.live_from >= since)
    return conn.execute(select(func.count()).select_from(p).where(today, ~before)).scalar_one()


def _envelope(row: Row[Any]) -> Envelope:
    return Envelope(
        id=row.id,
        number=row.number,
        limits=msgspec.convert(json.loads(row.limits), Limits, str_keys=True),
        actor=row.actor,
        reason=row.reason,
        created=row.created,
    )


def _judgement(row: Row[Any]) -> Judgement:
    return as_judged(row.number, row.instead_of, row.outside)
