"""A range of one series in; its boundaries, its segments with their tasks, who scored it, out."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, func, select

from pipeline.register import tables as t
from pipeline.register.timeline import Buckets
from pipeline.serve import answers, queries
from pipeline.serve.answers import Answer, iso

#: Boundaries in one answer, at most.
MOST = 2000


def changes(
    conn: Connection, kept: Row[Any], channels: Sequence[str], begin: int, over: int
) -> Answer:
    """Boundaries between two times, and the segments around them with their tasks."""
    b = t.boundaries.c
    mine = (
        (b.stream_id == kept.stream_id)
        & (b.partition == kept.partition)
        & (b.series == kept.series)
    )
    before = select(func.max(b.segment)).where(mine, b.boundary_time < begin).scalar_subquery()
    rows = conn.execute(
        queries.boundaries()
        .where(mine, b.segment >= func.coalesce(before, 0), b.boundary_time <= over)
        .order_by(b.segment)
        .limit(MOST + 1)
    ).all()
    more, rows = len(rows) > MOST, rows[:MOST]
    starts: list[tuple[int, Any, int | None]] = [
        (row.segment, row, row.boundary_time) for row in rows
    ]
    if not rows or rows[0].boundary_time >= begin:  # the range begins in the series' first segment
        starts.insert(0, (0, _named_first(conn, kept), None))
    ends = [start[2] for start in starts[1:]] + [None]
    return {
        "boundaries": [
            answers.boundary(row, channels) | {"sentence": answers.sentence(row, channels)}
            for row in rows
            if row.boundary_time >= begin
        ],
        "more": more,
        "bands": [
            _band(number, named, since, until)
            for (number, named, since), until in zip(starts, ends, strict=True)
        ],
    }


def _named_first(conn: Connection, kept: Row[Any]) -> Any:
    """What a series' segment 0, which has no boundary, was named."""
    s = t.segments.c
    return conn.execute(
        select(*queries.told_task, s.recurrence)
        .join(t.segments, s.task_id == t.tasks.c.id)
        .where(
            s.stream_id == kept.stream_id,
            s.partition == kept.partition,
            s.series == kept.series,
            s.segment == 0,
        )
    ).first()


def _band(number: int, named: Any, since: int | None, until: int | None) -> Answer:
    """A segment from its boundary to the next; None: it is the first, or goes on."""
    names = ("task", "task_kind", "task_name", "recurrence")
    return {
        "segment": number,
        "from": iso(since),
        "until": iso(until),
        **{name: getattr(named, name, None) for name in names},
    }


def reigns(conn: Connection, kept: Row[Any], found: Buckets) -> Answer:
    """Which version scored, and from which point of these on: a reign in the readings' own time."""
    s, first, last = t.scored.c, found.first_offsets, found.last_offsets.tolist()
    mine = (s.stream_id == kept.stream_id) & (s.partition == kept.partition)
    before = select(func.max(s.first_offset)).where(mine, s.first_offset <= int(first[0]))
    begun = s.first_offset >= func.coalesce(before.scalar_subquery(), 0)
    rows = conn.execute(
        select(t.versions.c.number, s.first_offset, s.end_offset)
        .join(t.versions, t.versions.c.id == s.version_id)
        .where(mine, begun, s.end_offset > int(first[0]), s.first_offset <= last[-1])
        .order_by(s.first_offset)
    )
    times = found.first_times.tolist()
    return {
        "reigns": [
            {
                "version": row.number,
                "first_offset": row.first_offset,
                "end_offset": row.end_offset,
                "from": iso(times[bisect_left(last, row.first_offset)]),
            }
            for row in rows
        ]
    }
