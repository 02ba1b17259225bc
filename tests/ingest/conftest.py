from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import pytest

from pipeline.config import Kafka
from pipeline.ingest.embedded import EmbeddedBroker
from tests.brokers import RealKafka, create_topic, free_ports
from tests.ingest.kafka_topics import Topics

#: Topics that the embedded broker is born with: it makes none later with two partitions.
BORN = 60


@pytest.fixture(scope="session")
def embedded_topics() -> Iterator[Topics]:
    """New topics of two partitions on one embedded broker for the whole folder."""
    with EmbeddedBroker({f"t{i}": 2 for i in range(BORN)}) as broker:
        names = iter([f"t{i}" for i in range(BORN)])
        yield Topics(broker.address, "2.3", lambda: next(names))


@pytest.fixture(scope="session")
def real_topics(real_kafka: RealKafka) -> Topics:
    """New topics of two partitions on real Kafka."""
    numbers = count()

    def new() -> str:
        name = f"ingest{next(numbers)}"
        create_topic(real_kafka.address, name, 2)
        return name

    return Topics(real_kafka.address, "", new)


@pytest.fixture(params=["embedded", "real"])
def topics(request: pytest.FixtureRequest) -> Topics:
    """New topics on either broker."""
    found: Topics = request.getfixturevalue(f"{request.param}_topics")
    return found


@pytest.fixture
def away(monkeypatch: pytest.MonkeyPatch, forgotten_sockets: None) -> None:
    """Half a second of patience with a broker that does not answer."""
    for module in ("client", "sink", "source"):
        monkeypatch.setattr(f"pipeline.ingest.kafka_{module}.ANSWER_MS", 500)


@pytest.fixture
def nobody(away: None) -> Kafka:
    """Settings for a port where nothing listens."""
    return Kafka(bootstrap_servers=f"127.0.0.1:{free_ports(1)[0]}")
