"""What a partition publishes, kept until it goes out in a transaction; what is out stays silent."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from pipeline.errors import TransactionLost
from pipeline.ports import Transactions
from pipeline.records import Outgoing, Records

#: (version id, first offset, end offset), half-open.
Range = tuple[int, int, int]
#: Ranges in a mark, at most, the newest: a broker keeps 4096 bytes beside an offset.
RANGES = 50


@dataclass(slots=True, kw_only=True)
class Outbox:
    """An `Outlet` that keeps records, but none of readings whose results are out already.

    Results may be out further than the checkpoint in SQL: whoever takes the partition over reads
    these readings again, and publishes nothing of them.
    """

    #: Results of what lies below are out, and by which versions, as far as they were scored.
    done: int
    scored: Sequence[Range] = ()
    records: list[Outgoing] = field(default_factory=list)
    #: Whether what is read now lies below `done`.
    silent: bool = False
    #: A transaction with these records failed, and may have succeeded all the same.
    torn: bool = False

    def send(
        self,
        topic: str,
        *,
        key: bytes | None,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes]] = (),
        partition: int | None = None,
    ) -> None:
        """Keep one record, or not."""
        if not self.silent:
            self.records.append(Outgoing(topic=topic, key=key, value=value, headers=headers))

    def reach(self, next_offset: int) -> None:
        """What is sent from now on is of readings below this offset, and above the last one."""
        self.silent = next_offset <= self.done

    def out(self, next_offset: int) -> None:
        """All of it is out."""
        self.done, self.scored, self.torn = next_offset, (), False
        self.records.clear()

    def said_of(self, first: int, end: int) -> Iterator[Range]:
        """Which versions scored [first, end) when it was published."""
        for version, low, high in self.scored:
            if max(low, first) < min(high, end):
                yield version, max(low, first), min(high, end)


def opened(found: tuple[int, str] | None, stream: int) -> Outbox:
    """The outbox of a partition that was taken over.

    found: offset and mark of the last transaction; another stream's, or none, says nothing.
    stream: what tells the stream from one of the same name in another database.
    """
    offset, text = found or (0, "")
    mark = _read(text)
    if mark.get("stream") != stream:
        return Outbox(done=0)
    return Outbox(done=offset, scored=[(v, low, high) for v, low, high in mark["scored"]])


def mark(stream: int, scored: Sequence[Range]) -> str:
    """What goes beside the offset: whose it is, and which versions scored since the checkpoint."""
    return msgspec.json.encode({"stream": stream, "scored": scored[-RANGES:]}).decode()


def _read(text: str) -> Mapping[str, Any]:
    """Another program's note is none."""
    try:
        found = msgspec.json.decode(text or "{}")
    except msgspec.DecodeError:
        return {}
    return found if isinstance(found, dict) else {}


def let_out(transactions: Transactions, boxes: Mapping[int, tuple[Outbox, int, str]]) -> None:
    """Let out what partitions have published, up to these offsets and with these marks.

    Raises
    ------
    TransactionLost
        It is not out, or nobody knows whether this or an earlier attempt succeeded.
    """
    moved = {number: (box, at, said) for number, (box, at, said) in boxes.items() if box.done < at}
    if any(box.torn for box, *_ in moved.values()):
        raise TransactionLost("nobody knows whether an earlier Kafka transaction succeeded")
    if not moved:
        return
    for box, *_ in moved.values():
        box.torn = True
    records = [record for box, *_ in moved.values() for record in box.records]
    transactions.commit(records, {number: (at, said) for number, (_, at, said) in moved.items()})
    for box, at, _ in moved.values():
        box.out(at)


def cut(polled: Sequence[Records], done: Mapping[int, int]) -> list[list[Records]]:
    """One poll as two where some of a partition's results are out: what lies below, and the rest.

    The partition's state is the same for every cut, so what it decides below `done` is what its
    former owner decided there, and published.
    """
    below, rest = [], []
    for records in polled:
        at = done.get(records.partition, 0)
        if records.offsets[0] < at < records.next_offset:
            row = bisect_left(records.offsets, at)
            below.append(_part(records, slice(0, row), at))
            if row < len(records):
                rest.append(_part(records, slice(row, None), records.next_offset))
        else:
            below.append(records)
    return [below, rest] if rest else [below]


def _part(records: Records, rows: slice, next_offset: int) -> Records:
    return replace(
        records,
        offsets=records.offsets[rows],
        keys=records.keys[rows],
        values=records.values[rows],
        written=records.written[rows],
        next_offset=next_offset,
    )
