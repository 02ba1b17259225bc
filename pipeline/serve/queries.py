"""What the questions have in common, as SQL: streams and versions, and the rows of theirs.

Statements are made once: SQLAlchemy takes several times as long to make one as to run it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cache
from typing import Any

from msgspec.json import decode
from sqlalchemy import (
    ColumnElement,
    CompoundSelect,
    Connection,
    Row,
    Select,
    bindparam,
    func,
    null,
    or_,
    select,
    union_all,
)

from pipeline.errors import PipelineError
from pipeline.register import tables as t
from pipeline.register.among import among
from pipeline.serve import answers
from pipeline.serve.answers import Answer, iso

Where = ColumnElement[bool]
#: Rows of several versions, by version id.
ByVersion = Mapping[int, Sequence[Row[Any]]]
#: Which versions are asked about: some by their ids, or all of a stream.
THESE: Where = among(t.versions.c.id, "of")
OF_STREAM: Where = t.versions.c.stream_id == bindparam("of")

#: Id of the stream of a name, inside of a statement.
OF_NAME = select(t.streams.c.id).where(t.streams.c.name == bindparam("stream")).scalar_subquery()

parents = t.versions.alias("parents")
task_columns = (t.tasks.c.number, t.tasks.c.kind, t.tasks.c.name)
told_task = (
    t.tasks.c.number.label("task"),
    t.tasks.c.kind.label("task_kind"),
    t.tasks.c.name.label("task_name"),
)


def stream(conn: Connection, name: str) -> int:
    """Id of a stream; PipelineError names those that are known."""
    number = conn.execute(_STREAM, {"name": name}).scalar()
    if number is None:
        names = conn.execute(select(t.streams.c.name).order_by(t.streams.c.name)).scalars()
        raise PipelineError(f"no stream {name}; known: {', '.join(names) or 'none yet'}")
    return int(number)


def channels(conn: Connection, stream_id: int) -> list[str]:
    """Names of a stream's sensors."""
    found: list[str] = decode(conn.execute(_CHANNELS, {"stream": stream_id}).scalar_one())
    return found


def live(conn: Connection, name: str, at: int) -> Row[Any]:
    """The promotion that held in a stream at a time, with its version; PipelineError without."""
    row = conn.execute(_LIVE, {"stream": name, "at": at}).first()
    if row is None:
        p, stream_id = t.promotions.c, stream(conn, name)
        first = conn.execute(select(func.min(p.live_from)).where(p.stream_id == stream_id)).scalar()
        since = f"the first went live at {iso(first)}" if first is not None else "there is none yet"
        raise PipelineError(f"no version was live at {iso(at)}: {since}")
    return row


def numbered(
    conn: Connection, name: str, *numbers: int, told: Select[Any] | None = None
) -> list[Row[Any]]:
    """Versions of a stream by their numbers; PipelineError if it has none of one.

    told: NUMBERED with other columns, `number` among them, as a rule a few.
    """
    which = {"stream": name, "numbers": numbers}
    rows = {row.number: row for row in conn.execute(NUMBERED if told is None else told, which)}
    if not rows.keys() >= {*numbers}:
        c, stream_id = t.versions.c, stream(conn, name)
        last = conn.execute(select(func.max(c.number)).where(c.stream_id == stream_id)).scalar()
        missing = next(number for number in numbers if number not in rows)
        raise PipelineError(f"no version {missing}: the stream has {last or 'none'}")
    return [rows[number] for number in numbers]


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
    return conn.execute(_REASONS, {"request": request_id}).all()


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
    rows = conn.execute(_TASKS, {"ids": [*ids]}).all() if ids else ()
    return {row.id: row.number for row in rows}


def roll_backs(
    conn: Connection, stream_id: int, version_id: int | None = None
) -> Mapping[int, Sequence[Answer]]:
    """Version id -> each time that it was left, as the ledger has it; of one version, or of all.

    A version is left at the end of a time in which it was live, to the microsecond.
    """
    one = version_id is not None
    query = _LEFT if one else _ROLL_BACKS
    rows = conn.execute(query, {"stream": stream_id, "version": version_id}).all()
    told = [(row, decode(row.entry)) for row in rows]
    return left(conn, [each for each in told if not one or each[1]["version"] == version_id])


def left(conn: Connection, told: Collection[tuple[Any, Answer]]) -> Mapping[int, Sequence[Answer]]:
    """The same of entries of the ledger, each with what it says."""
    found: defaultdict[int, list[Answer]] = defaultdict(list)
    if told:
        to = [facts["to"] for _, facts in told]
        back = {row.id: row.number for row in conn.execute(_NUMBERS, {"of": to})}
        for row, facts in told:
            found[facts["version"]].append(answers.roll_back(row, facts, back[facts["to"]]))
    return found


def promotions(conn: Connection, wanted: Where, of: int | Sequence[int]) -> ByVersion:
    """When versions were live; wanted: THESE or OF_STREAM, of: which, as in the next two."""
    return _by_version(conn.execute(_promotions(wanted), {"of": of}))


def figures(conn: Connection, ids: Sequence[int]) -> list[Answer]:
    """Versions' figures by name, and their skills by task, as the answers tell them."""
    found: dict[int, Answer] = {id_: {"metrics": {}, "skills": {}} for id_ in ids}
    for id_, name, task, value in conn.execute(_FIGURES, {"of": ids}).all():
        if task is None:
            found[id_]["metrics"][name] = value
        else:
            found[id_]["skills"][f"task {task}"] = value
    return [found[id_] for id_ in ids]


def metrics(conn: Connection, wanted: Where, of: int | Sequence[int]) -> ByVersion:
    """Versions' figures."""
    return _by_version(conn.execute(_metrics(wanted), {"of": of}))


def evaluations(conn: Connection, wanted: Where, of: int | Sequence[int]) -> ByVersion:
    """Versions' rows of R, by the tasks' numbers."""
    return _by_version(conn.execute(_evaluations(wanted), {"of": of}))


def measured(conn: Connection, version_id: int, at: int) -> Sequence[Row[Any]]:
    """A version's skills as they were measured last up to a time, by the tasks' numbers."""
    return conn.execute(_MEASURED, {"version": version_id, "at": at}).all()


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


_STREAM = select(t.streams.c.id).where(t.streams.c.name == bindparam("name"))
#: Versions of a stream by their numbers, with all that is to be told.
NUMBERED = versions().where(
    t.versions.c.stream_id == OF_NAME, among(t.versions.c.number, "numbers")
)
_CHANNELS = select(t.streams.c.channels).where(t.streams.c.id == bindparam("stream"))
_TASKS = select(t.tasks.c.id, t.tasks.c.number).where(among(t.tasks.c.id, "ids"))
_NUMBERS = select(t.versions.c.id, t.versions.c.number).where(THESE)


def _live() -> Select[Any]:
    p, v = t.promotions.c, t.versions.c
    return (
        select(p.live_from, p.live_until, p.actor, p.reason, v.id, v.number, v.sha256, v.created)
        .join(t.versions, v.id == p.version_id)
        .where(
            p.stream_id == OF_NAME,
            p.live_from <= bindparam("at"),
            or_(p.live_until.is_(None), p.live_until > bindparam("at")),
        )
        .order_by(p.live_from.desc())
        .limit(1)
    )


def _reasons() -> Select[Any]:
    r, b, s = t.requests.c, t.boundaries.c, t.segments.c
    asked = (r.id.label("request"), r.reason, r.actor, r.note, r.created)
    this: Any = bindparam("request")
    return (
        select(*b, *told_task, s.recurrence, s.distance, *asked)
        .select_from(t.requests)
        .outerjoin(t.boundaries, _same_segment(r, b))
        .outerjoin(t.segments, _same_segment(b, s))
        .outerjoin(t.tasks, t.tasks.c.id == s.task_id)
        .where(or_(r.id == this, r.folded_into == this))
        .order_by(r.id)
    )


def _roll_backs() -> Select[Any]:
    entry = t.ledger.c
    return (
        select(entry.at, entry.actor, entry.entry)
        .where(entry.stream_id == bindparam("stream"), entry.kind == "rollback")
        .order_by(entry.id)
    )


def _measured() -> Select[Any]:
    c = t.measurements.c
    newest = (
        select(c.request_id)
        .where(c.version_id == bindparam("version"), c.measured <= bindparam("at"))
        .order_by(c.measured.desc(), c.request_id.desc())
        .limit(1)
        .scalar_subquery()
    )
    rows = select(t.measurements, t.tasks.c.number).join(t.tasks, t.tasks.c.id == c.task_id)
    return rows.where(c.request_id == newest).order_by(t.tasks.c.number)


def _ended() -> Select[Any]:
    """When a version's times live ended."""
    p = t.promotions.c
    return select(p.live_until).where(p.version_id == bindparam("version"))


def _figures() -> CompoundSelect[Any]:
    """Figures, which have a name, and skills, which have a task's number."""
    m, e, number = t.metrics.c, t.evaluations.c, t.tasks.c.number
    named = select(m.version_id, m.name, null().label("task"), m.value)
    skills = select(e.version_id, null(), number, e.skill).join(t.tasks, t.tasks.c.id == e.task_id)
    both = (named.where(among(m.version_id, "of")), skills.where(among(e.version_id, "of")))
    return union_all(*both).order_by("name", "task")


_LIVE, _REASONS, _ROLL_BACKS, _MEASURED = _live(), _reasons(), _roll_backs(), _measured()
_FIGURES = _figures()
_LEFT = _ROLL_BACKS.where(t.ledger.c.at.in_(_ended()))


@cache
def _promotions(wanted: Where) -> Select[Any]:
    rows = select(t.promotions).join(t.versions, t.versions.c.id == t.promotions.c.version_id)
    return rows.where(wanted).order_by(t.promotions.c.live_from)


@cache
def _metrics(wanted: Where) -> Select[Any]:
    rows = select(t.metrics).join(t.versions, t.versions.c.id == t.metrics.c.version_id)
    return rows.where(wanted).order_by(t.metrics.c.name)


@cache
def _evaluations(wanted: Where) -> Select[Any]:
    rows = (
        select(t.evaluations, t.tasks.c.number)
        .join(t.versions, t.versions.c.id == t.evaluations.c.version_id)
        .join(t.tasks, t.tasks.c.id == t.evaluations.c.task_id)
    )
    return rows.where(wanted).order_by(t.tasks.c.number)
