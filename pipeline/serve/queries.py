"""What the questions have in common, as SQL: streams and versions, and the rows of theirs."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Select, func, or_, select

from pipeline.errors import PipelineError
from pipeline.register import tables as t
from pipeline.serve import answers
from pipeline.serve.answers import Answer, iso

Where = ColumnElement[bool]
#: Rows of several versions, by version id.
ByVersion = Mapping[int, Sequence[Row[Any]]]

parents = t.versions.alias("parents")
task_columns = (t.tasks.c.number, t.tasks.c.kind, t.tasks.c.name)
told_task = (
    t.tasks.c.number.label("task"),
    t.tasks.c.kind.label("task_kind"),
    t.tasks.c.name.label("task_name"),
)


def stream(conn: Connection, name: str) -> int:
    """Id of a stream; PipelineError names those that are known."""
    number = conn.execute(select(t.streams.c.id).where(t.streams.c.name == name)).scalar()
    if number is None:
        names = conn.execute(select(t.streams.c.name).order_by(t.streams.c.name)).scalars()
        raise PipelineError(f"no stream {name}; known: {', '.join(names) or 'none yet'}")
    return int(number)


def channels(conn: Connection, stream_id: int) -> list[str]:
    """Names of a stream's sensors."""
    named = select(t.streams.c.channels).where(t.streams.c.id == stream_id)
    found: list[str] = json.loads(conn.execute(named).scalar_one())
    return found


def live(conn: Connection, stream_id: int, at: int) -> tuple[Row[Any], Row[Any]]:
    """The promotion that held at a time, and its version; PipelineError if none did."""
    p = t.promotions.c
    promotion = conn.execute(
        select(t.promotions)
        .where(
            p.stream_id == stream_id,
            p.live_from <= at,
            or_(p.live_until.is_(None), p.live_until > at),
        )
        .order_by(p.live_from.desc())
        .limit(1)
    ).first()
    if promotion is None:
        first = conn.execute(select(func.min(p.live_from)).where(p.stream_id == stream_id)).scalar()
        since = f"the first went live at {iso(first)}" if first is not None else "there is none yet"
        raise PipelineError(f"no version was live at {iso(at)}: {since}")
    this = t.versions.c.id == promotion.version_id
    return promotion, conn.execute(select(t.versions).where(this)).one()


def numbered(conn: Connection, stream_id: int, number: int) -> Row[Any]:
    """A version of a stream, as `versions` has it; PipelineError if it has none of that number."""
    this = (t.versions.c.stream_id == stream_id) & (t.versions.c.number == number)
    row = conn.execute(versions().where(this)).first()
    if row is None:
        last = conn.execute(
            select(func.max(t.versions.c.number)).where(t.versions.c.stream_id == stream_id)
        ).scalar()
        raise PipelineError(f"no version {number}: the stream has {last or 'none'}")
    return row


def versions() -> Select[Any]:
    """Versions with what is to be told of the request, its task and the parent."""
    asked = t.requests.c
    return (
        select(
            t.versions,
            asked.reason.label("trained_because"),
            asked.actor,
            asked.note,
            asked.due,
            asked.without_task,
            asked.created.label("requested"),
            *told_task,
            parents.c.number.label("parent"),
        )
        .join(t.requests, asked.id == t.versions.c.request_id)
        .outerjoin(t.tasks, t.tasks.c.id == asked.task_id)
        .outerjoin(parents, parents.c.id == t.versions.c.parent_id)
    )


def reasons(conn: Connection, request_id: int) -> Sequence[Any]:
    """A request, and behind it those that it took along, each with the boundary that it is of.

    `boundary_row` is None where there is none.
    """
    r, b, s = t.requests.c, t.boundaries.c, t.segments.c
    asked = (r.id.label("request"), r.reason, r.actor, r.note, r.created)
    rows = conn.execute(
        select(*b, *told_task, s.recurrence, s.distance, *asked)
        .select_from(t.requests)
        .outerjoin(t.boundaries, _same_segment(r, b))
        .outerjoin(t.segments, _same_segment(b, s))
        .outerjoin(t.tasks, t.tasks.c.id == s.task_id)
        .where(or_(r.id == request_id, r.folded_into == request_id))
        .order_by(r.id)
    )
    return rows.all()


def boundaries() -> Select[Any]:
    """Boundaries with what the segments that they begin were named."""
    b, s = t.boundaries.c, t.segments.c
    return (
        select(t.boundaries, *told_task, s.recurrence, s.distance)
        .outerjoin(t.segments, _same_segment(b, s))
        .outerjoin(t.tasks, t.tasks.c.id == s.task_id)
    )


def task_numbers(conn: Connection, ids: Collection[int]) -> dict[int, int]:
    """Task id -> its number in the stream."""
    c = t.tasks.c
    return {row.id: row.number for row in conn.execute(select(c.id, c.number).where(c.id.in_(ids)))}


def roll_backs(
    conn: Connection, stream_id: int, version_id: int | None = None
) -> Mapping[int, Sequence[Answer]]:
    """Version id -> each time that it was left, as the ledger has it; of one version, or of all.

    A version is left at the end of a time in which it was live, to the microsecond.
    """
    entry, known = t.ledger.c, t.versions.c
    rows = select(t.ledger).where(entry.stream_id == stream_id, entry.kind == "rollback")
    numbers = select(known.id, known.number).where(known.stream_id == stream_id)
    if version_id is not None:
        ended = select(t.promotions.c.live_until).where(t.promotions.c.version_id == version_id)
        rows = rows.where(entry.at.in_(ended))
    told = [(row, json.loads(row.entry)) for row in conn.execute(rows.order_by(entry.id))]
    if version_id is not None:
        told = [(row, facts) for row, facts in told if facts["version"] == version_id]
        numbers = numbers.where(known.id.in_({facts["to"] for _, facts in told}))
    back = {row.id: row.number for row in conn.execute(numbers)} if told else {}
    found: defaultdict[int, list[Answer]] = defaultdict(list)
    for row, facts in told:
        found[facts["version"]].append(answers.roll_back(row, back[facts["to"]]))
    return found


def promotions(conn: Connection, wanted: Where) -> ByVersion:
    """When versions were live."""
    rows = select(t.promotions).join(t.versions, t.versions.c.id == t.promotions.c.version_id)
    return _by_version(conn.execute(rows.where(wanted).order_by(t.promotions.c.live_from)))


def metrics(conn: Connection, wanted: Where) -> ByVersion:
    """Versions' figures."""
    rows = select(t.metrics).join(t.versions, t.versions.c.id == t.metrics.c.version_id)
    return _by_version(conn.execute(rows.where(wanted).order_by(t.metrics.c.name)))


def evaluations(conn: Connection, wanted: Where) -> ByVersion:
    """Versions' rows of R, by the tasks' numbers."""
    rows = (
        select(t.evaluations, t.tasks.c.number)
        .join(t.versions, t.versions.c.id == t.evaluations.c.version_id)
        .join(t.tasks, t.tasks.c.id == t.evaluations.c.task_id)
    )
    return _by_version(conn.execute(rows.where(wanted).order_by(t.tasks.c.number)))


def measured(conn: Connection, version_id: int, at: int) -> Sequence[Row[Any]]:
    """A version's skills as they were measured last up to a time, by the tasks' numbers."""
    c = t.measurements.c
    newest = (
        select(c.request_id)
        .where(c.version_id == version_id, c.measured <= at)
        .order_by(c.measured.desc(), c.request_id.desc())
        .limit(1)
        .scalar_subquery()
    )
    rows = select(t.measurements, t.tasks.c.number).join(t.tasks, t.tasks.c.id == c.task_id)
    return conn.execute(rows.where(c.request_id == newest).order_by(t.tasks.c.number)).all()


def _by_version(rows: Iterable[Row[Any]]) -> ByVersion:
    found: defaultdict[int, list[Row[Any]]] = defaultdict(list)
    for row in rows:
        found[row.version_id].append(row)
    return found


def _same_segment(one: Any, other: Any) -> ColumnElement[bool]:
    """Rows of two tables that are of the same segment."""
    same: ColumnElement[bool] = (
        (one.stream_id == other.stream_id)
        & (one.partition == other.partition)
        & (one.series == other.series)
        & (one.segment == other.segment)
    )
    return same
