from __future__ import annotations

import socket
import threading
from contextlib import suppress
from typing import Any

import pytest
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer
from kafka.errors import KafkaError

from pipeline.config import Kafka
from pipeline.ingest.kafka_client import CODECS, check, client
from tests.ingest.kafka_topics import Topics


def found(kafka: Kafka, topic: str, *results: str) -> dict[str, tuple[bool, str]]:
    return {name: (ok, advice) for name, ok, advice in check(kafka, topic, results)}


def test_a_broker_that_is_there_is_fine_in_all(topics: Topics) -> None:
    """The address that answered, and the partitions: a topic of one would be a surprise too."""
    topic = topics.new()
    checks = found(topics.kafka("g"), topic)
    assert checks.keys() == {*(f"codec {codec}" for codec in CODECS), "crc32c", "broker", "topic"}
    assert all(ok for ok, _ in checks.values())
    assert checks["broker"][1] == f"{topics.address} answers"
    assert checks["topic"][1] == f"{topic} has 2 partitions"


def test_a_topic_that_is_not_there_is_named_and_not_made(topics: Topics) -> None:
    """Whoever asks what is missing must not change it: the second answer is the first."""
    for _ in range(2):
        checks = found(topics.kafka("g"), "misspelt")
        assert checks["broker"][0]
        ok, advice = checks["topic"]
        assert not ok
        assert "no topic misspelt" in advice


def test_the_topics_for_results_are_looked_for_as_well(topics: Topics) -> None:
    """Each by its name, and none is made: the stream would end at its first result."""
    topic, there = topics.new(), topics.new()
    for _ in range(2):
        checks = found(topics.kafka("g"), topic, there, f"{topic}.dead")
        assert checks[f"topic {there}"] == (True, f"{there} has 2 partitions")
        ok, advice = checks[f"topic {topic}.dead"]
        assert not ok
        assert advice.startswith(f"no topic {topic}.dead at {topics.address}: create it")


def test_a_broker_that_is_not_there_is_said_with_its_address(nobody: Kafka) -> None:
    """And nothing is said of its topics: nobody knows."""
    checks = found(nobody, "readings")
    ok, advice = checks["broker"]
    assert not ok
    assert nobody.bootstrap_servers in advice
    assert len(advice.splitlines()) == 1
    assert "topic" not in checks


def test_a_codec_without_its_module_says_what_to_install(
    nobody: Kafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rest is examined all the same."""
    monkeypatch.setitem(CODECS, "zstd", "no_such_module")
    checks = found(nobody, "readings")
    ok, advice = checks["codec zstd"]
    assert not ok
    assert "install no_such_module" in advice
    assert checks["codec gzip"][0]


@pytest.mark.parametrize("kind", [KafkaAdminClient, KafkaConsumer, KafkaProducer])
def test_a_client_that_cannot_be_made_leaves_nothing_behind(kind: Any) -> None:
    """At an address where somebody takes what is said and is silent: no thread, no socket."""
    before = set(threading.enumerate())
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(KafkaError):
            client(kind, Kafka(bootstrap_servers=address), bootstrap_timeout_ms=200)
        assert set(threading.enumerate()) == before
        silent.settimeout(0)
        with suppress(BlockingIOError):
            while True:
                came, _ = silent.accept()
                with came:
                    came.settimeout(5)
                    while came.recv(4096):
                        pass
