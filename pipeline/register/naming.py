"""New, or task k again: decided in SQL in order of arrival, in the caller's transaction.

A segment is named by each of its fingerprints; the last one's word is final, and only then does the
task learn from it: it keeps a fingerprint for each series that has shown it, merged by rows. Before
there is a fingerprint, a request's readings name the segment. All of it is done under the ledger's
lock: of two partitions that name at once, the second sees what the first said.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, and_, bindparam, func, insert, select, update

from pipeline.detect.prints import Print
from pipeline.detect.tasks import Fingerprint, Known, merge, nearest
from pipeline.records import Claim, Named
from pipeline.register import ledger, requests, tasks
from pipeline.register import tables as t
from pipeline.register.engine import inserted, inserting, next_number

Units = NDArray[np.float64]

#: Prints that are named at once: so many series at most are asked for in one statement.
TOGETHER = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What a segment was named."""

    task_id: int
    #: Whether the task had been there; else it was made for the segment.
    recurrence: bool
    #: To the nearest other task, None if there was none; and the readings that it was told by.
    distance: float | None
    rows: int
    final: bool


def name(
    conn: Connection,
    stream_id: int,
    partition: int,
    prints: Sequence[Print],
    *,
    ask: bool = False,
    at: int,
) -> Iterator[Named]:
    """What fingerprints say their segments are, in their order; nothing where as much was known.

    All is written when the last has been told. ask: a new task waits for a person's word.
    """
    if prints:
        ledger.lock(conn)
    for first in range(0, len(prints), TOGETHER):
        part = prints[first : first + TOGETHER]
        known = Naming(conn, stream_id, partition, {made.series for made in part}, ask=ask)
        for made in part:
            before = known.task_of(made)
            said = known.name(made, at)
            if said is not None:
                task = known.tasks[said.task_id]
                yield Named(
                    series=made.series,
                    segment=made.segment,
                    task=task.number,
                    kind=task.kind,
                    name=task.name,
                    recurrence=said.recurrence,
                    distance=said.distance,
                    rows=made.rows,
                    final=made.final,
                    changed=said.task_id != before,
                )
        known.write(at)


def last_named(conn: Connection, stream_id: int, partition: int) -> list[Named]:
    """What a partition's last checkpoint that named segments named them."""
    c = t.segments.c
    mine = and_(c.stream_id == stream_id, c.partition == partition, c.rows > 0)
    newest = select(func.max(c.named)).where(mine).scalar_subquery()
    rows = conn.execute(
        select(t.segments, t.tasks.c.number, t.tasks.c.kind, t.tasks.c.name)
        .join(t.tasks, t.tasks.c.id == c.task_id)
        .where(mine, c.named == newest)
        .order_by(c.id)
    )
    return [
        Named(
            series=row.series,
            segment=row.segment,
            task=row.number,
            kind=row.kind,
            name=row.name,
            recurrence=row.recurrence,
            distance=row.distance,
            rows=row.rows,
            final=row.final,
            changed=True,  # the former owner may not have come to say it
        )
        for row in rows
    ]


def assign(
    conn: Connection, claim: Claim, request_id: int, units: Units, *, ask: bool = False, at: int
) -> int:
    """The id of the task of a request's segment: as it was named, or what its readings say.

    units: of the readings, as `detect.tasks.in_units` makes them. ask: as `name` has it.

    Raises
    ------
    LeaseLost
        The claim that the request belongs to is somebody else's now.
    """
    ledger.lock(conn)
    requests.hold(conn, claim)
    request = conn.execute(select(t.requests).where(t.requests.c.id == request_id)).one()
    known = Naming(conn, request.stream_id, request.partition, {request.series}, ask=ask)
    said = known.assign(request.series, request.segment, units, at)
    known.write(at)
    return said.task_id


class Naming:
    """The tasks of a stream, as segments of some series of one partition are named.

    What is known is read once; what is said is known at once and written at the end.
    """

    def __init__(
        self,
        conn: Connection,
        stream_id: int,
        partition: int,
        series: Collection[str],
        *,
        ask: bool,
    ) -> None:
        self.conn = conn
        self.ask = ask
        self.stream_id = stream_id
        self.partition = partition
        #: By id, oldest first.
        self.tasks = {task.id: task for task in tasks.known(conn, stream_id)}
        #: By series and task, and by series and segment.
        self._own = self._prints(series)
        self._said, self._ids = self._segments(series)
        #: Segments that something was said of; the entries of it; and fingerprints that changed.
        self._told: dict[tuple[str, int], Said] = {}
        self._entries: list[dict[str, Any]] = []
        self._learnt: set[tuple[str, int]] = set()

    def _prints(self, series: Collection[str]) -> dict[tuple[str, int], Fingerprint]:
        c = t.task_prints.c
        rows = self.conn.execute(
            select(t.task_prints)
            .join(t.tasks, t.tasks.c.id == c.task_id)
            .where(
                t.tasks.c.stream_id == self.stream_id,
                c.partition == self.partition,
                c.series.in_(series),
            )
        )
        return {(row.series, row.task_id): Fingerprint.from_json(row.fingerprint) for row in rows}

    def _segments(
        self, series: Collection[str]
    ) -> tuple[dict[tuple[str, int], Said], dict[tuple[str, int], int]]:
        """What was said of the series' segments, and the numbers of the rows that say so."""
        c = t.segments.c
        rows = self.conn.execute(
            select(t.segments).where(
                c.stream_id == self.stream_id,
                c.partition == self.partition,
                c.series.in_(series),
            )
        ).all()
        said = {
            (row.series, row.segment): Said(
                task_id=row.task_id,
                recurrence=row.recurrence,
                distance=row.distance,
                rows=row.rows,
                final=row.final,
            )
            for row in rows
        }
        return said, {(row.series, row.segment): row.id for row in rows}

    @cached_property
    def _shown(self) -> dict[int, Counter[tuple[int, str]]]:
        """Segments of each series that have shown a task."""
        c = t.segments.c
        rows = self.conn.execute(
            select(c.task_id, c.partition, c.series, func.count())
            .where(c.stream_id == self.stream_id)
            .group_by(c.task_id, c.partition, c.series)
        )
        shown: dict[int, Counter[tuple[int, str]]] = {}
        for task_id, partition, series, count in rows:
            shown.setdefault(task_id, Counter())[partition, series] = count
        return shown

    def task_of(self, made: Print) -> int | None:
        """The id of the task that was said of a fingerprint's segment before."""
        said = self._said.get((made.series, made.segment))
        return None if said is None else said.task_id

    def name(self, made: Print, at: int) -> Said | None:
        """What a segment's fingerprint says it is; None if as much was known of it before."""
        place, print_ = (made.series, made.segment), made.fingerprint
        before = self._said.get(place)
        if before is not None and (before.final or (before.rows >= made.rows and not made.final)):
            return None
        task_id, distance = nearest(print_.units, self._others(made.series, before), print_)
        said = self._say(
            place, task_id, distance, print_.units, rows=made.rows, final=made.final, at=at
        )
        if made.final:
            of = made.series, said.task_id
            self._own[of] = merge(self._own[of], print_) if of in self._own else print_
            self._learnt.add(of)
        return said

    def assign(self, series: str, segment: int, units: Units, at: int) -> Said:
        """What a segment was named, or what its readings say."""
        said = self._said.get((series, segment))
        if said is not None:
            self._tell({(series, segment): said})
            return said
        known = {
            task_id: Known(own=self._own.get((series, task_id)), units=task.fingerprint)
            for task_id, task in self.tasks.items()
        }
        task_id, distance = nearest(units, known)
        return self._say((series, segment), task_id, distance, units, rows=0, final=False, at=at)

    def _others(self, series: str, before: Said | None) -> dict[int, Known]:
        """The tasks that a segment may be again, by its fingerprint: not the one made for it.

        One that only segments of its own series have shown is known by their fingerprints alone:
        until there is one, nothing but units would tell, and those tell regimes of a series apart
        badly.
        """
        mine = None if before is None or before.recurrence else before.task_id
        here = self.partition, series
        return {
            task_id: Known(own=self._own.get((series, task_id)), units=task.fingerprint)
            for task_id, task in self.tasks.items()
            if task_id != mine
            and (
                (series, task_id) in self._own
                or any(n for other, n in self._shown.get(task_id, {}).items() if other != here)
            )
        }

    def _say(
        self,
        place: tuple[str, int],
        again: int | None,
        distance: float,
        units: Units,
        *,
        rows: int,
        final: bool,
        at: int,
    ) -> Said:
        """Of a segment that it is a task again, or a new one; one that was made for it stays it."""
        before = self._said.get(place)
        task_id = again
        if task_id is None and before is not None and not before.recurrence:
            task_id = before.task_id
        elif task_id is None:
            task_id = self._make(units, at)
        said = Said(
            task_id=task_id,
            recurrence=again is not None,
            distance=distance if np.isfinite(distance) else None,
            rows=rows,
            final=final,
        )
        here = self.partition, place[0]
        if before is not None:
            self._shown[before.task_id][here] -= 1
        self._shown.setdefault(task_id, Counter())[here] += 1
        self._said[place] = self._told[place] = said
        changed = before is None or before.task_id != task_id
        more = {"kind": self.tasks[task_id].kind, "changed": changed}
        self._entries.append(self._row(place) | asdict(said) | more)
        return said

    def _row(self, place: tuple[str, int]) -> dict[str, Any]:
        """Columns of a segment."""
        series, segment = place
        whose = {"stream_id": self.stream_id, "partition": self.partition}
        return whose | {"series": series, "segment": segment}

    def _make(self, units: Units, at: int) -> int:
        """A new task. The stream's first is what detection takes for normal, and so are we."""
        number = next_number(self.conn, t.tasks, self.stream_id)
        kind = "asked" if self.ask and self.tasks else "normal"
        row = {
            "stream_id": self.stream_id,
            "number": number,
            "kind": kind,
            "fingerprint": ledger.canonical(units.tolist()),
            "created": at,
        }
        task_id = inserted(self.conn, insert(t.tasks).values(row))
        ledger.append(self.conn, "task", row, at=at, stream_id=self.stream_id)
        self.tasks[task_id] = tasks.Task(
            id=task_id, number=number, kind=kind, name=None, fingerprint=units
        )
        return task_id

    def write(self, at: int) -> None:
        """Write down what was said."""
        if not self._told:
            return
        new, old = [], []
        for place, said in self._told.items():
            if place in self._ids:
                old.append({"this": self._ids[place]} | asdict(said))
            else:
                new.append(self._row(place) | asdict(said) | {"named": at})
        if new:
            self.conn.execute(insert(t.segments), new)
        if old:
            this = t.segments.c.id == bindparam("this")
            self.conn.execute(update(t.segments).where(this).values(named=at), old)
        self._tell(self._told)
        ledger.append(self.conn, "task_named", *self._entries, at=at, stream_id=self.stream_id)
        self._learn()

    def _tell(self, told: Mapping[tuple[str, int], Said]) -> None:
        """The segments' requests are of their tasks."""
        c = t.requests.c
        self.conn.execute(
            update(t.requests)
            .where(
                c.stream_id == self.stream_id,
                c.partition == self.partition,
                c.series == bindparam("whose"),
                c.segment == bindparam("which"),
                c.task_id.is_distinct_from(bindparam("task")),
            )
            .values(task_id=bindparam("task")),
            [
                {"whose": series, "which": segment, "task": said.task_id}
                for (series, segment), said in told.items()
            ],
        )

    def _learn(self) -> None:
        """The series' fingerprints of tasks, with one more segment in them."""
        if not self._learnt:
            return
        new = inserting(self.conn, t.task_prints)
        self.conn.execute(
            new.on_conflict_do_update(
                index_elements=["task_id", "partition", "series"],
                set_={"fingerprint": new.excluded.fingerprint},
            ),
            [
                {
                    "task_id": task_id,
                    "partition": self.partition,
                    "series": series,
                    "fingerprint": self._own[series, task_id].to_json(),
                }
                for series, task_id in sorted(self._learnt)
            ],
        )
