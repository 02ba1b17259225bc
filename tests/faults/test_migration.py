"""A fault before and after each statement of each migration, up and down: all of it, or nothing.

The database is full of rows as it begins. After the fault it is as before or as after, and the same
command again brings it to where an undisturbed one does.
"""

from __future__ import annotations

import gc
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, text

from pipeline.config import Database
from pipeline.errors import PipelineError
from pipeline.register import migrate
from pipeline.register.engine import connect
from tests.databases import drop, new_database
from tests.faults import steps as s
from tests.faults.following import ENDINGS, copy
from tests.faults.steps import Steps, wrap_sql
from tests.register.filled import fill
from tests.register.test_migrations import catalog

REVISIONS = [
    each.revision
    for each in reversed(list(ScriptDirectory.from_config(migrate._config()).walk_revisions()))
]
STEPS = list(pairwise(["base", *REVISIONS]))
MOVES = [(before, after, migrate.upgrade) for before, after in STEPS]
MOVES += [(after, before, migrate.downgrade) for before, after in STEPS]
#: Tables by name; in SQLite with all that makes them up, which PostgreSQL's catalog has elsewhere.
TABLES = {
    "sqlite": text("SELECT name, sql FROM sqlite_master WHERE type = 'table' ORDER BY 1"),
    "postgresql": text(
        "SELECT tablename, '' FROM pg_tables WHERE schemaname = 'public' ORDER BY 1"
    ),
}
FAULTS = {"sqlite": {"sql": s.SQLITE}, "postgresql": {"sql": s.POSTGRESQL}}


def state(database: Database) -> tuple[Any, ...]:
    """The schema as the database has written it down, its revision, and every row."""
    engine = connect(database)
    try:
        with engine.connect() as conn:
            tables = dict(map(tuple, conn.execute(TABLES[conn.dialect.name])))
            rows = {name: _rows(conn, name) for name in tables}
            return {name: _parts(sql) for name, sql in tables.items()}, catalog(conn), rows
    finally:
        engine.dispose()


def _parts(sql: str) -> list[str]:
    """Of a table's definition; Alembic makes a table again with its constraints in any order."""
    return sorted(part.strip("\t )") for part in re.split("[,\n]", sql))


def _rows(conn: Connection, table: str) -> list[str]:
    return sorted(map(repr, conn.exec_driver_sql(f'SELECT * FROM "{table}"')))  # noqa: S608


@pytest.fixture(scope="module")
def at(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Callable[[str, str], Database]:
    """A new database of a kind at a revision, with all rows that fit there; to be copied."""
    folder, made = tmp_path_factory.mktemp("at"), dict[tuple[str, str], Database]()

    def make(kind: str, revision: str) -> Database:
        if (kind, revision) not in made:
            if kind == "sqlite":
                database = Database(url=f"sqlite:///{folder / revision}.db")
            else:
                database = new_database(request.getfixturevalue("postgres"))
            migrate.upgrade(database)
            fill(database)
            if revision != REVISIONS[-1]:
                migrate.downgrade(database, revision)
            made[kind, revision] = database
        return made[kind, revision]

    return make


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
@pytest.mark.parametrize(
    ("before", "after", "move"), MOVES, ids=[f"{before} to {after}" for before, after, _ in MOVES]
)
def test_a_fault_at_any_statement_of_a_migration_leaves_all_or_nothing(
    kind: str,
    before: str,
    after: str,
    move: Callable[[Database, str], None],
    at: Callable[[str, str], Database],
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    every: int,
) -> None:
    """Whatever failed, and wherever: the command is given again, and has done it."""
    start, names = at(kind, before), iter(range(10**6))

    def fresh() -> Database:
        if kind == "sqlite":
            return copy(start, tmp_path / f"{next(names)}.db")
        return new_database(request.getfixturevalue("postgres"), start)

    def moved(database: Database, steps: Steps) -> str:
        def stepping(*args: Any, **options: Any) -> Engine:
            engine = connect(*args, **options)
            wrap_sql(steps, engine)
            return engine

        with monkeypatch.context() as patch:
            patch.setattr(migrate, "connect", stepping)
            try:
                move(database, after)
            except (PipelineError, *ENDINGS) as exc:
                return f"{type(exc).__name__}: {exc}"
            finally:
                gc.collect()
        return ""

    clean, done = Steps(), fresh()
    was = state(done)
    assert moved(done, clean) == ""
    expected = state(done)
    assert expected != was
    for number in range(0, len(clean.seen), every):
        database, fault = fresh(), Steps(at=number, faults=FAULTS[kind])
        told = moved(database, fault)
        where = f"{clean.seen[number]}: {fault.raised}, told as {told}"
        assert fault.raised, where
        assert told.count("\n") == 0, where
        assert state(database) in (was, expected), where
        move(database, after)
        assert state(database) == expected, where
        if kind == "postgresql":
            drop(database)
