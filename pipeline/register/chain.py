"""The ledger's entries in, in batches; whether they are as they were written, out."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy import Connection, bindparam, func, select

from pipeline.register.engine import tuples
from pipeline.register.ledger import GENESIS, Facts
from pipeline.register.tables import ledger

#: Entries in memory at once.
BATCH = 2000


class Entry(NamedTuple):
    """An entry as it is stored. Without facts (kind None) only its place in the chain is known."""

    actor: str
    at: int
    entry: str
    id: int
    kind: str | None
    stream_id: int | None
    previous: str
    hash: str

    def hash_as(self, number: int, previous: str) -> str:
        """Its hash, had it that number and stood behind that hash."""
        if self.kind is None:
            return self.hash
        facts = Facts(self.actor, self.at, self.entry, number, self.kind, self.stream_id)
        return facts.hash(previous)


_ID = Entry._fields.index("id")
_FIRST = select(*(ledger.c[name] for name in Entry._fields)).order_by(ledger.c.id).limit(BATCH)
_NEXT = _FIRST.where(ledger.c.id > bindparam("last"))
Batches = Iterable[Sequence[Entry]]
#: Called with (entries looked at, entries in all).
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """How far a ledger goes."""

    entries: int = 0
    hash: str = GENESIS
    at: int = 0
    #: Hash of the first entry: no two histories begin alike.
    database: str = GENESIS


def stored(
    conn: Connection, progress: Progress | None = None
) -> Generator[Sequence[Entry], None, None]:
    """All entries in order of their numbers, in batches."""
    total = conn.execute(select(func.count()).select_from(ledger)).scalar_one() if progress else 0
    rows, done = tuples(conn, _FIRST, {}), 0
    while rows:
        yield rows
        done += len(rows)
        if progress:
            progress(done, total)
        rows = tuples(conn, _NEXT, {"last": rows[-1][_ID]})


def sound(conn: Connection, progress: Progress | None = None) -> bool:
    """Whether a database's ledger is as it was written."""
    with closing(stored(conn, progress)) as batches:
        return follow(batches)[1]


def follow(batches: Batches) -> tuple[Head, bool]:
    """The last entry, and whether all up to it are as they were written."""
    head, first, number, before, at = Head(), "", 0, GENESIS, 0
    for batch in batches:
        for actor, at, entry, id_, kind, stream_id, previous, hash_ in batch:
            number += 1
            if id_ != number or previous != before:
                return head, False
            if kind is not None:
                made = Facts(actor, at, entry, number, kind, stream_id).hash(before)
                if made != hash_:
                    return head, False
            before = hash_
        first = first or batch[0][7]
        head = Head(entries=number, hash=before, at=at, database=first)
    return head, True
