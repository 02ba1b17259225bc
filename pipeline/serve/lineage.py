"""What else is asked of the history: every version, boundary, event, task; one version's card.

Read only, as the audit's nine questions are.
"""

from __future__ import annotations

from msgspec.json import decode
from sqlalchemy import Connection, func, select

from pipeline.register import marks
from pipeline.register import tables as t
from pipeline.register.engine import reading
from pipeline.serve import answers, data, queries
from pipeline.serve import card as cards
from pipeline.serve.answers import Answer, iso
from pipeline.serve.audit import Audit
from pipeline.serve.card import Card


class Lineage(Audit):
    """Questions about one database's streams: the nine of the audit, and lists of what there is."""

    def history(self, stream: str) -> list[Answer]:
        """Every version: parent, reason, figures, fate, when it was live."""
        with reading(self.engine) as conn:
            known = queries.stream(conn, stream)
            return _told(conn, known)

    def card(self, stream: str, number: int) -> Card:
        """Everything that one must know of a version.

        Raises
        ------
        PipelineError
            No such stream or version.
        """
        with reading(self.engine) as conn:
            (version,) = queries.numbered(conn, stream, number)
            stream_id = version.stream_id
            these = (queries.THESE, [version.id])
            figures, inputs = decode(version.figures), decode(version.inputs)
            channels = queries.channels(conn, stream_id)
            requests = queries.reasons(conn, version.request_id)
            learned = data.learned(conn, stream_id, inputs["segments"])
            left = queries.roll_backs(conn, stream_id, version.id)[version.id]
            return Card(
                stream=stream,
                version=number,
                status=version.status,
                parent=version.parent,
                made_at=str(iso(version.created)),
                sha256=version.sha256,
                ewc_sha256=version.ewc_sha256,
                reasons=tuple(cards.reason(r, channels) for r in requests),
                learned=tuple(cards.learned(part) for part in learned),
                inputs=inputs,
                strategy=version.strategy,
                settings=decode(version.settings),
                seed=version.seed,
                code_version=version.code_version,
                skills=tuple(
                    cards.measured(r, figures)
                    for r in queries.evaluations(conn, *these)[version.id]
                ),
                metrics=answers.metrics(queries.metrics(conn, *these)[version.id]),
                decision=version.decision,
                figures=figures,
                live=tuple(cards.live(row) for row in queries.promotions(conn, *these)[version.id]),
                rolled_back=tuple(cards.Left(**each) for each in left),
            )

    def boundaries(self, stream: str) -> list[Answer]:
        """Every boundary, in the order in which it was recorded."""
        with reading(self.engine) as conn:
            stream_id = queries.stream(conn, stream)
            channels, mine = (
                queries.channels(conn, stream_id),
                t.boundaries.c.stream_id == stream_id,
            )
            rows = conn.execute(queries.boundaries().where(mine).order_by(t.boundaries.c.id))
            return [answers.boundary(row, channels) for row in rows]

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
                .where(found.stream_id == queries.stream(conn, stream))
                .group_by(found.id, asked.id, t.versions.c.id)
                .order_by(found.id)
            )
            return [answers.turnaround(row) for row in rows]

    def events(self, stream: str) -> list[Answer]:
        """Every sensor that fell silent, froze or came back, and every gap in what Kafka still had,
        in the order of recording."""
        with reading(self.engine) as conn:
            this = queries.stream(conn, stream)
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
                select(t.segments, *queries.task_columns)
                .join(t.tasks, t.tasks.c.id == t.segments.c.task_id)
                .where(t.segments.c.stream_id == queries.stream(conn, stream))
                .order_by(t.segments.c.id)
            )
            return [answers.segment(row) for row in rows]

    def tasks(self, stream: str) -> list[Answer]:
        """Every task: kind, name, segments, requests that wait, and who has learned it."""
        with reading(self.engine) as conn:
            return _tasks(conn, t.tasks.c.stream_id == queries.stream(conn, stream))

    def task(self, stream: str, number: int) -> Answer:
        """One task, with its segments and all that people said of it.

        Raises
        ------
        PipelineError
            No such stream or task.
        """
        with reading(self.engine) as conn:
            stream_id = queries.stream(conn, stream)
            this = marks.find(conn, stream_id, number).id
            (answer,) = _tasks(conn, t.tasks.c.id == this)
            shown = select(t.segments, *queries.task_columns).join(t.tasks)
            rows = conn.execute(shown.where(t.tasks.c.id == this).order_by(t.segments.c.id))
            return answer | {
                "shown_in": [answers.place(row) for row in rows],
                "said": [answers.said(row) for row in marks.said(conn, stream_id, number)],
            }

    def matrix(self, stream: str, newest: int | None = None) -> list[Answer]:
        """R, a row a version: its skill on each task's held-out readings, and its parent's there.

        Tasks by number. A parent's skill is that from before the version was trained.
        newest: so many versions, the last ones; None: all.
        """
        with reading(self.engine) as conn:
            known, v = queries.stream(conn, stream), t.versions.c
            last = select(v.id, v.number, v.status).where(v.stream_id == known)
            rows = conn.execute(last.order_by(v.number.desc()).limit(newest)).all()[::-1]
            wanted = queries.OF_STREAM if newest is None else queries.THESE
            which = known if newest is None else [row.id for row in rows]
            measured = queries.evaluations(conn, wanted, which)
            return [
                {
                    "version": row.number,
                    "status": row.status,
                    "skills": answers.skills(measured[row.id]),
                    "parent_skills": answers.parent_skills(measured[row.id]),
                }
                for row in rows
            ]


def _told(conn: Connection, stream_id: int) -> list[Answer]:
    """Versions with everything that happened to them, in as many queries for many as for one."""
    all_, v = (queries.OF_STREAM, stream_id), t.versions.c
    left = queries.roll_backs(conn, stream_id)
    lives, figures = queries.promotions(conn, *all_), queries.metrics(conn, *all_)
    measured = queries.evaluations(conn, *all_)
    return [
        answers.version(
            row,
            lives[row.id],
            answers.metrics(figures[row.id]),
            answers.skills(measured[row.id]),
            left[row.id],
        )
        for row in conn.execute(
            queries.versions().where(v.stream_id == stream_id).order_by(v.number)
        )
    ]


def _tasks(conn: Connection, wanted: queries.Where) -> list[Answer]:
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
