"""Brokers, databases and processes that go and come back: nothing lost, nothing counted twice."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kafka import KafkaProducer
from msgspec.structs import replace
from sqlalchemy import create_engine, select, text
from structlog.testing import capture_logs

from pipeline.config import Database, Detect, Kafka, Learn, Run, Score, Settings, Stream
from pipeline.errors import BrokerAway, DatabaseAway, StaleEpoch
from pipeline.ingest.embedded import EmbeddedBroker
from pipeline.ingest.kafka_sink import KafkaSink
from pipeline.ingest.kafka_source import KafkaSource
from pipeline.ingest.memory import MemorySink, MemorySource, Message
from pipeline.outage import Outage
from pipeline.register import tables as t
from pipeline.register.sql import SqlRegistry
from pipeline.run import stream as streams
from pipeline.run.stream import Streamer
from pipeline.run.trainer import Trainer
from tests.brokers import RealKafka, create_stream_topics, kafka_home
from tests.register.making import by_hand
from tests.run.test_line import processes, start, wait_for

ROWS, SHIFT = 500, 300


@pytest.fixture(scope="module")
def log() -> list[Message]:
    """One series whose level moves by 8 deviations."""
    values = np.random.default_rng(1).normal(size=(ROWS, 2)).round(3)
    values[SHIFT:] += 8.0
    return [
        (b"press", json.dumps({"time": 1_767_225_600 + row, "values": x}).encode())
        for row, x in enumerate(values.tolist())
    ]


def configured(database: Database, **kafka: Any) -> Settings:
    return Settings(
        kafka=Kafka(session_timeout_ms=6000, max_poll_records=50, **kafka),
        stream=Stream(topic="readings", channels=("flow", "heat")),
        database=database,
        score=Score(window=8, hidden=8),
        detect=Detect(warm_up=60, fit_after=100, settle_after=60),
        learn=Learn(adapt_after=64, refine_after=0, epochs=2, reservoir_capacity=50),
        run=Run(checkpoint_interval_s=0.2, poll_timeout_s=0.1, lease_s=5.0, log_format="json"),
    )


def state(registry: SqlRegistry) -> list[tuple[Any, ...]]:
    """What must come out the same whatever happened on the way."""
    columns = [c for c in t.boundaries.c if c.name not in ("id", "recorded")]
    with registry.engine.connect() as conn:
        kept = select(
            t.checkpoints.c.partition, t.checkpoints.c.next_offset, t.checkpoints.c.sha256
        )
        asked = select(t.requests.c.series, t.requests.c.segment, t.requests.c.inputs)
        return [
            tuple(row)
            for query in (kept, select(*columns), asked)
            for row in sorted(conn.execute(query).all(), key=str)
        ]


def undisturbed(settings: Settings, database: Database, logs: dict[int, list[Message]]) -> Any:
    registry = SqlRegistry(database)
    source = MemorySource(logs, topic=settings.stream.topic, max_poll_records=50)
    made = Streamer(settings, source, MemorySink(), registry, owner="undisturbed")
    source.subscribe(made)
    while made.poll_once() or sum(source.lag().values()):
        continue
    made.checkpoint()
    found = state(registry)
    registry.close()
    return found


def produce(address: str, messages: list[Message], partition: int = 0) -> None:
    producer = KafkaProducer(bootstrap_servers=address, acks="all")
    for key, value in messages:
        producer.send("readings", key=key, value=value, partition=partition)
    producer.close()


# The broker --------------------------------------------------------------------------------------


@pytest.fixture
def own_kafka(tmp_path: Path, forgotten_sockets: None) -> Iterator[RealKafka]:
    """A broker that a test may kill."""
    if kafka_home() is None:
        pytest.skip("no Kafka jars and Java")
    with RealKafka(tmp_path / "kafka") as broker:
        create_stream_topics(broker.address, "readings", 1)
        yield broker


@pytest.mark.timeout(240)
def test_a_broker_that_is_killed_and_comes_back_costs_no_reading(
    own_kafka: RealKafka,
    sqlite_at_head: Database,
    postgresql_at_head: Database,
    log: list[Message],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Killed with scores that are not acknowledged yet: they are, once it is back; one line each
    way; and the state is that of a run on memory in which nothing happened."""
    monkeypatch.setattr(streams, "LAG_INTERVAL_S", 0.3)
    settings = configured(sqlite_at_head, bootstrap_servers=own_kafka.address, group_id="outage")
    registry = SqlRegistry(settings.database)
    outage = Outage("broker", 120.0)
    source = KafkaSource(settings.kafka, "readings", outage)
    sink = KafkaSink(settings.kafka, outage)
    outage.pause = source.idle
    sink.require(settings.stream.result_topics)
    made = Streamer(settings, source, sink, registry, owner="s")
    source.subscribe(made)
    produce(own_kafka.address, log[:200])
    deadline = time.monotonic() + 60
    while registry.progress()[0] < 200 and time.monotonic() < deadline:
        made.poll_once()
    with capture_logs() as lines:
        own_kafka.kill()
        sink.send("readings.scores", key=b"press", value=b"in the producer's hands")
        again = threading.Timer(1.0, own_kafka.start)
        again.start()
        sink.flush()
        again.join()
        produce(own_kafka.address, log[200:])
        deadline = time.monotonic() + 90
        while registry.progress()[0] < ROWS and time.monotonic() < deadline:
            made.poll_once()
    made.checkpoint()
    source.close()
    sink.close()
    told = [line["event"] for line in lines if line["event"].startswith("broker_")]
    assert told == ["broker_away", "broker_back"]
    assert state(registry) == undisturbed(settings, postgresql_at_head, {0: log})
    registry.close()


def test_past_the_limit_a_broker_that_is_away_ends_the_process(
    sqlite_at_head: Database,
    log: list[Message],
    monkeypatch: pytest.MonkeyPatch,
    forgotten_sockets: None,
) -> None:
    """One line that names the address and the key, and the last checkpoint stays as it is."""
    monkeypatch.setattr(streams, "LAG_INTERVAL_S", 0.1)
    registry = SqlRegistry(sqlite_at_head)
    with EmbeddedBroker({"readings": 1, "readings.scores": 1}) as broker:
        settings = configured(
            sqlite_at_head, bootstrap_servers=broker.address, api_version="2.3", group_id="g"
        )
        source = KafkaSource(settings.kafka, "readings", Outage("broker", 0.5))
        made = Streamer(settings, source, MemorySink(), registry, owner="s")
        source.subscribe(made)
        made.poll_once()
    with pytest.raises(BrokerAway, match=r"127\.0\.0\.1:\d+ .*run\.outage_limit_s") as caught:
        made.run(lambda: False)
    assert len(str(caught.value).splitlines()) == 1
    source.close()
    registry.close()


def test_told_to_stop_a_stream_keeps_what_it_has_though_the_broker_is_away(
    sqlite_at_head: Database, log: list[Message], forgotten_sockets: None
) -> None:
    """Neither an empty poll nor the lag takes the last checkpoint away: all was published."""
    stop, registry = threading.Event(), SqlRegistry(sqlite_at_head)
    with EmbeddedBroker({"readings": 1}) as broker:
        kafka = Kafka(bootstrap_servers=broker.address, api_version="2.3", group_id="g")
        settings = configured(sqlite_at_head)
        source = KafkaSource(kafka, "readings", Outage("broker", 300.0, stop))
        made = Streamer(settings, source, MemorySink(), registry, owner="s")
        made._checkpoint_due = float("inf")
        source.subscribe(made)
        sink = KafkaSink(kafka)
        for key, value in log[:20]:
            sink.send("readings", key=key, value=value, partition=0)
        sink.close()
        deadline = time.monotonic() + 60
        while not any(o.next_offset == 20 for o in made.owned.values()):
            assert time.monotonic() < deadline
            made.poll_once()
    stop.set()
    made._lag_due = 0.0
    assert made.poll_once() == 0
    made.revoked([0])
    assert registry.progress()[0] == 20
    source.close()
    registry.close()


def test_a_broker_that_goes_while_a_process_starts_is_away_and_no_topic_is_missing(
    log: list[Message], monkeypatch: pytest.MonkeyPatch, forgotten_sockets: None
) -> None:
    """kafka-python's consumer would wait without end, past every limit and deaf to SIGTERM; its
    producer would say that there is no such topic."""
    monkeypatch.setattr("pipeline.ingest.kafka_client.ANSWER_MS", 300)
    monkeypatch.setattr("pipeline.ingest.kafka_sink.SEND_MS", 300)
    with EmbeddedBroker({"readings": 1}) as broker:
        kafka = Kafka(bootstrap_servers=broker.address, api_version="2.3", group_id="g")
        source = KafkaSource(kafka, "readings", Outage("broker", 0.5))
        sink = KafkaSink(kafka, Outage("broker", 0.5))
    with pytest.raises(BrokerAway, match=r"run\.outage_limit_s"):
        source.subscribe(Streamer.__new__(Streamer))
    with pytest.raises(BrokerAway, match=r"run\.outage_limit_s"):
        sink.require(["readings.scores"])
    source.close()
    sink.close()


# The database ------------------------------------------------------------------------------------


@pytest.mark.timeout(120)
def test_connections_that_a_server_ends_cost_no_reading(
    postgresql_at_head: Database, sqlite_at_head: Database, log: list[Message]
) -> None:
    """PostgreSQL throws everybody out at every third checkpoint, as in a failover."""
    settings = configured(postgresql_at_head)
    outage = Outage("database", 60.0)
    outage.pause = lambda _: None
    registry = SqlRegistry(settings.database, outage=outage)
    source = MemorySource({0: log}, topic="readings", max_poll_records=20)
    made = Streamer(
        replace(settings, run=replace(settings.run, checkpoint_interval_s=1e-6)),
        source, MemorySink(), registry, owner="s",
    )  # fmt: skip
    source.subscribe(made)
    admin = create_engine(postgresql_at_head.url, isolation_level="AUTOCOMMIT")
    everybody = text(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    thrown = 0
    while made.poll_once() or source.lag().get(0, 1):
        with admin.connect() as conn:
            thrown += len(conn.execute(everybody).all())
    made.checkpoint()
    assert thrown > 10
    assert state(registry) == undisturbed(settings, sqlite_at_head, {0: log})
    registry.close()
    admin.dispose()


# Processes that were away ------------------------------------------------------------------------


def test_a_streamer_whose_epoch_is_gone_rejoins_and_goes_on(
    sqlite_at_head: Database, postgresql_at_head: Database, log: list[Message]
) -> None:
    """Another owner came and went: the write is refused, and the log is replayed from his state."""
    settings = configured(sqlite_at_head)
    registry = SqlRegistry(settings.database)
    source = MemorySource({0: log}, topic="readings", max_poll_records=50)
    made = Streamer(settings, source, MemorySink(), registry, owner="s")
    polls = 0

    def stop() -> bool:
        nonlocal polls
        polls += 1
        if polls == 4:
            registry.acquire(made.stream.id, 0, "another")
            made._checkpoint_due = 0.0
        return polls > 4 and source.lag() == {0: 0}

    with capture_logs() as lines:
        made.run(stop)
    told = [line for line in lines if line["event"] == "rejoining"]
    assert len(told) == 1
    assert "another owner" in told[0]["reason"]
    assert state(registry) == undisturbed(settings, postgresql_at_head, {0: log})
    registry.close()


def test_a_revoke_that_can_write_nothing_leaves_the_checkpoint_before(
    sqlite_at_head: Database, log: list[Message], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next owner replays from there; the process goes on, with a line."""
    settings = configured(sqlite_at_head)
    registry = SqlRegistry(settings.database)
    source = MemorySource({0: log}, topic="readings", max_poll_records=50)
    made = Streamer(settings, source, MemorySink(), registry, owner="s")
    source.subscribe(made)
    made.poll_once()

    def refuse(*_: Any, **__: Any) -> None:
        raise StaleEpoch("partition 0 has another owner")

    monkeypatch.setattr(registry, "save", refuse)
    with capture_logs() as lines:
        made.revoked([0])
    assert [line["event"] for line in lines] == ["last_checkpoint_left_out", "partitions_released"]
    assert made.owned == {}
    registry.close()


@pytest.mark.timeout(300)
def test_a_process_that_was_stopped_writes_nothing_and_rejoins(
    real_kafka: RealKafka,
    sqlite_database: Database,
    postgresql_at_head: Database,
    tmp_path: Path,
    log: list[Message],
) -> None:
    """SIGSTOP for longer than the session timeout: the other has both partitions by then. After
    SIGCONT it says once that they are lost, joins again, and every byte is as if nothing was."""
    topic = "zombie"
    create_stream_topics(real_kafka.address, topic, 2)
    settings = configured(sqlite_database, bootstrap_servers=real_kafka.address, group_id=topic)
    settings = replace(settings, stream=replace(settings.stream, topic=topic))
    config, registry = start(settings, tmp_path)

    def owners() -> set[str]:
        with registry.engine.connect() as conn:
            found = set(conn.execute(select(t.checkpoints.c.owner)).scalars())
        return found - {""}  # nobody has had it yet

    def send(low: int, high: int) -> None:
        producer = KafkaProducer(bootstrap_servers=real_kafka.address, acks="all")
        for key, value in log[low:high]:
            for partition in (0, 1):
                producer.send(topic, key=key, value=value, partition=partition)
        producer.close()

    with processes(config, ["stream", "stream"]) as (zombie, other):
        wait_for(lambda: len(owners()) == 2, "both owning a partition")
        send(0, 200)
        wait_for(lambda: registry.progress()[0] == 400, "the first part")
        os.kill(zombie.pid, signal.SIGSTOP)
        send(200, 400)
        wait_for(lambda: registry.progress()[0] == 800, "one process owning all")
        mine = owners()
        assert len(mine) == 1
        os.kill(zombie.pid, signal.SIGCONT)
        wait_for(lambda: len(owners()) == 2, "the zombie rejoining")
        send(400, ROWS)
        wait_for(lambda: registry.progress()[0] == 2 * ROWS, "the end of the log")
        assert zombie.poll() is None
        assert other.poll() is None
    lines = [json.loads(line) for line in config.with_suffix(".log").read_text().splitlines()]
    said = [x["event"] for x in lines if x["event"] in ("partitions_lost", "rejoining")]
    assert len(said) == 1
    assert state(registry) == undisturbed(settings, postgresql_at_head, {0: log, 1: log})
    registry.close()


def test_an_outage_past_the_limit_is_not_the_request_s_fault(
    sqlite_at_head: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trainer ends; its claim stays, without a word of failure, until the lease is over."""
    registry = SqlRegistry(sqlite_at_head)
    registry.submit(by_hand(registry.open_stream("readings", ["flow", "heat"])))

    def away(*_: Any, **__: Any) -> None:
        raise DatabaseAway("database x: gone")

    monkeypatch.setattr("pipeline.run.work.name", away)
    with pytest.raises(DatabaseAway):
        Trainer(configured(sqlite_at_head), registry, owner="t").work_once()
    with registry.engine.connect() as conn:
        (row,) = conn.execute(select(t.requests.c.status, t.requests.c.outcome)).all()
    assert tuple(row) == ("claimed", None)
    registry.close()
