"""Stream state + next offset, one row per partition, fenced by its epoch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save
from sqlalchemy import Connection, func, insert, select, update

from pipeline.errors import ArtifactCorrupt, RegistryError, StaleEpoch
from pipeline.register.engine import inserting
from pipeline.register.tables import checkpoints, scored

#: Of the bytes that `pack` makes; another one is refused, never misread.
FORMAT = 3
_META = "__meta__"


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """What a partition's new owner goes on from."""

    epoch: int
    #: None and None for a partition that never had a checkpoint.
    next_offset: int | None
    state: bytes | None


def pack(arrays: Mapping[str, NDArray[Any]], meta: Mapping[str, Any]) -> bytes:
    """Arrays and a JSON-able `meta` as safetensors bytes; equal contents, equal bytes."""
    text = json.dumps({"format": FORMAT, "meta": meta}, sort_keys=True).encode()
    tensors = {name: np.asarray(arrays[name], order="C") for name in sorted(arrays)}
    return save(tensors | {_META: np.frombuffer(text, dtype=np.uint8)})


def unpack(content: bytes) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """What `pack` was given.

    Raises
    ------
    RegistryError
        The bytes are no checkpoint, or of a format that this version does not know.
    """
    try:
        arrays = load(content)
        head = json.loads(arrays.pop(_META).tobytes())
        found, meta = head["format"], head["meta"]
    except (SafetensorError, KeyError, TypeError, ValueError) as exc:
        raise RegistryError(f"not a checkpoint: {exc}") from None
    if found != FORMAT:
        raise RegistryError(
            f"checkpoint format {found}, this version reads {FORMAT}: "
            "go on with the version of tidemark that wrote it"
        )
    return arrays, meta


def acquire(conn: Connection, stream_id: int, partition: int, owner: str, *, at: int) -> Checkpoint:
    """Become the owner: the epoch goes up by one, and the former owner can write no more."""
    this = (checkpoints.c.stream_id == stream_id) & (checkpoints.c.partition == partition)
    row = {"stream_id": stream_id, "partition": partition, "epoch": 1}
    conn.execute(
        inserting(conn, checkpoints)
        .values(owner=owner, updated=at, **row)
        .on_conflict_do_update(
            index_elements=["stream_id", "partition"],
            set_={"epoch": checkpoints.c.epoch + 1, "owner": owner, "updated": at},
        )
    )
    row_ = conn.execute(select(checkpoints).where(this)).one()
    if row_.state is not None and hashlib.sha256(row_.state).hexdigest() != row_.sha256:
        raise ArtifactCorrupt(f"checkpoint of partition {partition} does not match its hash")
    return Checkpoint(epoch=row_.epoch, next_offset=row_.next_offset, state=row_.state)


def write(
    conn: Connection,
    stream_id: int,
    partition: int,
    epoch: int,
    *,
    next_offset: int,
    state: bytes,
    at: int,
) -> None:
    """Replace the state if the epoch still is `epoch`.

    Raises
    ------
    StaleEpoch
        Another process owns the partition.
    """
    changed = conn.execute(
        update(checkpoints)
        .where(
            checkpoints.c.stream_id == stream_id,
            checkpoints.c.partition == partition,
            checkpoints.c.epoch == epoch,
        )
        .values(
            next_offset=next_offset,
            state=state,
            sha256=hashlib.sha256(state).hexdigest(),
            updated=at,
        )
    )
    if changed.rowcount != 1:
        raise StaleEpoch(f"partition {partition} has another owner (epoch {epoch} is over)")


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
