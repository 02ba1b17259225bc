"""Append-only, hash-chained record of every decision.

hash = sha256(previous hash, newline, canonical JSON of the entry's number, time, kind, actor and
content). An edited, deleted, inserted or swapped entry breaks the chain from there on; a cut-off
tail does not, and needs an anchor kept elsewhere.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from math import isfinite
from typing import Any

import msgspec
from sqlalchemy import Connection, func, insert, select, text

from pipeline.register.tables import ledger

#: What the first entry follows.
GENESIS = "0" * 64
#: Names the lock that PostgreSQL's appenders queue at.
_LOCK = 7_233_001
#: OpenSSL takes as long to look the algorithm up as to hash an entry; a copy has it.
_SHA256 = hashlib.sha256()
_encode = msgspec.json.Encoder().encode
#: Kind -> what an entry of it tells.
KINDS = {
    "stream": "a stream was made",
    "channels": "the names of a stream's sensors became known",
    "topic": "the id of the topic that a stream follows",
    "settings": "a process began with other settings than the one before it",
    "boundary": "a task boundary, with the test that crossed",
    "transition_over": "where the change that began at a boundary was complete",
    "sensor_event": "a sensor fell silent, repeats one value or is back",
    "records_lost": "records that Kafka no longer had",
    "task": "a new regime",
    "task_named": "what a segment was named",
    "task_marked": "what a person said of a regime",
    "request": "a consolidation was asked for",
    "request_claimed": "a trainer works on it, and on those that it took along",
    "request_expired": "its trainer was silent for longer than a lease",
    "request_released": "it was given back",
    "request_failed": "an attempt failed, or the request for good",
    "request_done": "it is done without a version",
    "version": "a version with its inputs, settings, figures and the gate's decision",
    "waiting": "a version is outside of the envelope: a person has the word",
    "refused": "a person refused a version that waited",
    "promotion": "a version became champion",
    "rollback": "a promotion was taken back",
    "envelope": "limits were agreed on",
    "paused": "a stream's training was stopped",
    "resumed": "a stream's training goes on",
    "pruned": "the content of artifacts went, by their hashes",
    "dead_letters_replayed": "dead letters were sent back",
    "dead_letters_dropped": "dead letters are wanted no more",
    "restored": "the database was made what a backup held",
    "verify_failed": "ledger and tables are not as they were written",
    "notifications_expired": "events were too old to be sent to a receiver that did not answer",
    "anchored": "the ledger's head was written elsewhere",
    "requests_held": "a rule holds requests back, or another one does than before",
    "measured": "a champion's skills, by the clock",
    "schedule_changed": "a scheduler goes by another definition, or by none, from now on",
    "schedule_paused": "a person stopped a schedule",
    "schedule_resumed": "a person had it go on",
    "schedule_ordered": "a person would not wait for the clock",
    "schedule_run": "what came of a run of a schedule",
    "token_added": "a token was made",
    "token_revoked": "a token lets nobody in any more",
    "login_failed": "somebody showed what is no token",
}


class Facts(msgspec.Struct, frozen=True, gc=False):
    """What is hashed of an entry; the fields are sorted, as in canonical JSON."""

    actor: str
    #: Microseconds since 1970 UTC.
    at: int
    #: Canonical JSON.
    entry: str
    id: int
    kind: str
    stream_id: int | None

    def hash(self, previous: str) -> str:
        """Its hash behind an entry of hash `previous`."""
        sha256 = _SHA256.copy()
        sha256.update(previous.encode() + b"\n" + _encode(self))
        return sha256.hexdigest()


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
        facts = Facts(actor, at, canonical(entry), number, kind, stream_id)
        row = msgspec.structs.asdict(facts) | {"previous": previous}
        previous = facts.hash(previous)
        rows.append(row | {"hash": previous})
    if rows:
        conn.execute(insert(ledger), rows)
    return str(previous)


def last(conn: Connection) -> int:
    """Number of the last entry; 0 without one."""
    return int(conn.execute(select(func.max(ledger.c.id))).scalar() or 0)


def _worded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _worded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_worded(item) for item in value]
    return str(value) if isinstance(value, float) and not isfinite(value) else value
