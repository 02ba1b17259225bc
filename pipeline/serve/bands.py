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

#: Boundaries that are told one by one, and reigns, at most; into how many parts of the range
#: more of them are counted.
MOST, PARTS = 300, 300


def changes(
    conn: Connection, kept: Row[Any], channels: Sequence[str], begin: int, over: int
) -> Answer:
    """Boundaries between two times, and the segments around them with their tasks.

    Where there are more boundaries than MOST, they are counted in PARTS of the range (`clusters`)
    instead of told, and of the segments those that are longer than a part.
    """
    b = t.boundaries.c
    mine = (
        (b.stream_id == kept.stream_id)
        & (b.partition == kept.partition)
        & (b.series == kept.series)
    )
    before = select(func.max(b.segment)).where(mine, b.boundary_time < begin).scalar_subquery()
    reaching = mine & (b.segment >= func.coalesce(before, 0)) & (b.boundary_time <= over)
    rows = conn.execute(
        queries.boundaries().where(reaching).order_by(b.segment).limit(MOST + 1)
    ).all()
    if len(rows) > MOST:
        return _counted(conn, kept, reaching, begin, over)
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
        "more": False,
        "clusters": [],
        "bands": [
            _band(number, named, since, until)
            for (number, named, since), until in zip(starts, ends, strict=True)
        ],
    }


def _counted(
    conn: Connection, kept: Row[Any], reaching: queries.Where, begin: int, over: int
) -> Answer:
    """More boundaries than can be told: how many there are in each part of the range."""
    b, length = t.boundaries.c, (over - begin) // PARTS + 1
    part = ((b.boundary_time - begin) // length).label("part")
    times = (func.min(b.boundary_time), func.max(b.boundary_time))
    clusters = conn.execute(
        select(part, func.min(b.segment), func.count(), *times)
        .where(reaching, b.boundary_time >= begin)
        .group_by("part")
        .order_by("part")
    ).all()
    next_ = func.lead(b.boundary_time).over(order_by=b.segment).label("until")
    spans = select(b.segment, b.boundary_time, next_).where(reaching).subquery()
    long = spans.c.until.is_(None) | (spans.c.until - spans.c.boundary_time >= length)
    ends = {row.segment: row.until for row in conn.execute(select(spans).where(long))}
    these = reaching & b.segment.in_(list(ends))
    rows = conn.execute(queries.boundaries().where(these).order_by(b.segment)).all()
    bands = [_band(row.segment, row, row.boundary_time, ends[row.segment]) for row in rows]
    if not rows or rows[0].boundary_time >= begin:
        bands.insert(0, _band(0, _named_first(conn, kept), None, clusters[0][3]))
    return {
        "boundaries": [],
        "more": True,
        "clusters": [
            {"segment": segment, "count": count, "from": iso(since), "until": iso(until)}
            for _, segment, count, since, until in clusters
        ],
        "bands": bands,
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
    """Which version scored, and from which point of these on: a reign in the readings' own time.

    Where there are more than MOST, the first to begin in each of PARTS of the range.
    """
    s, first, last = t.scored.c, found.first_offsets, found.last_offsets.tolist()
    mine = (s.stream_id == kept.stream_id) & (s.partition == kept.partition)
    before = select(func.max(s.first_offset)).where(mine, s.first_offset <= int(first[0]))
    begun = s.first_offset >= func.coalesce(before.scalar_subquery(), 0)
    seen = mine & begun & (s.end_offset > int(first[0])) & (s.first_offset <= last[-1])
    query = (
        select(t.versions.c.number, s.first_offset, s.end_offset)
        .join(t.versions, t.versions.c.id == s.version_id)
        .order_by(s.first_offset)
    )
    rows = conn.execute(query.where(seen).limit(MOST + 1)).all()
    if len(rows) > MOST:
        part = (s.first_offset - int(first[0])) // ((last[-1] - int(first[0])) // PARTS + 1)
        firsts = select(func.min(s.first_offset)).where(seen).group_by(part)
        rows = conn.execute(query.where(mine, s.first_offset.in_(firsts))).all()
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
