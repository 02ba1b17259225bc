"""New, or task k again: decided in SQL in order of arrival, in the caller's transaction.

A segment is named by each of its fingerprints; the last one's word is final, and only then does the
task learn from it: it keeps a fingerprint for each series that has shown it, merged by rows. Before
there is a fingerprint, a request's readings name the segment. All of it is done under the ledger's
lock: of two partitions that name at once, the second sees what the first said.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import ColumnElement, Connection, Row, and_, func, insert, or_, select, true, update

from pipeline.detect.prints import Print
from pipeline.detect.tasks import Fingerprint, Known, merge, nearest
from pipeline.records import Claim, Named
from pipeline.register import ledger, requests
from pipeline.register import tables as t
from pipeline.register.engine import inserted, inserting, next_number

Units = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A segment of a series."""

    stream_id: int
    partition: int
    series: str
    segment: int

    def rows(self, c: Any) -> ColumnElement[bool]:
        """Those of the segment, in a table with columns c."""
        mine = self.of_series(c)
        return and_(mine, c.stream_id == self.stream_id, c.segment == self.segment)

    def of_series(self, c: Any) -> ColumnElement[bool]:
        """Those of its series."""
        return and_(c.partition == self.partition, c.series == self.series)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The task that was found, None for a new one; and what it was found by."""

    task_id: int | None
    distance: float
    units: Units
    rows: int
    final: bool


def name(conn: Connection, stream_id: int, partition: int, made: Print, *, at: int) -> Named | None:
    """What a segment's fingerprint says it is; None if as much was known of it before."""
    ledger.lock(conn)
    place = Place(
        stream_id=stream_id, partition=partition, series=made.series, segment=made.segment
    )
    before = _before(conn, place)
    if before is not None and (before.final or (before.rows >= made.rows and not made.final)):
        return None
    print_ = made.fingerprint
    task_id, distance = nearest(print_.units, _others(conn, place, before), print_)
    answer = Answer(
        task_id=task_id,
        distance=distance,
        units=print_.units,
        rows=made.rows,
        final=made.final,
    )
    task_id = _keep(conn, place, before, answer, at)
    if made.final:
        _learn(conn, place, task_id, print_)
    return Named(
        series=made.series,
        segment=made.segment,
        task=conn.execute(select(t.tasks.c.number).where(t.tasks.c.id == task_id)).scalar_one(),
        recurrence=answer.task_id is not None,
        distance=distance if np.isfinite(distance) else None,
        rows=made.rows,
        final=made.final,
    )


def last_named(conn: Connection, stream_id: int, partition: int) -> list[Named]:
    """What a partition's last checkpoint that named segments named them."""
    c = t.segments.c
    mine = and_(c.stream_id == stream_id, c.partition == partition, c.rows > 0)
    newest = select(func.max(c.named)).where(mine).scalar_subquery()
    rows = conn.execute(
        select(t.segments, t.tasks.c.number)
        .join(t.tasks, t.tasks.c.id == c.task_id)
        .where(mine, c.named == newest)
        .order_by(c.id)
    )
    return [
        Named(
            series=row.series,
            segment=row.segment,
            task=row.number,
            recurrence=row.recurrence,
            distance=row.distance,
            rows=row.rows,
            final=row.final,
        )
        for row in rows
    ]


def assign(conn: Connection, claim: Claim, request_id: int, units: Units, *, at: int) -> int:
    """The id of the task of a request's segment: as it was named, or what its readings say.

    units: of the readings, as `detect.tasks.in_units` makes them.

    Raises
    ------
    LeaseLost
        The claim that the request belongs to is somebody else's now.
    """
    ledger.lock(conn)
    requests.hold(conn, claim)
    request = conn.execute(select(t.requests).where(t.requests.c.id == request_id)).one()
    place = Place(
        stream_id=request.stream_id,
        partition=request.partition,
        series=request.series,
        segment=request.segment,
    )
    before = _before(conn, place)
    if before is not None:
        _tell(conn, place, before.task_id)
        return int(before.task_id)
    task_id, distance = nearest(units, _known(conn, place, true()))
    answer = Answer(task_id=task_id, distance=distance, units=units, rows=0, final=False)
    return _keep(conn, place, None, answer, at)


def _before(conn: Connection, place: Place) -> Row[Any] | None:
    """What was said of the segment last."""
    return conn.execute(select(t.segments).where(place.rows(t.segments.c))).first()


def _others(conn: Connection, place: Place, before: Row[Any] | None) -> dict[int, Known]:
    """The tasks that a segment may be again, by its fingerprint: not the one made for it.

    One that only segments of its own series have shown is known by their fingerprints alone: until
    there is one, nothing but units would tell, and those tell regimes of a series apart badly.
    """
    elsewhere = select(t.segments.c.id).where(
        t.segments.c.task_id == t.tasks.c.id, ~place.of_series(t.segments.c)
    )
    known = _known(conn, place, elsewhere.exists())
    if before is not None and not before.recurrence:
        known.pop(before.task_id, None)
    return known


def _known(conn: Connection, place: Place, shown: ColumnElement[bool]) -> dict[int, Known]:
    """The stream's tasks that are `shown`, or of which the series has a fingerprint."""
    own = t.task_prints.alias("own")
    mine = (own.c.task_id == t.tasks.c.id) & place.of_series(own.c)
    rows = conn.execute(
        select(t.tasks.c.id, t.tasks.c.fingerprint, own.c.fingerprint.label("own"))
        .outerjoin(own, mine)
        .where(t.tasks.c.stream_id == place.stream_id, or_(own.c.task_id.is_not(None), shown))
        .order_by(t.tasks.c.id)
    )
    return {
        row.id: Known(
            own=Fingerprint.from_json(row.own) if row.own else None,
            units=np.array(json.loads(row.fingerprint), dtype=np.float64),
        )
        for row in rows
    }


def _keep(conn: Connection, place: Place, before: Row[Any] | None, answer: Answer, at: int) -> int:
    """Write an answer down; the id of its task. One that was made for the segment stays it."""
    task_id = answer.task_id
    if task_id is None and before is not None and not before.recurrence:
        task_id = int(before.task_id)
    elif task_id is None:
        task_id = _make(conn, place.stream_id, answer.units, at)
    said = {
        "task_id": task_id,
        "recurrence": answer.task_id is not None,
        "distance": answer.distance if np.isfinite(answer.distance) else None,
        "rows": answer.rows,
        "final": answer.final,
    }
    if before is None:
        conn.execute(insert(t.segments).values(**asdict(place), **said, named=at))
    else:
        this = t.segments.c.id == before.id
        conn.execute(update(t.segments).where(this).values(**said, named=at))
    _tell(conn, place, task_id)
    entry = asdict(place) | said
    ledger.append(conn, "task_named", entry, at=at, stream_id=place.stream_id)
    return task_id


def _tell(conn: Connection, place: Place, task_id: int) -> None:
    """The segment's requests are of that task."""
    conn.execute(
        update(t.requests)
        .where(place.rows(t.requests.c), t.requests.c.task_id.is_distinct_from(task_id))
        .values(task_id=task_id)
    )


def _learn(conn: Connection, place: Place, task_id: int, print_: Fingerprint) -> None:
    """The series' fingerprint of a task, with one more segment in it."""
    mine = (t.task_prints.c.task_id == task_id) & place.of_series(t.task_prints.c)
    held = conn.execute(select(t.task_prints.c.fingerprint).where(mine)).scalar()
    whole = merge(Fingerprint.from_json(held), print_) if held else print_
    key = {"task_id": task_id, "partition": place.partition, "series": place.series}
    text = whole.to_json()
    conn.execute(
        inserting(conn, t.task_prints)
        .values(**key, fingerprint=text)
        .on_conflict_do_update(index_elements=list(key), set_={"fingerprint": text})
    )


def _make(conn: Connection, stream_id: int, units: Units, at: int) -> int:
    row = {
        "stream_id": stream_id,
        "number": next_number(conn, t.tasks, stream_id),
        "kind": "normal",
        "fingerprint": ledger.canonical(units.tolist()),
        "created": at,
    }
    return inserted(conn, insert(t.tasks).values(row))
