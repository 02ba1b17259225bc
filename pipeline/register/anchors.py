"""The ledger's head, to be kept where the database's owner cannot write: finds a cut-off tail.

An anchor is one JSON line: database (the hash of the ledger's first entry), entries, hash (of the
last), at (of that entry), and if it is signed the signature: Ed25519 over the line's canonical JSON
without it.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Iterator

import msgspec
from sqlalchemy import Connection, select

from pipeline.errors import PipelineError
from pipeline.register.chain import Head
from pipeline.register.findings import Finding
from pipeline.register.ledger import GENESIS, canonical
from pipeline.register.tables import ledger

#: Anchors that are looked up at once.
CHUNK = 500


class Anchor(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How far a ledger went once; times are microseconds since 1970 UTC."""

    database: str
    entries: int
    hash: str
    at: int
    signature: str | None = None

    @property
    def signed(self) -> bytes:
        """What the signature is of."""
        facts = msgspec.structs.asdict(self)
        del facts["signature"]
        return canonical(facts).encode()

    @property
    def line(self) -> bytes:
        """As it is kept."""
        facts = {k: v for k, v in msgspec.structs.asdict(self).items() if v is not None}
        return canonical(facts).encode() + b"\n"


def head(conn: Connection) -> Head:
    """How far a database's ledger goes."""
    c = ledger.c
    last = conn.execute(select(c.id, c.hash, c.at).order_by(c.id.desc()).limit(1)).first()
    if last is None:
        return Head()
    first = conn.execute(select(c.hash).order_by(c.id).limit(1)).scalar_one()
    return Head(entries=last.id, hash=last.hash, at=last.at, database=first)


def made(head: Head, sign: Callable[[bytes], bytes] | None = None) -> Anchor:
    """An anchor of a head."""
    anchor = Anchor(database=head.database, entries=head.entries, hash=head.hash, at=head.at)
    if sign is None:
        return anchor
    signature = base64.b64encode(sign(anchor.signed)).decode()
    return msgspec.structs.replace(anchor, signature=signature)


def read(lines: Iterable[tuple[str, bytes]]) -> Iterator[tuple[str, Anchor]]:
    """(where, anchor) of each line.

    Raises
    ------
    PipelineError
        A line is no anchor.
    """
    for where, line in lines:
        try:
            yield where, msgspec.json.decode(line, type=Anchor)
        except (msgspec.DecodeError, UnicodeDecodeError) as exc:
            raise PipelineError(f"{where}: no anchor: {exc}") from None


def check(
    anchors: Iterable[tuple[str, Anchor]],
    head: Head,
    hash_of: Callable[[int], str | None],
    verify: Callable[[bytes, bytes], bool] | None = None,
) -> Iterator[Finding]:
    """Anchors that a ledger does not reach, or that were made of another.

    head: as far as the ledger goes. hash_of: number of an entry -> its hash, None: there is none.
    verify: (content, signature) -> whether it fits; None: signatures are not looked at.
    """
    for where, anchor in anchors:
        if verify is not None and not _is_signed(anchor, verify):
            yield _finding(where, anchor, "unsigned", "its signature is missing, or does not fit")
        elif anchor.entries == 0:
            if anchor.hash != GENESIS:
                yield _finding(where, anchor, "unsigned", "it is of no entry, and has a hash")
        elif anchor.database != head.database:
            yield _finding(where, anchor, "edited", "the ledger begins otherwise, or it is another")
        elif anchor.entries > head.entries:
            gone = f"the ledger ends at entry {head.entries}: its tail was cut off"
            yield _finding(where, anchor, "deleted", gone)
        elif hash_of(anchor.entries) != anchor.hash:
            yield _finding(where, anchor, "edited", "the entry, or one before it, was another")


def hashes(conn: Connection) -> Callable[[int], str | None]:
    """Number of an entry -> its hash, as stored."""

    def of(number: int) -> str | None:
        found: str | None = conn.execute(
            select(ledger.c.hash).where(ledger.c.id == number)
        ).scalar()
        return found

    return of


def _finding(where: str, anchor: Anchor, what: str, detail: str) -> Finding:
    return Finding(
        where=f"anchor {where}", what=what, entry=anchor.entries, at=anchor.at, detail=detail
    )


def _is_signed(anchor: Anchor, verify: Callable[[bytes, bytes], bool]) -> bool:
    try:
        signature = base64.b64decode(anchor.signature or "", validate=True)
    except ValueError:
        return False
    return verify(anchor.signed, signature)
