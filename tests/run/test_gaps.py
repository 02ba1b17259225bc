"""Records that Kafka has no longer when they are to be read: told, kept, and gone on behind."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from io import StringIO
from pathlib import Path
from typing import Any

import msgspec
import pytest
from kafka import KafkaAdminClient, KafkaProducer
from sqlalchemy import select
from structlog.testing import capture_logs

from pipeline.config import Database, Detect, Kafka, Run, Score, Settings, Stream
from pipeline.errors import MadeAnew, StaleEpoch
from pipeline.ingest.kafka_source import KafkaSource
from pipeline.ingest.memory import MemorySink, MemorySource, Message
from pipeline.records import Gap, Records
from pipeline.register import tables as t
from pipeline.register.sql import SqlRegistry
from pipeline.run.report import print_events
from pipeline.run.stream import Streamer
from pipeline.serve.lineage import Lineage
from tests.brokers import RealKafka, create_topic
from tests.ingest.kafka_topics import PATIENCE_S

GAP = Gap(first_offset=40, end_offset=70, went_on="earliest")


def message(row: int) -> Message:
    return b"press", json.dumps({"time": 1_767_225_600 + row, "values": [row % 7, 1.5]}).encode()


LOG = [message(row) for row in range(100)]


def configured(database: Database, **kafka: object) -> Settings:
    return Settings(
        kafka=Kafka(**kafka),  # type: ignore[arg-type]
        stream=Stream(topic="readings"),
        database=database,
        score=Score(window=8, hidden=8),
        detect=Detect(warm_up=60, fit_after=80),
        run=Run(checkpoint_interval_s=1000.0, poll_timeout_s=0.1),
    )


@pytest.fixture
def registry(at_head: Database) -> Iterator[SqlRegistry]:
    made = SqlRegistry(at_head)
    yield made
    made.close()


@pytest.fixture
def elsewhere(sqlite_template: Path, tmp_path: Path) -> Iterator[SqlRegistry]:
    """A second database, for the run that nothing happens to."""
    shutil.copy(sqlite_template, tmp_path / "elsewhere.db")
    made = SqlRegistry(Database(url=f"sqlite:///{tmp_path / 'elsewhere.db'}"))
    yield made
    made.close()


def owner(registry: SqlRegistry, sink: MemorySink) -> Streamer:
    """A streamer that owns the partition."""
    source = MemorySource({0: LOG}, topic="readings")
    made = Streamer(configured(registry.database), source, sink, registry, owner="test")
    made.assigned([0])
    return made


def take(made: Streamer, low: int, high: int) -> None:
    """Have it poll these records of the log."""
    records = Records(
        topic="readings",
        partition=0,
        offsets=range(low, high),
        keys=[key for key, _ in LOG[low:high]],
        values=[value for _, value in LOG[low:high]],
        next_offset=high,
    )
    made.source.poll = lambda timeout_s: [records]  # type: ignore[method-assign]
    made.poll_once()


def state(registry: SqlRegistry) -> tuple[int | None, set[Any]]:
    with registry.engine.connect() as conn:
        pieces = conn.execute(select(*[c for c in t.checkpoint_pieces.c if c.name != "stream_id"]))
        return conn.execute(select(t.checkpoints.c.next_offset)).scalar(), set(pieces.all())


def test_a_gap_is_told_kept_and_gone_on_behind(
    registry: SqlRegistry, elsewhere: SqlRegistry
) -> None:
    """Once in SQL and in the ledger, at once; and the state is that of a log in which the lost
    readings had never been, over a restart too."""
    sink = MemorySink()
    made = owner(registry, sink)
    take(made, 0, 40)
    with capture_logs() as logs:
        made.skipped(0, GAP)
    assert [line["event"] for line in logs if line["log_level"] == "error"] == ["records_lost"]
    assert state(registry)[0] == 70
    again = owner(registry, sink)
    take(again, 70, 100)
    again.checkpoint()

    undisturbed = owner(elsewhere, MemorySink())
    take(undisturbed, 0, 40)
    take(undisturbed, 70, 100)
    undisturbed.checkpoint()
    assert state(registry) == state(elsewhere)

    facts = {"partition": 0, "first_offset": 40, "end_offset": 70, "went_on": "earliest"}
    (told,) = [msgspec.json.decode(v) for to, _, v, _ in sink.sent if to == "readings.events"]
    assert told == {"event": "records_lost", "topic": "readings", **facts}
    lineage = Lineage(registry.database)
    (kept,) = lineage.events("readings")
    lineage.close()
    assert kept == {"event": "records_lost", **facts, "at": kept["at"]}
    with registry.engine.connect() as conn:
        entry = conn.execute(select(t.ledger.c.entry).where(t.ledger.c.kind == "records_lost"))
        assert json.loads(entry.scalar_one()) == {"stream_id": made.stream.id, **facts}


def test_a_gap_begins_at_what_the_owner_has_not_read(registry: SqlRegistry) -> None:
    """Kafka's own position may be further: behind holes and control records at the end."""
    made = owner(registry, MemorySink())
    take(made, 0, 38)
    made.skipped(0, GAP)
    made.skipped(1, GAP)  # of a partition that is gone: nobody's
    with registry.engine.connect() as conn:
        found = conn.execute(select(t.gaps.c.partition, t.gaps.c.first_offset, t.gaps.c.end_offset))
        assert found.all() == [(0, 38, 70)]


def test_who_has_lost_the_partition_keeps_no_gap(registry: SqlRegistry) -> None:
    """Its epoch is gone: the new owner finds the gap, and says so, itself."""
    made = owner(registry, MemorySink())
    owner(registry, MemorySink())
    with pytest.raises(StaleEpoch):
        made.skipped(0, GAP)
    with registry.engine.connect() as conn:
        assert conn.execute(select(t.gaps)).all() == []


def test_a_gap_is_shown_among_the_events() -> None:
    """As the range that nobody has read."""
    event = {"event": "records_lost", "at": "2026", "partition": 3, "went_on": "earliest"}
    with redirect_stdout(StringIO()) as out:
        print_events([event | {"first_offset": 40, "end_offset": 70}])
    assert "40 to 69" in out.getvalue()
    assert "records_lost" in out.getvalue()


# On real Kafka ----------------------------------------------------------------------------------


@contextmanager
def following(kafka: RealKafka, registry: SqlRegistry, **settings: Any) -> Iterator[Streamer]:
    """A streamer on real Kafka, of which nothing but what it checkpoints stays."""
    chosen = configured(
        registry.database, bootstrap_servers=kafka.address, session_timeout_ms=6000, **settings
    )
    source = KafkaSource(chosen.kafka, "readings")
    try:
        yield Streamer(chosen, source, MemorySink(), registry, owner="test")
    finally:
        source.close()


def polls(made: Streamer, done: Callable[[], bool]) -> None:
    """Run it until `done`, and leave it as a kill would."""
    deadline = time.monotonic() + PATIENCE_S

    def stop() -> bool:
        assert time.monotonic() < deadline
        if done():
            raise Killed
        return False

    with suppress(Killed):
        made.run(stop)


class Killed(Exception):
    pass


def fill(kafka: RealKafka, low: int, high: int) -> None:
    producer = KafkaProducer(bootstrap_servers=kafka.address, acks="all")
    for key, value in LOG[low:high]:
        producer.send("readings", key=key, value=value, partition=0)
    producer.close()


def test_latest_skips_nothing_before_the_first_checkpoint(
    real_kafka: RealKafka, registry: SqlRegistry
) -> None:
    """Thirty records are there when the stream is first followed, and are left alone. Its process
    dies before a checkpoint, ten more come, and the next process reads those ten."""
    create_topic(real_kafka.address, "readings", 1)
    try:
        fill(real_kafka, 0, 30)
        with following(real_kafka, registry, auto_offset_reset="latest") as first:
            polls(first, lambda: 0 in first.owned)
        fill(real_kafka, 30, 40)
        with following(real_kafka, registry, auto_offset_reset="latest") as second:
            polls(second, lambda: second.metrics.readings._value.get() >= 10)
            assert second.owned[0].next_offset == 40
            assert second.metrics.readings._value.get() == 10
    finally:
        drop(real_kafka)


def test_a_topic_made_anew_between_two_runs_is_refused(
    real_kafka: RealKafka, registry: SqlRegistry
) -> None:
    """The new one is longer than the checkpoint: only its id tells."""
    for _ in range(2):
        create_topic(real_kafka.address, "readings", 1)
        try:
            fill(real_kafka, 0, 30)
            with following(real_kafka, registry) as made:
                if registry.progress()[0] == 0:
                    polls(made, lambda made=made: made.metrics.readings._value.get() >= 30)
                    made.checkpoint()
                else:
                    with pytest.raises(MadeAnew, match="its id is"):
                        polls(made, lambda: False)
                    assert made.owned == {}
        finally:
            drop(real_kafka)


def drop(kafka: RealKafka) -> None:
    client = KafkaAdminClient(bootstrap_servers=kafka.address)
    client.delete_topics(["readings"])
    while "readings" in client.list_topics():
        time.sleep(0.05)
    client.close()
