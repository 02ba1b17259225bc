"""Alembic from Python: the schema of a database, brought to head or looked at."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, text
from sqlalchemy.exc import PendingRollbackError

from alembic import command
from pipeline.config import Database
from pipeline.errors import RegistryError
from pipeline.register.engine import connect, exists, reading, translated
from pipeline.register.presence import alone

#: Names the lock that PostgreSQL's migrations queue at.
_LOCK = 7_233_002


def upgrade(database: Database, revision: str = "head") -> None:
    """Bring the schema up to `revision`; where it is there already, nothing is touched.

    Raises
    ------
    RegistryError
        The database cannot be reached, or a process runs on it.
    """
    _run(database, command.upgrade, revision)


def downgrade(database: Database, revision: str) -> None:
    """Bring the schema down to `revision`."""
    _run(database, command.downgrade, revision)


def head() -> str:
    """The newest revision that there is."""
    return str(ScriptDirectory.from_config(_config()).get_current_head())


def is_known(revision: str) -> bool:
    """Whether this version of tidemark has a migration of that name."""
    try:
        return ScriptDirectory.from_config(_config()).get_revision(revision) is not None
    except CommandError:
        return False


def current_and_head(database: Database) -> tuple[str | None, str]:
    """The schema's revision (None: no schema yet) and the newest one there is."""
    engine = connect(database)
    try:
        if not exists(engine):
            return None, head()
        with reading(engine) as conn:
            return current(conn), head()
    finally:
        engine.dispose()


def current(conn: Connection) -> str | None:
    """The schema's revision; None: no schema."""
    return MigrationContext.configure(conn).get_current_revision()


def check_schema(database: Database) -> None:
    """Raise RegistryError unless the schema is at head."""
    found, newest = current_and_head(database)
    if found != newest:
        raise RegistryError(
            f"schema at {found or 'nothing'}, head is {newest}: run `tidemark migrate`"
        )


def _run(database: Database, step: Callable[[Config, str], None], revision: str) -> None:
    config = _config()
    engine = connect(database, foreign_keys=False)  # a rebuilt parent would delete its children
    try:
        with ExitStack() as held, translated(engine), engine.begin() as conn:
            if conn.dialect.name == "postgresql":  # one migration at a time; SQLite's BEGIN waits
                conn.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
            if current(conn) == (head() if revision == "head" else revision):
                return
            held.enter_context(alone(conn))  # until the transaction has ended
            config.attributes["connection"] = conn
            step(config, revision)
            _check_foreign_keys(conn)
    except CommandError as exc:
        raise RegistryError(f"migration to {revision}: {exc}") from exc
    except PendingRollbackError as exc:  # of Alembic, which cleans up after an interrupt, in vain
        raise (exc.__context__ or exc) from None
    finally:
        engine.dispose()


def _check_foreign_keys(conn: Connection) -> None:
    """With enforcement off during a migration, SQLite is asked afterwards."""
    if conn.dialect.name != "sqlite":
        return
    orphans = conn.exec_driver_sql("PRAGMA foreign_key_check").fetchall()
    if orphans:
        raise RegistryError(f"the migration would leave {len(orphans)} rows without their parent")


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(_scripts()).replace("%", "%%"))
    return config


def _scripts() -> Path:
    """Beside the package in a checkout, inside it in an installed wheel."""
    inside = Path(__file__).parent / "migrations"
    beside = Path(__file__).parents[2] / "alembic"
    return inside if inside.is_dir() else beside
