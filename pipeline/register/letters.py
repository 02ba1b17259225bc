"""What became of dead letters: replayed or dropped, by whom and why."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, delete, select, tuple_, update

from pipeline.config import Database
from pipeline.register import ledger
from pipeline.register import tables as t
from pipeline.register.engine import connect, inserting, now_us, reading, writing
from pipeline.register.tables import dead_letters

#: Kind of the ledger's entry -> what became of its letters.
DECISIONS = {"dead_letters_replayed": "replayed", "dead_letters_dropped": "dropped"}


class Place(NamedTuple):
    """Which bad record: where it lay in the source topic, and the sha256 of what it said."""

    partition: int
    offset: int
    sha256: str


class Decided(NamedTuple):
    """What became of a letter: replaying, replayed or dropped."""

    status: str
    #: Where its replayed record lies, in the same partition.
    replayed_offset: int | None


class LetterBook:
    """Decisions on the dead letters of one stream; each method is one transaction."""

    def __init__(
        self, database: Database, stream_id: int, *, clock: Callable[[], int] = now_us
    ) -> None:
        self.stream_id = stream_id
        self.clock = clock
        self.engine = connect(database)

    def close(self) -> None:
        """Give the connections back."""
        self.engine.dispose()

    def decided(self, places: Sequence[Place]) -> dict[Place, Decided]:
        """What became of those on which there is a decision."""
        with reading(self.engine) as conn:
            rows = conn.execute(select(dead_letters).where(self._are(places)))
            return {_place(r): Decided(r.status, r.replayed_offset) for r in rows}

    def returned(self, places: Sequence[Place]) -> set[tuple[int, int]]:
        """(partition, offset) of those that are themselves replayed letters, dead again."""
        c = dead_letters.c
        spots = [(place.partition, place.offset) for place in places]
        query = select(c.partition, c.replayed_offset).where(
            c.stream_id == self.stream_id, tuple_(c.partition, c.replayed_offset).in_(spots)
        )
        with reading(self.engine) as conn:
            return {(r.partition, r.replayed_offset) for r in conn.execute(query)}

    def begin(
        self, places: Sequence[Place], ends: Mapping[int, int], *, actor: str, reason: str
    ) -> None:
        """These are about to be sent; each will lie at its partition's end of now, or later."""
        with writing(self.engine) as conn:
            for place in places:
                self._put(conn, place, "replaying", actor, reason, ends[place.partition])

    def unsettled(self) -> dict[Place, int]:
        """Those that may have been sent or not -> the offset from which on to look for them."""
        c = dead_letters.c
        query = select(dead_letters).where(c.stream_id == self.stream_id, c.status == "replaying")
        with reading(self.engine) as conn:
            return {_place(r): r.searched_from for r in conn.execute(query)}

    def settle(self, found: Mapping[Place, int], missing: Iterable[Place] = ()) -> None:
        """Found where it is told: replayed, for good. Missing: never sent, as they were before,
        by the ledger."""
        c = dead_letters.c
        with writing(self.engine) as conn:
            ledger.lock(conn)
            said: dict[tuple[str, str], list[list[int]]] = {}
            for place, offset in found.items():
                row = conn.execute(
                    update(dead_letters)
                    .where(self._are([place]), c.status == "replaying")
                    .values(status="replayed", replayed_offset=offset, searched_from=None)
                    .returning(c.actor, c.reason)
                ).one()
                told = said.setdefault((row.actor, row.reason), [])
                told.append([place.partition, place.offset, offset])
            for (actor, reason), letters in said.items():
                self._note(conn, "dead_letters_replayed", letters, actor, reason)
            before = self._before(conn) if (missing := list(missing)) else {}
            for place in missing:
                this = self._are([place])
                values = before.get((place.partition, place.offset))
                if values is None:
                    conn.execute(delete(dead_letters).where(this))
                else:
                    conn.execute(update(dead_letters).where(this).values(values))

    def drop(self, places: Sequence[Place], *, actor: str, reason: str) -> None:
        """Nobody wants these any more."""
        with writing(self.engine) as conn:
            ledger.lock(conn)
            for place in places:
                self._put(conn, place, "dropped", actor, reason, None)
            letters = [[place.partition, place.offset] for place in places]
            self._note(conn, "dead_letters_dropped", letters, actor, reason)

    def _put(
        self,
        conn: Connection,
        place: Place,
        status: str,
        actor: str,
        reason: str,
        searched_from: int | None,
    ) -> None:
        values = {
            "status": status,
            "searched_from": searched_from,
            "actor": actor,
            "reason": reason,
            "decided": self.clock(),
        }
        keys = {"stream_id": self.stream_id} | place._asdict()
        conn.execute(
            inserting(conn, dead_letters)
            .values(keys | values)
            .on_conflict_do_update(index_elements=list(keys), set_=values)
        )

    def _before(self, conn: Connection) -> dict[tuple[int, int], dict[str, Any]]:
        """(partition, offset) -> the last decision on the letter."""
        c = t.ledger.c
        mine = (c.stream_id == self.stream_id) & c.kind.in_(DECISIONS)
        found: dict[tuple[int, int], dict[str, Any]] = {}
        for row in conn.execute(select(t.ledger).where(mine).order_by(c.id)):
            facts = json.loads(row.entry)
            who = {"actor": row.actor, "reason": facts["reason"], "decided": row.at}
            values = {"status": DECISIONS[row.kind], "searched_from": None, **who}
            found |= {(partition, offset): values for partition, offset, *_ in facts["letters"]}
        return found

    def _note(
        self, conn: Connection, kind: str, letters: list[list[int]], actor: str, reason: str
    ) -> None:
        """letters: partition, offset, and if replayed the new offset, of each."""
        ledger.append(
            conn,
            kind,
            {"letters": letters, "reason": reason},
            at=self.clock(),
            actor=actor,
            stream_id=self.stream_id,
        )

    def _are(self, places: Sequence[Place]) -> ColumnElement[bool]:
        c = dead_letters.c
        these = tuple_(c.partition, c.offset, c.sha256).in_([tuple(p) for p in places])
        return (c.stream_id == self.stream_id) & these


def _place(row: object) -> Place:
    return Place(row.partition, row.offset, row.sha256)  # type: ignore[attr-defined]
