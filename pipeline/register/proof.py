"""A database in; everything that was changed behind the ledger's back, out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, func, select, union

from pipeline.config import Database
from pipeline.register import anchors as heads
from pipeline.register import ledger
from pipeline.register.agreement import Difference, differences, in_sql
from pipeline.register.anchors import Anchor
from pipeline.register.chain import Head, sound, stored
from pipeline.register.damage import Damage, diagnose
from pipeline.register.engine import connect, now_us, reading, writing
from pipeline.register.findings import Finding
from pipeline.register.tables import artifacts, versions
from pipeline.register.tables import ledger as entries
from pipeline.register.telling import hashes_of

#: Artifacts in memory at once.
FEW = 16
#: Findings that the ledger keeps of one look, at most.
NOTED = 10
#: Called with (done, in all, what).
Progress = Callable[[int, int | None, str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """What was looked at, and what was found."""

    head: Head
    anchors: int
    artifacts: int
    findings: Sequence[Finding]


def verify(
    database: Database,
    *,
    anchors: Sequence[tuple[str, Anchor]] = (),
    signed: Callable[[bytes, bytes], bool] | None = None,
    tables: bool = True,
    contents: bool = False,
    progress: Progress = lambda *_: None,
) -> Proof:
    """Look at all of one moment: the chain, anchors, tables, and if wanted artifacts' contents.

    anchors: (where it was kept, anchor). signed: (content, signature) -> whether it fits; None:
    signatures are not looked at.
    """
    engine = connect(database)
    try:
        with reading(engine) as conn:
            head = heads.head(conn)
            found = list(_chain(conn, progress))
            found += heads.check(anchors, head, heads.hashes(conn), signed)
            if tables:
                progress(0, None, "tables")
                found += map(of_row, differences(*in_sql(conn)))
            count, damaged = _artifacts(conn, progress) if contents else (0, [])
    finally:
        engine.dispose()
    return Proof(head=head, anchors=len(anchors), artifacts=count, findings=(*found, *damaged))


def note(database: Database, proof: Proof, *, actor: str) -> None:
    """Have the ledger say what was found, unless it is what was found the last time.

    The entry is sound itself: it follows the last one as that now is.
    """
    if not proof.findings:
        return
    told = [_in_words(finding) for finding in proof.findings[:NOTED]]
    facts = {"entries": proof.head.entries, "findings": told, "count": len(proof.findings)}
    c, engine = entries.c, connect(database)
    try:
        with writing(engine) as conn:
            ledger.lock(conn)
            last = select(c.entry).where(c.kind == "verify_failed").order_by(c.id.desc()).limit(1)
            before = json.loads(conn.execute(last).scalar() or "{}")
            if (before.get("findings"), before.get("count")) != (told, facts["count"]):
                ledger.append(conn, "verify_failed", facts, at=now_us(), actor=actor)
    finally:
        engine.dispose()


def _in_words(finding: Finding) -> str:
    entry = f" {finding.entry}" if finding.entry is not None else ""
    return f"{finding.where}{entry}: {finding.what}: {finding.detail}"


def of_entry(damage: Damage) -> Finding:
    """A damaged entry as a finding."""
    return Finding(
        where="ledger",
        what=damage.what,
        entry=damage.id,
        kind=damage.kind,
        at=damage.at,
        detail=damage.detail,
    )


def of_row(difference: Difference) -> Finding:
    """A row that differs as a finding."""
    row = ", ".join(f"{name} {value}" for name, value in difference.row.items())
    columns = f": {', '.join(difference.columns)}" if difference.columns else ""
    return Finding(
        where=difference.table,
        what=difference.what,
        entry=difference.entry,
        kind=difference.kind,
        at=difference.at,
        detail=f"{row}{columns}",
    )


def _chain(conn: Connection, progress: Progress) -> Iterator[Finding]:
    if not sound(conn, lambda done, total: progress(done, total, "ledger")):
        yield from map(of_entry, diagnose(stored(conn)))


def _artifacts(conn: Connection, progress: Progress) -> tuple[int, list[Finding]]:
    """How many there are; those that are not what their hash says, or gone from under a version.

    What was pruned has no content, and an entry of the ledger.
    """
    found, there, gone = [], set(), _pruned(conn)
    total = conn.execute(select(func.count()).select_from(artifacts)).scalar_one()
    c = artifacts.c
    query = select(c.sha256, c.content, c.pruned, c.pruned_by)
    for row in conn.execute(query, execution_options={"yield_per": FEW}):
        there.add(row.sha256)
        if row.pruned is not None:
            whole = row.content == b"" and gone.get(row.sha256) == (row.pruned, row.pruned_by)
        else:
            whole = hashlib.sha256(row.content).hexdigest() == row.sha256
        if not whole:
            found.append(Finding(where="artifacts", what="edited", detail=f"sha256 {row.sha256}"))
        progress(len(there), total, "artifacts")
    wanted = conn.execute(union(select(versions.c.sha256), select(versions.c.ewc_sha256)))
    found += [
        Finding(where="artifacts", what="deleted", detail=f"sha256 {sha}")
        for sha in wanted.scalars()
        if sha is not None and sha not in there
    ]
    return total, found


def _pruned(conn: Connection) -> dict[str, tuple[int, str]]:
    """sha256 -> when it was last pruned and by whom, as the ledger has it."""
    entries, _ = in_sql(conn)
    return {
        sha256: (entry["at"], entry["actor"])
        for entry in entries(("pruned",))
        for sha256 in hashes_of(entry)
    }
