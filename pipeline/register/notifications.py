"""The outbox of notifications: how far each rule has looked, and what it has still to tell of whom.

The ledger holds what is to be told; here stands only from which entry on. Every change is compared
and set, so that of two who tell for one rule the slower writes nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, func, or_, select, update

from pipeline.register import leases, ledger
from pipeline.register.engine import inserting, now_us, reading, writing
from pipeline.register.tables import ledger as entries
from pipeline.register.tables import notifications, notify_rules, streams

#: Characters of a lease's name, at most.
LONGEST = 64
n = notifications.c


@dataclass(frozen=True, slots=True, kw_only=True)
class Owed:
    """What a rule has still to tell of a stream, and how the last attempt went."""

    rule: str
    #: Name; empty: of no stream.
    stream: str
    #: Entry to go on with; None: everything is told.
    first: int | None
    #: Last entry of the message under way, if it tells of several.
    last: int | None
    #: That failed since the last that did not.
    attempts: int
    #: Microseconds since 1970 UTC, as `told_at`.
    not_before: int | None
    error: str | None
    told: int | None
    told_at: int | None


class NotificationBook:
    """The outbox in one database; each method is one transaction."""

    def __init__(self, engine: Engine, *, clock: Callable[[], int] = now_us) -> None:
        self.engine = engine
        self.clock = clock

    def lease(self, rule: str, owner: str, length_s: float) -> bool:
        """Be the one who tells for a rule, until the lease is over; whether we are."""
        at = self.clock()
        with writing(self.engine) as conn:
            return leases.take(conn, _lease(rule), owner, at + int(length_s * 1e6), at=at)

    def release(self, rule: str, owner: str) -> None:
        """Let the next one tell at once."""
        with writing(self.engine) as conn:
            leases.give_up(conn, _lease(rule), owner)

    def begin(self, rule: str) -> int:
        """The entry up to which a rule has looked; a new one begins behind the last of now."""
        with writing(self.engine) as conn:
            made = inserting(conn, notify_rules).values(
                rule=rule, looked=_head(conn), since=self.clock()
            )
            conn.execute(made.on_conflict_do_nothing())
            this = notify_rules.c.rule == rule
            return int(conn.execute(select(notify_rules.c.looked).where(this)).scalar_one())

    def head(self) -> int:
        """Number of the ledger's last entry."""
        with reading(self.engine) as conn:
            return _head(conn)

    def found(self, rule: str, looked: int, until: int, firsts: Mapping[str, int]) -> bool:
        """The rule has looked from one entry to another, and found what is to be told first of
        these streams; whether nobody else had."""
        r = notify_rules.c
        with writing(self.engine) as conn:
            this = (r.rule == rule) & (r.looked == looked)
            if conn.execute(update(notify_rules).where(this).values(looked=until)).rowcount != 1:
                return False
            for stream, first in firsts.items():
                row = {"rule": rule, "stream": stream, "first": first, "attempts": 0}
                new = inserting(conn, notifications).values(row)
                conn.execute(
                    new.on_conflict_do_update(
                        index_elements=["rule", "stream"],
                        set_={"first": first},
                        where=n.first.is_(None),
                    )
                )
        return True

    def due(self, rule: str, longest_s: float) -> list[Owed]:
        """What is to be told now. A pause that would last for longer than the longest there is was
        written before the clock was set back: it is over."""
        now = self.clock()
        passed = or_(
            n.not_before.is_(None), n.not_before <= now, n.not_before > now + int(longest_s * 1e6)
        )
        return self._owed((n.rule == rule) & n.first.is_not(None) & passed)

    def all(self) -> list[Owed]:
        """Everything that any rule ever had to tell."""
        return self._owed(n.rule.is_not(None))

    def looked(self) -> dict[str, int]:
        """The entry up to which each rule has looked."""
        with reading(self.engine) as conn:
            rows = conn.execute(select(notify_rules.c.rule, notify_rules.c.looked))
            return {row.rule: row.looked for row in rows}

    def fix(self, owed: Owed, last: int) -> bool:
        """The message under way ends with this entry, however often it is sent."""
        return self._change(owed, last=last)

    def told(self, owed: Owed, last: int, following: int | None, pause_s: float) -> bool:
        """It is told up to `last`; the next entry to tell, if there is one, after a pause."""
        now = self.clock()
        return self._change(
            owed,
            first=following,
            last=None,
            attempts=0,
            not_before=now + int(pause_s * 1e6) if pause_s else None,
            error=None,
            told=last,
            told_at=now,
        )

    def failed(self, owed: Owed, error: str, pause_s: float) -> bool:
        """It was not told, and is to be tried again after a pause."""
        later = self.clock() + int(pause_s * 1e6)
        return self._change(owed, attempts=owed.attempts + 1, not_before=later, error=error)

    def leave_out(self, owed: Owed, following: int | None) -> bool:
        """Nothing of it is to be told; go on with the next entry, if there is one."""
        return self._change(owed, first=following, last=None)

    def expire(self, owed: Owed, last: int, count: int, following: int | None) -> bool:
        """Leave out what is too old, up to `last`; the ledger keeps that it was never told."""
        facts = {
            "rule": owed.rule,
            "first": owed.first,
            "last": last,
            "events": count,
            "error": owed.error,
        }
        with writing(self.engine) as conn:
            ledger.lock(conn)
            if not _changed(conn, owed, {"first": following, "last": None}):
                return False
            named = select(streams.c.id).where(streams.c.name == owed.stream)
            stream_id = conn.execute(named).scalar() if owed.stream else None
            ledger.append(
                conn, "notifications_expired", facts, at=self.clock(), stream_id=stream_id
            )
        return True

    def _change(self, owed: Owed, **values: Any) -> bool:
        with writing(self.engine) as conn:
            return _changed(conn, owed, values)

    def _owed(self, where: ColumnElement[bool]) -> list[Owed]:
        rows = select(notifications).where(where).order_by(n.rule, n.stream)
        with reading(self.engine) as conn:
            return [
                Owed(**{each.name: getattr(row, each.name) for each in fields(Owed)})
                for row in conn.execute(rows)
            ]


def _changed(conn: Connection, owed: Owed, values: Mapping[str, Any]) -> bool:
    """Whether it still was as we knew it."""
    same = (
        (n.rule == owed.rule)
        & (n.stream == owed.stream)
        & n.first.is_not_distinct_from(owed.first)
        & n.last.is_not_distinct_from(owed.last)
        & (n.attempts == owed.attempts)
    )
    return conn.execute(update(notifications).where(same).values(**values)).rowcount == 1


def _head(conn: Connection) -> int:
    return int(conn.execute(select(func.max(entries.c.id))).scalar() or 0)


def _lease(rule: str) -> str:
    name = f"notify:{rule}"
    if len(name) > LONGEST:
        name = f"notify:{hashlib.sha256(rule.encode()).hexdigest()}"
    return name[:LONGEST]
