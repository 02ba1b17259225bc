"""Content-addressed blobs in SQL, verified on every read."""

from __future__ import annotations

import hashlib

from sqlalchemy import Connection, select, update

from pipeline.errors import ArtifactCorrupt
from pipeline.register.engine import inserting
from pipeline.register.tables import artifacts


def put(conn: Connection, kind: str, content: bytes, *, at: int) -> str:
    """Keep `content` once, whoever brings it, in place of damaged bytes of its name; its sha256."""
    sha256 = hashlib.sha256(content).hexdigest()
    row = {
        "sha256": sha256,
        "kind": kind,
        "content": content,
        "size": len(content),
        "created": at,
    }
    statement = inserting(conn, artifacts).values(row).on_conflict_do_nothing()
    if conn.execute(statement.returning(artifacts.c.sha256)).first() is None:
        this = artifacts.c.sha256 == sha256
        if conn.execute(select(artifacts.c.content).where(this)).scalar() != content:
            conn.execute(update(artifacts).where(this).values(content=content, size=len(content)))
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
