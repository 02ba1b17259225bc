"""Versions in; those whose bytes or decision their stored inputs do not give again, out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
from sqlalchemy import select

from pipeline.config import Database, Gate, Learn, Score
from pipeline.consolidate.consolidation import consolidate
from pipeline.register import tables as t
from pipeline.register.promotion import decide
from pipeline.register.sql import SqlRegistry
from pipeline.run.work import Work, inputs


def made_again_in(database: Database) -> list[str]:
    """`made_again` in a process of its own."""
    registry = SqlRegistry(database)
    try:
        return list(made_again(registry))
    finally:
        registry.close()


def made_again(registry: SqlRegistry) -> Iterator[str]:
    """Every version's weights, EWC state and decision, from its stored inputs."""
    with registry.engine.connect() as conn:
        rows = conn.execute(select(t.versions).order_by(t.versions.c.id)).mappings().all()
        numbers = {row.id: row.number for row in conn.execute(select(t.tasks))}
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
