"""The edges as Protocols, each with a promise that a contract test class checks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from pipeline.records import Gap, LogRecord, Outgoing, Records


class Owner(Protocol):
    """Who is told which partitions are its own; called inside `Source.poll`, never beside it.

    `lost` may also come while the owner waits for a database, and so in the midst of his work.
    """

    def assigned(self, partitions: Sequence[int]) -> Mapping[int, int]:
        """These are yours now. Answers the offset to go on from, where it knows one."""

    def revoked(self, partitions: Sequence[int]) -> None:
        """These will be somebody else's: last chance to write a checkpoint."""

    def lost(self, partitions: Sequence[int]) -> None:
        """These are somebody else's already: write nothing."""

    def skipped(self, partition: int, gap: Gap) -> None:
        """The log has these records no longer; it goes on behind them once this returns."""


class Source(Protocol):
    """Records in partition order, from where their owner wants to go on.

    A partition for which `assigned` answers no offset starts at its beginning, whatever has been
    committed. Committed offsets move only when told, and are for lag tools.
    """

    def topic_id(self) -> str | None:
        """What tells the topic from another one of the same name; None: nothing does."""

    def starts(self) -> Mapping[int, int]:
        """Where whoever follows the topic for the first time begins in each partition."""

    def subscribe(self, owner: Owner) -> None:
        """Ask for partitions; `owner` hears of them during later polls."""

    def poll(self, timeout_s: float) -> list[Records]:
        """What has arrived, at most one `Records` a partition; empty after `timeout_s` seconds."""

    def commit(self, next_offsets: Mapping[int, int]) -> None:
        """Tell the broker how far each partition is done: the offset of the next record."""

    def rejoin(self) -> None:
        """Give every partition up and ask anew: what comes back is `assigned` in a later poll."""

    def lag(self) -> dict[int, int]:
        """Records still to come, for every assigned partition."""

    def close(self) -> None:
        """Leave without another commit."""


class Log(Protocol):
    """A topic to be read as far as it goes now, outside any consumer group."""

    def ends(self) -> dict[int, int]:
        """Offset of the next record of every partition; raises SourceError without the topic."""

    def read(
        self, first: Mapping[int, int] | None = None, *, since: int = 0
    ) -> Iterator[list[LogRecord]]:
        """All records up to the ends of now, some at a time, in order within each partition.

        first: these partitions only, from these offsets. since: written then or later, in
        microseconds since 1970 UTC.
        """

    def close(self) -> None:
        """Leave."""


class Outlet(Protocol):
    """Where records go out."""

    def send(
        self,
        topic: str,
        *,
        key: bytes | None,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes]] = (),
        partition: int | None = None,
    ) -> None:
        """Hand one record over; it may not have left yet. partition: None, as the key says."""


class Sink(Outlet, Protocol):
    """Records out, at least once: what was sent before `flush` returns is kept."""

    def require(self, topics: Sequence[str]) -> None:
        """Be sure that these can be sent to; raises SourceError if a topic is not there."""

    def flush(self) -> None:
        """Wait until everything sent is acknowledged; raises SourceError if something is not."""

    def close(self) -> None:
        """Flush and leave."""


class Transactions(Protocol):
    """Records out exactly once, with how far each partition is done: all of it or nothing."""

    def done(self, partitions: Sequence[int]) -> Mapping[int, tuple[int, str]]:
        """Of partitions that are the caller's own: offset up to which results are out, and the
        mark beside it; nothing that an earlier owner left undecided can change it any more."""

    def commit(self, records: Sequence[Outgoing], done: Mapping[int, tuple[int, str]]) -> None:
        """Let the records out, and note how far that is, with a mark.

        Raises TransactionLost if it did not happen or nobody knows, StaleEpoch if the caller is no
        member of the group; `done` tells the truth then, to whoever owns the partitions.
        """

    def close(self) -> None:
        """Leave; what was not committed is not out."""
