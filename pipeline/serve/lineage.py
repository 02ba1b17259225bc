"""The audit questions, as SQL: what was live, why it was trained, with which figures. Read only."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Select, func, or_, select

from pipeline.config import Database
from pipeline.consolidate.readings import Readings
from pipeline.errors import ArtifactCorrupt, PipelineError
from pipeline.records import IntArray
from pipeline.register import artifacts, marks
from pipeline.register import tables as t
from pipeline.register.engine import connect, reading
from pipeline.serve import answers
from pipeline.serve import card as cards
from pipeline.serve.answers import Answer, iso
from pipeline.serve.card import Card

Where = ColumnElement[bool]
#: Rows of several versions, by version id.
ByVersion = Mapping[int, Sequence[Row[Any]]]

parents = t.versions.alias("parents")
_task_columns = (t.tasks.c.number, t.tasks.c.kind, t.tasks.c.name)
_told_task = (
    t.tasks.c.number.label("task"),
    t.tasks.c.kind.label("task_kind"),
    t.tasks.c.name.label("task_name"),
)


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
            promotion, version = _live(conn, _stream(conn, stream), at)
            return answers.live(stream, at, promotion, version)

    def why(self, stream: str, number: int) -> Answer:
        """Why a version was trained: the boundary with its test, or who asked; and the gate."""
        with reading(self.engine) as conn:
            version = _numbered(conn, _stream(conn, stream), number)
            first, *others = _requests(conn, version.request_id)
            along = [answers.taken_along(row, _boundary(conn, row)) for row in others]
            left = _roll_backs(conn, version.stream_id)[version.id]
            return answers.why(stream, version, _boundary(conn, first), along, left)

    def metrics_at(self, stream: str, at: int) -> Answer:
        """The figures of the version live at a time, as they were known then."""
        with reading(self.engine) as conn:
            _, version = _live(conn, _stream(conn, stream), at)
            this = t.versions.c.id == version.id
            return {
                "stream": stream,
                "at": iso(at),
                "version": version.number,
                "measured_at": iso(version.created),
                "metrics": answers.metrics(_metrics(conn, this)[version.id]),
                "skills": answers.skills(_evaluations(conn, this)[version.id]),
            }

    def history(self, stream: str) -> list[Answer]:
        """Every version: parent, reason, figures, fate, when it was live."""
        with reading(self.engine) as conn:
            known = _stream(conn, stream)
            return _told(conn, known, t.versions.c.stream_id == known, t.versions.c.number)

    def lineage(self, stream: str, number: int) -> list[Answer]:
        """A version and its parents, back to the bootstrap."""
        with reading(self.engine) as conn:
            known = _stream(conn, stream)
            chain = _chain(known, number)
            told = _told(conn, known, t.versions.c.id.in_(chain), t.versions.c.number.desc())
            if not told:
                raise PipelineError(f"stream {stream} has no version {number}")
            return told

    def card(self, stream: str, number: int) -> Card:
        """Everything that one must know of a version.

        Raises
        ------
        PipelineError
            No such stream or version.
        """
        with reading(self.engine) as conn:
            stream_id = _stream(conn, stream)
            version = _numbered(conn, stream_id, number)
            this = t.versions.c.id == version.id
            figures, inputs = json.loads(version.figures), json.loads(version.inputs)
            named = select(t.streams.c.channels).where(t.streams.c.id == stream_id)
            channels = json.loads(conn.execute(named).scalar_one())
            requests = _requests(conn, version.request_id)
            return Card(
                stream=stream,
                version=number,
                status=version.status,
                parent=version.parent,
                made_at=str(iso(version.created)),
                sha256=version.sha256,
                ewc_sha256=version.ewc_sha256,
                reasons=tuple(cards.reason(r, _boundary(conn, r), channels) for r in requests),
                learned=tuple(_learned(conn, stream_id, inputs["segments"])),
                inputs=inputs,
                strategy=version.strategy,
                settings=json.loads(version.settings),
                seed=version.seed,
                code_version=version.code_version,
                skills=tuple(
                    cards.measured(r, figures) for r in _evaluations(conn, this)[version.id]
                ),
                metrics=answers.metrics(_metrics(conn, this)[version.id]),
                decision=version.decision,
                figures=figures,
                live=tuple(cards.live(row) for row in _promotions(conn, this)[version.id]),
                rolled_back=tuple(
                    cards.Left(**left) for left in _roll_backs(conn, stream_id)[version.id]
                ),
            )

    def boundaries(self, stream: str) -> list[Answer]:
        """Every boundary, in the order in which it was recorded."""
        with reading(self.engine) as conn:
            mine = t.boundaries.c.stream_id == _stream(conn, stream)
            rows = conn.execute(_boundaries().where(mine).order_by(t.boundaries.c.id))
            return [answers.boundary(row) for row in rows]

    def turnarounds(self, stream: str) -> list[Answer]:
        """Every boundary that a champion came of, the first in which it was learned: when it was
        recorded, when a version was asked for, and when that was promoted.
        """
        asked, found, live = t.requests.c, t.boundaries.c, func.min(t.promotions.c.live_from)
        with reading(self.engine) as conn:
            rows = conn.execute(
                select(
                    found.series,
                    found.segment,
                    found.recorded,
                    asked.created,
                    t.versions.c.number,
                    live.label("promoted"),
                )
                .join(
                    t.requests,
                    (asked.stream_id == found.stream_id)
                    & (asked.partition == found.partition)
                    & (asked.series == found.series)
                    & (asked.segment == found.segment)
                    & (asked.reason == "boundary"),
                )
                .join(
                    t.versions,
                    t.versions.c.request_id == func.coalesce(asked.folded_into, asked.id),
                )
                .join(t.promotions, t.promotions.c.version_id == t.versions.c.id)
                .where(found.stream_id == _stream(conn, stream))
                .group_by(found.id, asked.id, t.versions.c.id)
                .order_by(found.id)
            )
            return [answers.turnaround(row) for row in rows]

    def events(self, stream: str) -> list[Answer]:
        """Every sensor that fell silent, froze or came back, and every gap in what Kafka still had,
        in the order of recording."""
        with reading(self.engine) as conn:
            this = _stream(conn, stream)
            sensors = conn.execute(
                select(t.sensor_events, t.streams.c.channels)
                .join(t.streams, t.streams.c.id == t.sensor_events.c.stream_id)
                .where(t.sensor_events.c.stream_id == this)
                .order_by(t.sensor_events.c.id)
            )
            gaps = conn.execute(
                select(t.gaps).where(t.gaps.c.stream_id == this).order_by(t.gaps.c.id)
            )
            found = [(row.recorded, answers.event(row)) for row in sensors]
            found += [(row.recorded, answers.gap(row)) for row in gaps]
            return [answer for _, answer in sorted(found, key=lambda each: each[0])]

    def segments(self, stream: str) -> list[Answer]:
        """Every segment whose regime was named, in the order of naming: its task, new or again."""
        with reading(self.engine) as conn:
            rows = conn.execute(
                select(t.segments, *_task_columns)
                .join(t.tasks, t.tasks.c.id == t.segments.c.task_id)
                .where(t.segments.c.stream_id == _stream(conn, stream))
                .order_by(t.segments.c.id)
            )
            return [answers.segment(row) for row in rows]

    def tasks(self, stream: str) -> list[Answer]:
        """Every task: kind, name, segments, requests that wait, and who has learned it."""
        with reading(self.engine) as conn:
            return _tasks(conn, t.tasks.c.stream_id == _stream(conn, stream))

    def task(self, stream: str, number: int) -> Answer:
        """One task, with its segments and all that people said of it.

        Raises
        ------
        PipelineError
            No such stream or task.
        """
        with reading(self.engine) as conn:
            stream_id = _stream(conn, stream)
            this = marks.find(conn, stream_id, number).id
            (answer,) = _tasks(conn, t.tasks.c.id == this)
            shown = select(t.segments, *_task_columns).join(t.tasks).where(t.tasks.c.id == this)
            rows = conn.execute(shown.order_by(t.segments.c.id))
            return answer | {
                "shown_in": [answers.place(row) for row in rows],
                "said": [answers.said(row) for row in marks.said(conn, stream_id, number)],
            }

    def matrix(self, stream: str) -> list[Answer]:
        """R, a row a version: its skill on each task's held-out readings, and its parent's there.

        Tasks by number. A parent's skill is that from before the version was trained.
        """
        with reading(self.engine) as conn:
            mine = t.versions.c.stream_id == _stream(conn, stream)
            measured = _evaluations(conn, mine)
            rows = conn.execute(select(t.versions).where(mine).order_by(t.versions.c.number))
            return [
                {
                    "version": row.number,
                    "status": row.status,
                    "skills": answers.skills(measured[row.id]),
                    "parent_skills": answers.parent_skills(measured[row.id]),
                }
                for row in rows
            ]


def _stream(conn: Connection, name: str) -> int:
    number = conn.execute(select(t.streams.c.id).where(t.streams.c.name == name)).scalar()
    if number is None:
        names = conn.execute(select(t.streams.c.name).order_by(t.streams.c.name)).scalars()
        raise PipelineError(f"no stream {name}; known: {', '.join(names) or 'none yet'}")
    return int(number)


def _live(conn: Connection, stream_id: int, at: int) -> tuple[Row[Any], Row[Any]]:
    """The promotion that held at a time, and its version."""
    promotion = conn.execute(
        select(t.promotions)
        .where(
            t.promotions.c.stream_id == stream_id,
            t.promotions.c.live_from <= at,
            or_(t.promotions.c.live_until.is_(None), t.promotions.c.live_until > at),
        )
        .order_by(t.promotions.c.live_from.desc())
        .limit(1)
    ).first()
    if promotion is None:
        first = conn.execute(
            select(func.min(t.promotions.c.live_from)).where(t.promotions.c.stream_id == stream_id)
        ).scalar()
        since = f"the first went live at {iso(first)}" if first is not None else "there is none yet"
        raise PipelineError(f"no version was live at {iso(at)}: {since}")
    this = t.versions.c.id == promotion.version_id
    return promotion, conn.execute(select(t.versions).where(this)).one()


def _numbered(conn: Connection, stream_id: int, number: int) -> Row[Any]:
    this = (t.versions.c.stream_id == stream_id) & (t.versions.c.number == number)
    row = conn.execute(_versions().where(this)).first()
    if row is None:
        last = conn.execute(
            select(func.max(t.versions.c.number)).where(t.versions.c.stream_id == stream_id)
        ).scalar()
        raise PipelineError(f"no version {number}: the stream has {last or 'none'}")
    return row


def _versions() -> Select[Any]:
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
            *_told_task,
            parents.c.number.label("parent"),
        )
        .join(t.requests, asked.id == t.versions.c.request_id)
        .outerjoin(t.tasks, t.tasks.c.id == asked.task_id)
        .outerjoin(parents, parents.c.id == t.versions.c.parent_id)
    )


def _chain(stream_id: int, number: int) -> Select[tuple[int]]:
    """Ids of a version and its forebears."""
    ids = select(t.versions.c.id, t.versions.c.parent_id)
    begin = ids.where(t.versions.c.stream_id == stream_id, t.versions.c.number == number)
    chain = begin.cte("chain", recursive=True)
    chain = chain.union_all(ids.join(chain, t.versions.c.id == chain.c.parent_id))
    return select(chain.c.id)


def _told(conn: Connection, stream_id: int, wanted: Where, order: Any) -> list[Answer]:
    """Versions with everything that happened to them, in as many queries for many as for one."""
    left = _roll_backs(conn, stream_id)
    lives, figures = _promotions(conn, wanted), _metrics(conn, wanted)
    measured = _evaluations(conn, wanted)
    return [
        answers.version(
            row,
            lives[row.id],
            answers.metrics(figures[row.id]),
            answers.skills(measured[row.id]),
            left[row.id],
        )
        for row in conn.execute(_versions().where(wanted).order_by(order))
    ]


def _roll_backs(conn: Connection, stream_id: int) -> Mapping[int, Sequence[Answer]]:
    """Version id -> each time that it was left, as the ledger has it."""
    mine = select(t.versions.c.id, t.versions.c.number).where(t.versions.c.stream_id == stream_id)
    numbers = {row.id: row.number for row in conn.execute(mine)}
    found: defaultdict[int, list[Answer]] = defaultdict(list)
    entries = select(t.ledger).where(t.ledger.c.stream_id == stream_id)
    for entry in conn.execute(entries.where(t.ledger.c.kind == "rollback").order_by(t.ledger.c.id)):
        facts = json.loads(entry.entry)
        found[facts["version"]].append(answers.roll_back(entry, numbers[facts["to"]]))
    return found


def _promotions(conn: Connection, wanted: Where) -> ByVersion:
    return _by_version(
        conn.execute(
            select(t.promotions)
            .join(t.versions, t.versions.c.id == t.promotions.c.version_id)
            .where(wanted)
            .order_by(t.promotions.c.live_from)
        )
    )


def _metrics(conn: Connection, wanted: Where) -> ByVersion:
    return _by_version(
        conn.execute(
            select(t.metrics)
            .join(t.versions, t.versions.c.id == t.metrics.c.version_id)
            .where(wanted)
            .order_by(t.metrics.c.name)
        )
    )


def _evaluations(conn: Connection, wanted: Where) -> ByVersion:
    return _by_version(
        conn.execute(
            select(t.evaluations, t.tasks.c.number)
            .join(t.versions, t.versions.c.id == t.evaluations.c.version_id)
            .join(t.tasks, t.tasks.c.id == t.evaluations.c.task_id)
            .where(wanted)
            .order_by(t.tasks.c.number)
        )
    )


def _by_version(rows: Iterable[Row[Any]]) -> ByVersion:
    found: defaultdict[int, list[Row[Any]]] = defaultdict(list)
    for row in rows:
        found[row.version_id].append(row)
    return found


def _tasks(conn: Connection, wanted: Where) -> list[Answer]:
    """Tasks by number, in as many queries for many as for one."""
    s, r = t.segments.c, t.requests.c
    pending = (r.task_id == t.tasks.c.id) & (r.status == "pending") & (t.tasks.c.kind == "asked")
    segments = select(func.count()).where(s.task_id == t.tasks.c.id).scalar_subquery()
    waiting = select(func.count()).where(pending).scalar_subquery()
    rows = conn.execute(
        select(t.tasks, segments.label("segments"), waiting.label("waiting"))
        .where(wanted)
        .order_by(t.tasks.c.number)
    ).all()
    made = marks.knowledge(conn, rows[0].stream_id) if rows else []
    return [
        answers.task(row, [version.number for version in made if row.id in version.tasks])
        for row in rows
    ]


def _requests(conn: Connection, request_id: int) -> Sequence[Row[Any]]:
    """A request, and behind it those that it took along."""
    this = or_(t.requests.c.id == request_id, t.requests.c.folded_into == request_id)
    return conn.execute(select(t.requests).where(this).order_by(t.requests.c.id)).all()


def _learned(
    conn: Connection, stream_id: int, segments: Iterable[tuple[int, str]]
) -> Iterator[cards.Learned]:
    """What (task id, sha256 of readings) stand for: where they are of, and how many."""
    numbers = select(t.tasks.c.id, t.tasks.c.number).where(t.tasks.c.stream_id == stream_id)
    known = {row.id: row.number for row in conn.execute(numbers)}
    r = t.requests.c
    for task, sha256 in segments:
        this = (r.stream_id == stream_id) & r.inputs.contains(sha256)
        asked = conn.execute(select(t.requests).where(this).order_by(r.id.desc()).limit(1)).first()
        offsets = _offsets(conn, sha256)
        yield cards.Learned(
            task=known[task],
            partition=asked.partition if asked else None,
            series=asked.series if asked else None,
            segment=asked.segment if asked else None,
            readings=len(offsets) if offsets is not None else None,
            first_offset=int(offsets[0]) if offsets is not None and len(offsets) else None,
            last_offset=int(offsets[-1]) if offsets is not None and len(offsets) else None,
            sha256=sha256,
        )


def _offsets(conn: Connection, sha256: str) -> IntArray | None:
    """Of the readings in an artifact; None if it is damaged."""
    try:
        return Readings.from_bytes(artifacts.get(conn, sha256)).offsets
    except ArtifactCorrupt:
        return None


def _boundaries() -> Select[Any]:
    """Boundaries with what the segments that they begin were named."""
    b, s = t.boundaries.c, t.segments.c
    same = (b.stream_id == s.stream_id) & (b.partition == s.partition)
    return (
        select(t.boundaries, *_told_task, s.recurrence, s.distance)
        .outerjoin(t.segments, same & (b.series == s.series) & (b.segment == s.segment))
        .outerjoin(t.tasks, t.tasks.c.id == s.task_id)
    )


def _boundary(conn: Connection, request: Row[Any]) -> Row[Any] | None:
    return conn.execute(
        _boundaries().where(
            t.boundaries.c.stream_id == request.stream_id,
            t.boundaries.c.partition == request.partition,
            t.boundaries.c.series == request.series,
            t.boundaries.c.segment == request.segment,
        )
    ).first()
