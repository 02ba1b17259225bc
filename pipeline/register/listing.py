"""What is kept of a stream, a page at a time: rows in the order of their numbers, as plain data.

Times are ISO 8601 with zone, JSON columns are what they hold, and `id` is what a page goes on from.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Column, ColumnElement, Engine, Result, RowMapping, Select, func, select

from pipeline.errors import PipelineError
from pipeline.register import tables as t
from pipeline.register.engine import reading

Item = dict[str, Any]
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
#: Columns that hold JSON, wherever they stand.
JSON = {"channels", "detectors", "sensors", "inputs", "figures", "settings", "entry"}
#: Columns that hold microseconds since 1970 UTC.
TIMES = {
    *("at", "created", "finished", "due", "recorded", "decided", "named", "updated", "time"),
    *("boundary_time", "detected_time", "end_time", "live_from", "live_until", "until"),
    *("paused", "rejected"),
}


@dataclass(frozen=True, slots=True)
class Kind:
    """A collection: its rows, what numbers them, and what a page may be narrowed by."""

    rows: Select[Any]
    id: Column[Any]
    stream: Column[Any]
    filters: Mapping[str, Column[Any]]
    #: What people know a row by, if it is not its id.
    number: Column[Any] | None = None


def _columns(table: Any, *left_out: str) -> list[Column[Any]]:
    return [c for c in table.c if c.name not in ("stream_id", "fingerprint", *left_out)]


_parents = t.versions.alias("parents")
_b, _s, _r, _v = t.boundaries.c, t.segments.c, t.requests.c, t.versions.c
_of_segment = (
    (_b.stream_id == _s.stream_id)
    & (_b.partition == _s.partition)
    & (_b.series == _s.series)
    & (_b.segment == _s.segment)
)

#: Name in a path -> what it lists.
KINDS = {
    "versions": Kind(
        select(
            *_columns(t.versions, "parent_id", "settings", "figures", "inputs"),
            _parents.c.number.label("parent"),
            _r.reason,
        )
        .join(t.requests, _r.id == _v.request_id)
        .outerjoin(_parents, _parents.c.id == _v.parent_id),
        _v.id,
        _v.stream_id,
        {"status": _v.status},
        _v.number,
    ),
    "boundaries": Kind(
        select(*_columns(t.boundaries), t.tasks.c.number.label("task"), _s.recurrence, _s.distance)
        .outerjoin(t.segments, _of_segment)
        .outerjoin(t.tasks, t.tasks.c.id == _s.task_id),
        _b.id,
        _b.stream_id,
        {"series": _b.series},
    ),
    "tasks": Kind(
        select(*_columns(t.tasks)),
        t.tasks.c.id,
        t.tasks.c.stream_id,
        {"kind": t.tasks.c.kind},
        t.tasks.c.number,
    ),
    "requests": Kind(
        select(*_columns(t.requests, "task_id", "fence"), t.tasks.c.number.label("task")).outerjoin(
            t.tasks, t.tasks.c.id == _r.task_id
        ),
        _r.id,
        _r.stream_id,
        {"status": _r.status, "reason": _r.reason},
        _r.id,
    ),
    "sensor-events": Kind(
        select(*_columns(t.sensor_events)),
        t.sensor_events.c.id,
        t.sensor_events.c.stream_id,
        {"kind": t.sensor_events.c.kind, "series": t.sensor_events.c.series},
    ),
    "gaps": Kind(select(*_columns(t.gaps)), t.gaps.c.id, t.gaps.c.stream_id, {}),
    "promotions": Kind(
        select(*_columns(t.promotions, "version_id"), _v.number.label("version")).join(
            t.versions, _v.id == t.promotions.c.version_id
        ),
        t.promotions.c.id,
        t.promotions.c.stream_id,
        {"actor": t.promotions.c.actor},
    ),
}
_ledger = select(t.ledger, t.streams.c.name.label("stream")).outerjoin(
    t.streams, t.streams.c.id == t.ledger.c.stream_id
)


class Listing:
    """Pages of one database; each method is one transaction."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def streams(self) -> list[Item]:
        """Every stream with its champion's number."""
        with reading(self.engine) as conn:
            live = (_v.stream_id == t.streams.c.id) & t.is_champion
            rows = select(t.streams, _v.number.label("champion")).outerjoin(t.versions, live)
            return _plain(conn.execute(rows.order_by(t.streams.c.id)))

    def page(
        self,
        kind: str,
        stream_id: int,
        *,
        after: int | None,
        limit: int,
        newest_first: bool = False,
        only: Mapping[str, str] | None = None,
    ) -> list[Item]:
        """Up to `limit` rows behind the one numbered `after`, or the first ones there are."""
        this = KINDS[kind]
        where = [this.stream == stream_id]
        where += [this.filters[name] == value for name, value in (only or {}).items()]
        return self._page(this.rows.where(*where), this.id, after, limit, newest_first)

    def one(self, kind: str, stream_id: int, number: int) -> Item:
        """The row of that number; PipelineError if the stream has none."""
        this = KINDS[kind]
        key = this.id if this.number is None else this.number
        with reading(self.engine) as conn:
            rows = conn.execute(this.rows.where(this.stream == stream_id, key == number))
            found = _plain(rows)
        if not found:
            raise PipelineError(f"no {number} among the stream's {kind}")
        return found[0]

    def entries(
        self,
        *,
        after: int | None,
        limit: int,
        newest_first: bool = False,
        stream_id: int | None = None,
        kinds: Sequence[str] = (),
    ) -> list[Item]:
        """Entries of the ledger, of every stream unless one is named."""
        where: list[ColumnElement[bool]] = []
        if stream_id is not None:
            where.append(t.ledger.c.stream_id == stream_id)
        if kinds:
            where.append(t.ledger.c.kind.in_(kinds))
        return self._page(_ledger.where(*where), t.ledger.c.id, after, limit, newest_first)

    def last_entry(self) -> int:
        """Number of the ledger's last entry; 0 if it is empty."""
        with reading(self.engine) as conn:
            return int(conn.execute(select(func.max(t.ledger.c.id))).scalar() or 0)

    def weights_of(self, stream_id: int, number: int) -> str:
        """sha256 of a version's weights; PipelineError if there is no such version."""
        return str(self.one("versions", stream_id, number)["sha256"])

    def dead_letters(self, stream_id: int) -> Item:
        """How many letters people have decided on, by what they decided."""
        c = t.dead_letters.c
        mine = select(c.status, func.count().label("letters")).where(c.stream_id == stream_id)
        with reading(self.engine) as conn:
            rows = conn.execute(mine.group_by(c.status))
            found = {row.status: row.letters for row in rows}
        return {status: found.get(status, 0) for status in ("replaying", "replayed", "dropped")}

    def _page(
        self,
        rows: Select[Any],
        id_: Column[Any],
        after: int | None,
        limit: int,
        newest_first: bool,
    ) -> list[Item]:
        if after is not None:
            rows = rows.where(id_ < after if newest_first else id_ > after)
        rows = rows.order_by(id_.desc() if newest_first else id_).limit(limit)
        with reading(self.engine) as conn:
            return _plain(conn.execute(rows))


def _plain(rows: Result[Any]) -> list[Item]:
    return [_item(row) for row in rows.mappings()]


def _item(row: RowMapping) -> Item:
    """A row as JSON may have it; what was changed into nonsense as it is."""
    item: Item = {}
    for name, value in row.items():
        if name == "stream_id":
            continue
        with suppress(ValueError, TypeError, OverflowError):
            if value is not None and name in JSON:
                value = json.loads(value)
            elif value is not None and name in TIMES:
                value = (EPOCH + timedelta(microseconds=value)).isoformat(timespec="microseconds")
        item[name] = value
    return item
