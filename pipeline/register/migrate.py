"""Alembic from Python: the schema of a database, brought to head or looked at."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, text

from alembic import command
from pipeline.config import Database
from pipeline.errors import RegistryError
from pipeline.register.engine import connect, exists, reading, translated

#: Names the lock that PostgreSQL's migrations queue at.
_LOCK = 7_233_002


def upgrade(database: Database, revision: str = "head") -> None:
    """Bring the schema up to `revision`; RegistryError if the database cannot be reached."""
    _run(database, command.upgrade, revision)


def downgrade(database: Database, revision: str) -> None:
    """Bring the schema down to `revision`."""
    _run(database, command.downgrade, revision)


def head() -> str:
    """The newest revision that there is."""
    return str(ScriptDirectory.from_config(_config()).get_current_head())


def current_and_head(database: Database) -> tuple[str | None, str]:
    """The schema's revision (None: no schema yet) and the newest one there is."""
    engine = connect(database)
    try:
        if not exists(engine):
            return None, head()
        with reading(engine) as conn:
            current = MigrationContext.configure(conn).get_current_revision()
    finally:
        engine.dispose()
    return current, head()


def check_schema(database: Database) -> None:
    """Raise RegistryError unless the schema is at head."""
    current, newest = current_and_head(database)
    if current != newest:
        raise RegistryError(
            f"schema at {current or 'nothing'}, head is {newest}: run `tidemark migrate`"
        )


def _run(database: Database, step: Callable[[Config, str], None], revision: str) -> None:
    config = _config()
    engine = connect(database, foreign_keys=False)  # a rebuilt parent would delete its children
    try:
        with translated(engine), engine.begin() as conn:
            if conn.dialect.name == "postgresql":  # one migration at a time; SQLite's BEGIN waits
                conn.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
            config.attributes["connection"] = conn
            step(config, revision)
            _check_foreign_keys(conn)
    except CommandError as exc:
        raise RegistryError(f"migration to {revision}: {exc}") from exc
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
