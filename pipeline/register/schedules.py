"""What happens by the clock, as SQL knows it: definitions, pauses, runs; inside a transaction.

A run is a row, unique by schedule and due time: asked, begun, over. Only who holds the scheduler's
lease adds a due time or begins a run, by a look at the lease in the same transaction. So one that
was stopped for too long does nothing, and a run that somebody left in its midst is begun again by
the next; all that is done so may be done twice.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Connection, Row, delete, func, select, update

from pipeline.config import Schedule
from pipeline.records import Request
from pipeline.register import ledger, requests
from pipeline.register import tables as t
from pipeline.register.engine import inserting
from pipeline.register.scene import Scene

#: What came of a run in whose place a later one was.
LEFT_OUT = "left out: it was due again"
#: Of the scheduler that acts, and who acts by the clock.
LEASE = ACTOR = "scheduler"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A schedule, and what people said of it; times are microseconds since 1970 UTC."""

    definition: Schedule
    #: Due times before it are nobody's.
    since: int
    #: When the settings did not have it any more; None: they have it.
    gone: int | None
    #: Since when it is paused, by whom and why; None: it is not.
    paused: int | None
    paused_by: str | None
    paused_because: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduledRun:
    """What was done, or is to be; times are microseconds since 1970 UTC."""

    schedule: str
    due: int
    kind: str
    actor: str
    reason: str
    owner: str | None
    started: int | None
    finished: int | None
    ok: bool | None
    outcome: str | None
    request: int | None


def adopt(conn: Connection, definitions: Sequence[Schedule], owner: str, *, at: int) -> list[str]:
    """Go by these definitions; names of those that are new, changed or gone, each in the ledger.

    What is new, changed or there again counts from now on. Nothing, without the lease.
    """
    if not _is_leader(conn, owner):
        return []
    ledger.lock(conn)
    before = {entry.definition.name: entry for entry in known(conn)}
    after = {each.name: each for each in definitions}
    changed = []
    for name in sorted(before.keys() | after.keys()):
        old, new = before.get(name), after.get(name)
        if old is not None and (old.definition if old.gone is None else None) == new:
            continue
        if new is not None:
            _define(conn, new, at)
        else:
            conn.execute(update(t.schedules).where(t.schedules.c.name == name).values(gone=at))
        was = None if old is None or old.gone is not None else old.definition
        facts = {"schedule": name, "before": was, "after": new, "by": owner}
        ledger.append(conn, "schedule_changed", facts, at=at)
        changed.append(name)
    return changed


def known(conn: Connection) -> list[Entry]:
    """Every schedule that there ever was, by name."""
    return [_entry(row) for row in conn.execute(select(t.schedules).order_by(t.schedules.c.name))]


def pause(scene: Scene, definition: Schedule) -> bool:
    """Let nothing be due; whether it was not paused before."""
    _know(scene, definition)
    c, act = t.schedules.c, scene.act
    values = {"paused": scene.at, "paused_by": act.actor, "paused_because": act.reason}
    this = (c.name == definition.name) & c.paused.is_(None)
    if scene.conn.execute(update(t.schedules).where(this).values(values)).rowcount != 1:
        return False
    scene.note("schedule_paused", {"schedule": definition.name})
    return True


def resume(scene: Scene, name: str) -> bool:
    """Count from now on: what was due meanwhile is nobody's; whether it was paused."""
    c = t.schedules.c
    values = {"paused": None, "paused_by": None, "paused_because": None, "since": scene.at}
    this = (c.name == name) & c.paused.is_not(None)
    if scene.conn.execute(update(t.schedules).where(this).values(values)).rowcount != 1:
        return False
    scene.note("schedule_resumed", {"schedule": name})
    return True


def order(scene: Scene, definition: Schedule) -> tuple[int, bool]:
    """Ask for a run now, also of what is paused; its due time, and whether none waited already."""
    conn, act, due = scene.conn, scene.act, scene.at
    _know(scene, definition)
    c = t.schedule_runs.c
    waits = select(c.due).where(
        c.schedule == definition.name, t.is_unfinished, c.started.is_(None), c.actor != ACTOR
    )
    if (waiting := conn.execute(waits).scalar()) is not None:
        return int(waiting), False
    while not _insert(conn, definition, due, act.actor, act.reason):
        due += 1
    told = {"schedule": definition.name, "kind": definition.kind, "due": due}
    scene.note("schedule_ordered", told)
    return due, True


def note_due(conn: Connection, definition: Schedule, due: int, owner: str, *, at: int) -> bool:
    """Add a due time; what was due before and is not over is left out, as it comes again now."""
    if not _is_leader(conn, owner):
        return False
    c = t.schedule_runs.c
    if not _insert(conn, definition, due, ACTOR, ""):
        return False
    earlier = (c.schedule == definition.name) & (c.due < due) & (c.actor == ACTOR)
    ended = {"finished": at, "ok": False, "outcome": LEFT_OUT}
    left = update(t.schedule_runs).where(earlier, t.is_unfinished).values(ended)
    for row in conn.execute(left.returning(t.schedule_runs)).all():
        _note(conn, _run(row), False, LEFT_OUT, at)
    return True


def unfinished(conn: Connection) -> list[ScheduledRun]:
    """Runs that are asked for or begun, in order."""
    c = t.schedule_runs.c
    rows = select(t.schedule_runs).where(t.is_unfinished).order_by(c.due, c.schedule)
    return [_run(row) for row in conn.execute(rows)]


def begin(conn: Connection, run: ScheduledRun, owner: str, *, at: int) -> bool:
    """Begin it, if the lease is the owner's and it is not over."""
    if not _is_leader(conn, owner):
        return False
    begun = update(t.schedule_runs).where(_this(run), t.is_unfinished)
    return conn.execute(begun.values(started=at, owner=owner)).rowcount == 1


def end(
    conn: Connection, run: ScheduledRun, owner: str, *, ok: bool, outcome: str, at: int
) -> bool:
    """It is over, if the owner still has it."""
    ledger.lock(conn)
    mine = _this(run) & (t.schedule_runs.c.owner == owner)
    if not _over(conn, mine, ok, outcome, at):
        return False
    _note(conn, run, ok, outcome, at)
    return True


def request(
    conn: Connection, run: ScheduledRun, request: Request, owner: str, *, at: int
) -> int | None:
    """Insert the request that a run consists of, and the run is over; None: it is not ours to do.

    The same one may be there: another schedule of the stream was due at the same time.
    """
    if not _is_leader(conn, owner):
        return None
    ledger.lock(conn)
    if conn.execute(select(t.schedule_runs).where(_this(run), t.is_unfinished)).first() is None:
        return None
    number = requests.submit(conn, request, at=at)
    outcome = "was asked for already" if number is None else f"request {number}"
    begun = {"started": at, "owner": owner, "request_id": number}
    conn.execute(update(t.schedule_runs).where(_this(run)).values(begun))
    _over(conn, _this(run), True, outcome, at)
    _note(conn, run, True, outcome, at)
    return number


def last(conn: Connection, name: str, count: int) -> list[ScheduledRun]:
    """The newest runs of a schedule, the newest first."""
    c = t.schedule_runs.c
    rows = select(t.schedule_runs).where(c.schedule == name).order_by(c.due.desc()).limit(count)
    return [_run(row) for row in conn.execute(rows)]


def old(conn: Connection, before: int) -> list[tuple[str, int, int]]:
    """(schedule, due time, how many of its runs are older and ended before a time); by name.

    The newest by the clock stays: without it, its time would be due again.
    """
    c = t.schedule_runs.c
    newest = select(c.schedule, func.max(c.due).label("due")).where(c.actor == ACTOR)
    known = newest.group_by(c.schedule).subquery()
    until = func.coalesce(known.c.due, before)
    rows = (
        select(c.schedule, until.label("until"), func.count().label("runs"))
        .outerjoin(known, known.c.schedule == c.schedule)
        .where(c.finished < before, c.due < until)
        .group_by(c.schedule, until)
        .order_by(c.schedule)
    )
    return [(row.schedule, int(row.until), row.runs) for row in conn.execute(rows)]


def forget(conn: Connection, runs: Sequence[tuple[str, int, int]], *, before: int) -> None:
    """Let runs go, as `old` finds them; the ledger tells of each."""
    c = t.schedule_runs.c
    for name, until, _ in runs:
        these = (c.schedule == name) & (c.due < until) & (c.finished < before)
        conn.execute(delete(t.schedule_runs).where(these))


def _is_leader(conn: Connection, owner: str) -> bool:
    """Whether the lease is the owner's, and stays it until the transaction's end."""
    c = t.leases.c
    lease = select(c.owner).where(c.name == LEASE).with_for_update()
    return conn.execute(lease).scalar() == owner


def _know(scene: Scene, definition: Schedule) -> None:
    """Have a row of it, if no scheduler has seen it yet."""
    conn, actor, at = scene.conn, scene.act.actor, scene.at
    new = inserting(conn, t.schedules).values(_columns(definition, at)).on_conflict_do_nothing()
    if conn.execute(new.returning(t.schedules.c.name)).first() is not None:
        facts = {"schedule": definition.name, "before": None, "after": definition, "by": actor}
        ledger.append(conn, "schedule_changed", facts, at=at, actor=actor)


def _define(conn: Connection, definition: Schedule, at: int) -> None:
    values = _columns(definition, at)
    new = inserting(conn, t.schedules).values(values)
    conn.execute(new.on_conflict_do_update(index_elements=["name"], set_=values | {"gone": None}))


def _columns(definition: Schedule, at: int) -> dict[str, Any]:
    return {"name": definition.name, "definition": ledger.canonical(definition), "since": at}


def _insert(conn: Connection, definition: Schedule, due: int, actor: str, reason: str) -> bool:
    """Add a run; whether there was none of that time."""
    row = {
        "schedule": definition.name,
        "due": due,
        "kind": definition.kind,
        "actor": actor,
        "reason": reason,
    }
    new = inserting(conn, t.schedule_runs).values(row).on_conflict_do_nothing()
    return conn.execute(new.returning(t.schedule_runs.c.due)).first() is not None


def _over(conn: Connection, which: ColumnElement[bool], ok: bool, outcome: str, at: int) -> bool:
    values = {"finished": at, "ok": ok, "outcome": outcome}
    done = conn.execute(update(t.schedule_runs).where(which, t.is_unfinished).values(values))
    return done.rowcount == 1


def _note(conn: Connection, run: ScheduledRun, ok: bool, outcome: str, at: int) -> None:
    facts = {
        "schedule": run.schedule,
        "kind": run.kind,
        "due": run.due,
        "ok": ok,
        "outcome": outcome,
        "reason": run.reason,
    }
    ledger.append(conn, "schedule_run", facts, at=at, actor=run.actor)


def _this(run: ScheduledRun) -> ColumnElement[bool]:
    c = t.schedule_runs.c
    return (c.schedule == run.schedule) & (c.due == run.due)


def _entry(row: Row[Any]) -> Entry:
    return Entry(
        definition=msgspec.convert(json.loads(row.definition), Schedule),
        since=row.since,
        gone=row.gone,
        paused=row.paused,
        paused_by=row.paused_by,
        paused_because=row.paused_because,
    )


def _run(row: Row[Any]) -> ScheduledRun:
    return ScheduledRun(
        schedule=row.schedule,
        due=row.due,
        kind=row.kind,
        actor=row.actor,
        reason=row.reason,
        owner=row.owner,
        started=row.started,
        finished=row.finished,
        ok=row.ok,
        outcome=row.outcome,
        request=row.request_id,
    )
