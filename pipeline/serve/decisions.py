"""What was decided of a version: the gate's word, by which figures, and what came after it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from msgspec.json import decode
from sqlalchemy import Connection, Row, Select, bindparam, select

from pipeline.register import envelopes
from pipeline.register import tables as t
from pipeline.register.among import among
from pipeline.register.versions import GATE
from pipeline.serve import queries
from pipeline.serve.answers import Answer, iso

#: An entry of the ledger, and what it says.
Entry = tuple[Any, Answer]
#: Kinds of the entries about a version.
KINDS = ("version", "waiting", "refused", "promotion", "rollback")
#: What the gate holds figures against.
THRESHOLDS = ("min_gain", "max_forgetting", "confidence", "bootstrap")
#: Figures that are told task by task.
BY_TASK = ("skills", "parent_skills", "changes")


def decided(conn: Connection, stream: str, version: Row[Any]) -> Answer:
    """The answer to `decided`; version: as `queries.numbered` has it, told as DECIDED."""
    figures = decode(version.figures)
    tasks = {int(task) for name in BY_TASK for task in figures.get(name, ())}
    numbers = queries.task_numbers(conn, tasks)
    lives = queries.promotions(conn, queries.THESE, [version.id])[version.id]
    times = {version.created, *(live.live_from for live in lives)}
    times |= {live.live_until for live in lives if live.live_until is not None}
    times |= {version.rejected} - {None}
    entries = list(_entries(conn, version, times))
    backs = [each for each in entries if each[0].kind == "rollback"]
    left = queries.left(conn, [each for each in backs if each[1]["version"] == version.id])
    return {
        "stream": stream,
        "version": version.number,
        "decision": _decision(entries),
        "decided_at": iso(version.created),
        "by": GATE,
        "because": version.decision,
        "thresholds": _thresholds(figures),
        "gain": figures.get("gain"),
        **{name: _by_task(figures.get(name, {}), numbers) for name in BY_TASK},
        "envelope": _held(version),
        "words": [word for entry in entries for word in _words(*entry)],
        "live": [
            {
                "from": iso(live.live_from),
                "until": iso(live.live_until),
                "by": live.actor,
                "because": live.reason,
            }
            for live in lives
        ],
        "rolled_back": list(left[version.id]),
        "ledger": [
            {
                "entry": row.id,
                "at": iso(row.at),
                "kind": row.kind,
                "by": row.actor,
                "hash": row.hash,
            }
            for row, _ in entries
        ],
    }


def refusals(conn: Connection, versions: Sequence[Row[Any]]) -> list[Answer]:
    """Versions that were refused, in a line each; as `queries.versions` has them."""
    words = _refused(conn, versions)
    return [_refusal(version, *words.get(version.id, (GATE, version.decision)))
            for version in versions]  # fmt: skip


def _refusal(version: Row[Any], by: str, because: str) -> Answer:
    figures = decode(version.figures)
    return {
        "version": version.number,
        "parent": version.parent,
        "at": iso(version.rejected),
        "trained_because": version.trained_because,
        "asked_by": version.actor,
        "by": by,
        "because": because,
        "thresholds": _thresholds(figures),
        "gain": figures.get("gain"),
    }


def _refused(conn: Connection, versions: Sequence[Row[Any]]) -> dict[int, tuple[str, str]]:
    """Version id -> the person that refused it, and why."""
    if not versions:
        return {}
    times = [version.rejected for version in versions]
    span = {"first": min(times), "last": max(times)}
    rows = conn.execute(_REFUSED, span | {"stream": versions[0].stream_id})
    told = [(row.actor, decode(row.entry)) for row in rows]
    return {facts["version"]: (actor, facts["reason"]) for actor, facts in told}


def _decision(entries: Iterable[Entry]) -> str:
    """The last word on a version: rejected (by the gate), waiting, refused, or promoted; what was
    promoted once stays so."""
    found = ""
    for row, facts in entries:
        if row.kind == "version":
            found = "rejected" if facts["status"] == "rejected" else "promoted"
        elif row.kind in ("waiting", "refused"):
            found = row.kind
        elif row.kind == "promotion" and found in ("waiting", "refused"):
            found = "promoted"
    return found


def _words(row: Any, facts: Answer) -> Iterator[Answer]:
    """What a person said in an entry that makes a version champion, or not."""
    if row.kind == "refused":
        word = "refused"
    elif row.kind == "promotion" and row.actor != GATE:
        word = "approved" if facts.get("was") == "waiting" else "promoted"
    else:
        return
    yield {"word": word, "at": iso(row.at), "by": row.actor, "because": facts["reason"]}


def _held(version: Row[Any]) -> Answer | None:
    """How a version was held against the envelope; None: against none."""
    if version.envelope is None:
        return None
    held = envelopes.as_judged(version.envelope, version.instead_of, version.outside)
    return {"inside": not held.outside, **held.told()}


def _thresholds(figures: Mapping[str, Any]) -> Answer:
    return {name: figures[name] for name in THRESHOLDS if name in figures}


def _by_task(figures: Mapping[str, Any], numbers: Mapping[int, int]) -> Answer:
    """Task ids as the numbers by which people know them."""
    return {f"task {numbers.get(int(task), task)}": told for task, told in figures.items()}


def _entries(conn: Connection, version: Row[Any], times: Iterable[int]) -> Iterator[Entry]:
    """The ledger's entries about a version, each with what it says, in order.

    An entry has, to the microsecond, the time at which the version was made, was refused, went live
    or ended.
    """
    about = {"stream": version.stream_id, "kinds": KINDS, "times": sorted(times)}
    for row in conn.execute(_ENTRIES, about).all():
        facts = decode(row.entry)
        if row.kind == "version":
            mine = facts["number"] == version.number
        else:
            mine = version.id in (facts["version"], facts.get("to"))
        if mine:
            yield row, facts


def _told() -> Select[Any]:
    """Entries about versions of a stream that have one of some times, in order."""
    entry = t.ledger.c
    return (
        select(entry.id, entry.at, entry.kind, entry.actor, entry.entry, entry.hash)
        .where(entry.stream_id == bindparam("stream"), among(entry.kind, "kinds"))
        .where(among(entry.at, "times"))
        .order_by(entry.id)
    )


def _refusals() -> Select[Any]:
    """Persons' refusals in a span of time, its end included."""
    entry = t.ledger.c
    return select(entry.actor, entry.entry).where(
        entry.stream_id == bindparam("stream"),
        entry.kind == "refused",
        entry.at.between(bindparam("first"), bindparam("last")),
    )


def _version() -> Select[Any]:
    v, j = t.versions.c, t.judgements.c
    columns = (v.id, v.stream_id, v.number, v.created, v.rejected, v.decision, v.figures)
    held = (t.envelopes.c.number.label("envelope"), j.instead_of, j.outside)
    told = queries.NUMBERED.with_only_columns(*columns, *held, maintain_column_froms=True)
    told = told.outerjoin(t.judgements, j.version_id == v.id)
    return told.outerjoin(t.envelopes, t.envelopes.c.id == j.envelope_id)


_ENTRIES, _REFUSED = _told(), _refusals()
#: What is to be known of a version for the answer to `decided`.
DECIDED = _version()
