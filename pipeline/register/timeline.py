"""Readings of a partition in, buckets of them in SQL out: what a chart is drawn from.

A bucket of level k holds 64 * 4^k consecutive readings of a series. On level 0 the last one is open
and grows with every checkpoint; a bucket of a higher level is made when the last of its four is
complete. Nothing that is decided depends on them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Integer,
    Row,
    and_,
    column,
    literal,
    select,
    values,
)

from pipeline.records import FloatArray, IntArray
from pipeline.register.engine import inserting
from pipeline.register.tables import timeline_buckets, timelines

#: Readings of a bucket on level 0, and buckets that make one of the next level.
READINGS, FACTOR = 64, 4
#: Buckets that go to SQL, or come from it, at once.
AT_ONCE = 1000
#: What is kept of each sensor and of the score, in this order.
LOW, HIGH, MEAN, COUNT = range(4)
#: The table's columns of what `Buckets` has as (n,), in its order.
NUMBERS = ("slot", "bucket", "rows", "first_time", "last_time", "first_offset", "last_offset")


@dataclass(frozen=True, slots=True)
class Buckets:
    """Buckets of one level, of several series."""

    #: (n,) series and number of each.
    slots: IntArray
    numbers: IntArray
    #: (n,) readings; event times of the earliest and the latest, microseconds; offsets.
    rows: IntArray
    first_times: IntArray
    last_times: IntArray
    first_offsets: IntArray
    last_offsets: IntArray
    #: (n, 4, d + 1) lowest, highest, mean (NaN where nothing is observed) and count of each sensor
    #: and, last, the score.
    cells: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.slots)

    def __getitem__(self, which: Any) -> Buckets:
        return Buckets(*(getattr(self, each.name)[which] for each in fields(self)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What a partition's timelines have come to since the last checkpoint."""

    #: Series by slot, those that were there before among them.
    series: Sequence[str]
    #: (S,) readings of each at the last checkpoint, and now.
    before: IntArray
    rows: IntArray
    #: Level 0, of the readings between the two.
    buckets: Buckets


def size(level: int) -> int:
    """Readings in a bucket."""
    return READINGS * int(FACTOR**level)


def in_buckets(
    slots: IntArray, rows: IntArray, times: IntArray, offsets: IntArray, values: FloatArray
) -> Buckets:
    """Readings (N,) with the slots and rows of their series and values (N, d + 1), on level 0.

    Those of one series lie side by side, in order.
    """
    numbers = rows // READINGS
    cuts = _cuts(slots, numbers)
    seen = ~np.isnan(values)
    count = np.add.reduceat(seen, cuts, dtype=np.float64)
    total = np.add.reduceat(np.where(seen, values, np.float32(0)), cuts, dtype=np.float64)
    lowest, highest = np.fmin.reduceat(values, cuts), np.fmax.reduceat(values, cuts)
    return Buckets(
        slots[cuts],
        numbers[cuts],
        np.diff(cuts, append=len(slots)),
        np.minimum.reduceat(times, cuts),
        np.maximum.reduceat(times, cuts),
        np.minimum.reduceat(offsets, cuts),
        np.maximum.reduceat(offsets, cuts),
        np.stack([lowest, highest, _mean(total, count), count], axis=1),
    )


def merged(parts: Sequence[Buckets], factor: int = 1) -> Buckets:
    """One bucket of all those whose numbers, divided by `factor`, are the same of a series."""
    whole = Buckets(*(np.concatenate(each) for each in zip(*map(_columns, parts), strict=True)))
    if not len(whole):
        return whole
    numbers = whole.numbers // factor
    order = np.lexsort((numbers, whole.slots))
    whole, numbers = whole[order], numbers[order]
    cuts, cells = _cuts(whole.slots, numbers), whole.cells
    count = np.add.reduceat(cells[:, COUNT], cuts)
    total = np.add.reduceat(np.nan_to_num(cells[:, MEAN]) * cells[:, COUNT], cuts)
    lowest = np.fmin.reduceat(cells[:, LOW], cuts)
    highest = np.fmax.reduceat(cells[:, HIGH], cuts)
    return Buckets(
        whole.slots[cuts],
        numbers[cuts],
        np.add.reduceat(whole.rows, cuts),
        np.minimum.reduceat(whole.first_times, cuts),
        np.maximum.reduceat(whole.last_times, cuts),
        np.minimum.reduceat(whole.first_offsets, cuts),
        np.maximum.reduceat(whole.last_offsets, cuts),
        np.stack([lowest, highest, _mean(total, count), count], axis=1),
    )


def _columns(buckets: Buckets) -> list[NDArray[Any]]:
    return [getattr(buckets, each.name) for each in fields(buckets)]


def _cuts(slots: IntArray, numbers: IntArray) -> IntArray:
    """First of each run with the same slot and number."""
    new = (np.diff(slots) != 0) | (np.diff(numbers) != 0)
    return np.flatnonzero(np.concatenate([[True], new]))


def _mean(total: NDArray[np.float64], count: NDArray[np.float64]) -> NDArray[np.float64]:
    """NaN of nothing."""
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


# In SQL ---------------------------------------------------------------------------------------


def begun(conn: Connection, stream_id: int, partition: int) -> dict[str, int]:
    """Series -> readings that were summarised, in the order of their slots."""
    c = timelines.c
    found = conn.execute(
        select(c.series, c.rows)
        .where(c.stream_id == stream_id, c.partition == partition)
        .order_by(c.slot)
    )
    return {row.series: row.rows for row in found}


def write(conn: Connection, stream_id: int, partition: int, summary: Summary) -> None:
    """Add what came since the last checkpoint, in its transaction: each reading counts once."""
    whose = {"stream_id": stream_id, "partition": partition}
    _write_rows(conn, whose, summary)
    fresh = summary.buckets
    open_ = fresh[fresh.numbers * READINGS < summary.before[fresh.slots]]
    fresh = merged([fresh, _read(conn, whose, 0, open_.slots, open_.numbers, fresh)])
    level = 0
    while len(fresh):
        _write(conn, whose, level, fresh)
        level += 1
        done = fresh.numbers // FACTOR < (summary.rows // size(level))[fresh.slots]
        fresh = fresh[done]
        slots, numbers = _missing(fresh)
        older = _read(conn, whose, level - 1, slots, numbers, fresh)
        fresh = merged([fresh, older], FACTOR)


def _missing(fresh: Buckets) -> tuple[IntArray, IntArray]:
    """(m,) slots and numbers of those before a series' first that share the next level's bucket."""
    first = np.flatnonzero(np.diff(fresh.slots, prepend=-1))
    counts = fresh.numbers[first] % FACTOR
    back = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts) + 1
    return np.repeat(fresh.slots[first], counts), np.repeat(fresh.numbers[first], counts) - back


def _write_rows(conn: Connection, whose: dict[str, int], summary: Summary) -> None:
    new = inserting(conn, timelines)
    upsert = new.on_conflict_do_update(
        index_elements=["stream_id", "partition", "slot"], set_={"rows": new.excluded["rows"]}
    )
    changed = np.flatnonzero(summary.rows > summary.before)
    rows = [
        whose | {"slot": slot, "series": summary.series[slot], "rows": int(summary.rows[slot])}
        for slot in changed.tolist()
    ]
    if rows:
        conn.execute(upsert, rows)


def _write(conn: Connection, whose: dict[str, int], level: int, buckets: Buckets) -> None:
    new = inserting(conn, timeline_buckets)
    key = [column.name for column in timeline_buckets.primary_key]
    upsert = new.on_conflict_do_update(
        index_elements=key, set_={c.name: new.excluded[c.name] for c in timeline_buckets.c[5:]}
    )
    columns = [column.tolist() for column in _columns(buckets)[:-1]]
    content = [each.tobytes() for each in buckets.cells.astype("<f4")]
    rows = [
        whose | dict(zip(NUMBERS, row, strict=True)) | {"level": level, "content": each}
        for *row, each in zip(*columns, content, strict=True)
    ]
    for begin in range(0, len(rows), AT_ONCE):
        conn.execute(upsert, rows[begin : begin + AT_ONCE])


def _read(
    conn: Connection,
    whose: dict[str, int],
    level: int,
    slots: IntArray,
    numbers: IntArray,
    like: Buckets,
) -> Buckets:
    """Those of these slots and numbers (n,) that are there; as wide as `like`.

    Each is looked up by the whole key: SQLite would go through all buckets for pairs in a list.
    """
    c = timeline_buckets.c
    pairs = list(zip(slots.tolist(), numbers.tolist(), strict=True))
    query = select(*c[2:]).where(
        c.stream_id == whose["stream_id"], c.partition == whose["partition"], c.level == level
    )
    found: list[Row[Any]] = []
    for begin in range(0, len(pairs), AT_ONCE):
        some = values(column("slot", Integer), column("bucket", BigInteger), name="wanted")
        wanted = some.data(pairs[begin : begin + AT_ONCE]).cte("wanted")
        is_one = (c.slot == wanted.c.slot) & (c.bucket == wanted.c.bucket)
        found += conn.execute(query.join(wanted, is_one))
    return unpacked(found, like.cells.shape[2])


def old(before: int, keep: int) -> ColumnElement[bool]:
    """Buckets whose readings lie before a time, and so long before their series' newest.

    before, keep: microseconds. One of which a coarser bucket is still to be made stays.
    """
    c, newer = timeline_buckets.c, timeline_buckets.alias()
    keys = ("stream_id", "partition", "slot")
    rows = select(timelines.c.rows).where(*(timelines.c[key] == c[key] for key in keys))
    newest = select(newer.c.last_time).where(
        *(newer.c[key] == c[key] for key in keys), newer.c.level == 0
    )
    newest = newest.order_by(newer.c.first_time.desc()).limit(1)
    is_in_coarser = (c.bucket // FACTOR + 1) * _size(c.level + 1) <= rows.scalar_subquery()
    return and_(
        c.last_time < before,
        c.last_time < newest.scalar_subquery() - keep,
        is_in_coarser,
    )


def _size(level: ColumnElement[int]) -> ColumnElement[int]:
    """`size`, in SQL: 64 * 4^level = 2^(6 + 2 * level)."""
    return literal(1, BigInteger).bitwise_lshift(6 + 2 * level)


def unpacked(rows: Sequence[Row[Any]], width: int) -> Buckets:
    """Rows of the table as they were written; width: d + 1."""
    numbers = [[getattr(row, name) for name in NUMBERS] for row in rows]
    columns = np.array(numbers, dtype=np.int64).reshape(-1, len(NUMBERS))
    content = np.frombuffer(b"".join(row.content for row in rows), dtype="<f4")
    cells = content.astype(np.float64).reshape(-1, 4, width)
    s, n, r, t0, t1, o0, o1 = columns.T
    return Buckets(s, n, r, t0, t1, o0, o1, cells)
