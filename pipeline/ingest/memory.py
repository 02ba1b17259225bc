"""Source over lists and Sink into a list, for tests and for runs without a broker."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from pipeline.ports import Owner
from pipeline.records import LogRecord, Records

Message = tuple[bytes | None, bytes | None]


class MemorySource:
    """Records held in memory, by partition; every partition belongs to the one owner.

    Parameters
    ----------
    partitions
        (key, value) of each partition's records; their place is their offset.
    max_poll_records
        Records of one partition that one poll gives, at most.
    """

    def __init__(
        self,
        partitions: Mapping[int, Sequence[Message]],
        *,
        topic: str = "readings",
        max_poll_records: int = 5000,
    ) -> None:
        self.partitions = partitions
        self.topic = topic
        self.max_poll_records = max_poll_records
        self.committed: dict[int, int] = {}
        self._position: dict[int, int] = {}
        self._owner: Owner | None = None

    def topic_id(self) -> str | None:
        """Nothing tells it from another."""
        return None

    def starts(self) -> dict[int, int]:
        """At the beginning."""
        return dict.fromkeys(self.partitions, 0)

    def subscribe(self, owner: Owner) -> None:
        """Every partition is assigned at the next poll; one without an offset starts at 0."""
        self._owner = owner
        self._position = {}

    def poll(self, timeout_s: float) -> list[Records]:
        """The next records of every partition; returns at once."""
        if self._owner is not None and not self._position:
            wanted = self._owner.assigned(sorted(self.partitions))
            self._position = {p: wanted.get(p, 0) for p in self.partitions}
        return [r for p in sorted(self._position) if (r := self._take(p)) is not None]

    def commit(self, next_offsets: Mapping[int, int]) -> None:
        """Keep how far each partition is done."""
        self.committed |= next_offsets

    def rejoin(self) -> None:
        """Every partition is assigned again at the next poll."""
        self._position = {}

    def lag(self) -> dict[int, int]:
        """Records not polled yet."""
        return {p: len(self.partitions[p]) - at for p, at in self._position.items()}

    def close(self) -> None:
        """Leave; the owner has had its last chance to write a checkpoint."""
        self._position, self._owner = {}, None

    def _take(self, partition: int) -> Records | None:
        first = self._position[partition]
        messages = self.partitions[partition][first : first + self.max_poll_records]
        if not messages:
            return None
        self._position[partition] = end = first + len(messages)
        return Records(
            topic=self.topic,
            partition=partition,
            offsets=range(first, end),
            keys=[key for key, _ in messages],
            values=[value for _, value in messages],
            next_offset=end,
        )


class MemoryLog:
    """Records held in memory, by partition; an offset is a place in its list."""

    def __init__(self, partitions: Mapping[int, Sequence[LogRecord]]) -> None:
        self.partitions = partitions

    def ends(self) -> dict[int, int]:
        """How many records each partition has."""
        return {number: len(records) for number, records in self.partitions.items()}

    def read(
        self, first: Mapping[int, int] | None = None, *, since: int = 0
    ) -> Iterator[list[LogRecord]]:
        """Each partition at once."""
        for number, start in (first or dict.fromkeys(self.partitions, 0)).items():
            yield [r for r in self.partitions[number][start:] if r.time >= since]

    def close(self) -> None:
        """Nothing to give back."""


class MemorySink:
    """Keeps what it is sent: (topic, key, value, headers)."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, bytes | None, bytes | None, dict[str, bytes]]] = []

    def require(self, topics: Sequence[str]) -> None:
        """Every topic is there."""

    def send(
        self,
        topic: str,
        *,
        key: bytes | None,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes]] = (),
        partition: int | None = None,
    ) -> None:
        """Keep one record."""
        self.sent.append((topic, key, value, dict(headers)))

    def flush(self) -> None:
        """Everything is kept already."""

    def close(self) -> None:
        """Nothing to give back."""
