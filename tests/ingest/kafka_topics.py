"""Topics on a broker, filled and read back without the code under test."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.structs import OffsetAndMetadata

from pipeline.config import Kafka
from pipeline.ingest.kafka_client import connection
from pipeline.ingest.memory import Message

#: Longest wait for anything of a broker, in seconds; what takes longer has failed.
PATIENCE_S = 60.0


@dataclass(frozen=True)
class Topics:
    """A broker's address and protocol, and a way to new topics on it."""

    address: str
    api_version: str
    new: Callable[[], str]

    def kafka(self, group: str, **changed: Any) -> Kafka:
        """Settings for a group; a silent member is thrown out as soon as a broker allows it."""
        facts: dict[str, Any] = {
            "bootstrap_servers": self.address,
            "api_version": self.api_version,
            "group_id": group,
            "session_timeout_ms": 6000,
        }
        return Kafka(**facts | changed)

    def filled(self, log: Mapping[int, Sequence[Message]]) -> str:
        """A new topic that holds `log`."""
        topic = self.new()
        self.fill(topic, log)
        return topic

    def fill(self, topic: str, log: Mapping[int, Sequence[Message]]) -> None:
        """Append to a topic's partitions."""
        options = connection(self.kafka(topic))
        producer = KafkaProducer(**options, acks="all", enable_idempotence=False)
        try:
            sent = [
                producer.send(topic, key=key, value=value, partition=partition)
                for partition, messages in log.items()
                for key, value in messages
            ]
            for future in sent:
                future.get(timeout=PATIENCE_S)
        finally:
            producer.close()

    def read(self, topic: str, n: int) -> list[Any]:
        """The topic's first `n` records, as kafka-python gives them, and no more than there are."""
        with self.client(topic) as (consumer, partitions):
            consumer.assign(partitions)
            consumer.seek_to_beginning(*partitions)
            found: list[Any] = []
            deadline = time.monotonic() + PATIENCE_S
            while len(found) < n and time.monotonic() < deadline:
                polled = consumer.poll(timeout_ms=200)
                found += [record for records in polled.values() for record in records]
            ends = consumer.end_offsets(partitions)
            assert sum(ends.values()) == n
        return found

    def committed(self, topic: str) -> dict[int, int]:
        """Offsets that the group named like the topic has committed."""
        with self.client(topic) as (consumer, partitions):
            found = {p.partition: consumer.committed(p) for p in partitions}
        return {partition: offset for partition, offset in found.items() if offset is not None}

    def commit(self, topic: str, offsets: Mapping[int, int]) -> None:
        """Commit for the group named like the topic, while it has no members."""
        with self.client(topic) as (consumer, _):
            consumer.commit(
                {TopicPartition(topic, p): OffsetAndMetadata(o, "", -1) for p, o in offsets.items()}
            )

    @contextmanager
    def client(self, topic: str) -> Iterator[tuple[KafkaConsumer, list[TopicPartition]]]:
        """A consumer outside any membership, and the topic's partitions."""
        consumer = KafkaConsumer(
            **connection(self.kafka(topic)), group_id=topic, enable_auto_commit=False
        )
        try:
            numbers = sorted(consumer.partitions_for_topic(topic))
            yield consumer, [TopicPartition(topic, n) for n in numbers]
        finally:
            consumer.close(autocommit=False)
