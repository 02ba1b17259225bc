"""A copied history is the same on the other side, down to the bytes, or is not there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import insert, inspect, select
from sqlalchemy.exc import DBAPIError

from pipeline.config import Database
from pipeline.errors import RegistryError
from pipeline.register import migrate, moving, tables
from pipeline.register.damage import first_of
from pipeline.register.engine import connect
from pipeline.register.moving import copy
from pipeline.register.sql import SqlRegistry
from tests.databases import new_database
from tests.register.filled import ROWS, fill
from tests.register.making import Rows, change, column, everything, power_cut

KINDS = ("sqlite", "postgresql")


@pytest.fixture
def new(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], Database]:
    """A further database without a schema."""

    def make(kind: str) -> Database:
        if kind == "sqlite":
            return Database(url=f"sqlite:///{tmp_path / 'further.db'}")
        return new_database(request.getfixturevalue("postgres"))

    return make


def rows(database: Database) -> Rows:
    engine = connect(database)
    found = everything(engine)
    engine.dispose()
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_every_row_of_every_table_is_there(
    at_head: Database, new: Callable[[str], Database], kind: str
) -> None:
    """From either database to either: rows, ledger's chain, triggers, and numbers that go on."""
    fill(at_head)
    target = new(kind)
    told: list[tuple[int, int]] = []
    written = copy(at_head, target, lambda done, total, _: told.append((done, total)))
    assert {count for count, _ in written.values()} == {ROWS}
    assert set(written) == set(tables.metadata.tables)
    assert rows(target) == rows(at_head)
    total = ROWS * len(written)
    assert told[-1] == (total, total)
    engine = connect(target)
    with engine.connect() as conn:
        assert first_of(conn) is None
    with pytest.raises(DBAPIError, match="append-only"):
        change(engine, "DELETE FROM ledger")
    change(engine, "INSERT INTO streams (name, channels, created) VALUES ('new', '[]', 1)")
    assert column(engine, "SELECT id FROM streams WHERE name = 'new'") == [ROWS + 1]
    engine.dispose()


def test_the_hash_of_a_table_is_the_documented_one(
    sqlite_at_head: Database, tmp_path: Path
) -> None:
    """Whoever wants to compare two databases later can: the sum of sha256 over MessagePack."""
    import hashlib

    import msgspec

    fill(sqlite_at_head)
    written = copy(sqlite_at_head, Database(url=f"sqlite:///{tmp_path / 'further.db'}"))
    for name, found in rows(sqlite_at_head).items():
        digests = [hashlib.sha256(msgspec.msgpack.encode(row)).hexdigest() for row in found]
        assert written[name][1] == f"{sum(int(d, 16) for d in digests) % 2**256:064x}"


@pytest.mark.parametrize("kind", KINDS)
def test_a_target_with_content_is_refused(
    at_head: Database, new: Callable[[str], Database], kind: str
) -> None:
    """Two histories in one database would be neither."""
    fill(at_head)
    target = new(kind)
    migrate.upgrade(target)
    engine = connect(target)
    change(engine, "INSERT INTO streams (name, channels, created) VALUES ('old', '[]', 1)")
    before = rows(target)
    with pytest.raises(RegistryError, match="has content"):
        copy(at_head, target)
    assert rows(target) == before
    engine.dispose()


@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_that_breaks_leaves_no_row(
    sqlite_at_head: Database, new: Callable[[str], Database], kind: str
) -> None:
    """Ctrl-C in the midst: everything goes back, and the next copy goes through."""
    fill(sqlite_at_head)
    target = new(kind)

    def interrupt(done: int, total: int, _: str) -> None:
        if done > total / 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        copy(sqlite_at_head, target, interrupt)
    assert not any(rows(target).values())
    copy(sqlite_at_head, target)
    assert rows(target) == rows(sqlite_at_head)


def test_a_power_cut_at_any_table_leaves_no_row(
    sqlite_at_head: Database, new: Callable[[str], Database]
) -> None:
    """Nobody cleans up: the next copy finds an empty target all the same, and goes through."""
    fill(sqlite_at_head)
    target, cuts = new("sqlite"), 0
    while power_cut(lambda step: copy(sqlite_at_head, target, step), after=cuts):
        assert not any(rows(target).values())
        cuts += 8
    assert cuts > 20
    assert rows(target) == rows(sqlite_at_head)


@pytest.mark.parametrize("kind", KINDS)
def test_what_does_not_arrive_as_it_was_is_not_kept(
    sqlite_at_head: Database,
    new: Callable[[str], Database],
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A row that changes on its way, or gets lost, is found by hash and count: nothing stays."""
    fill(sqlite_at_head)
    target = new(kind)
    write = moving._write
    for spoil, says in (
        ("UPDATE requests SET note = 'another' WHERE id = 2", r"requests was not copied: 3 rows"),
        ("DELETE FROM metrics WHERE version_id = 3", r"metrics was not copied: 2 rows .*, 3 with"),
    ):

        def spoilt(from_, to, progress, spoil=spoil):
            written = write(from_, to, progress)
            to.exec_driver_sql(spoil)
            return written

        monkeypatch.setattr(moving, "_write", spoilt)
        with pytest.raises(RegistryError, match=says):
            copy(sqlite_at_head, target)
        assert not any(rows(target).values())


def test_a_broken_chain_is_not_moved(sqlite_at_head: Database, tmp_path: Path) -> None:
    """What was tampered with stays where it is."""
    fill(sqlite_at_head)
    engine = connect(sqlite_at_head)
    change(engine, "DROP TRIGGER ledger_no_update")
    change(engine, "UPDATE ledger SET actor = 'eve' WHERE id = 2")
    engine.dispose()
    target = Database(url=f"sqlite:///{tmp_path / 'further.db'}")
    with pytest.raises(RegistryError, match="chain is broken at entry 2"):
        copy(sqlite_at_head, target)
    assert not any(rows(target).values())


def test_a_running_system_is_not_copied(at_head: Database, tmp_path: Path) -> None:
    """What it writes meanwhile would be missing; nor is it copied to where one runs."""
    target = Database(url=f"sqlite:///{tmp_path / 'further.db'}")
    migrate.upgrade(target)
    for busy in (at_head, target):
        registry = SqlRegistry(busy)
        registry.run_as("stream@here:1")
        with pytest.raises(RegistryError, match="stop tidemark first"):
            copy(at_head, target)
        registry.close()
    copy(at_head, target)


def test_text_that_the_target_cannot_hold_is_one_line(
    sqlite_at_head: Database, postgresql_database: Database
) -> None:
    """SQLite takes a NUL in a text, PostgreSQL does not."""
    engine = connect(sqlite_at_head)
    with engine.begin() as conn:
        conn.execute(insert(tables.streams).values(name="a\0b", channels="[]", created=1))
    engine.dispose()
    with pytest.raises(RegistryError, match="NUL") as refused:
        copy(sqlite_at_head, postgresql_database)
    assert "\n" not in str(refused.value)
    engine = connect(postgresql_database)
    assert "streams" in inspect(engine).get_table_names()
    with engine.connect() as conn:
        assert conn.execute(select(tables.streams)).all() == []
    engine.dispose()


def test_another_schema_is_not_copied(at_head: Database, tmp_path: Path) -> None:
    """Neither from it nor into it: `tidemark migrate` comes first."""
    old = Database(url=f"sqlite:///{tmp_path / 'old.db'}")
    migrate.upgrade(old, "0001")
    for source, target in ((old, at_head), (at_head, old)):
        with pytest.raises(RegistryError, match=r"schema at 0001.*run `tidemark migrate`"):
            copy(source, target)
