"""A number in, the message of that number out: 64 series whose regimes return, without an end."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Self

import msgspec
import numpy as np

from benchmarks.throughput import readings
from pipeline.ports import Owner
from pipeline.records import Records

SERIES, IN_A_MESSAGE = 64, 50
#: Levels of the sensors in their own units, in standard deviations of their noise.
REGIMES = np.array([0.0, 8.0, -8.0])
#: Readings of noise, which are used again and again from other rows on.
NOISE = 100_000
#: Messages of one poll from memory, and messages of producing between two flushes.
AT_ONCE = 200
#: Time of the first reading, in seconds since 1970.
START = 1_767_225_600


class SoakLog:
    """Messages by number: series in turn, each moving to its next regime after `segment` readings.

    Series change at other times, so that all the log is alike.
    """

    def __init__(self, segment: int) -> None:
        self.segment = segment
        self.noise = readings(NOISE)
        self.deviation = self.noise.std(axis=0)

    def message(self, number: int) -> tuple[bytes, bytes]:
        """Key and value of the message of that number."""
        turn, series = divmod(number, SERIES)
        rows = turn * IN_A_MESSAGE + np.arange(IN_A_MESSAGE)
        regime = (rows + series * self.segment // SERIES) // self.segment % len(REGIMES)
        first = (number * 7919 * IN_A_MESSAGE) % (NOISE - IN_A_MESSAGE)
        values = self.noise[first : first + IN_A_MESSAGE].copy()
        values += REGIMES[regime][:, None] * self.deviation
        body = {"time": (START + rows).tolist(), "values": np.round(values, 3).tolist()}
        return f"machine-{series}".encode(), msgspec.json.encode(body)


class Produced:
    """Sends messages by number to a topic of one partition, each once and in order."""

    def __init__(self, address: str, topic: str, log: SoakLog) -> None:
        from kafka import KafkaProducer

        self.topic, self.log, self.sent = topic, log, 0
        self._producer = KafkaProducer(
            bootstrap_servers=address, linger_ms=20, batch_size=500_000, acks="all"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._producer.close(timeout=10)

    def upto(self, number: int) -> None:
        """Send on up to that number, some messages at most."""
        for at in range(self.sent, min(number, self.sent + 10 * AT_ONCE)):
            key, value = self.log.message(at)
            self._producer.send(self.topic, value, key=key, partition=0)
            self.sent = at + 1


class SoakSource:
    """A Source that makes what it is asked for: one partition, whose offsets are the numbers."""

    def __init__(self, topic: str, log: SoakLog, messages: int) -> None:
        self.topic, self.log, self.messages = topic, log, messages
        self._owner: Owner | None = None
        self._next: int | None = None

    @property
    def done(self) -> bool:
        """Whether all of them were given."""
        return self._next == self.messages

    def topic_id(self) -> str | None:
        """Nothing tells it from another."""
        return None

    def starts(self) -> dict[int, int]:
        """At the beginning."""
        return {0: 0}

    def subscribe(self, owner: Owner) -> None:
        """The partition is assigned at the next poll."""
        self._owner = owner

    def poll(self, timeout_s: float) -> list[Records]:
        """The next messages."""
        if self._next is None and self._owner is not None:
            self._next = self._owner.assigned([0]).get(0, 0)
        first = self._next or 0
        self._next = min(first + AT_ONCE, self.messages)
        if self._next == first:
            return []
        keys, values = zip(*map(self.log.message, range(first, self._next)), strict=True)
        return [
            Records(
                topic=self.topic,
                partition=0,
                offsets=range(first, self._next),
                keys=keys,
                values=values,
                next_offset=self._next,
            )
        ]

    def commit(self, next_offsets: Mapping[int, int]) -> None:
        """Nobody else asks."""

    def rejoin(self) -> None:
        """Begin anew at the next poll."""
        self._next = None

    def lag(self) -> dict[int, int]:
        """What is still to be made."""
        return {0: self.messages - (self._next or 0)}

    def close(self) -> None:
        """Nothing to give back."""


class NoSink:
    """A Sink that keeps nothing."""

    def require(self, topics: object) -> None:
        """Every topic is there."""

    def send(self, topic: str, **record: object) -> None:
        """Forget one record."""

    def flush(self) -> None:
        """Nothing is on its way."""

    def close(self) -> None:
        """Nothing to give back."""
