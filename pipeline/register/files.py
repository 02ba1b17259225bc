"""A SQLite database to a file and back, whole or not at all, while others read and write."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, create_engine, func, inspect, select, text, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from pipeline.config import Database
from pipeline.errors import RegistryError
from pipeline.register import ledger, migrate
from pipeline.register.acts import by_somebody
from pipeline.register.damage import first_of
from pipeline.register.engine import (
    connect,
    now_us,
    reading,
    sqlite_file,
    translated,
    writing,
)
from pipeline.register.presence import alone
from pipeline.register.tables import checkpoints, requests
from pipeline.register.tables import ledger as entries

#: Pages between two looks at whoever wants to stop.
PAGES = 1000
#: Owners and claims that a partition or request may have had since the backup, at most.
LEAP = 1_000_000
#: Called with (pages done, pages in all).
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What a database file holds: enough to recognise it, and its history, later."""

    revision: str
    entries: int
    #: Hash of the ledger's last entry; whoever notes it elsewhere can tell a cut-off tail.
    head: str
    bytes: int
    sha256: str


def backup(
    database: Database, file: Path, *, force: bool = False, progress: Progress | None = None
) -> Contents:
    """Copy the database, as of now, to `file`; the system may run meanwhile.

    1. Copy one snapshot to a temporary file beside it (SQLite's online backup).
    2. Examine the copy: pages, foreign keys, schema, the ledger's chain.
    3. Give it its name.

    Raises
    ------
    RegistryError
        It is no SQLite file, `file` is there already (with `force`: and no file, or the database
        itself), or the copy is damaged.
    """
    source = _file_of(database, "pg_dump --format=custom --file=FILE DATABASE")
    if not source.exists():
        raise RegistryError(f"{source}: no such database")
    if file.exists() and (not force or not file.is_file() or file.samefile(source)):
        raise RegistryError(f"{file} is there already")
    engine = connect(database)
    try:
        with _beside(file) as partial, reading(engine) as conn:
            conn.execute(text("SELECT COUNT(*) FROM sqlite_master"))  # the snapshot begins
            with closing(sqlite3.connect(partial)) as copy:
                _copy(_raw(conn), copy, database.busy_timeout_s, progress)
                copy.execute("PRAGMA journal_mode = DELETE")  # one file, without companions
            found = examine(partial)
            _name(partial, file)
    finally:
        engine.dispose()
    return found


def restore(
    database: Database,
    file: Path,
    *,
    actor: str,
    reason: str,
    force: bool = False,
    progress: Progress | None = None,
) -> Contents:
    """Make the database what `file` holds; afterwards nobody from before it can write.

    1. Examine the backup.
    2. On a copy of it, raise every epoch and fence, give claims back, and note the restoration in
       the ledger.
    3. Replace the database by that copy in one transaction, while nobody runs on it.

    Raises
    ------
    RegistryError
        The file is no sound backup, or of a newer schema; the database has content (not with
        `force`); or a process runs on it. In all cases it stays as it is.
    PipelineError
        Nobody restores it, or for no reason.
    """
    by_somebody(actor, reason)
    target = _file_of(database, "pg_restore --clean --if-exists --dbname=DATABASE FILE")
    found = examine(file)
    engine = connect(database)
    try:
        with _beside(target) as staged, translated(engine), engine.connect() as conn, alone(conn):
            if not force and not is_empty(conn):
                raise RegistryError(f"{target} has content: --force writes over it")
            above = _highest_epoch(conn)
            page = conn.exec_driver_sql("PRAGMA page_size").scalar_one()
            conn.rollback()
            _stage(file, staged, found, above, actor, reason)
            _page_as(staged, page)
            with closing(sqlite3.connect(staged)) as copy:
                _copy(copy, _raw(conn), database.busy_timeout_s, progress)
    finally:
        engine.dispose()
    return examine(target)


def examine(file: Path) -> Contents:
    """What a database file holds; it is only read.

    Raises
    ------
    RegistryError
        It is no tidemark database, of a newer schema, damaged, or its ledger's chain is broken.
    """
    if not file.is_file():
        raise RegistryError(f"{file}: no such file")
    try:
        with _opened(file) as conn:
            return _examine(file, conn)
    except DBAPIError as exc:
        raise RegistryError(f"{file} is no tidemark backup: {exc.orig}") from None


def is_empty(conn: Connection) -> bool:
    """Whether no table but Alembic's own has a row."""
    names = set(inspect(conn).get_table_names()) - {"alembic_version"}
    quoted = map(conn.dialect.identifier_preparer.quote_identifier, names)
    return not any(conn.execute(text(f"SELECT 1 FROM {name} LIMIT 1")).first() for name in quoted)  # noqa: S608


def _examine(file: Path, conn: Connection) -> Contents:
    tables = set(inspect(conn).get_table_names())
    revision = migrate.current(conn) if {"alembic_version", "ledger"} <= tables else None
    if revision is None:
        raise RegistryError(f"{file} is no tidemark backup")
    if not migrate.is_known(revision):
        raise RegistryError(
            f"{file} has schema {revision}, this tidemark knows up to {migrate.head()}: "
            "use the version that wrote it, or a newer one"
        )
    damage = conn.exec_driver_sql("PRAGMA integrity_check(1)").scalar()
    if damage != "ok":
        raise RegistryError(f"{file} is damaged: {str(damage).splitlines()[-1]}")
    if orphans := len(conn.exec_driver_sql("PRAGMA foreign_key_check").fetchall()):
        raise RegistryError(f"{file} is damaged: {orphans} rows without their parent")
    if (damage := first_of(conn)) is not None:
        raise RegistryError(f"{file}: the ledger's chain is broken at entry {damage.id}")
    last = conn.execute(select(entries.c.id, entries.c.hash).order_by(entries.c.id.desc())).first()
    with file.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    return Contents(
        revision=revision,
        entries=last.id if last else 0,
        head=last.hash if last else ledger.GENESIS,
        bytes=file.stat().st_size,
        sha256=digest,
    )


def _stage(file: Path, staged: Path, found: Contents, above: int, actor: str, reason: str) -> None:
    """A copy of the backup, in which no owner or claim from before is valid."""
    with _opened(file) as conn, closing(sqlite3.connect(staged)) as copy:
        _copy(_raw(conn), copy, 0.0, None)
        copy.execute("PRAGMA journal_mode = DELETE")
    engine = connect(Database(url=f"sqlite:///{staged}"))
    try:
        with writing(engine) as conn:
            leap = max(above, _highest_epoch(conn)) + LEAP
            conn.execute(update(checkpoints).values(epoch=leap))
            conn.execute(update(requests).values(fence=requests.c.fence + LEAP))
            conn.execute(
                update(requests)
                .where(requests.c.status.in_(("claimed", "folded")))
                .values(status="pending", owner=None, lease_until=None, folded_into=None)
            )
            facts = {"from": found.head, "sha256": found.sha256, "epoch": leap, "reason": reason}
            ledger.append(conn, "restored", facts, at=now_us(), actor=actor)
    finally:
        engine.dispose()
    examine(staged)


def _page_as(staged: Path, size: int) -> None:
    """Give a file pages of that size: SQLite copies no others into a database with a log."""
    with closing(sqlite3.connect(staged, isolation_level=None)) as copy:
        if copy.execute("PRAGMA page_size").fetchone() != (size,):
            copy.execute("PRAGMA journal_mode = DELETE")
            copy.execute(f"PRAGMA page_size = {size}")
            copy.execute("VACUUM")


def _highest_epoch(conn: Connection) -> int:
    if "checkpoints" not in inspect(conn).get_table_names():
        return 0
    return int(conn.execute(select(func.max(checkpoints.c.epoch))).scalar() or 0)


def _copy(
    source: sqlite3.Connection,
    target: sqlite3.Connection,
    patience_s: float,
    progress: Progress | None,
) -> None:
    """All pages, in one transaction of the target; a locked database is waited for."""
    until = time.monotonic() + patience_s

    def told(status: int, remaining: int, total: int) -> None:
        if status in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED) and time.monotonic() > until:
            raise RegistryError("database is locked")
        if progress:
            progress(total - remaining, total)

    source.backup(target, pages=PAGES, progress=told)


@contextmanager
def _opened(file: Path) -> Iterator[Connection]:
    """A database file, to be read and not even touched."""
    uri = f"{file.absolute().as_uri()}?mode=ro"
    engine = create_engine(
        "sqlite://", creator=lambda: sqlite3.connect(uri, uri=True), poolclass=NullPool
    )
    with engine.connect() as conn:
        yield conn


@contextmanager
def _beside(file: Path) -> Iterator[Path]:
    """A name for half of the work, on the same disk; what is left of it at the end goes."""
    partial = file.with_name(f"{file.name}.partial")
    try:
        partial.unlink(missing_ok=True)
        yield partial
    except (OSError, sqlite3.Error) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else exc
        raise RegistryError(f"{partial}: {reason}") from exc
    finally:
        for left in (partial, *(Path(f"{partial}{tail}") for tail in ("-wal", "-shm", "-journal"))):
            with suppress(OSError):
                left.unlink(missing_ok=True)


def _name(partial: Path, file: Path) -> None:
    """Rename, and have the disk know of both: a power cut leaves the old file or the new one."""
    _sync(partial)
    partial.replace(file)
    _sync(file.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _file_of(database: Database, instead: str) -> Path:
    """The file behind a SQLite URL; RegistryError names PostgreSQL's own tool."""
    engine = connect(database)
    file = sqlite_file(engine.url)
    engine.dispose()
    if file is None:
        raise RegistryError(
            f"database.url is no SQLite file; for PostgreSQL: {instead} (README, Backup)"
        )
    return file


def _raw(conn: Connection) -> Any:
    return conn.connection.driver_connection
