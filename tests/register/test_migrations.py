"""The schema: up, down and up again is the same, is what tables.py says, and holds its promises."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, Engine, inspect, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError

from pipeline.config import Database
from pipeline.errors import RegistryError
from pipeline.records import Decision
from pipeline.register import migrate, tables
from pipeline.register.engine import connect
from pipeline.register.envelope import Limits
from pipeline.register.orders import Act, Agree, Approve, Order, Promote, Refuse, RollBack
from pipeline.register.proof import verify
from pipeline.register.sql import SqlRegistry, Stream, journal_mode
from pipeline.register.triggers import create_triggers
from pipeline.register.views import create_views
from tests.databases import new_database
from tests.register.making import (
    Clock,
    candidate,
    change,
    column,
    next_version,
    opened,
    rejected,
)
from tests.register.processes import migrated_by_itself

ROOT = Path(__file__).parents[2]
HEAD = migrate.head()
Schema = dict[str, list[Any]]


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest) -> Database:
    """An empty database of each kind; for who has an engine to it, a copy of one that migrated."""
    state = "at_head" if "engine" in request.fixturenames else "database"
    found: Database = request.getfixturevalue(f"{request.param}_{state}")
    return found


@pytest.fixture
def engine(database: Database) -> Iterator[Engine]:
    """The database at head."""
    engine = connect(database)
    yield engine
    engine.dispose()


# What a schema is -----------------------------------------------------------------------------

POSTGRESQL = {
    "columns": """
        SELECT table_name, column_name, data_type, is_nullable, column_default,
               character_maximum_length
        FROM information_schema.columns WHERE table_schema = 'public' ORDER BY 1, 2""",
    "constraints": """
        SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid)
        FROM pg_constraint WHERE connamespace = 'public'::regnamespace ORDER BY 1, 2""",
    "indexes": "SELECT indexdef FROM pg_indexes WHERE schemaname = 'public' ORDER BY 1",
    "triggers": """
        SELECT tgname, tgenabled, pg_get_triggerdef(oid)
        FROM pg_trigger WHERE NOT tgisinternal ORDER BY 1""",
    "functions": """
        SELECT proname, prosrc FROM pg_proc WHERE pronamespace = 'public'::regnamespace""",
    "views": "SELECT viewname, definition FROM pg_views WHERE schemaname = 'public' ORDER BY 1",
    "sequences": "SELECT sequencename FROM pg_sequences WHERE schemaname = 'public' ORDER BY 1",
}
SQLITE = {
    "indexes and triggers": """
        SELECT type, name, tbl_name, sql FROM sqlite_master
        WHERE type <> 'table' AND sql IS NOT NULL ORDER BY 1, 2"""
}


def catalog(conn: Connection) -> Schema:
    """What the database itself has written down of its schema, but for Alembic's own table."""
    queries = SQLITE if conn.dialect.name == "sqlite" else POSTGRESQL
    return {
        name: [
            tuple(" ".join(c.split()) if isinstance(c, str) else c for c in row)
            for row in conn.execute(text(query))
            if "alembic_version" not in str(row)
        ]
        for name, query in queries.items()
    }


def schema(engine: Engine) -> Schema:
    """Everything in a database but its rows and Alembic's own table, comparable by ==."""
    with engine.connect() as conn:
        found = catalog(conn)
        seen = inspect(conn)
        for table in sorted(set(seen.get_table_names()) - {"alembic_version"}):
            found[table] = [
                *((c["name"], str(c["type"]), c["nullable"]) for c in seen.get_columns(table)),
                seen.get_pk_constraint(table),
                *sorted(map(repr, seen.get_foreign_keys(table))),
                *sorted(map(repr, seen.get_unique_constraints(table))),
                *sorted(map(repr, seen.get_check_constraints(table))),
                *sorted(
                    (i["name"], i["column_names"], i["unique"]) for i in seen.get_indexes(table)
                ),
            ]
    return found


def test_up_down_up_is_the_same(database: Database, engine: Engine) -> None:
    """Tables, columns, indexes with their conditions, keys, checks and triggers: all back."""
    first = schema(engine)
    assert set(tables.metadata.tables) <= set(first)

    migrate.downgrade(database, "base")
    assert not any(schema(engine).values())
    assert inspect(engine).get_table_names() == ["alembic_version"]

    migrate.upgrade(database)
    assert schema(engine) == first


def test_the_migrations_make_what_tables_py_says(engine: Engine) -> None:
    """Alembic itself finds nothing to add, take away or change."""
    with engine.connect() as conn:
        context = MigrationContext.configure(
            conn, opts={"compare_type": True, "compare_server_default": True}
        )
        assert compare_metadata(context, tables.metadata) == []


def test_the_migrations_make_what_create_all_makes(
    engine: Engine, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Alembic compares no CHECK, no index's condition and no trigger: these are compared here."""
    if engine.dialect.name == "sqlite":
        made = connect(Database(url=f"sqlite:///{tmp_path / 'made.db'}"))
    else:
        made = connect(new_database(request.getfixturevalue("postgres")))
    with made.begin() as conn:
        tables.metadata.create_all(conn)
        create_triggers(conn)
        create_views(conn)
    assert schema(made) == schema(engine)
    made.dispose()


def test_migrating_twice_changes_nothing(database: Database, engine: Engine) -> None:
    """`tidemark migrate` belongs into every start script."""
    change(engine, "INSERT INTO streams (name, channels, created) VALUES ('s', '[]', 1)")
    first = schema(engine)
    migrate.upgrade(database)
    assert schema(engine) == first
    assert column(engine, "SELECT name FROM streams") == ["s"]


def test_the_alembic_command_works_for_developers(tmp_path: Path) -> None:
    """`alembic upgrade head` and `alembic check` find settings, scripts and metadata."""
    env = os.environ | {"TIDEMARK_DATABASE_URL": f"sqlite:///{tmp_path / 'dev.db'}"}
    for step in (["upgrade", "head"], ["check"]):
        done = subprocess.run(
            [sys.executable, "-m", "alembic", *step],
            cwd=ROOT, env=env, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    assert "No new upgrade operations" in done.stdout


# What it promises -----------------------------------------------------------------------------

STREAMS = (
    "INSERT INTO streams (id, name, channels, created) VALUES (1, 's', '[]', 1), (2, 'r', '[]', 1)"
)


def _request(id_: int, changes: str = "", **columns: Any) -> str:
    row = {
        "id": id_, "stream_id": 1, "reason": "'manual'", "status": "'pending'", "actor": "'a'",
        "note": "''", "inputs": "'{}'", "fence": 0, "attempts": 0, "created": 1,
    } | columns  # fmt: skip
    return _insert("requests", row)


def _version(id_: int, number: int, **columns: Any) -> str:
    row = {
        "id": id_, "stream_id": 1, "number": number, "request_id": 1, "sha256": "'a'",
        "status": "'retired'", "decision": "''", "figures": "'{}'", "strategy": "'ewc'", "seed": 1,
        "inputs": "'{}'", "settings": "'{}'", "code_version": "'0'", "created": 1,
    } | columns  # fmt: skip
    return _insert("versions", row)


def _live(id_: int, since: int, until: int | str, **columns: Any) -> str:
    row = {
        "id": id_, "stream_id": 1, "version_id": 1, "live_from": since, "live_until": until,
        "actor": "'gate'", "reason": "''",
    } | columns  # fmt: skip
    return _insert("promotions", row)


def _scored(first: int, end: int, **columns: Any) -> str:
    row = {"stream_id": 1, "partition": 0, "version_id": 1, "first_offset": first}
    return _insert("scored", row | {"end_offset": end} | columns)


def _insert(table: str, row: dict[str, Any]) -> str:
    names, values = ", ".join(row), ", ".join(map(str, row.values()))
    return f"INSERT INTO {table} ({names}) VALUES ({values})"  # noqa: S608


TASK = (
    "INSERT INTO tasks (id, stream_id, number, kind, fingerprint, created) "
    "VALUES ({}, {}, {}, '{}', '[]', 1)"
)
ARTIFACT = (
    "INSERT INTO artifacts (sha256, kind, content, size, created) VALUES ('a', 'w', '', 0, 1)"
)
GROUND = [
    STREAMS,
    ARTIFACT,
    _request(1, status="'claimed'"),
    _request(2, due=77),
    _request(3, partition=0, series="'p'", segment=4),
    TASK.format(1, 1, 1, "normal"),
    _version(1, 1, status="'champion'"),
    _version(2, 2),
    _live(1, 10, 20),
    _live(2, 20, "NULL"),
    _scored(0, 10),
]
#: What each may stand beside, and what not.
ALLOWED = {
    "a champion of another stream": _version(3, 1, stream_id=2, status="'champion'"),
    "another retired version": _version(3, 3),
    "live in another stream": _live(3, 20, "NULL", stream_id=2),
    "live for no time at all": _live(3, 20, 20),
    "a claim in another stream": _request(4, stream_id=2, status="'claimed'"),
    "the same due time in another stream": _request(4, stream_id=2, due=77),
    "any number of requests by hand": _request(4),
    "the same segment for another reason": _request(
        4, reason="'refine'", partition=0, series="'p'", segment=4
    ),
    "a task of another stream": TASK.format(2, 2, 1, "fault"),
    "the same offsets in another partition": _scored(0, 10, partition=1),
}
REFUSED = {
    "two streams of one name": STREAMS.replace("1,", "7,", 1).replace("2, 'r'", "8, 's'"),
    "two champions": _version(3, 3, status="'champion'"),
    "two versions of one number": _version(3, 2),
    "a version of unknown status": _version(3, 3, status="'lost'"),
    "a version without its weights": _version(3, 3, sha256="'b'"),
    "a version without its EWC state": _version(3, 3, ewc_sha256="'b'"),
    "a version without its request": _version(3, 3, request_id=99),
    "a version without its parent": _version(3, 3, parent_id=99),
    "a version without its stream": _version(3, 3, stream_id=99),
    "two live at once": _live(3, 30, "NULL"),
    "live backwards": _live(3, 20, 19),
    "live without a version": _live(3, 1, 2, version_id=99),
    "two claims in one stream": _request(4, status="'claimed'"),
    "a due time twice": _request(4, due=77),
    "a segment twice": _request(4, partition=0, series="'p'", segment=4),
    "a request of unknown status": _request(4, status="'lost'"),
    "a request for an unknown reason": _request(4, reason="'whim'"),
    "a request folded into none": _request(4, folded_into=99),
    "a request for no task": _request(4, task_id=99),
    "a task of unknown kind": TASK.format(2, 1, 2, "odd"),
    "a task's number twice": TASK.format(2, 1, 1, "normal"),
    "offsets backwards": _scored(10, 9),
    "no offsets": _scored(10, 10),
    "the same offsets twice": _scored(0, 5),
    "scored by no version": _scored(10, 11, version_id=99),
    "an artifact twice": ARTIFACT,
    "a checkpoint of no stream": (
        'INSERT INTO checkpoints (stream_id, "partition", epoch, owner, updated) '
        "VALUES (99, 0, 1, 'w', 1)"
    ),
    "a figure of no version": "INSERT INTO metrics (version_id, name, value) VALUES (99, 'x', 1)",
    "a skill of no task": (
        "INSERT INTO evaluations (version_id, task_id, skill, windows) VALUES (1, 99, 1, 1)"
    ),
}


def test_the_database_keeps_the_invariants(engine: Engine) -> None:
    """Unique, partial unique, foreign key and CHECK: each refuses its one case and no other."""
    for sql in GROUND:
        change(engine, sql)
    for name, sql in ALLOWED.items():
        with engine.connect() as conn:  # taken back when the connection is closed
            conn.execute(text(sql))
        assert name
    for name, sql in REFUSED.items():
        with engine.connect() as conn:
            try:
                conn.execute(text(sql))
            except IntegrityError:
                continue
        pytest.fail(f"the database took {name}")


# Migrations that go wrong ---------------------------------------------------------------------


@pytest.fixture
def add_migration(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    """Put a revision with this upgrade behind the real ones."""
    scripts = tmp_path / "alembic"
    shutil.copytree(ROOT / "alembic", scripts, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(migrate, "_scripts", lambda: scripts)

    def add(upgrade: str) -> None:
        lines = upgrade.strip().splitlines()
        body = "\n".join(f"    {line}" for line in lines)
        (scripts / "versions" / "9999_next.py").write_text(
            "import sqlalchemy as sa\nfrom alembic import op\n"
            f"revision, down_revision = '9999', {HEAD!r}\n"
            f"def upgrade():\n{body}\n"
        )

    return add


HALF = """
op.create_table("half", sa.Column("id", sa.Integer(), primary_key=True))
op.execute("INSERT INTO half VALUES (1)")
with op.batch_alter_table("streams") as batch:
    batch.add_column(sa.Column("half", sa.Text()))
op.execute("UPDATE streams SET half = 'x'")
"""


@pytest.mark.parametrize(
    ("end", "error"),
    [
        ("raise ValueError('by itself')", ValueError),
        ("op.execute('SELECT nonsense')", RegistryError),
    ],
)
def test_a_failing_migration_leaves_nothing_behind(
    database: Database,
    engine: Engine,
    add_migration: Callable[[str], None],
    end: str,
    error: type[Exception],
) -> None:
    """Half a schema is the one state nobody can go on from: it is all or nothing."""
    change(engine, STREAMS)
    before = schema(engine)
    add_migration(HALF + end)
    with pytest.raises(error):
        migrate.upgrade(database)
    assert schema(engine) == before
    assert column(engine, "SELECT version_num FROM alembic_version") == [HEAD]
    assert column(engine, "SELECT name FROM streams ORDER BY id") == ["s", "r"]


def test_a_first_migration_that_fails_leaves_an_empty_database(
    database: Database, add_migration: Callable[[str], None]
) -> None:
    """From nothing to head is one transaction as well: all goes if the last step fails."""
    add_migration(HALF + "op.execute('SELECT nonsense')")
    with pytest.raises(RegistryError):
        migrate.upgrade(database)
    engine = connect(database)
    assert inspect(engine).get_table_names() == []
    assert not any(schema(engine).values())
    engine.dispose()


def test_rebuilding_a_table_keeps_the_rows_that_refer_to_it(
    database: Database, engine: Engine, add_migration: Callable[[str], None]
) -> None:
    """SQLite alters a table by making it anew: with foreign keys on, its children would go."""
    for sql in GROUND:
        change(engine, sql)
    add_migration(
        """
with op.batch_alter_table("streams", recreate="auto") as batch:
    batch.add_column(sa.Column("unit", sa.Text(), nullable=False, server_default="K"))
    batch.alter_column("name", type_=sa.String(300))
"""
    )
    migrate.upgrade(database)
    assert column(engine, "SELECT unit FROM streams") == ["K", "K"]
    assert column(engine, "SELECT COUNT(*) FROM requests") == [3]
    assert column(engine, "SELECT COUNT(*) FROM versions") == [2]
    with pytest.raises(IntegrityError):
        change(engine, REFUSED["a version without its stream"])


def test_a_migration_that_orphans_rows_is_undone(
    database: Database, engine: Engine, add_migration: Callable[[str], None]
) -> None:
    """Foreign keys are off while SQLite migrates, so they are asked for at the end."""
    for sql in GROUND:
        change(engine, sql)
    add_migration('op.execute("DELETE FROM streams WHERE id = 1")')
    error = RegistryError if engine.dialect.name == "sqlite" else IntegrityError
    with pytest.raises(error):
        migrate.upgrade(database)
    assert column(engine, "SELECT COUNT(*) FROM streams") == [2]


def test_processes_that_migrate_at_once_queue_up(database: Database) -> None:
    """Three containers start together: one migrates, the others find the schema at head."""
    context = multiprocessing.get_context("spawn")
    line, found = context.Barrier(3), context.Queue()
    workers = [
        context.Process(target=migrated_by_itself, args=(database.url, line, found))
        for _ in range(3)
    ]
    for worker in workers:
        worker.start()
    answers = [found.get(timeout=120) for _ in workers]
    for worker in workers:
        worker.join()
    assert answers == [HEAD] * 3


def test_requests_from_before_are_found_by_their_artifacts(
    database: Database, engine: Engine
) -> None:
    """What the audit looks up by hash is filled in for the history that there is."""
    migrate.downgrade(database, "0006")
    change(engine, STREAMS)
    inputs = ('{"reservoir":"r","segment":"s"}', "{}", '{"segment":"t"}')
    for number, each in enumerate(inputs, 1):
        change(engine, _request(number, inputs=f"'{each}'").replace(":", r"\:"))
    migrate.upgrade(database)
    found = "SELECT request_id || role || sha256 FROM request_inputs ORDER BY request_id, role"
    assert column(engine, found) == ["1reservoirr", "1segments", "3segmentt"]


def refusals(database: Database) -> dict[int, int]:
    """Version's id -> when it was refused, by reading all of the ledger; of a history in which the
    gate or a person refused versions, and some of those were promoted by a person later."""
    clock, ada = Clock(), "ada"
    with opened(database, clock) as registry:
        for name in ("plant", "other"):  # numbers are a stream's own, ids the table's
            stream = registry.open_stream(name, ["a"])

            def made(weights: bytes, decision: Decision | None = None, of: Stream = stream) -> int:
                clock.pass_s(1)
                found = candidate(weights=weights + of.name.encode())
                return next_version(registry, of, decision, found).number

            def ordered(order: Order, of: Stream = stream) -> None:
                clock.pass_s(1)
                registry.act(of.id, order, Act(actor=ada, reason="plan 12"))

            made(b"first")
            made(b"worse", rejected())
            ordered(Promote(version=made(b"worse, and promoted", rejected())))
            ordered(Agree(limits=Limits(triggers=("boundary",))))
            ordered(Refuse(version=made(b"refused")))
            again = made(b"refused, and promoted")
            ordered(Refuse(version=again))
            ordered(Promote(version=again))
            ordered(Approve(version=made(b"approved")))
            made(b"waits")
            ordered(Agree(limits=Limits()))
            made(b"inside")
            ordered(RollBack())
        with registry.engine.connect() as conn:
            rows = conn.execute(select(tables.ledger).order_by(tables.ledger.c.id)).all()
    told = [(row.kind, row.at, json.loads(row.entry)) for row in rows]
    return {
        entry["version"]: at
        for kind, at, entry in told
        if kind == "refused" or (kind == "version" and entry["status"] == "rejected")
    }


def test_when_a_version_was_refused_is_filled_in_as_the_ledger_says(
    database: Database, engine: Engine
) -> None:
    """Whatever a person did with it later; of one that was never refused nothing is."""
    told = refusals(database)
    assert len(told) == 8
    query = select(tables.versions.c.id, tables.versions.c.rejected)
    migrate.downgrade(database, "0015")
    columns = {each["name"] for each in inspect(engine).get_columns("versions")}
    assert "rejected" not in columns
    migrate.upgrade(database)
    with engine.connect() as conn:
        found = {row.id: row.rejected for row in conn.execute(query)}
    assert len(found) == 16
    assert {number: at for number, at in found.items() if at is not None} == told
    assert verify(database).findings == ()


# What a person is told ------------------------------------------------------------------------


def test_check_schema_says_what_to_do(database: Database) -> None:
    """A process refuses to start on another schema, and names the command that helps."""
    registry = SqlRegistry(database)
    with pytest.raises(RegistryError, match=rf"nothing, head is {HEAD}: run .tidemark mig"):
        registry.check_schema()
    migrate.upgrade(database)
    registry.check_schema()
    assert migrate.current_and_head(database) == (HEAD, HEAD)
    registry.close()


def test_a_schema_of_a_newer_tidemark_is_refused(database: Database, engine: Engine) -> None:
    """An old program on a new database stops with one line and touches nothing."""
    change(engine, "UPDATE alembic_version SET version_num = '9999'")
    before = schema(engine)
    for step in (migrate.upgrade, lambda d: migrate.downgrade(d, "base")):
        with pytest.raises(RegistryError, match="9999") as refused:
            step(database)
        assert "\n" not in str(refused.value)
    assert schema(engine) == before
    assert migrate.current_and_head(database)[0] == "9999"


def test_sqlite_keeps_a_write_ahead_log(database: Database, engine: Engine) -> None:
    """Readers do not wait for the writer; the mode stays in the file. PostgreSQL has none."""
    expected = "wal" if engine.dialect.name == "sqlite" else None
    assert journal_mode(database) == expected


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    """The settings point at some other file: one line, and the file stays as it is."""
    other = tmp_path / "notes.txt"
    other.write_bytes(b"not a database " * 100)
    with pytest.raises(RegistryError, match=r"notes\.txt: file is not a database$"):
        migrate.upgrade(Database(url=f"sqlite:///{other}"))
    assert other.read_bytes() == b"not a database " * 100


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    """SQLite makes files, not folders."""
    with pytest.raises(RegistryError, match=r"no/tidemark\.db: unable to open database file$"):
        migrate.upgrade(Database(url=f"sqlite:///{tmp_path / 'no' / 'tidemark.db'}"))


def test_append_only_comes_with_the_schema(engine: Engine) -> None:
    """The migration itself makes the triggers; nothing needs to be run by hand."""
    insert = (
        "INSERT INTO ledger (id, at, kind, actor, entry, previous, hash) "
        "VALUES (1, 1, 'k', 'a', '{}', 'p', 'h')"
    )
    change(engine, insert)
    for attack in ("UPDATE ledger SET actor = 'eve'", "DELETE FROM ledger"):
        with pytest.raises(DBAPIError, match="append-only"):
            change(engine, attack)


def test_looking_at_a_database_that_is_not_there_makes_none(tmp_path: Path) -> None:
    """A mistyped path stays one: nothing is at it, and nothing comes of asking."""
    database = Database(url=f"sqlite:///{tmp_path / 'typo.db'}")
    assert migrate.current_and_head(database)[0] is None
    assert list(tmp_path.iterdir()) == []
