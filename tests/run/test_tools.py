"""The tools as a person types them: on real Kafka, and on both databases."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from subprocess import CompletedProcess
from uuid import uuid4

import pytest
from kafka import KafkaProducer

from pipeline.config import Database, Kafka
from pipeline.ingest.kafka_log import KafkaLog
from pipeline.ingest.kafka_sink import KafkaSink
from pipeline.records import DeadLetter
from pipeline.register.migrate import downgrade
from pipeline.register.sql import SqlRegistry
from pipeline.run.dead_letters import DeadLetters
from pipeline.telemetry import Metrics
from tests.brokers import RealKafka, create_stream_topics
from tests.register.filled import ROWS, fill
from tests.run import command

WHO = ("--actor", "ada", "--reason", "the gateway was mended")


@pytest.fixture
def tidemark(tmp_path: Path):
    """The command in an empty directory; its answer has to be the expected exit code."""

    def run(*arguments: str, code: int = 0, **environ: str) -> CompletedProcess[str]:
        done = command.tidemark(tmp_path, *arguments, **environ)
        assert done.returncode == code, done.stderr
        if code == 1:
            assert done.stderr.count("\n") == 1
        return done

    return run


@pytest.fixture
def topic(real_kafka: RealKafka) -> str:
    """A topic of two partitions: three bad records of the second, their letters, and a stranger."""
    name = f"tools-{uuid4().hex}"
    create_stream_topics(real_kafka.address, name, 2)
    kafka = Kafka(bootstrap_servers=real_kafka.address)
    producer = KafkaProducer(bootstrap_servers=real_kafka.address)
    values = [b"{", b"\x1b[2J", b"[]"]
    for value in values:
        producer.send(name, key=b"p", value=value, partition=1).get(60)
    producer.send(f"{name}.dead", value=b"?").get(60)
    producer.close()
    sink = KafkaSink(kafka)
    letters = [
        DeadLetter(
            topic=name, partition=1, offset=offset, kind=kind, reason="odd", key=b"p", value=value
        )
        for offset, (kind, value) in enumerate(zip(("x", "y", "x"), values, strict=True))
    ]
    DeadLetters(name, sink, Metrics("t")).send(letters)
    sink.close()
    return name


def test_dead_letters_on_real_kafka(
    tidemark, real_kafka: RealKafka, topic: str, sqlite_at_head: Database
) -> None:
    """Listed, shown, sent back once, put aside; each mistake is one line."""
    registry = SqlRegistry(sqlite_at_head)
    registry.open_stream(topic, ["a"])
    registry.close()
    env = {
        "TIDEMARK_KAFKA_BOOTSTRAP_SERVERS": real_kafka.address,
        "TIDEMARK_STREAM_TOPIC": topic,
    }

    def counts() -> dict[str, dict[str, int]]:
        found = json.loads(tidemark("dlq", "list", "--json", **env).stdout)
        return {
            kind: {state: n for state, n in by.items() if n} for kind, by in found["kinds"].items()
        }

    assert counts() == {"x": {"open": 2}, "y": {"open": 1}, "not_a_letter": {"open": 1}}
    assert "Dead letters by kind" in (table := tidemark("dlq", "list", **env).stdout)
    assert "\x1b" not in table
    (shown,) = json.loads(tidemark("dlq", "show", "1", "1", "--json", **env).stdout)
    assert base64.b64decode(shown["value_base64"]) == b"\x1b[2J"
    assert "no dead letter" in tidemark("dlq", "show", "1", "9", code=1, **env).stderr
    assert "say which" in tidemark("dlq", "replay", *WHO, code=2, **env).stderr
    for expected in (2, 0):
        done = tidemark("dlq", "replay", "--kind", "x", *WHO, "--json", **env)
        assert json.loads(done.stdout)["replayed"] == expected
    assert "dropped: 1 letters" in tidemark("dlq", "drop", "--kind", "y", *WHO, **env).stdout
    assert counts() == {"x": {"replayed": 2}, "y": {"dropped": 1}, "not_a_letter": {"open": 1}}

    log = KafkaLog(Kafka(bootstrap_servers=real_kafka.address), topic)
    records = [record for step in log.read() for record in step]
    log.close()
    assert [(r.partition, r.key, r.value) for r in records[3:]] == [
        (1, b"p", b"{"),
        (1, b"p", b"[]"),
    ]
    marks = [r.headers["tidemark-replay"].split(b"/")[:2] for r in records[3:]]
    assert marks == [[b"1", b"0"], [b"1", b"2"]]


def test_a_log_begins_where_it_is_told(real_kafka: RealKafka, topic: str) -> None:
    """At an offset, or at a time: all later than the last record is nothing."""
    log = KafkaLog(Kafka(bootstrap_servers=real_kafka.address), topic)
    assert log.ends() == {0: 0, 1: 3}
    offsets = [
        [r.offset for step in log.read(first) for r in step] for first in (None, {1: 2}, {0: 0})
    ]
    assert offsets == [[0, 1, 2], [2], []]
    last = max(r.time for step in log.read() for r in step)
    assert [r.time for step in log.read(since=last) for r in step][-1] == last
    assert list(log.read(since=last + 1_000)) == []
    log.close()


def test_backup_and_restore(tidemark, sqlite_at_head: Database, tmp_path: Path) -> None:
    """What backup tells of a file, restore tells of it too."""
    fill(sqlite_at_head)
    told = json.loads(tidemark("backup", "kept", "--json").stdout)
    assert told["entries"] == ROWS
    assert "kept is there already" in tidemark("backup", "kept", code=1).stderr
    assert "has content" in tidemark("restore", "kept", *WHO, code=1).stderr
    tidemark("restore", "kept", code=2)
    shown = tidemark("restore", "kept", "--force", *WHO).stdout
    assert shown.startswith("restored from kept: ")
    assert f"{ROWS + 1} entries in the ledger, the last " in shown
    assert "unable to open" in tidemark("backup", "nothing/kept", code=1).stderr
    (tmp_path / "tidemark.db").unlink()
    assert "no such database" in tidemark("backup", "other", code=1).stderr


def test_copy(tidemark, sqlite_at_head: Database, postgresql_database: Database) -> None:
    """From SQLite to PostgreSQL; a URL that cannot be read is named by its option."""
    fill(sqlite_at_head)
    assert "--to: " in tidemark("copy", "--to", "mysql://x", code=1).stderr
    told = json.loads(tidemark("copy", "--to", postgresql_database.url, "--json").stdout)
    assert {table["rows"] for table in told["tables"].values()} == {ROWS}
    assert "has content" in tidemark("copy", "--to", postgresql_database.url, code=1).stderr


def test_migrate_refuses_while_the_system_runs(tidemark, sqlite_at_head: Database) -> None:
    """One line that says what to do; without anything to migrate it is fine."""
    registry = SqlRegistry(sqlite_at_head)
    registry.run_as("stream@here:1")
    tidemark("migrate")
    registry.close()
    downgrade(sqlite_at_head, "0001")
    registry.run_as("stream@here:1")
    assert "stop tidemark first" in tidemark("migrate", code=1).stderr
    registry.close()
    tidemark("migrate")
