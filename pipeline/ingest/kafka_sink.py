"""Sink over kafka-python: what is flushed is acknowledged."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from kafka import KafkaProducer
from kafka.errors import KafkaTimeoutError

from pipeline.config import Kafka
from pipeline.errors import BrokerAway, SourceError
from pipeline.ingest.kafka_client import (
    ANSWER_MS,
    ASKED_AGAIN_MS,
    FAREWELL_MS,
    api_version,
    client,
    first_line,
    importable,
    install,
    no_topic,
    partitions,
    reach,
    translated,
)
from pipeline.outage import Outage

#: Longest wait for what the broker knows of a topic, in milliseconds.
SEND_MS = 10_000
#: Wait of `flush` for acknowledgements before the broker counts as away, cut into slices in which
#: nobody looks whether to stop, and the longest in all of a process that was told to; in seconds.
FLUSH_S, SLICE_S, STOPPING_S = 5.0, 0.5, 1.5
#: Longest time in which a record has to be acknowledged where outages are shorter; else this much
#: longer than they are, so that none is given up that is still waited for; in seconds.
DELIVERY_S = 120
#: The first protocol whose brokers are sure to know the idempotent producer; the embedded one
#: speaks 2.3.
IDEMPOTENT_SINCE = (2, 4)


def producer(kafka: Kafka, **more: Any) -> KafkaProducer:
    """kafka-python's producer, as all of ours are set up."""
    return client(
        KafkaProducer,
        kafka,
        acks="all",
        compression_type=None if kafka.compression == "none" else kafka.compression,
        linger_ms=20,
        batch_size=256 * 1024,
        max_block_ms=SEND_MS,
        **more,
    )


class KafkaSink:
    """A producer whose `flush` answers for everything sent before it.

    It is idempotent (a retry is not a second record) wherever the broker can be; see
    IDEMPOTENT_SINCE. It keeps what is sent while the broker is away.

    Parameters
    ----------
    outage
        How long `flush` waits for a broker that is away; by default not at all.

    Raises
    ------
    SourceError
        No broker answers within ANSWER_MS, or the codec's module is not installed.
    """

    def __init__(self, kafka: Kafka, outage: Outage | None = None) -> None:
        self.kafka = kafka
        self.outage = outage or Outage("broker")
        self._failures: list[BaseException] = []
        if not importable(kafka.compression):
            raise SourceError(install(kafka.compression))
        version = api_version(kafka)
        with translated(kafka):
            reach(kafka, within_ms=ASKED_AGAIN_MS if self.outage.limit_s else None)
            self._producer = producer(
                kafka,
                enable_idempotence=version is None or version >= IDEMPOTENT_SINCE,
                delivery_timeout_ms=int(DELIVERY_S + self.outage.limit_s) * 1000,
            )

    def require(self, topics: Sequence[str]) -> None:
        """Look for every topic; a broker that makes topics by itself makes those that lack.

        Raises
        ------
        SourceError
            One is not there, SEND_MS after it was asked for.
        BrokerAway
            The broker does not say which topics it has, for longer than it is waited for.
        """
        for topic in topics:
            self.outage.ask(partial(self._require, topic))

    def _require(self, topic: str) -> None:
        """The producer does not tell a topic that is not there from a broker that is away."""
        with translated(self.kafka):
            try:
                self._producer.partitions_for(topic)
            except KafkaTimeoutError:
                if not partitions(self.kafka, [topic])[topic]:
                    raise SourceError(no_topic(self.kafka, topic)) from None

    def send(
        self,
        topic: str,
        *,
        key: bytes | None,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes]] = (),
        partition: int | None = None,
    ) -> None:
        """Hand one record to the producer's own thread.

        kafka-python sends no record without key and value: such a one goes with an empty value.

        Raises
        ------
        SourceError
            The topic is not there.
        BrokerAway
            The broker does not say where it is, for longer than it is waited for.
        """
        if key is None and value is None:
            value = b""
        hand_over = partial(
            self._send, topic, key=key, value=value, headers=list(headers), partition=partition
        )
        try:
            hand_over()
        except BrokerAway:  # or there is no such topic: that is told apart first
            self.outage.ask(partial(self._require, topic))
            self.outage.ask(hand_over)

    def _send(self, topic: str, **record: Any) -> None:
        try:
            with translated(self.kafka):
                future = self._producer.send(topic, **record)
        except BrokerAway:
            raise
        except SourceError as exc:
            raise SourceError(f"cannot send to {topic}: {exc}") from exc
        future.add_errback(self._failures.append)

    def flush(self) -> None:
        """Wait for every acknowledgement; SourceError if one is missing."""
        if self._producer._accumulator.has_incomplete:  # noqa: SLF001 - else nobody is asked
            self.outage.ask(self._flush)
        self._raise_failures()

    def _flush(self) -> None:
        started = time.monotonic()
        with translated(self.kafka):
            while True:
                try:
                    self._producer.flush(timeout=SLICE_S)
                except KafkaTimeoutError:
                    longest = STOPPING_S if self.outage.stop.is_set() else FLUSH_S
                    if time.monotonic() - started >= longest:
                        raise
                else:
                    return

    def close(self) -> None:
        """Flush, for a moment, and leave.

        Raises
        ------
        BrokerAway
            It did not acknowledge everything in that time.
        SourceError
            It refused something.
        """
        within_s = (FAREWELL_MS if self.outage.stop.is_set() else ANSWER_MS) / 1000
        with translated(self.kafka):
            try:
                self._producer.close(timeout=within_s)
            except KafkaTimeoutError:
                # kafka-python leaves its thread behind, which might yet send what is called lost.
                self._producer._sender.force_close()  # noqa: SLF001
                self._producer.close(timeout=within_s)
                if lost := len(self._failures):
                    raise KafkaTimeoutError(f"{lost} records were not acknowledged") from None
        self._raise_failures()

    def _raise_failures(self) -> None:
        """SourceError if something was not acknowledged since the last look."""
        failures, self._failures[:] = list(self._failures), []
        if failures:
            raise SourceError(
                f"{len(failures)} records were not acknowledged; "
                f"the first: {first_line(failures[0])}"
            )
