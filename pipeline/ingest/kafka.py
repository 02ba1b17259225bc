"""Source and Sink over kafka-python; offsets are committed only when told."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.consumer.subscription_state import ConsumerRebalanceListener
from kafka.errors import KafkaError
from kafka.structs import OffsetAndMetadata

from pipeline.config import Kafka
from pipeline.errors import SourceError
from pipeline.ports import Owner
from pipeline.records import Records

#: How long a broker may take to answer at all before we say so, in milliseconds.
ANSWER_MS = 5000
#: Codec -> module that kafka-python needs for it.
CODECS = {"gzip": "zlib", "snappy": "snappy", "lz4": "lz4", "zstd": "zstandard"}

logging.getLogger("kafka").setLevel(logging.CRITICAL)  # its failures reach us as exceptions


class KafkaSource:
    """A member of a consumer group on one topic.

    Parameters
    ----------
    kafka
        Broker, group and fetch settings.
    topic
        What to follow; it is never created from here.
    """

    def __init__(self, kafka: Kafka, topic: str) -> None:
        self.kafka = kafka
        self.topic = topic
        with _translated(kafka):
            self._consumer = KafkaConsumer(
                **connection(kafka),
                group_id=kafka.group_id,
                enable_auto_commit=False,
                auto_offset_reset=kafka.auto_offset_reset,
                max_poll_records=kafka.max_poll_records,
                max_poll_interval_ms=kafka.max_poll_interval_ms,
                session_timeout_ms=kafka.session_timeout_ms,
                heartbeat_interval_ms=max(1, min(3000, kafka.session_timeout_ms // 3)),
                allow_auto_create_topics=False,
            )

    def subscribe(self, owner: Owner) -> None:
        """Join the group; `owner` hears of its partitions during `poll`."""
        listener = _Listener(self._consumer, owner)
        with _translated(self.kafka):
            self._consumer.subscribe([self.topic], listener=listener)

    def poll(self, timeout_s: float) -> list[Records]:
        """What has been fetched, at most `max_poll_records`; SourceError if Kafka refuses."""
        with _translated(self.kafka):
            polled = self._consumer.poll(
                timeout_ms=int(timeout_s * 1000), max_records=self.kafka.max_poll_records
            )
        return [
            Records(
                topic=self.topic,
                partition=partition.partition,
                offsets=[r.offset for r in records],
                keys=[r.key for r in records],
                values=[r.value for r in records],
                next_offset=records[-1].offset + 1,
            )
            for partition, records in polled.items()
            if records
        ]

    def commit(self, next_offsets: Mapping[int, int]) -> None:
        """Tell the group how far each partition is done; for lag tools, so it does not wait."""
        offsets = {
            TopicPartition(self.topic, p): OffsetAndMetadata(offset, "", -1)
            for p, offset in next_offsets.items()
        }
        if offsets:
            self._consumer.commit_async(offsets, callback=lambda *_: None)

    def lag(self) -> dict[int, int]:
        """Records still to come, for every assigned partition; empty if the broker is away."""
        assigned = list(self._consumer.assignment())
        if not assigned:
            return {}
        try:
            ends = self._consumer.end_offsets(assigned, timeout_ms=ANSWER_MS)
            return {p.partition: ends[p] - self._consumer.position(p) for p in assigned}
        except KafkaError:
            return {}

    def close(self) -> None:
        """Leave the group at once, without another commit."""
        self._consumer.close(autocommit=False, timeout_ms=ANSWER_MS)


class KafkaSink:
    """A producer whose `flush` answers for everything sent before it."""

    def __init__(self, kafka: Kafka) -> None:
        self.kafka = kafka
        self._failures: list[BaseException] = []
        with _translated(kafka):
            self._producer = KafkaProducer(
                **connection(kafka),
                acks="all",
                enable_idempotence=not kafka.api_version,
                compression_type=None if kafka.compression == "none" else kafka.compression,
                linger_ms=20,
                batch_size=256 * 1024,
            )

    def send(
        self,
        topic: str,
        *,
        key: bytes | None,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes]] = (),
    ) -> None:
        """Hand one record to the producer's own thread."""
        with _translated(self.kafka):
            future = self._producer.send(topic, key=key, value=value, headers=list(headers))
        future.add_errback(self._failures.append)

    def flush(self) -> None:
        """Wait for every acknowledgement; SourceError if one is missing."""
        with _translated(self.kafka):
            self._producer.flush(timeout=60)
        if self._failures:
            first, count = self._failures[0], len(self._failures)
            self._failures.clear()
            raise SourceError(f"{count} records were not acknowledged; the first: {first}")

    def close(self) -> None:
        """Send what is left, for a moment, and leave."""
        self._producer.close(timeout=5)


class _Listener(ConsumerRebalanceListener):
    """Passes kafka-python's calls on to an Owner, and seeks where it wants to go on."""

    def __init__(self, consumer: KafkaConsumer, owner: Owner) -> None:
        self.consumer = consumer
        self.owner = owner

    def on_partitions_assigned(self, assigned: Sequence[TopicPartition]) -> None:
        where = self.owner.assigned(sorted(p.partition for p in assigned))
        for partition in assigned:
            if partition.partition in where:
                self.consumer.seek(partition, where[partition.partition])

    def on_partitions_revoked(self, revoked: Sequence[TopicPartition]) -> None:
        self.owner.revoked(sorted(p.partition for p in revoked))

    def on_partitions_lost(self, lost: Sequence[TopicPartition]) -> None:
        self.owner.lost(sorted(p.partition for p in lost))


def connection(kafka: Kafka) -> dict[str, Any]:
    """What consumer, producer and admin client share."""
    options: dict[str, Any] = {
        "bootstrap_servers": [a.strip() for a in kafka.bootstrap_servers.split(",")],
        "client_id": "tidemark",
        "security_protocol": kafka.security_protocol,
        "bootstrap_timeout_ms": ANSWER_MS,
    }
    if kafka.api_version:
        options["api_version"] = tuple(int(part) for part in kafka.api_version.split("."))
    if kafka.sasl_mechanism:
        options["sasl_mechanism"] = kafka.sasl_mechanism
        options["sasl_plain_username"] = kafka.sasl_username
        options["sasl_plain_password"] = kafka.sasl_password
    if kafka.ssl_cafile:
        options["ssl_cafile"] = kafka.ssl_cafile
    return options


def committed(kafka: Kafka, topic: str) -> int:
    """Records of `topic` that the group has committed, over all partitions."""
    with _translated(kafka), _consumer(kafka) as consumer:
        return sum(
            consumer.committed(TopicPartition(topic, p), timeout_ms=ANSWER_MS) or 0
            for p in consumer.partitions_for_topic(topic) or ()
        )


def check(kafka: Kafka, topic: str) -> Iterator[tuple[str, bool, str]]:
    """(what, whether it is fine, what to do) for `tidemark doctor`."""
    for codec, module in CODECS.items():
        there = find_spec(module) is not None
        yield f"codec {codec}", there, "there" if there else f"install {module}"
    there = find_spec("crc32c") is not None
    advice = "there" if there else "install crc32c: without it fetching is four times slower"
    yield "crc32c", there, advice
    try:
        with _translated(kafka), _consumer(kafka) as consumer:
            yield "broker", True, f"{kafka.bootstrap_servers} answers"
            partitions = consumer.partitions_for_topic(topic)
    except SourceError as exc:
        yield "broker", False, str(exc)
        return
    if partitions:
        yield "topic", True, f"{topic} has {len(partitions)} partitions"
    else:
        yield "topic", False, f"no topic {topic}: create it, or set stream.topic"


@contextmanager
def _consumer(kafka: Kafka) -> Iterator[KafkaConsumer]:
    consumer = KafkaConsumer(
        **connection(kafka),
        group_id=kafka.group_id,
        enable_auto_commit=False,
        allow_auto_create_topics=False,
    )
    try:
        yield consumer
    finally:
        consumer.close(autocommit=False, timeout_ms=ANSWER_MS)


@contextmanager
def _translated(kafka: Kafka) -> Iterator[None]:
    """Kafka's failures as one line that names the broker."""
    started = time.monotonic()
    try:
        yield
    except KafkaError as exc:
        what = str(exc).splitlines()[0] if str(exc) else ""
        after = time.monotonic() - started
        raise SourceError(
            f"Kafka at {kafka.bootstrap_servers}: {type(exc).__name__} {what}".rstrip()
            + f" after {after:.0f} s"
        ) from exc
