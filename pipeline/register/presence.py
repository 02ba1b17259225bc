"""Who runs on a database: processes share a lock while they live; some work takes it alone.

The lock ends with its process, however that ends: on PostgreSQL it is an advisory lock of every
connection, on SQLite a lock (flock) on a file beside the database.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, event, text
from sqlalchemy.engine import URL

from pipeline.errors import RegistryError
from pipeline.register.engine import exists, sqlite_file, translated

#: Names PostgreSQL's lock, which counts within one database.
_LOCK = 7_233_003
#: Behind the name of a SQLite file: the file that is locked.
SUFFIX = "-running"
_SHARE = """
SELECT set_config('application_name', %s, false),
set_config('idle_in_transaction_session_timeout', %s, false), pg_try_advisory_lock_shared(%s)
"""
_HOLDERS = """
SELECT DISTINCT a.application_name FROM pg_locks l JOIN pg_stat_activity a USING (pid)
JOIN pg_database d ON d.oid = l.database AND d.datname = current_database()
WHERE l.locktype = 'advisory' AND l.classid = 0 AND l.objid = :lock AND l.granted ORDER BY 1
"""


def share(engine: Engine, owner: str, idle_s: float) -> Callable[[], None]:
    """Be one of those who run on the database; call the answer, and dispose the engine, to end.

    idle_s: PostgreSQL ends a transaction, and so its locks, in which nothing was asked for so long:
    its process stands still (SIGSTOP, a machine that sleeps), and others wait for it. SQLite's lock
    is the operating system's, and ends with the process only.

    Raises
    ------
    RegistryError
        The database is being migrated, restored or copied. On PostgreSQL also later, when a lost
        connection comes back in such a moment.
    """
    if engine.dialect.name == "postgresql":
        _lock_each_connection(engine, owner, idle_s)
        with translated(engine), engine.connect():
            return lambda: None
    if not exists(engine):  # whoever looks at its schema next says so, and no file is made
        return lambda: None
    return _locked(engine.url, fcntl.LOCK_SH, "is being migrated, restored or copied: start later")


@contextmanager
def alone(conn: Connection) -> Iterator[None]:
    """Keep everybody from running for the block; on PostgreSQL until the transaction's end.

    Raises
    ------
    RegistryError
        A process runs on the database.
    """
    if conn.dialect.name == "postgresql":
        _lock_alone(conn)
        yield
        return
    release = _locked(conn.engine.url, fcntl.LOCK_EX, "is in use: stop tidemark first")
    try:
        yield
    finally:
        release()


def _lock_each_connection(engine: Engine, owner: str, idle_s: float) -> None:
    idle = f"{round(1000 * idle_s)}ms"

    @event.listens_for(engine, "connect")
    def on_connect(dbapi: Any, _: Any) -> None:
        *_, taken = dbapi.execute(_SHARE, (owner, idle, _LOCK)).fetchone()
        dbapi.commit()
        if not taken:
            raise RegistryError("the database is being migrated, restored or copied: start later")


def _lock_alone(conn: Connection) -> None:
    lock = {"lock": _LOCK}
    if conn.execute(text("SELECT pg_try_advisory_xact_lock(:lock)"), lock).scalar():
        return
    who = ", ".join(conn.execute(text(_HOLDERS), lock).scalars()) or "another tidemark"
    raise RegistryError(f"the database is in use by {who}: stop tidemark first")


def _locked(url: URL, how: int, refusal: str) -> Callable[[], None]:
    """Lock the file beside a SQLite database; what gives it back. One in memory has none."""
    file = sqlite_file(url)
    if file is None:
        return lambda: None
    try:
        descriptor = os.open(f"{file}{SUFFIX}", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as exc:
        raise RegistryError(f"{file}{SUFFIX}: {exc.strerror}") from None
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise RegistryError(f"{file} {refusal}") from None
    return lambda: os.close(descriptor)
