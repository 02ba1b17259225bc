"""Content-addressed blobs in SQL, verified on every read."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, select, update

from pipeline.errors import ArtifactCorrupt, ArtifactPruned
from pipeline.register.among import among
from pipeline.register.engine import inserting, moment
from pipeline.register.tables import artifacts

_CONTENTS = select(
    artifacts.c.sha256, artifacts.c.content, artifacts.c.pruned, artifacts.c.pruned_by
).where(among(artifacts.c.sha256, "hashes"))


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
            whole = {"content": content, "size": len(content), "pruned": None, "pruned_by": None}
            conn.execute(update(artifacts).where(this).values(whole))
    return sha256


def get(conn: Connection, sha256: str) -> bytes:
    """The bytes behind a hash; raises as `several` does."""
    return several(conn, [sha256])[0]


def several(conn: Connection, hashes: Sequence[str]) -> list[bytes]:
    """The bytes behind each hash.

    Raises
    ------
    ArtifactCorrupt
        They are not there, or they are not what the hash says.
    ArtifactPruned
        They were there, and are gone.
    """
    rows = {row.sha256: row for row in conn.execute(_CONTENTS, {"hashes": hashes}).all()}
    return [_whole(sha256, rows.get(sha256)) for sha256 in hashes]


def check(conn: Connection, sha256: str, what: str) -> None:
    """Raise ArtifactPruned if the bytes are gone; what: they are, to people."""
    c = artifacts.c
    row = conn.execute(select(c.pruned, c.pruned_by).where(c.sha256 == sha256)).one()
    if row.pruned is not None:
        raise _gone(what, row.pruned, row.pruned_by)


def _whole(sha256: str, row: Any) -> bytes:
    if row is None:
        raise ArtifactCorrupt(f"artifact {sha256} is not in the database")
    if row.pruned is not None:
        raise _gone(f"artifact {sha256}", row.pruned, row.pruned_by)
    if hashlib.sha256(row.content).hexdigest() != sha256:
        raise ArtifactCorrupt(f"artifact {sha256} does not match its hash")
    return bytes(row.content)


def _gone(what: str, at: int, actor: str) -> ArtifactPruned:
    return ArtifactPruned(f"{what}: pruned on {moment(at).date()} by {actor}")
