"""The whole line on real Kafka: processes of production, one of them killed in mid-stream."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from sqlalchemy import select

from pipeline.config import Database, Detect, Kafka, Learn, Run, Settings, Stream, as_toml
from pipeline.register import tables as t
from pipeline.register.migrate import upgrade
from pipeline.register.sql import SqlRegistry
from tests.brokers import RealKafka, create_stream_topics

PARTITIONS, SERIES, CHANNELS = 4, 12, 3
#: Readings in each of a series' segments, and the level of each.
SEGMENTS = ((700, 0.0), (400, 6.0), (400, 0.0), (400, 6.0))
ROWS = sum(n for n, _ in SEGMENTS)
TIMEOUT_S = 120


def messages() -> Iterator[tuple[bytes, int, bytes]]:
    """(key, partition, value): series in turn, with bad records and missing cells among them."""
    rng = np.random.default_rng(5)
    level = np.concatenate([np.full(n, x) for n, x in SEGMENTS])
    values = rng.normal(size=(SERIES, ROWS, CHANNELS)) + level[:, None]
    for row in range(ROWS):
        for series in range(SERIES):
            key, partition = f"machine-{series}".encode(), series % PARTITIONS
            cells: list[float | None] = values[series, row].round(3).tolist()
            if (row + series) % 97 == 0:
                cells[1] = None
            yield (
                key,
                partition,
                json.dumps({"time": 1_767_225_600 + row, "values": cells}).encode(),
            )
            if row % 500 == 250:
                yield key, partition, b"not json"


def settings(broker: RealKafka, directory: Path, group: str, topic: str) -> Settings:
    return Settings(
        kafka=Kafka(
            bootstrap_servers=broker.address,
            group_id=group,
            session_timeout_ms=6000,
            max_poll_records=700,
        ),
        stream=Stream(topic=topic, channels=tuple(f"c{i}" for i in range(CHANNELS))),
        database=Database(url=f"sqlite:///{directory / group}.db"),
        detect=Detect(settle_after=60),
        learn=Learn(adapt_after=128, refine_after=0, epochs=2, reservoir_capacity=300),
        run=Run(checkpoint_interval_s=0.4, poll_timeout_s=0.1, lease_s=5.0, log_format="json"),
    )


@contextmanager
def processes(config: Path, roles: list[str]) -> Iterator[list[subprocess.Popen[bytes]]]:
    started = []
    with config.with_suffix(".log").open("ab") as log:
        try:
            for role in roles:
                command = [sys.executable, "-m", "pipeline", "--config", str(config), role]
                started.append(subprocess.Popen(command, stderr=log, stdin=subprocess.DEVNULL))
            yield started
        finally:
            for process in started:
                process.send_signal(signal.SIGTERM)
            for process in started:
                process.wait(30)


def start(configured: Settings, directory: Path) -> tuple[Path, SqlRegistry]:
    config = directory / f"{configured.kafka.group_id}.toml"
    config.write_text(as_toml(configured))
    upgrade(configured.database)
    return config, SqlRegistry(configured.database)


def wait_for(condition, what: str) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen"
        time.sleep(0.1)


def outcome(registry: SqlRegistry) -> dict:
    """What must not depend on crashes, by partition; wall times and owners left out."""
    with registry.engine.connect() as conn:
        boundaries = conn.execute(
            select(*[c for c in t.boundaries.c if c.name not in ("id", "recorded")]).order_by(
                t.boundaries.c.partition, t.boundaries.c.detected_offset, t.boundaries.c.series
            )
        ).all()
        requests = conn.execute(
            select(
                *[t.requests.c[n] for n in ("partition", "series", "segment", "reason", "inputs")]
            ).order_by(t.requests.c.partition, t.requests.c.series, t.requests.c.segment)
        ).all()
        heads = conn.execute(
            select(
                t.checkpoints.c.partition, t.checkpoints.c.next_offset, t.checkpoints.c.state
            ).order_by(t.checkpoints.c.partition)
        ).all()
        pieces = {
            (piece.partition, piece.kind, piece.slot, piece.number): piece.content
            for piece in conn.execute(select(t.checkpoint_pieces))
        }
    return {"boundaries": boundaries, "requests": requests, "heads": heads, "pieces": pieces}


def finished(registry: SqlRegistry, total: int, requests: int | None = None) -> bool:
    done, left = registry.progress()
    return done == total and not (left if requests is None else 0)


@pytest.mark.timeout(400)
def test_a_killed_process_loses_nothing_and_counts_nothing_twice(
    real_kafka: RealKafka, tmp_path: Path
) -> None:
    """Two stream processes on four partitions, one killed: the end equals an undisturbed run's.

    Boundaries, requests with their inputs' hashes, next offsets and every byte of the partitions'
    state (detectors, references, staged readings, reservoir) are compared.
    """
    topic = "line"
    create_stream_topics(real_kafka.address, topic, PARTITIONS)
    total = sum(1 for _ in messages())

    disturbed = settings(real_kafka, tmp_path, "disturbed", topic)
    config, registry = start(disturbed, tmp_path)
    with processes(config, ["stream", "stream", "train"]) as (first, second, _):
        wait_for(lambda: owners(registry) == 2, "both processes owning partitions")
        producing = threading.Thread(target=produce, args=(real_kafka.address, topic))
        producing.start()
        wait_for(lambda: registry.progress()[0] > total // 3, "a third of the log")
        os.kill(second.pid, signal.SIGKILL)
        producing.join()
        wait_for(lambda: finished(registry, total), "the end of the log")
        assert first.poll() is None
    disturbed_outcome = outcome(registry)
    check_requests_done_once(registry)
    check_scored(registry)
    registry.close()

    undisturbed = settings(real_kafka, tmp_path, "undisturbed", topic)
    config, registry = start(undisturbed, tmp_path)
    with processes(config, ["stream"]):
        wait_for(lambda: registry.progress()[0] == total, "the undisturbed run")
    undisturbed_outcome = outcome(registry)
    registry.close()

    assert len(undisturbed_outcome["boundaries"]) >= SERIES * (len(SEGMENTS) - 1)
    assert disturbed_outcome["boundaries"] == undisturbed_outcome["boundaries"]
    assert disturbed_outcome["requests"] == undisturbed_outcome["requests"]
    assert disturbed_outcome["heads"] == undisturbed_outcome["heads"]
    ours, theirs = disturbed_outcome["pieces"], undisturbed_outcome["pieces"]
    assert {key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key)} == set()
    assert len({(partition, slot) for partition, _, slot, _ in ours if slot >= 0}) == SERIES
    check_dead_letters(real_kafka.address, topic, total - SERIES * ROWS)


def produce(address: str, topic: str) -> None:
    producer = KafkaProducer(bootstrap_servers=address, acks="all", linger_ms=5)
    for number, (key, partition, value) in enumerate(messages()):
        producer.send(topic, key=key, value=value, partition=partition)
        if number % 1000 == 999:  # slow enough for a kill in the middle
            producer.flush()
            time.sleep(0.25)
    producer.close()


def owners(registry: SqlRegistry) -> int:
    with registry.engine.connect() as conn:
        rows = conn.execute(select(t.checkpoints.c.owner)).scalars().all()
    return len(set(rows)) if len(rows) == PARTITIONS and all(rows) else 0


def check_requests_done_once(registry: SqlRegistry) -> None:
    """Each is done; each version has one request; nothing was given up."""
    with registry.engine.connect() as conn:
        states = set(conn.execute(select(t.requests.c.status)).scalars())
        made = conn.execute(select(t.versions.c.request_id)).scalars().all()
    assert states == {"done"}
    assert made
    assert len(made) == len(set(made))


def check_scored(registry: SqlRegistry) -> None:
    """From the first scored offset of a partition to its end: no hole, no overlap."""
    with registry.engine.connect() as conn:
        rows = conn.execute(
            select(t.scored).order_by(t.scored.c.partition, t.scored.c.first_offset)
        ).all()
        ends = dict(
            conn.execute(select(t.checkpoints.c.partition, t.checkpoints.c.next_offset)).all()
        )
    for partition in range(PARTITIONS):
        mine = [r for r in rows if r.partition == partition]
        assert mine[-1].end_offset == ends[partition]
        for before, after in pairwise(mine):
            assert before.end_offset == after.first_offset


def check_dead_letters(address: str, topic: str, expected: int) -> None:
    """Every bad record is in the dead-letter topic, perhaps twice, with where it came from."""
    partition = TopicPartition(f"{topic}.dead", 0)
    consumer = KafkaConsumer(bootstrap_servers=address, enable_auto_commit=False)
    consumer.assign([partition])
    consumer.seek_to_beginning()
    end, found = consumer.end_offsets([partition])[partition], set()
    while consumer.position(partition) < end:
        for record in consumer.poll(500).get(partition, []):
            headers = dict(record.headers)
            assert record.value == b"not json"
            found.add((headers["partition"], headers["offset"]))
    consumer.close()
    assert len(found) == expected
