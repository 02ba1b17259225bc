"""Named leases: of several processes, one acts.

A lease ends by the clock. One that would last for longer than two more of its kind was written
before the clock was set back: it is over, or its holder's death would not be noticed for hours.
"""

from __future__ import annotations

from sqlalchemy import ColumnElement, Connection, delete

from pipeline.register.engine import inserting
from pipeline.register.tables import leases


def take(conn: Connection, name: str, owner: str, until: int, *, at: int) -> bool:
    """Take or keep a lease until then; whether it is ours: it was, or nobody's, or over."""
    values = {"owner": owner, "until": until}
    taken = conn.execute(
        inserting(conn, leases)
        .values(name=name, **values)
        .on_conflict_do_update(
            index_elements=["name"],
            set_=values,
            where=(leases.c.owner == owner) | is_over(leases.c.until, until - at, at),
        )
        .returning(leases.c.name)
    )
    return taken.first() is not None


def is_over(until: ColumnElement[int], length: int, at: int) -> ColumnElement[bool]:
    """Whether a lease has ended by now; length: of a new one, in microseconds."""
    return (until < at) | (until > at + 2 * length)


def give_up(conn: Connection, name: str, owner: str) -> None:
    """Let the next one have it at once, if it is ours."""
    conn.execute(delete(leases).where(leases.c.name == name, leases.c.owner == owner))
