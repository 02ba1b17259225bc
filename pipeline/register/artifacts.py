"""Content-addressed blobs in SQL, verified on every read."""

from __future__ import annotations

import hashlib

from sqlalchemy import Connection, select

from pipeline.errors import ArtifactCorrupt
from pipeline.register.engine import inserting
from pipeline.register.tables import artifacts


def put(conn: Connection, kind: str, content: bytes, *, at: int) -> str:
    """Keep `content` once, whoever brings it; its sha256."""
    sha256 = hashlib.sha256(content).hexdigest()
    row = {
        "sha256": sha256,
        "kind": kind,
        "content": content,
        "size": len(content),
        "created": at,
    }
    conn.execute(inserting(conn, artifacts).values(row).on_conflict_do_nothing())
    return sha256


def get(conn: Connection, sha256: str) -> bytes:
    """The bytes behind a hash.

    Raises
    ------
    ArtifactCorrupt
        They are not there, or they are not what the hash says.
    """
    content = conn.execute(select(artifacts.c.content).where(artifacts.c.sha256 == sha256)).scalar()
    if content is None:
        raise ArtifactCorrupt(f"artifact {sha256} is not in the database")
    if hashlib.sha256(content).hexdigest() != sha256:
        raise ArtifactCorrupt(f"artifact {sha256} does not match its hash")
    return bytes(content)
