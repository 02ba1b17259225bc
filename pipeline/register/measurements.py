"""A champion's skills as they are later, in the caller's transaction."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite

from sqlalchemy import Connection, insert

from pipeline.records import Claim, Version
from pipeline.register import ledger, requests
from pipeline.register import tables as t


def keep(
    conn: Connection,
    claim: Claim,
    version: Version,
    skills: Mapping[int, float],
    sizes: Mapping[int, int],
    *,
    at: int,
) -> None:
    """Keep them with their time, and end the request; LeaseLost if it is not ours.

    A skill that is not finite has no row; the ledger has it.
    """
    if not requests.finish(conn, claim, f"version {version.number} measured", at=at):
        return
    rows = [
        {
            "request_id": claim.id,
            "task_id": task,
            "version_id": version.id,
            "skill": skill,
            "windows": sizes[task],
            "measured": at,
        }
        for task, skill in skills.items()
        if isfinite(skill)
    ]
    if rows:
        conn.execute(insert(t.measurements), rows)
    facts = {"request": claim.id, "version": version.id, "skills": dict(skills)}
    ledger.append(conn, "measured", facts, at=at, stream_id=version.stream_id)
