"""Stream state + next offset, one row per partition, fenced by its epoch."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save
from sqlalchemy import (
    ColumnElement,
    Connection,
    Table,
    bindparam,
    delete,
    func,
    insert,
    select,
    tuple_,
    update,
)

from pipeline.errors import ArtifactCorrupt, RegistryError, StaleEpoch
from pipeline.register.engine import execute_many, inserting, tuples
from pipeline.register.tables import checkpoint_pieces, checkpoints, scored

#: Of what a checkpoint's pieces are; another one is refused, never misread.
FORMAT = 5
#: Bytes of a state that is large.
LARGE = 16 << 20
#: Slot of a piece that is the whole partition's.
WHOLE = -1
#: Pieces that go to SQL, or come from it, at once.
AT_ONCE = 1000

_C = checkpoint_pieces.c
_FIRST = (
    select(_C.slot, _C.number, _C.content, _C.crc32)
    .where(
        _C.stream_id == bindparam("stream"),
        _C.partition == bindparam("partition"),
        _C.kind == bindparam("kind"),
    )
    .order_by(_C.slot, _C.number)
    .limit(AT_ONCE)
)
_NEXT = _FIRST.where(
    tuple_(_C.slot, _C.number) > tuple_(bindparam("after_slot"), bindparam("after_number"))
)


class Key(NamedTuple):
    """Which piece of a partition's state: of a series, or of the whole partition (slot -1)."""

    kind: str
    slot: int
    number: int


class Piece(NamedTuple):
    """A piece of a partition's state. What stays the same is written once."""

    kind: str
    slot: int
    number: int
    content: bytes


@dataclass(frozen=True, slots=True)
class State:
    """What a checkpoint writes: what it is to be read by, and the pieces that are new or gone."""

    head: bytes
    pieces: Sequence[Piece] = ()
    gone: Sequence[Key] = ()

    @property
    def large(self) -> bool:
        """Whether SQL is busy for a while with it."""
        return sum(len(piece.content) for piece in self.pieces) > LARGE


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """What a partition's new owner goes on from."""

    epoch: int
    #: None for a partition that never had a checkpoint.
    next_offset: int | None
    #: Empty, and without pieces, for one that never had a reading.
    head: bytes = b""
    #: What kinds of pieces there are; they are read by the page, in their order.
    kinds: Sequence[str] = ()


def pack(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Arrays as safetensors bytes; equal contents, equal bytes."""
    return save({name: np.asarray(arrays[name], order="C") for name in sorted(arrays)})


def unpack(content: bytes) -> dict[str, NDArray[Any]]:
    """What `pack` was given; ArtifactCorrupt if it is not that."""
    try:
        arrays: dict[str, NDArray[Any]] = load(content)
    except (SafetensorError, ValueError) as exc:
        raise ArtifactCorrupt(f"checkpoint: {exc}") from None
    return arrays


def pack_head(meta: Mapping[str, Any]) -> bytes:
    """JSON of what the pieces are to be read by."""
    return json.dumps({"format": FORMAT, **meta}, sort_keys=True).encode()


def unpack_head(head: bytes) -> dict[str, Any]:
    """What `pack_head` was given.

    Raises
    ------
    RegistryError
        It is of a format that this version does not know.
    """
    try:
        meta: dict[str, Any] = json.loads(head)
        found = meta["format"]
    except (KeyError, TypeError, ValueError):
        found = "of an earlier kind"
    if found != FORMAT:
        raise RegistryError(
            f"checkpoint format {found}, this version reads {FORMAT}: "
            "go on with the version of tidemark that wrote it"
        )
    return meta


def acquire(conn: Connection, stream_id: int, partition: int, owner: str, *, at: int) -> Checkpoint:
    """Become the owner: the epoch goes up by one, and the former owner can write no more.

    Raises
    ------
    ArtifactCorrupt
        The head is not what was written; the epoch stays.
    """
    row = {"stream_id": stream_id, "partition": partition, "epoch": 1}
    conn.execute(
        inserting(conn, checkpoints)
        .values(owner=owner, updated=at, **row)
        .on_conflict_do_update(
            index_elements=["stream_id", "partition"],
            set_={"epoch": checkpoints.c.epoch + 1, "owner": owner, "updated": at},
        )
    )
    found = conn.execute(select(checkpoints).where(*_of(checkpoints, stream_id, partition))).one()
    kinds = (
        select(checkpoint_pieces.c.kind)
        .where(*_of(checkpoint_pieces, stream_id, partition))
        .distinct()
    )
    if found.state is not None and hashlib.sha256(found.state).hexdigest() != found.sha256:
        raise ArtifactCorrupt(f"checkpoint of partition {partition} does not match its hash")
    return Checkpoint(
        epoch=found.epoch,
        next_offset=found.next_offset,
        head=found.state or b"",
        kinds=tuple(conn.execute(kinds.order_by(checkpoint_pieces.c.kind)).scalars()),
    )


def _of(table: Table, stream_id: int, partition: int) -> tuple[ColumnElement[bool], ...]:
    return (table.c.stream_id == stream_id, table.c.partition == partition)


def _stale(partition: int, epoch: int) -> StaleEpoch:
    return StaleEpoch(f"partition {partition} has another owner (epoch {epoch} is over)")


def paged(
    read: Callable[[str, Key | None], Sequence[Piece]],
) -> Callable[[str], Iterator[Sequence[Piece]]]:
    """All pages of a kind's pieces, of which `read` gives the one that follows a piece."""

    def pages(kind: str) -> Iterator[Sequence[Piece]]:
        after = None
        while page := read(kind, after):
            yield page
            after = Key(*page[-1][:3])

    return pages


def read(
    conn: Connection, stream_id: int, partition: int, epoch: int, kind: str, after: Key | None
) -> list[Piece]:
    """The pieces of a kind that follow `after`, `AT_ONCE` at most, by slot and number.

    As long as the epoch lasts nobody else changes one: its owner reads one state, page by page.

    Raises
    ------
    StaleEpoch
        Another process owns the partition.
    ArtifactCorrupt
        A piece is not what was written.
    """
    last = {} if after is None else {"after_slot": after.slot, "after_number": after.number}
    whose = {"stream": stream_id, "partition": partition, "kind": kind}
    rows = tuples(conn, _NEXT if last else _FIRST, whose | last)
    mine = select(checkpoints.c.epoch).where(*_of(checkpoints, stream_id, partition))
    if conn.execute(mine).scalar() != epoch:  # after the page: what it holds was this epoch's
        raise _stale(partition, epoch)
    for slot, number, content, crc in rows:
        if zlib.crc32(content) != crc:
            raise ArtifactCorrupt(
                f"checkpoint of partition {partition}: {kind} {slot}/{number} was changed"
            )
    return [Piece(kind, slot, number, content) for slot, number, content, _ in rows]


def write(
    conn: Connection,
    stream_id: int,
    partition: int,
    epoch: int,
    *,
    next_offset: int,
    state: State,
    readings: int,
    at: int,
) -> None:
    """Make the state that is stored the partition's, if the epoch still is `epoch`.

    readings: taken in since the last one.

    Raises
    ------
    StaleEpoch
        Another process owns the partition.
    """
    changed = conn.execute(
        update(checkpoints)
        .where(*_of(checkpoints, stream_id, partition), checkpoints.c.epoch == epoch)
        .values(
            next_offset=next_offset,
            state=state.head,
            sha256=hashlib.sha256(state.head).hexdigest(),
            readings=checkpoints.c.readings + readings,
            updated=at,
        )
    )
    if changed.rowcount != 1:
        raise _stale(partition, epoch)
    if state.gone:
        key = [checkpoint_pieces.c[name] == bindparam(f"b_{name}") for name in Key._fields]
        conn.execute(
            delete(checkpoint_pieces).where(*_of(checkpoint_pieces, stream_id, partition), *key),
            [{f"b_{name}": value for name, value in each._asdict().items()} for each in state.gone],
        )
    new = inserting(conn, checkpoint_pieces)
    upsert = new.on_conflict_do_update(
        index_elements=["stream_id", "partition", "kind", "slot", "number"],
        set_={name: new.excluded[name] for name in ("content", "crc32")},
    )
    rows = ((stream_id, partition, *p, zlib.crc32(p.content)) for p in state.pieces)
    execute_many(conn, upsert, rows, AT_ONCE)


def stands_at(
    conn: Connection, stream_id: int, partition: int, epoch: int, next_offset: int
) -> bool:
    """Whether the owner of that epoch has written this checkpoint already.

    Each of its checkpoints lies beyond the one that it went on from, so there is none but its own.
    """
    c = checkpoints.c
    mine = (c.stream_id == stream_id) & (c.partition == partition) & (c.epoch == epoch)
    there = select(c.epoch).where(mine, c.next_offset == next_offset)
    return conn.execute(there).first() is not None


def reached(conn: Connection) -> int:
    """Sum of the offsets that all partitions' checkpoints stand at."""
    return int(conn.execute(select(func.sum(checkpoints.c.next_offset))).scalar() or 0)


def note_scored(
    conn: Connection, stream_id: int, partition: int, ranges: Sequence[tuple[int, int, int]]
) -> None:
    """Keep which version scored which offsets: the last range grows, or another begins.

    ranges: (version id, first offset, end offset), half-open, in order.
    """
    for version_id, first, end in ranges:
        last = conn.execute(
            select(scored.c.id, scored.c.version_id, scored.c.end_offset)
            .where(scored.c.stream_id == stream_id, scored.c.partition == partition)
            .order_by(scored.c.first_offset.desc())
            .limit(1)
        ).first()
        if last and first < last.end_offset:
            raise RegistryError(
                f"partition {partition}: offsets {first} to {last.end_offset} scored twice"
            )
        if last and last.version_id == version_id and last.end_offset == first:
            conn.execute(update(scored).where(scored.c.id == last.id).values(end_offset=end))
        else:
            conn.execute(
                insert(scored).values(
                    stream_id=stream_id,
                    partition=partition,
                    version_id=version_id,
                    first_offset=first,
                    end_offset=end,
                )
            )
