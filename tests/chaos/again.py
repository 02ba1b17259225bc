"""A database and the recorded order in it in; what does not come out the same again, out.

Names: what each segment was named, in the ledger's order, is said again into an empty database.
Versions: each is consolidated and gated again from its stored inputs and settings.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
from sqlalchemy import Engine, select

from pipeline.config import Database, Gate, Learn, Score
from pipeline.consolidate.consolidation import consolidate
from pipeline.consolidate.readings import Readings
from pipeline.detect.prints import Print
from pipeline.detect.tasks import in_units
from pipeline.register import tables as t
from pipeline.register.engine import writing
from pipeline.register.naming import Naming
from pipeline.register.promotion import decide
from pipeline.register.sql import SqlRegistry
from pipeline.run.work import Work, inputs

#: (partition, series, segment, rows, whether it is the last) -> the fingerprint.
PrintsOf = dict[tuple[int, str, int, int, bool], Print]


class Listening(SqlRegistry):
    """A registry that remembers the fingerprints that it was given."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.prints: PrintsOf = {}

    def save(self, stream_id: int, partition: int, epoch: int, **what: Any) -> Any:
        for each in what.get("prints", ()):
            self.prints[partition, each.series, each.segment, each.rows, each.final] = each
        return super().save(stream_id, partition, epoch, **what)


# Names -------------------------------------------------------------------------------------------


def named_again(disturbed: SqlRegistry, empty: SqlRegistry, prints: PrintsOf) -> Iterator[str]:
    """What was named across partitions, said again one entry after the other."""
    stream = empty.open_stream("again", ())
    for number, facts in _entries(disturbed.engine, "task_named"):
        place = facts["partition"], facts["series"], facts["segment"]
        with writing(empty.engine) as conn:
            known = Naming(conn, stream.id, place[0], {place[1]}, ask=False)
            if facts["rows"]:
                made = prints.get((*place, facts["rows"], facts["final"]))
                if made is None:
                    yield f"entry {number}: {place} has no such fingerprint ({facts['rows']} rows)"
                    continue
                said = known.name(made, at=0)
            else:
                said = known.assign(place[1], place[2], _units(disturbed, place), at=0)
            known.write(0)
        if said is None:
            yield f"entry {number}: {place} was named so before"
        elif (said.recurrence, said.distance) != (facts["recurrence"], facts["distance"]):
            yield f"entry {number}: {place} is {said}, not {facts}"
    ours, theirs = _names(disturbed.engine), _names(empty.engine)
    yield from (
        f"{key} differs" for key in sorted(ours | theirs) if ours.get(key) != theirs.get(key)
    )


def _units(registry: SqlRegistry, place: tuple[int, str, int]) -> Any:
    """Of the readings that a segment's request was made with."""
    c = t.requests.c
    this = (c.partition == place[0]) & (c.series == place[1]) & (c.segment == place[2])
    with registry.engine.connect() as conn:
        found = conn.execute(select(c.inputs).where(this).order_by(c.id)).scalars().first()
    return in_units(Readings.from_bytes(registry.get(json.loads(found or "{}")["segment"])).values)


def _names(engine: Engine) -> dict[str, Any]:
    """Tasks, segments and fingerprints, by number: the database's own are left out."""
    with engine.connect() as conn:
        tasks = {row.id: row for row in conn.execute(select(t.tasks))}
        number = {key: row.number for key, row in tasks.items()}
        found: dict[str, Any] = {
            f"task {row.number}": (row.kind, row.fingerprint) for row in tasks.values()
        }
        for row in conn.execute(select(t.task_prints)):
            key = f"fingerprint of task {number[row.task_id]} in {row.partition}/{row.series}"
            found[key] = row.fingerprint
        for row in conn.execute(select(t.segments)):
            found[f"segment {row.partition}/{row.series}/{row.segment}"] = (
                number[row.task_id], row.recurrence, row.distance, row.rows, row.final,
            )  # fmt: skip
    return found


def _entries(engine: Engine, kind: str) -> list[tuple[int, dict[str, Any]]]:
    c = t.ledger.c
    with engine.connect() as conn:
        rows = conn.execute(select(c.id, c.entry).where(c.kind == kind).order_by(c.id)).all()
    return [(number, json.loads(entry)) for number, entry in rows]


# Versions ----------------------------------------------------------------------------------------


def made_again(registry: SqlRegistry) -> Iterator[str]:
    """Every version's weights, EWC state and decision, from its stored inputs."""
    with registry.engine.connect() as conn:
        rows = conn.execute(select(t.versions).order_by(t.versions.c.id)).mappings().all()
        numbers = dict(conn.execute(select(t.tasks.c.id, t.tasks.c.number)).tuples().all())
    for row in rows:
        yield from (f"version {row['number']}: {line}" for line in _unlike(registry, row, numbers))


def _unlike(
    registry: SqlRegistry, row: Mapping[str, Any], numbers: Mapping[int, int]
) -> Iterator[str]:
    work = msgspec.json.decode(row["inputs"], type=Work)
    settings = json.loads(row["settings"])
    score, learn, gate = (
        msgspec.convert(settings[name], cls)
        for name, cls in (("score", Score), ("learn", Learn), ("gate", Gate))
    )
    made = consolidate(inputs(registry, work), score, learn)
    for name, content in (("sha256", made.weights), ("ewc_sha256", made.ewc)):
        if (hashlib.sha256(content).hexdigest() if content else None) != row[name]:
            yield f"its {name} is another"
    decision = decide(made, work.parent, gate, numbers, work.seed)
    if decision.reason != row["decision"] or decision.promote == (row["status"] == "rejected"):
        yield f"the gate says {decision.reason!r}, and said {row['decision']!r}"
