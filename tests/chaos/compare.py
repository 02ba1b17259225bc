"""Two databases over one topic in; every difference between what they say, in a line, out."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from sqlalchemy import Connection, Engine, Table, func, select

from pipeline.register import tables as t
from pipeline.register.damage import first_of

#: What is compared -> key -> what is kept under it.
State = dict[str, dict[tuple[Any, ...], Any]]
#: What becomes of a due time at which no reading had been kept yet.
TOO_EARLY = ("failed", "there is no reading to begin with")
#: Lines that one kind of difference gets at most; the rest is counted.
MOST = 20


@dataclass(slots=True)
class Findings:
    """What was looked at, how much of it, and each difference."""

    compared: Counter[str] = field(default_factory=Counter)
    differences: list[str] = field(default_factory=list)

    def look(self, what: str, number: int, found: Iterator[str]) -> None:
        """Count what was compared, and keep what differs."""
        self.compared[what] += number
        lines = list(found)
        self.differences += [f"{what}: {line}" for line in lines[:MOST]]
        if len(lines) > MOST:
            self.differences.append(f"{what}: {len(lines) - MOST} more")


# What is a function of a partition's log --------------------------------------------------------


def own_state(engine: Engine) -> State:
    """What each partition has become; numbers and wall times of the database left out."""
    with engine.connect() as conn:
        return {
            "boundaries": _keyed(conn, t.boundaries, ("partition", "series", "segment")),
            "sensor events": _keyed(
                conn, t.sensor_events, ("partition", "series", "channel", "row")
            ),
            "requests": _requests(conn),
            "checkpoint heads": _heads(conn),
            "checkpoint pieces": {
                (p.partition, p.kind, p.slot, p.number): p.content
                for p in conn.execute(select(t.checkpoint_pieces))
            },
        }


def _keyed(conn: Connection, table: Table, key: tuple[str, ...]) -> dict[tuple[Any, ...], Any]:
    left_out = {"id", "stream_id", "recorded", *key}
    return {
        tuple(row[name] for name in key): {n: v for n, v in row.items() if n not in left_out}
        for row in conn.execute(select(table)).mappings()
    }


def _requests(conn: Connection) -> dict[tuple[Any, ...], Any]:
    c = t.requests.c
    rows = conn.execute(select(t.requests).where(c.partition.is_not(None)))
    return {(r.partition, r.series, r.segment, r.reason): json.loads(r.inputs) for r in rows}


def _heads(conn: Connection) -> dict[tuple[Any, ...], Any]:
    return {
        (row.partition,): {"next_offset": row.next_offset, "state": row.state}
        for row in conn.execute(select(t.checkpoints))
    }


def unlike(disturbed: Mapping[Any, Any], undisturbed: Mapping[Any, Any]) -> Iterator[str]:
    """What one has and the other has not, or has otherwise."""
    for key in sorted(disturbed.keys() | undisturbed.keys()):
        if key not in disturbed:
            yield f"{key} is missing"
        elif key not in undisturbed:
            yield f"{key} is one too many"
        elif disturbed[key] != undisturbed[key]:
            yield f"{key} is {_told(disturbed[key], undisturbed[key])}"


def _told(ours: Any, theirs: Any) -> str:
    if isinstance(ours, dict):
        names = [name for name in ours if ours[name] != theirs.get(name)]
        return ", ".join(f"{name} {_told(ours[name], theirs.get(name))}" for name in names)
    if isinstance(ours, bytes):
        at = next((i for i, (a, b) in enumerate(zip(ours, theirs)) if a != b), "the end")  # noqa: B905
        return f"{len(ours)} bytes, not {len(theirs)}: they part at {at}"
    return f"{ours!r}, not {theirs!r}"


# What must hold in the disturbed database alone --------------------------------------------------


def scored(engine: Engine, ends: Mapping[int, int]) -> Iterator[str]:
    """From each partition's first scored offset to its end: no hole, no overlap."""
    with engine.connect() as conn:
        rows = conn.execute(select(t.scored).order_by(t.scored.c.first_offset)).all()
    of: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for row in rows:
        of[row.partition].append((row.first_offset, row.end_offset))
    for partition, end in ends.items():
        yield from (f"partition {partition}: {line}" for line in pieced(of[partition], end))


def pieced(ranges: Sequence[tuple[int, int]], end: int) -> Iterator[str]:
    """Where half-open ranges, by their begin, do not make one that reaches to `end`."""
    if not ranges:
        yield "was never scored"
        return
    if ranges[-1][1] != end:
        yield f"ends at {ranges[-1][1]}, not {end}"
    for (_, before), (after, _) in pairwise(ranges):
        if before != after:
            yield f"{'a hole' if before < after else 'an overlap'} between {before} and {after}"


def requests_once(engine: Engine) -> Iterator[str]:
    """Every request is done, by one ending in the ledger: its own, or that of the one it is folded
    into; and none has two versions."""
    with engine.connect() as conn:
        rows = {row.id: row for row in conn.execute(select(t.requests))}
        made = Counter(conn.execute(select(t.versions.c.request_id)).scalars())
        entries = conn.execute(
            select(t.ledger.c.kind, t.ledger.c.entry).where(
                t.ledger.c.kind.in_(("version", "request_done", "request", "request_failed"))
            )
        ).all()
    endings, asked = Counter[int](), Counter[int]()
    for kind, entry in entries:
        facts = json.loads(entry)
        if kind == "request":
            asked[facts["request"]] += 1
        elif not facts.get("retry", False):
            endings[facts["request_id" if kind == "version" else "request"]] += 1
    for number, row in rows.items():
        if row.status != "done" and (row.status, row.outcome) != TOO_EARLY:
            yield f"request {number} is {row.status}: {row.outcome}"
        if asked[number] != 1:
            yield f"request {number} is in the ledger {asked[number]} times"
        own = 0 if row.folded_into else 1
        if endings[number] != own:
            yield f"request {number} was ended {endings[number]} times, not {own}"
        if row.folded_into and rows[row.folded_into].status != "done":
            yield f"request {number} went with {row.folded_into}, which is not done"
        if made[number] > 1:
            yield f"request {number} has {made[number]} versions"


def due(engine: Engine) -> list[int]:
    """The due times that were requested, in order, in microseconds since 1970."""
    c = t.requests.c.due
    with engine.connect() as conn:
        return list(conn.execute(select(c).where(c.is_not(None)).order_by(c)).scalars())


def due_once(engine: Engine) -> Iterator[str]:
    """Every minute from the first due time to the last was requested once."""
    for before, after in pairwise(due(engine)):
        if after - before != 60_000_000:
            yield f"{(after - before) / 1e6:.0f} s lie between {before} and {after}"


def promotions(engine: Engine) -> Iterator[str]:
    """One version is live at any time from the first on, each the one that the next replaces."""
    with engine.connect() as conn:
        rows = conn.execute(select(t.promotions).order_by(t.promotions.c.id)).all()
        said = conn.execute(
            select(t.ledger.c.kind, t.ledger.c.entry)
            .where(t.ledger.c.kind.in_(("promotion", "rollback")))
            .order_by(t.ledger.c.id)
        ).all()
    for before, after in pairwise(rows):
        if before.live_until != after.live_from:
            until = f"{before.live_until}, not {after.live_from}"
            yield f"version {before.version_id} is live to {until}"
    if len(said) != len(rows):
        yield f"{len(rows)} live intervals, and {len(said)} in the ledger"
    promoted = [json.loads(entry) for kind, entry in said if kind == "promotion"]
    if len({facts["version"] for facts in promoted}) != len(promoted):
        yield "a version was promoted twice"


def chain(engine: Engine) -> Iterator[str]:
    """The ledger's chain is whole."""
    with engine.connect() as conn:
        if (damage := first_of(conn)) is not None:
            yield f"entry {damage.id} is {damage.what}"


def count(engine: Engine, table: Table) -> int:
    with engine.connect() as conn:
        return conn.execute(select(func.count()).select_from(table)).scalar_one()
