"""What was decided of a version: the gate's word, by which figures, and what came after it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from sqlalchemy import Connection, Row, select

from pipeline.register import tables as t
from pipeline.register.versions import GATE
from pipeline.serve import queries
from pipeline.serve.answers import Answer, iso

#: What the gate holds figures against.
THRESHOLDS = ("min_gain", "max_forgetting", "confidence", "bootstrap")
#: Figures that are told task by task.
BY_TASK = ("skills", "parent_skills", "changes")


def decided(conn: Connection, stream: str, version: Row[Any]) -> Answer:
    """The answer to `decided`; version: as `queries.numbered` has it."""
    figures = json.loads(version.figures)
    tasks = {int(task) for name in BY_TASK for task in figures.get(name, ())}
    numbers = queries.task_numbers(conn, tasks)
    lives = queries.promotions(conn, t.versions.c.id == version.id)[version.id]
    left = queries.roll_backs(conn, version.stream_id, version.id)[version.id]
    times = {version.created, *(live.live_from for live in lives)}
    times |= {live.live_until for live in lives if live.live_until is not None}
    return {
        "stream": stream,
        "version": version.number,
        "decision": "rejected" if _was_rejected(conn, version) else "promoted",
        "decided_at": iso(version.created),
        "by": GATE,
        "because": version.decision,
        "thresholds": _thresholds(figures),
        "gain": figures.get("gain"),
        **{name: _by_task(figures.get(name, {}), numbers) for name in BY_TASK},
        "live": [
            {
                "from": iso(live.live_from),
                "until": iso(live.live_until),
                "by": live.actor,
                "because": live.reason,
            }
            for live in lives
        ],
        "rolled_back": list(left),
        "ledger": list(_entries(conn, version, times)),
    }


def refusal(version: Row[Any]) -> Answer:
    """A version that was refused, in a line; as `queries.versions` has it."""
    figures = json.loads(version.figures)
    return {
        "version": version.number,
        "parent": version.parent,
        "at": iso(version.created),
        "trained_because": version.trained_because,
        "asked_by": version.actor,
        "by": GATE,
        "because": version.decision,
        "thresholds": _thresholds(figures),
        "gain": figures.get("gain"),
    }


def _was_rejected(conn: Connection, version: Row[Any]) -> bool:
    """By the gate: a person may have promoted it all the same."""
    if version.status == "rejected":
        return True
    entry = t.ledger.c
    made = select(entry.entry).where(
        entry.stream_id == version.stream_id, entry.kind == "version", entry.at == version.created
    )
    told = (json.loads(text) for text in conn.execute(made).scalars())
    return any(
        facts["number"] == version.number and facts["status"] == "rejected" for facts in told
    )


def _thresholds(figures: Mapping[str, Any]) -> Answer:
    return {name: figures[name] for name in THRESHOLDS if name in figures}


def _by_task(figures: Mapping[str, Any], numbers: Mapping[int, int]) -> Answer:
    """Task ids as the numbers by which people know them."""
    return {f"task {numbers.get(int(task), task)}": told for task, told in figures.items()}


def _entries(conn: Connection, version: Row[Any], times: Iterable[int]) -> Iterator[Answer]:
    """The ledger's entries about a version, by number and hash, in order.

    An entry has, to the microsecond, the time at which the version was made, went live or ended.
    """
    entry = t.ledger.c
    rows = (
        select(entry.id, entry.at, entry.kind, entry.actor, entry.entry, entry.hash)
        .where(entry.stream_id == version.stream_id, entry.at.in_(sorted(times)))
        .where(entry.kind.in_(("version", "promotion", "rollback")))
        .order_by(entry.id)
    )
    for row in conn.execute(rows):
        facts = json.loads(row.entry)
        if row.kind == "version":
            about = facts["number"] == version.number
        else:
            about = version.id in (facts["version"], facts.get("to"))
        if about:
            yield {
                "entry": row.id,
                "at": iso(row.at),
                "kind": row.kind,
                "by": row.actor,
                "hash": row.hash,
            }
