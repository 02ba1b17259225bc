"""What was recorded of how a version was made, and of the settings that processes began with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, select

from pipeline.errors import PipelineError
from pipeline.register import ledger, versions
from pipeline.register import tables as t


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Everything that a version was made from, and what came out."""

    sha256: str
    ewc_sha256: str | None
    #: JSON: inputs by hash, with the seed; settings by section.
    inputs: str
    settings: Mapping[str, Any]
    code_version: str
    #: Task id -> skill.
    skills: Mapping[int, float]


def recipe(conn: Connection, stream_id: int, number: int) -> Recipe:
    """How a version was made; PipelineError if the stream has none of that number."""
    c = t.versions.c
    this = (c.stream_id == stream_id) & (c.number == number)
    row = conn.execute(select(t.versions).where(this)).first()
    if row is None:
        raise PipelineError(f"the stream has no version {number}")
    return Recipe(
        sha256=row.sha256,
        ewc_sha256=row.ewc_sha256,
        inputs=row.inputs,
        settings=json.loads(row.settings),
        code_version=row.code_version,
        skills=versions.skills(conn, row.id),
    )


def note_settings(
    conn: Connection, role: str, topic: str, settings: Mapping[str, Any], *, actor: str, at: int
) -> None:
    """The settings that a process begins with, if the last of its role and topic had others."""
    text = ledger.canonical(settings)
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    ledger.lock(conn)
    c = t.ledger.c
    mine = c.stream_id.is_(None) & (c.kind == "settings")  # by the index
    for entry in conn.execute(select(c.entry).where(mine).order_by(c.id.desc())):
        told = json.loads(entry.entry)
        if (told["role"], told["topic"]) == (role, topic):
            if told["sha256"] == sha256:
                return
            break
    facts = {"role": role, "topic": topic, "sha256": sha256, "settings": settings}
    ledger.append(conn, "settings", facts, at=at, actor=actor)
