"""Append-only, hash-chained record of every decision.

hash = sha256(previous hash, newline, canonical JSON of the entry's number, time, kind, actor and
content). An edited, deleted, inserted or swapped entry breaks the chain from there on; a cut-off
tail does not, and needs an anchor kept elsewhere.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from math import isfinite
from typing import Any

import msgspec
from sqlalchemy import Connection, insert, select, text

from pipeline.register.tables import ledger

#: What the first entry follows.
GENESIS = "0" * 64
#: Names the lock that PostgreSQL's appenders queue at.
_LOCK = 7_233_001


def canonical(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values, equal text.

    A figure that is not finite, for which JSON has no word, is "nan", "inf" or "-inf".
    """
    plain = _worded(msgspec.to_builtins(value, str_keys=True))
    return msgspec.json.encode(plain, order="sorted").decode()


def lock(conn: Connection) -> None:
    """Wait until every other transaction that appends has ended; the caller's turn till its end.

    SQLite has one writer at a time anyway.
    """
    if conn.dialect.name == "postgresql":
        conn.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})


def append(
    conn: Connection,
    kind: str,
    *entries: Mapping[str, Any],
    at: int,
    actor: str = "tidemark",
    stream_id: int | None = None,
) -> str:
    """Add entries of one kind inside the caller's transaction; the hash of the last there is."""
    lock(conn)
    last = conn.execute(
        select(ledger.c.id, ledger.c.hash).order_by(ledger.c.id.desc()).limit(1)
    ).first()
    before, previous = (last.id, last.hash) if last else (0, GENESIS)
    rows = []
    for number, entry in enumerate(entries, before + 1):
        row = {
            "id": number,
            "stream_id": stream_id,
            "at": at,
            "kind": kind,
            "actor": actor,
            "entry": canonical(entry),
        }
        rows.append(row | {"previous": previous, "hash": _hash(previous, row)})
        previous = rows[-1]["hash"]
    if rows:
        conn.execute(insert(ledger), rows)
    return str(previous)


def broken(conn: Connection) -> Iterator[int]:
    """Numbers of the entries at which the chain does not hold."""
    previous, expected = GENESIS, 1
    for row in conn.execute(select(ledger).order_by(ledger.c.id)).mappings():
        facts = {name: row[name] for name in ("id", "stream_id", "at", "kind", "actor", "entry")}
        if (row["id"], row["previous"]) != (expected, previous) or row["hash"] != _hash(
            previous, facts
        ):
            yield row["id"]
        previous, expected = row["hash"], row["id"] + 1


def _worded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _worded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_worded(item) for item in value]
    return str(value) if isinstance(value, float) and not isfinite(value) else value


def _hash(previous: str, row: Mapping[str, Any]) -> str:
    return hashlib.sha256(f"{previous}\n{canonical(row)}".encode()).hexdigest()
