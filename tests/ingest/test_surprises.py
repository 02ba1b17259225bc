"""What real Kafka may do to a log between two polls: every answer is told, and none is silent."""

from __future__ import annotations

import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from kafka import KafkaAdminClient, KafkaProducer, TopicPartition
from kafka.admin import NewTopic
from structlog.testing import capture_logs

from pipeline.errors import MadeAnew, SourceError
from pipeline.ingest import kafka_source
from pipeline.ingest.kafka_client import CODECS, connection
from pipeline.ingest.kafka_source import KafkaSource
from tests.brokers import create_topic
from tests.ingest.kafka_topics import PATIENCE_S, Topics
from tests.ingest.owners import KeepingOwner
from tests.ingest.test_sources import Opened

TEN = {0: [(b"k", b"%d" % i) for i in range(10)]}


@contextmanager
def admin(topics: Topics) -> Iterator[KafkaAdminClient]:
    client = KafkaAdminClient(bootstrap_servers=topics.address)
    try:
        yield client
    finally:
        client.close()


def retained(topics: Topics, first: int) -> str:
    """A topic of ten records whose retention has taken those before `first`."""
    topic = topics.filled(TEN)
    with admin(topics) as client:
        client.delete_records({TopicPartition(topic, 0): first})
    return topic


@contextmanager
def following(
    topics: Topics, topic: str, where: dict[int, int] | None = None, **kafka: object
) -> Iterator[Opened]:
    source = KafkaSource(topics.kafka(topic, **kafka), topic)
    try:
        opened = Opened(source, KeepingOwner(where))
        source.subscribe(opened.owner)
        yield opened
    finally:
        source.close()


# Out of retention -------------------------------------------------------------------------------


def test_records_that_are_out_of_retention_end_the_process(real_topics: Topics) -> None:
    """By default a person decides: 3 comes next, the log begins at 6, and 3, 4 and 5 are lost."""
    topic = retained(real_topics, 6)
    with following(real_topics, topic, {0: 3}) as opened:
        with pytest.raises(SourceError, match="begins at offset 6, and 3 comes next") as caught:
            opened.poll_until(lambda: False)
        assert "up to 3 records are out of retention" in str(caught.value)
        assert "kafka.out_of_range" in str(caught.value)
        assert len(str(caught.value).splitlines()) == 1
        assert opened.records() == []
        with pytest.raises(SourceError, match="begins at offset 6"):  # nor does it go on later
            opened.poll_until(lambda: False)


@pytest.mark.parametrize(("policy", "goes_on"), [("earliest", 6), ("latest", 10)])
def test_a_gap_is_told_before_anything_behind_it_comes(
    real_topics: Topics, policy: str, goes_on: int
) -> None:
    """With what is left, or with what is new; the owner has kept the gap by then."""
    topic = retained(real_topics, 6)
    with following(real_topics, topic, {0: 3}, out_of_range=policy) as opened:
        opened.poll_until(lambda: ("skipped", [0, 3, goes_on]) in opened.owner.told)
        assert opened.records() == []
        real_topics.fill(topic, {0: [(b"k", b"10")]})
        opened.drain(11 - goes_on)
        assert [offset for offset, _, _ in opened.log()[0]] == list(range(goes_on, 11))


def test_an_owner_that_cannot_keep_a_gap_is_asked_again(real_topics: Topics) -> None:
    """Whatever he raised, nothing behind the gap comes before it is kept."""
    topic = retained(real_topics, 6)
    with following(real_topics, topic, {0: 3}, out_of_range="earliest") as opened:
        skipped, opened.owner.skipped = opened.owner.skipped, refusing  # type: ignore[method-assign]
        with pytest.raises(RuntimeError, match="another owner"):
            opened.poll_until(lambda: False)
        assert opened.records() == []
        opened.owner.skipped = skipped  # type: ignore[method-assign]
        opened.drain(4)
        assert ("skipped", [0, 3, 6]) in opened.owner.told


def refusing(*_: object) -> None:
    raise RuntimeError("another owner")


def test_an_offset_behind_the_log_s_end_is_another_log(real_topics: Topics) -> None:
    """Whatever the policy: going on would mix two logs, or read the same records again."""
    topic = real_topics.filled(TEN)
    with following(real_topics, topic, {0: 50}, out_of_range="earliest") as opened:
        with pytest.raises(MadeAnew, match="ends at offset 10, before the checkpoint's 50"):
            opened.poll_until(lambda: False)
        assert opened.records() == []


# The topic --------------------------------------------------------------------------------------


def test_a_topic_that_is_made_anew_while_it_is_followed_is_noticed(
    real_topics: Topics, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its id: the new one is longer by then, and its offsets look as if nothing had happened."""
    monkeypatch.setattr(kafka_source, "METADATA_MS", 100)
    topic = real_topics.filled(TEN)
    with following(real_topics, topic) as opened:
        opened.drain(10)
        before = opened.source.topic_id()
        assert before is not None
        with admin(real_topics) as client:
            client.delete_topics([topic])
            until_made(client, topic)
        real_topics.fill(topic, {0: TEN[0] * 2})
        with pytest.raises(MadeAnew, match=f"and was {before}") as caught:
            opened.poll_until(lambda: False)
        assert len(str(caught.value).splitlines()) == 1


def until_made(client: KafkaAdminClient, topic: str) -> None:
    """The broker deletes a topic in its own time."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        try:
            client.create_topics([NewTopic(topic, 2, 1)])
        except Exception:
            time.sleep(0.1)
        else:
            return
    raise AssertionError(f"{topic} cannot be made anew")


@pytest.mark.parametrize(("reset", "start"), [("earliest", 6), ("latest", 10)])
def test_a_new_stream_starts_at_what_the_log_has(
    real_topics: Topics, reset: str, start: int
) -> None:
    """Its offsets are known before the group is joined, for every partition alike."""
    topic = retained(real_topics, 6)
    source = KafkaSource(real_topics.kafka(topic, auto_offset_reset=reset), topic)
    assert source.starts() == {0: start, 1: 0}
    source.close()


# What a log is made of --------------------------------------------------------------------------


@pytest.mark.parametrize("codec", CODECS)
def test_batches_of_every_codec_come(real_topics: Topics, codec: str) -> None:
    """As they were sent, in one batch of two records that is worth compressing."""
    topic = real_topics.new()
    options = connection(real_topics.kafka(topic))
    producer = KafkaProducer(**options, acks="all", compression_type=codec, linger_ms=100)
    sent = [b"%d" % i * 500 for i in range(2)]
    for value in sent:
        producer.send(topic, key=b"k", value=value, partition=0)
    producer.close()
    with following(real_topics, topic) as opened:
        opened.drain(2)
        assert [value for _, _, value in opened.log()[0]] == sent


def test_a_codec_that_cannot_be_read_is_said_at_the_start_and_where_it_comes(
    real_topics: Topics, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line names what to install; a batch of that codec ends the process, and is not passed by.

    As kafka-python sees it where the module is not installed.
    """
    topic = real_topics.new()
    producer = KafkaProducer(
        **connection(real_topics.kafka(topic)), compression_type="zstd", linger_ms=50
    )
    producer.send(topic, key=b"k", value=b"x" * 1000, partition=0)
    producer.close()
    monkeypatch.setitem(CODECS, "zstd", "no_such_module")
    monkeypatch.setattr("kafka.codec.zstd", None)
    with capture_logs() as logs, following(real_topics, topic) as opened:
        with pytest.raises(SourceError, match="zstd") as caught:
            opened.poll_until(lambda: False)
        assert len(str(caught.value).splitlines()) == 1
        assert opened.records() == []
    said = {"event": "codec_missing", "codec": "zstd", "install": "no_such_module"}
    assert [line for line in logs if line["log_level"] == "warning"] == [
        said | {"log_level": "warning"}
    ]


def test_a_compacted_log_comes_with_its_holes(real_topics: Topics) -> None:
    """Two keys written five times each: only the newest of each is kept, at its own offset.

    A last record stays in the open segment, which Kafka never compacts.
    """
    topic = f"{real_topics.new()}-compacted"
    quick = {"cleanup.policy": "compact", "segment.ms": "100", "min.cleanable.dirty.ratio": "0.01"}
    create_topic(real_topics.address, topic, 1, quick)
    keys = [b"a", b"b"] * 5
    real_topics.fill(topic, {0: [(key, b"%d" % i) for i, key in enumerate(keys)]})
    deadline = time.monotonic() + PATIENCE_S
    while True:
        time.sleep(0.2)
        real_topics.fill(topic, {0: [(b"last", b"last")]})
        found = offsets(real_topics, topic)
        if not set(found) & set(range(8)):
            break
        assert time.monotonic() < deadline, found
    assert {8, 9} <= set(found)
    with following(real_topics, topic, {0: 2}) as opened:  # a hole is no gap
        opened.poll_until(lambda: len(opened.log().get(0, ())) >= 3)
        assert [offset for offset, _, _ in opened.log()[0]][:2] == [8, 9]
        assert not any(what == "skipped" for what, _ in opened.owner.told)


def offsets(topics: Topics, topic: str) -> list[int]:
    with topics.client(topic) as (consumer, partitions):
        consumer.assign(partitions)
        consumer.seek_to_beginning(*partitions)
        (end,) = consumer.end_offsets(partitions).values()
        found: list[int] = []
        while not found or found[-1] < end - 1:
            for records in consumer.poll(timeout_ms=200).values():
                found += [record.offset for record in records]
    return found


def test_one_poll_holds_no_more_than_a_fetch(real_topics: Topics) -> None:
    """Forty records of 10 kB, fetched 50 kB at a time: at most two fetches wait for a poll.

    A producer that is quicker than its consumer fills Kafka's disk, and not our memory.
    """
    topic = real_topics.new()
    noise = [zlib.compress(b"%d" % i).ljust(10_000, b"x") for i in range(40)]
    producer = KafkaProducer(**connection(real_topics.kafka(topic)), acks="all")
    for value in noise:  # a batch each: Kafka cuts between batches only
        producer.send(topic, key=b"k", value=value, partition=0).get(timeout=PATIENCE_S)
    producer.close()
    limits = {"fetch_max_bytes": 50_000, "max_partition_fetch_bytes": 50_000}
    with following(real_topics, topic, **limits) as opened:
        opened.poll_until(lambda: len(opened.log().get(0, ())) == 40)
        sizes = [sum(map(len, records.values)) for poll in opened.polls for records in poll]
        assert max(sizes) <= 2 * 50_000
        assert len(sizes) >= 4
