"""Log over kafka-python: a topic read from outside any consumer group."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

from kafka import KafkaConsumer, TopicPartition

from pipeline.config import Kafka
from pipeline.errors import SourceError
from pipeline.ingest.kafka_client import (
    ANSWER_MS,
    client,
    no_topic,
    reach,
    translated,
)
from pipeline.records import LogRecord

#: Records of one step, at most.
STEP = 500
#: A topic of which nothing comes for so long is given up, in seconds.
SILENCE_S = 30.0


class KafkaLog:
    """One topic, as far as it goes.

    Parameters
    ----------
    isolation
        read_committed, or read_uncommitted: also what lies behind a transaction still open. Empty:
        as `kafka.isolation_level` says.

    Raises
    ------
    SourceError
        No broker answers within ANSWER_MS, or the topic is not there.
    """

    def __init__(self, kafka: Kafka, topic: str, *, isolation: str = "") -> None:
        self.kafka = kafka
        self.topic = topic
        with translated(kafka):
            reach(kafka)
            self._consumer = client(
                KafkaConsumer,
                kafka,
                group_id=None,
                enable_auto_commit=False,
                auto_offset_reset="earliest",
                isolation_level=isolation or kafka.isolation_level,
                allow_auto_create_topics=False,
            )
        try:
            self.ends()
        except BaseException:
            self.close()
            raise

    def ends(self) -> dict[int, int]:
        """Offset of the next record of every partition."""
        with translated(self.kafka):
            numbers = self._consumer.partitions_for_topic(self.topic)
            if not numbers:
                raise SourceError(no_topic(self.kafka, self.topic))
            partitions = [TopicPartition(self.topic, n) for n in sorted(numbers)]
            ends = self._consumer.end_offsets(partitions, timeout_ms=ANSWER_MS)
        return {partition.partition: ends[partition] for partition in partitions}

    def read(
        self, first: Mapping[int, int] | None = None, *, since: int = 0
    ) -> Iterator[list[LogRecord]]:
        """All records up to the ends of now, at most STEP at a time; SourceError if none come."""
        ends = {TopicPartition(self.topic, n): end for n, end in self.ends().items()}
        if first is not None:
            ends = {p: end for p, end in ends.items() if p.partition in first}
        self._seek(ends, first or {}, since)
        left, until = set(ends), time.monotonic() + SILENCE_S
        while left := {p for p in left if self._position(p) < ends[p]}:
            with translated(self.kafka):
                polled = self._consumer.poll(timeout_ms=200, max_records=STEP)
            for partition, records in polled.items():
                yield [_record(r) for r in records if r.offset < ends[partition]]
            if polled:
                until = time.monotonic() + SILENCE_S
            elif time.monotonic() > until:
                raise SourceError(f"{self.topic}: no record came for {SILENCE_S:.0f} s")

    def close(self) -> None:
        """Leave."""
        with translated(self.kafka):
            self._consumer.close(autocommit=False, timeout_ms=ANSWER_MS)

    def _seek(
        self, ends: Mapping[TopicPartition, int], first: Mapping[int, int], since: int
    ) -> None:
        partitions = list(ends)
        with translated(self.kafka):
            self._consumer.assign(partitions)
            starts = self._consumer.beginning_offsets(partitions, timeout_ms=ANSWER_MS)
            if since > 0:
                times = dict.fromkeys(partitions, since // 1000)
                found = self._consumer.offsets_for_times(times, timeout_ms=ANSWER_MS)
                starts = {p: found[p].offset if found[p] else ends[p] for p in partitions}
            for partition in partitions:
                wanted = first.get(partition.partition, 0)
                self._consumer.seek(partition, max(starts[partition], wanted))

    def _position(self, partition: TopicPartition) -> int:
        with translated(self.kafka):
            return int(self._consumer.position(partition, timeout_ms=ANSWER_MS) or 0)


def _record(r: Any) -> LogRecord:
    return LogRecord(
        partition=r.partition,
        offset=r.offset,
        time=r.timestamp * 1000,
        key=r.key,
        value=r.value,
        headers={name: content or b"" for name, content in r.headers},
    )
