"""Nobody migrates under a running process; whoever is dead is in nobody's way."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path

import pytest
from sqlalchemy import text

from pipeline.config import Database
from pipeline.errors import DatabaseAway, RegistryError
from pipeline.register import migrate
from pipeline.register import requests as queue
from pipeline.register.engine import connect, writing
from pipeline.register.presence import alone
from pipeline.register.sql import SqlRegistry
from tests.register.making import by_hand, everything
from tests.register.processes import run_until_killed

HEAD = migrate.head()


def test_a_migration_waits_for_nobody_and_disturbs_nobody(database: Database) -> None:
    """One line while a process runs, and nothing has changed; it goes through afterwards."""
    migrate.upgrade(database, "0001")
    registries = [SqlRegistry(database) for _ in range(2)]
    for number, registry in enumerate(registries):
        registry.run_as(f"stream@here:{number}")
    for registry in registries:
        with pytest.raises(RegistryError, match=r"in use.*: stop tidemark first$") as refused:
            migrate.upgrade(database)
        if database.url.startswith("postgresql"):
            assert "stream@here:1" in str(refused.value)
        assert migrate.current_and_head(database)[0] == "0001"
        registry.close()
    migrate.upgrade(database)
    assert migrate.current_and_head(database)[0] == HEAD


def test_where_nothing_is_to_migrate_nobody_is_in_the_way(at_head: Database) -> None:
    """`tidemark migrate` stands in every start script, also of the second process."""
    registry = SqlRegistry(at_head)
    registry.run_as("stream@here:1")
    before = everything(registry.engine)
    migrate.upgrade(at_head)
    assert migrate.current_and_head(at_head)[0] == HEAD
    assert everything(registry.engine) == before
    with pytest.raises(RegistryError, match="stop tidemark first"):  # it is in somebody's way else
        migrate.downgrade(at_head, "0001")
    registry.close()


def test_who_stands_still_in_a_transaction_is_passed_by(postgresql_at_head: Database) -> None:
    """It holds the ledger's lock, which everybody needs: its transaction ends, its own next try
    goes through, and what it had written is not kept twice."""
    frozen, other = SqlRegistry(postgresql_at_head), SqlRegistry(postgresql_at_head)
    frozen.run_as("stream@here:1", idle_s=0.2)
    other.run_as("stream@here:2")
    stream = other.open_stream("readings", ("a",))

    def stand_still() -> None:
        with writing(frozen.engine) as conn:
            queue.submit(conn, by_hand(stream), at=1)
            assert other.submit(by_hand(stream)) is not None  # would wait for ever
            conn.execute(text("SELECT 1"))

    with pytest.raises(DatabaseAway):
        stand_still()
    assert frozen.submit(by_hand(stream)) is not None
    assert other.progress() == (0, 2)
    frozen.close()
    other.close()


def test_a_killed_process_does_not_count(at_head: Database) -> None:
    """SIGKILL leaves no lock behind: nobody has to wait, or to delete anything."""
    context = multiprocessing.get_context("spawn")
    up = context.Event()
    process = context.Process(target=run_until_killed, args=(at_head.url, up))
    process.start()
    try:
        assert up.wait(60)
        with pytest.raises(RegistryError, match="stop tidemark first"):
            migrate.downgrade(at_head, "0001")
        assert process.pid
        os.kill(process.pid, signal.SIGKILL)
    finally:
        process.kill()
        process.join()
    until_gone(at_head)
    migrate.downgrade(at_head, "0001")
    assert migrate.current_and_head(at_head)[0] == "0001"


def until_gone(database: Database) -> None:
    """PostgreSQL notices a client's end when it reads its socket: a moment later."""
    engine = connect(database)
    if engine.dialect.name == "postgresql":
        others = text(
            "SELECT COUNT(*) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        for _ in range(6000):
            with engine.connect() as conn:
                if not conn.execute(others).scalar():
                    break
                conn.execute(text("SELECT pg_sleep(0.01)"))
    engine.dispose()


def test_no_process_starts_while_another_has_the_database_alone(at_head: Database) -> None:
    """It says so in one line, and may start as soon as that has ended."""
    engine, registry = connect(at_head), SqlRegistry(at_head)
    refused = pytest.raises(RegistryError, match=r"migrated, restored or copied: start later$")
    with engine.begin() as conn, alone(conn), refused:
        registry.run_as("stream@here:1")
    engine.dispose()
    registry.close()
    registry = SqlRegistry(at_head)
    registry.run_as("stream@here:1")
    registry.check_schema()
    registry.close()


def test_a_connection_that_comes_back_is_counted_again(postgresql_at_head: Database) -> None:
    """After the server threw everybody out, a process runs on, and still holds migrations up."""
    registry = SqlRegistry(postgresql_at_head)
    registry.run_as("stream@here:1")
    engine = connect(postgresql_at_head)
    with engine.begin() as conn:
        conn.execute(
            text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        )
    registry.streams()
    with pytest.raises(RegistryError, match="stream@here:1"):
        migrate.downgrade(postgresql_at_head, "0001")
    engine.dispose()
    registry.close()


def test_a_database_that_is_not_there_is_not_locked(tmp_path: Path) -> None:
    """A mistyped path stays one: nothing is made at it."""
    registry = SqlRegistry(Database(url=f"sqlite:///{tmp_path / 'typo.db'}"))
    registry.run_as("stream@here:1")
    with pytest.raises(RegistryError, match="run `tidemark migrate`"):
        registry.check_schema()
    registry.close()
    assert list(tmp_path.iterdir()) == []
