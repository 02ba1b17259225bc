"""Settings in, a database engine out: transactions that begin explicitly, errors of one line."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

from sqlalchemy import (
    Connection,
    Engine,
    Insert,
    Select,
    Table,
    create_engine,
    event,
    func,
    select,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    IntegrityError,
    NoSuchModuleError,
    OperationalError,
)

from pipeline.config import Database
from pipeline.errors import DatabaseAway, RegistryError, SettingsError

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
#: PostgreSQL's states after which the same transaction may succeed: serialization failure,
#: deadlock, lock not available, a server that shuts down or comes up, one that only reads, as a
#: former primary does after a failover, and a transaction in which its process stood still.
PASSING_STATES = {"40001", "40P01", "55P03", "57P01", "57P02", "57P03", "25006", "25P03"}
#: Classes of states: connection exceptions, insufficient resources.
PASSING_CLASSES = {"08", "53"}
#: SQLite's codes, without their extensions: busy, locked, disk full, a race for the log's locks.
PASSING_CODES = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_PROTOCOL,
}
#: PostgreSQL's state of a full disk.
FULL_STATE = "53100"
#: What a server's refusal of a connection says, which has no state, where trying is of no use.
REFUSALS = ("authentication failed", "does not exist", "no pg_hba.conf entry", "no password")
#: Bytes of a page in a SQLite file that is made: series of some kilobytes each are written in two
#: thirds of the time that SQLite's own 4096 take. A file that is there keeps its pages.
PAGE = 16384
#: Pages of SQLite's log after which a commit brings it into the file: SQLite's own number.
LOG_PAGES = 1000
#: libpq's options that find a silent server, in seconds and milliseconds; the URL may differ.
ALIVE = {
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
#: Longest wait for another writer to a SQLite file in which nothing else is heard, and the longest
#: at all of a process that was told to stop, in seconds.
SLICE_S, STOPPING_S = 0.5, 1.5


def now_us() -> int:
    """Microseconds since 1970 UTC."""
    return time.time_ns() // 1000


def moment(time_us: int) -> datetime:
    """Microseconds since 1970 as a time in UTC."""
    return EPOCH + timedelta(microseconds=time_us)


def in_us(when: datetime) -> int:
    """A time with a zone as microseconds since 1970 UTC."""
    return (when - EPOCH) // timedelta(microseconds=1)


def connect(
    database: Database,
    *,
    foreign_keys: bool = True,
    stop: threading.Event | None = None,
    plan_once: bool = False,
) -> Engine:
    """An engine; nothing is opened yet.

    stop: once it is set, another writer is waited for no longer than STOPPING_S.
    plan_once: all that is asked goes by keys, so PostgreSQL need not plan it for each key anew,
    which takes longer than to look it up.

    On SQLite: write-ahead log, a busy timeout, foreign keys as asked (migrations need them off),
    and BEGIN IMMEDIATE for writes, so that a writer waits at the start instead of failing later.
    On PostgreSQL: READ COMMITTED, whatever the server's default, since a writer that has waited
    for a lock must see what was written meanwhile.

    Raises
    ------
    SettingsError
        The URL cannot be read, or its driver is not installed.
    """
    try:
        url = _parsed(database.url)
        options: dict[str, Any] = {}
        if url.get_backend_name() == "sqlite":
            options["connect_args"] = {"timeout": database.busy_timeout_s}
        else:
            options["isolation_level"] = "READ COMMITTED"
            known = {name: value for name, value in ALIVE.items() if name not in url.query}
            options["connect_args"] = known
        engine = create_engine(url, pool_pre_ping=True, **options)
    except (ArgumentError, NoSuchModuleError, ImportError) as exc:
        raise SettingsError(f"database.url: {_first_line(exc)}") from None
    if engine.dialect.name == "sqlite":
        wait_s = database.busy_timeout_s
        _prepare_sqlite(engine, foreign_keys, wait_s, stop or threading.Event())
    elif plan_once:
        event.listen(engine, "connect", _plan_once)
    return engine


def exists(engine: Engine) -> bool:
    """Whether there is a database to look at; opening SQLite would make an empty file."""
    file = sqlite_file(engine.url)
    return file is None or file.exists()


def sqlite_file(url: URL) -> Path | None:
    """The file of a SQLite database; None if it is in memory, or no SQLite."""
    name = url.database
    if url.get_backend_name() != "sqlite" or not name or name.startswith(("file:", ":memory:")):
        return None
    return Path(name)


@contextmanager
def writing(engine: Engine, *, large: bool = False) -> Iterator[Connection]:
    """One transaction that writes; all of it is kept, or nothing.

    large: SQLite's log, into which it is written first, is brought into the file in a thread when
    this has ended; the commit would do it otherwise, and take four times as long.
    """
    with translated(engine), engine.connect() as conn:
        if not (large and engine.dialect.name == "sqlite"):
            with conn.begin():
                yield conn
            return
        dbapi: Any = conn.connection.driver_connection
        dbapi.execute("PRAGMA wal_autocheckpoint = 0")
        try:
            with conn.begin():
                yield conn
        finally:
            if not conn.invalidated:
                dbapi.execute(f"PRAGMA wal_autocheckpoint = {LOG_PAGES}")
    threading.Thread(target=_bring_in, args=(engine,), name="sqlite-log", daemon=True).start()


def _bring_in(engine: Engine) -> None:
    """SQLite's log into its file, as far as nobody else is at it; what is left is done later."""
    with suppress(sqlite3.Error, DBAPIError), closing(engine.raw_connection()) as conn:
        conn.cursor().execute("PRAGMA wal_checkpoint(PASSIVE)")


@contextmanager
def reading(engine: Engine | Connection) -> Iterator[Connection]:
    """One transaction that reads, all of it as of its beginning; it does not wait for a writer.

    A connection is inside of one already.
    """
    if isinstance(engine, Connection):
        yield engine
        return
    options: dict[str, Any] = {"tidemark_reads": True}
    if engine.dialect.name == "postgresql":
        options |= {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
    # it ends with a commit: psycopg forgets at a roll-back what the server has planned
    with translated(engine), engine.connect() as conn, conn.execution_options(**options).begin():
        yield conn


@contextmanager
def translated(engine: Engine) -> Iterator[None]:
    """Turn a database's failures into RegistryError; broken invariants pass as they are.

    Raises
    ------
    DatabaseAway
        The whole transaction may succeed another time; nobody knows whether a commit that was not
        answered did already.
    """
    try:
        yield
    except IntegrityError:
        raise
    except DBAPIError as exc:
        said = f"database {shown(engine.url)}: {_first_line(exc.orig or exc)}"
        if _is_full(exc.orig):
            said += ": free space on its disk; nothing was half-written"
        if not passing(exc):
            raise RegistryError(said) from exc
        if engine.dialect.name == "postgresql":
            engine.dispose()  # the other connections lead to the same server
        raise DatabaseAway(said) from exc


def passing(exc: DBAPIError) -> bool:
    """Whether the transaction that failed is worth another try."""
    orig = exc.orig
    code = _sqlite_code(orig)
    if code is not None:
        return code in PASSING_CODES
    state = getattr(orig, "sqlstate", None)
    if state is not None:
        return state in PASSING_STATES or state[:2] in PASSING_CLASSES
    refused = any(words in str(orig) for words in REFUSALS)
    return exc.connection_invalidated or (isinstance(exc, OperationalError) and not refused)


def tuples(conn: Connection, query: Select[Any], values: Mapping[str, Any]) -> Sequence[Any]:
    """A query's rows as the driver has them: SQLAlchemy's take half as long again. For columns of
    types that it leaves alone.
    """
    with conn.execute(query, values) as result:
        cursor: Any = result.cursor
        failure: Any = conn.dialect.loaded_dbapi.Error
        try:
            rows: Sequence[Any] = cursor.fetchall()
        except failure as exc:
            raise DBAPIError.instance(str(query), None, exc, failure) from exc
    return rows


def execute_many(
    conn: Connection, statement: Insert, rows: Iterable[tuple[Any, ...]], at_once: int
) -> None:
    """Insert rows, whose values are all columns' in their order, as the driver takes them: a
    dictionary for each row costs SQLAlchemy as much as SQLite needs to write it.
    """
    style = "qmark" if conn.dialect.name == "sqlite" else "format"
    dialect: Any = type(conn.dialect)
    sql = statement.compile(dialect=dialect(paramstyle=style))
    if sql.positiontup != [column.name for column in statement.table.columns]:
        raise ValueError("a row's values are not in the order of the statement's")
    rows = iter(rows)
    while some := list(islice(rows, at_once)):
        conn.exec_driver_sql(str(sql), some)


def shown(url: URL) -> str:
    """A database's URL without its passwords, wherever they stand."""
    secrets = {name: "hidden" for name in url.query if "password" in name}
    return url.update_query_dict(secrets).render_as_string(hide_password=True)


def inserting(conn: Connection, table: Table) -> postgresql.Insert | sqlite.Insert:
    """An INSERT that may say ON CONFLICT, in the database's dialect."""
    postgres = conn.dialect.name == "postgresql"
    return postgresql.insert(table) if postgres else sqlite.insert(table)


def inserted(conn: Connection, statement: Insert) -> int:
    """Insert one row; the number that the database gave it."""
    key = conn.execute(statement).inserted_primary_key
    if key is None:
        raise RegistryError("the database gave the new row no number")
    return int(key[0])


def next_number(conn: Connection, table: Table, stream_id: int) -> int:
    """The number after the last one in a table that counts within each stream."""
    last = select(func.max(table.c.number)).where(table.c.stream_id == stream_id)
    return int(conn.execute(last).scalar() or 0) + 1


def _parsed(text: str) -> URL:
    """The URL; a password that was not escaped is not taken for a host or port, and shown."""
    try:
        url = make_url(text)
        if "@" not in (url.host or ""):
            return url
    except ValueError:  # a port that is no number
        pass
    raise SettingsError(
        "database.url: cannot be read; write : / @ inside a password as %3A %2F %40"
    )


def _prepare_sqlite(
    engine: Engine, foreign_keys: bool, wait_s: float, stop: threading.Event
) -> None:
    @event.listens_for(engine, "connect")
    def on_connect(dbapi: Any, _: Any) -> None:
        dbapi.isolation_level = None  # we say BEGIN ourselves
        dbapi.execute(f"PRAGMA page_size = {PAGE}")
        dbapi.execute("PRAGMA journal_mode = WAL")
        dbapi.execute(f"PRAGMA journal_size_limit = {LOG_PAGES * PAGE}")  # else it never shrinks
        dbapi.execute("PRAGMA synchronous = FULL")  # a decision survives a power cut
        dbapi.execute(f"PRAGMA foreign_keys = {'ON' if foreign_keys else 'OFF'}")

    @event.listens_for(engine, "begin")
    def on_begin(conn: Connection) -> None:
        if conn.get_execution_options().get("tidemark_reads"):
            conn.exec_driver_sql("BEGIN")
        else:
            _begin_writing(conn, wait_s, stop)


def _plan_once(dbapi: Any, _: Any) -> None:
    # said to the server, not to libpq: a pooler in between refuses what it does not know at a start
    dbapi.execute("SET plan_cache_mode = force_generic_plan")
    dbapi.commit()


def _begin_writing(conn: Connection, wait_s: float, stop: threading.Event) -> None:
    """Wait for other writers, in slices: inside SQLite's own wait Python hears nothing."""
    dbapi: Any = conn.connection.driver_connection
    started = time.monotonic()
    dbapi.execute(f"PRAGMA busy_timeout = {int(min(wait_s, SLICE_S) * 1000)}")
    try:
        while True:
            try:
                conn.exec_driver_sql("BEGIN IMMEDIATE")
            except OperationalError as exc:
                longest = min(wait_s, STOPPING_S) if stop.is_set() else wait_s
                waited = time.monotonic() - started
                if _sqlite_code(exc.orig) != sqlite3.SQLITE_BUSY or waited >= longest:
                    raise
            else:
                return
    finally:
        if not conn.invalidated:  # as Ctrl-C leaves it: closed
            dbapi.execute(f"PRAGMA busy_timeout = {int(wait_s * 1000)}")


def _is_full(exc: BaseException | None) -> bool:
    """SQLITE_FULL, or disk_full of PostgreSQL."""
    return _sqlite_code(exc) == sqlite3.SQLITE_FULL or getattr(exc, "sqlstate", None) == FULL_STATE


def _sqlite_code(exc: BaseException | None) -> int | None:
    """SQLite's code without its extension; None of another database's error."""
    code: int | None = getattr(exc, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


def _first_line(exc: BaseException) -> str:
    return (str(exc).strip() or type(exc).__name__).splitlines()[0]
