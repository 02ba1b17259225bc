"""What people say of tasks, and what follows from it, in the caller's transaction.

A task that is not normal is never learned: what a version is made from is checked once more when it
is registered, under the ledger's lock, under which a task is marked as well.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, func, select, update

from pipeline.errors import PipelineError, VersionConflict
from pipeline.records import KINDS
from pipeline.register import ledger, tasks
from pipeline.register import tables as t

#: Characters of a task's name, at most.
LONGEST = 100
#: Kind of the ledger's entries about it.
MARKED = "task_marked"


@dataclass(frozen=True, slots=True, kw_only=True)
class Marked:
    """What a task was and what it is now: kind and name each."""

    task: int
    before: Mapping[str, str | None]
    after: Mapping[str, str | None]
    #: Numbers of the versions that have learned it.
    learned_by: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Knowing:
    """A version, and ids of the tasks whose readings it or any version before it was made from."""

    id: int
    number: int
    parent_id: int | None
    tasks: frozenset[int]


def mark(
    conn: Connection,
    stream_id: int,
    number: int,
    *,
    kind: str | None = None,
    name: str | None = None,
    actor: str,
    reason: str,
    at: int,
    more: Mapping[str, Any],
) -> Marked:
    """Give a task a kind, a name or both; None leaves what there is, "" takes the name away.

    Requests that waited for a word are pending from then on. more: further facts for the ledger.

    Raises
    ------
    PipelineError
        There is no such task or kind, or the name is too long or cannot be printed.
    """
    if kind is not None and kind not in KINDS:
        raise PipelineError(f"no kind {kind}: a task is {', '.join(KINDS)}")
    if name is not None and (len(name) > LONGEST or not name.isprintable()):
        raise PipelineError(f"a task's name has up to {LONGEST} printable characters: {name!r}")
    ledger.lock(conn)
    row = find(conn, stream_id, number)
    before = {"kind": row.kind, "name": row.name}
    after = {"kind": kind or row.kind, "name": row.name if name is None else name or None}
    conn.execute(update(t.tasks).where(t.tasks.c.id == row.id).values(after))
    facts = {"task": number, "before": before, "after": after, "reason": reason, **more}
    ledger.append(conn, MARKED, facts, at=at, actor=actor, stream_id=stream_id)
    made = knowledge(conn, stream_id)
    learned_by = tuple(version.number for version in made if row.id in version.tasks)
    return Marked(task=number, before=before, after=after, learned_by=learned_by)


def find(conn: Connection, stream_id: int, number: int) -> Row[Any]:
    """A task's row; PipelineError if the stream has none of that number."""
    mine = t.tasks.c.stream_id == stream_id
    row = conn.execute(select(t.tasks).where(mine, t.tasks.c.number == number)).first()
    if row is None:
        last = conn.execute(select(func.max(t.tasks.c.number)).where(mine)).scalar()
        raise PipelineError(
            f"no task {number}: the stream has {f'1 to {last}' if last else 'none'}"
        )
    return row


def said(conn: Connection, stream_id: int, number: int) -> list[Row[Any]]:
    """The ledger's entries of what people said of a task, in order."""
    c = t.ledger.c
    rows = select(t.ledger).where(c.stream_id == stream_id, c.kind == MARKED).order_by(c.id)
    return [row for row in conn.execute(rows) if json.loads(row.entry)["task"] == number]


def knowledge(conn: Connection, stream_id: int) -> list[Knowing]:
    """What each version was made from, by what segments are named now, with what its parent was.

    A segment too short for a name is of no task.
    """
    c, named = t.versions.c, _named(conn, stream_id)
    rows = select(c.id, c.number, c.parent_id, c.inputs).where(c.stream_id == stream_id)
    known: dict[int, frozenset[int]] = {}
    made = []
    for row in conn.execute(rows.order_by(c.id)):
        inherited = known.get(row.parent_id, frozenset())
        known[row.id] = inherited | _taught(json.loads(row.inputs), named)
        made.append(
            Knowing(id=row.id, number=row.number, parent_id=row.parent_id, tasks=known[row.id])
        )
    return made


def unaware(conn: Connection, stream_id: int, number: int) -> int | None:
    """Id of the newest version, from the champion back, that never learned a task and whose weights
    are kept; None: none."""
    task_id = find(conn, stream_id, number).id
    made = {version.id: version for version in knowledge(conn, stream_id)}
    champion = select(t.versions.c.id).where(t.versions.c.stream_id == stream_id, t.is_champion)
    pruned = (
        select(t.versions.c.id)
        .join(t.artifacts, t.artifacts.c.sha256 == t.versions.c.sha256)
        .where(t.versions.c.stream_id == stream_id, t.artifacts.c.pruned.is_not(None))
    )
    gone = set(conn.execute(pruned).scalars())
    found: int | None = conn.execute(champion).scalar()
    while found is not None and (task_id in made[found].tasks or found in gone):
        found = made[found].parent_id
    return found


def check(conn: Connection, stream_id: int, inputs: Mapping[str, Any]) -> None:
    """Refuse a version that was made from readings which are not to be learned by now.

    Raises
    ------
    VersionConflict
        A task was marked, or a segment named otherwise, since the inputs were chosen.
    """
    c, taught = t.tasks.c, _taught(inputs, _named(conn, stream_id))
    refused = (c.kind != "normal") | (c.number == inputs.get("without"))
    row = conn.execute(select(t.tasks).where(c.id.in_(taught), refused).order_by(c.id)).first()
    if row is not None:
        raise VersionConflict(f"its readings are of task {row.number} by now, which is not learned")


def _named(conn: Connection, stream_id: int) -> dict[str, set[int]]:
    """sha256 of readings -> ids of the tasks of the segments that they are of: one, but for
    partitions with the same readings at the same offsets."""
    found: dict[str, set[int]] = {}
    for each in tasks.segments(conn, stream_id):
        found.setdefault(each.segment, set()).add(each.task)
    return found


def _taught(inputs: Mapping[str, Any], named: Mapping[str, set[int]]) -> set[int]:
    """Ids of the tasks whose readings are among a version's inputs."""
    used = {int(task) for task in inputs.get("replayed", {})}
    held_out = inputs.get("held_out", {})
    pairs = [(task, sha) for task, shas in held_out.items() for sha in shas]
    for told, sha in (*inputs.get("segments", ()), *pairs):
        task = int(told)
        now = named.get(sha, {task})
        used |= {task} if task in now else now
    for sha in (*inputs.get("ended", ()), *inputs.get("earlier", ())):
        used |= named.get(sha, set())
    return used
