"""A range of one series in, what a chart of it is drawn from out, however long it is.

The finest level of register/timeline.py is read that has few enough buckets in the range. What is
not yet complete there is put together from the levels below it, so that the last point is of now.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, Row, Select, select, union_all

from pipeline.errors import PipelineError
from pipeline.register import tables as t
from pipeline.register.timeline import (
    FACTOR,
    HIGH,
    LOW,
    MEAN,
    READINGS,
    Buckets,
    merged,
    size,
    unpacked,
)
from pipeline.serve import queries
from pipeline.serve.answers import Answer, iso
from pipeline.serve.bands import changes, reigns

#: Points of a chart, if nobody says how many, and at least: the newest one alone may be put
#: together from three buckets of each level.
POINTS, LEAST = 1000, 50
#: (level, first bucket, end bucket), half-open.
Range = tuple[int, int, int]


def drawn(conn: Connection, stream: str) -> list[Answer]:
    """The series of a stream that have a timeline, and the readings in each."""
    c = t.timelines.c
    rows = conn.execute(
        select(c.partition, c.series, c.rows)
        .where(c.stream_id == queries.stream(conn, stream))
        .order_by(c.partition, c.slot)
    )
    return [dict(row._mapping) for row in rows]  # noqa: SLF001


def timeline(
    conn: Connection,
    stream: str,
    partition: int,
    series: str,
    since: int | None = None,
    until: int | None = None,
    points: int = POINTS,
) -> Answer:
    """Sensors and score of a series between two event times, in microseconds; None: all there is.

    A point is of so many consecutive readings: when they began and ended, and the lowest, highest
    and mean value of each sensor and of the score, None where nothing was observed. Those at either
    end may reach beyond the range. With them what was going on: boundaries, the task of each
    segment, and which version scored.

    Raises
    ------
    PipelineError
        There is no such stream or timeline, or fewer than LEAST points are wanted.
    """
    if points < LEAST:
        raise PipelineError(f"{points} points: at least {LEAST}")
    stream_id = queries.stream(conn, stream)
    channels = queries.channels(conn, stream_id)
    kept = _kept(conn, stream_id, partition, series)
    first, end = _numbers(conn, kept, since, until)
    level, ranges = plan(first, end, kept.rows, points)
    rows = conn.execute(union_all(*(_bucket_rows(kept, each) for each in ranges))).all()
    found = _on_level(rows, level, len(channels) + 1)
    told = {
        "stream": stream,
        "partition": partition,
        "series": series,
        "readings": kept.rows,
        "readings_per_point": size(level),
        "points": _points(found, channels),
    }
    if not len(found):
        return told | {"boundaries": [], "more": False, "bands": [], "reigns": []}
    begin, over = int(found.first_times.min()), int(found.last_times.max())
    return told | changes(conn, kept, channels, begin, over) | reigns(conn, kept, found)


def plan(first: int, end: int, rows: int, points: int) -> tuple[int, list[Range]]:
    """Level to draw, and the buckets to read, for those first <= k < end of level 0.

    rows: readings of the series. On each level the buckets that are complete, and have not gone
    into one of a higher level that is read.
    """
    level = 0
    while True:
        ranges = list(_ranges(first, end, rows, level))
        if sum(high - low for _, low, high in ranges) <= points:
            return level, ranges or [(0, first, first)]
        level += 1


def _ranges(first: int, end: int, rows: int, level: int) -> Iterator[Range]:
    done = 0
    for k in range(level, -1, -1):
        across = FACTOR**k
        complete = rows // size(k) if k else -(-rows // READINGS)  # on level 0 with the open one
        low, high = max(first // across, done), min(-(-end // across), complete)
        if low < high:
            yield k, low, high
        done = complete * FACTOR


def _on_level(rows: Sequence[Row[Any]], level: int, width: int) -> Buckets:
    """Buckets of that level and below as those of that level, in order."""
    below = np.array([FACTOR ** (level - row.level) for row in rows], dtype=np.int64)
    found = unpacked(rows, width)
    return merged([replace(found, numbers=found.numbers // below)])


def _kept(conn: Connection, stream_id: int, partition: int, series: str) -> Row[Any]:
    """A series' row; PipelineError if it has none."""
    c = t.timelines.c
    this = (c.stream_id == stream_id) & (c.partition == partition) & (c.series == series)
    row = conn.execute(select(t.timelines).where(this)).first()
    if row is None:
        raise PipelineError(f"no timeline of {series} in partition {partition}")
    return row


def _mine(kept: Row[Any]) -> queries.Where:
    c = t.timeline_buckets.c
    mine: queries.Where = (
        (c.stream_id == kept.stream_id) & (c.partition == kept.partition) & (c.slot == kept.slot)
    )
    return mine


def _numbers(
    conn: Connection, kept: Row[Any], since: int | None, until: int | None
) -> tuple[int, int]:
    """First and end bucket of level 0 between two times, both included."""
    first = 0 if since is None else (_at(conn, kept, since) or 0)
    if until is None:
        return first, -(-kept.rows // READINGS)
    last = _at(conn, kept, until)
    return first, 0 if last is None else max(last + 1, first)


def _at(conn: Connection, kept: Row[Any], time: int) -> int | None:
    """The last bucket of level 0 that began at a time or before it."""
    c = t.timeline_buckets.c
    query = (
        select(c.bucket)
        .where(_mine(kept), c.level == 0, c.first_time <= time)
        .order_by(c.first_time.desc())
        .limit(1)
    )
    return conn.execute(query).scalar()


def _bucket_rows(kept: Row[Any], wanted: Range) -> Select[Any]:
    c, (level, low, high) = t.timeline_buckets.c, wanted
    return select(*c[2:]).where(_mine(kept), c.level == level, c.bucket >= low, c.bucket < high)


def _points(found: Buckets, channels: Sequence[str]) -> Answer:
    """Columns, ready for JSON."""
    columns = {
        name: {
            "low": _plain(found.cells[:, LOW, i]),
            "high": _plain(found.cells[:, HIGH, i]),
            "mean": _plain(found.cells[:, MEAN, i]),
        }
        for i, name in enumerate((*channels, ""))
    }
    score = columns.pop("")
    return {
        "from": [iso(time) for time in found.first_times.tolist()],
        "until": [iso(time) for time in found.last_times.tolist()],
        "readings": found.rows.tolist(),
        "sensors": columns,
        "score": score,
    }


def _plain(values: NDArray[np.float64]) -> list[float | None]:
    """As JSON has numbers."""
    return [None if value != value else value for value in values.tolist()]
