"""A checkpoint's bytes: what went in comes out, and anything else is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from sqlalchemy import update

from pipeline.config import Database
from pipeline.errors import ArtifactCorrupt, RegistryError, StaleEpoch
from pipeline.register import tables as t
from pipeline.register.checkpoints import (
    AT_ONCE,
    FORMAT,
    Key,
    Piece,
    State,
    pack,
    pack_head,
    paged,
    unpack,
    unpack_head,
)
from pipeline.register.sql import SqlRegistry, Stream
from tests.register.making import Clock, opened

KINDS = st.sampled_from([np.bool_, np.uint8, np.int32, np.int64, np.float32, np.float64])
ARRAYS = st.dictionaries(
    st.text(st.characters(codec="utf-8"), min_size=1, max_size=12),
    KINDS.flatmap(lambda kind: hnp.arrays(kind, hnp.array_shapes(min_dims=0, min_side=0))),
    max_size=4,
)


@given(arrays=ARRAYS)
def test_what_was_packed_is_unpacked(arrays: dict[str, NDArray[Any]]) -> None:
    """A restart goes on from exactly the state that was left: every bit, shape, kind and name."""
    found = unpack(pack(arrays))
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        assert found[name].tobytes() == array.tobytes()


@given(arrays=ARRAYS)
def test_equal_contents_have_equal_bytes(arrays: dict[str, NDArray[Any]]) -> None:
    """Two runs are compared by their checkpoints' bytes: the order of making must not show."""
    assert pack(dict(reversed(arrays.items()))) == pack(arrays)


@given(content=st.binary(max_size=200))
def test_garbage_is_refused(content: bytes) -> None:
    """A worker that reads garbage says so in one line, instead of crashing somewhere inside."""
    for read in (unpack, unpack_head):
        with pytest.raises(RegistryError) as refused:
            read(content)
        assert "\n" not in str(refused.value)


def test_another_format_is_refused_with_advice() -> None:
    """Bytes of another version of tidemark are never misread as this one's."""
    head = json.dumps({"format": FORMAT + 1}).encode()
    with pytest.raises(RegistryError, match=rf"format {FORMAT + 1}, .* reads {FORMAT}: go on"):
        unpack_head(head)
    with pytest.raises(RegistryError, match=r"of an earlier kind, .*: go on with the version"):
        unpack_head(pack({"rows": np.zeros(3)}))


@pytest.mark.parametrize("head", [b"", b"{", b"[]", b"1", b"null", b"{}", b'"format"', b"\xff"])
def test_a_strange_head_is_refused(head: bytes) -> None:
    with pytest.raises(RegistryError):
        unpack_head(head)


def test_a_head_is_read_as_it_was_written() -> None:
    assert unpack_head(pack_head({"series": 3})) == {"format": FORMAT, "series": 3}


# In SQL ---------------------------------------------------------------------------------------


@pytest.fixture
def registry(at_head: Database) -> Iterator[SqlRegistry]:
    with opened(at_head, Clock()) as registry:
        yield registry


@pytest.fixture
def stream(registry: SqlRegistry) -> Stream:
    return registry.open_stream("readings", ("a",))


def put(registry: SqlRegistry, stream: Stream, epoch: int, state: State, end: int = 1) -> None:
    registry.save(stream.id, 0, epoch, next_offset=end, state=state)


def stored(registry: SqlRegistry, stream: Stream, partition: int = 0) -> list[Piece]:
    found = registry.acquire(stream.id, partition, "reader")
    pages = paged(partial(registry.pieces, stream.id, partition, found.epoch))
    return [piece for kind in found.kinds for page in pages(kind) for piece in page]


A, B = Piece("series", 0, 0, b"a"), Piece("series", 1, 0, b"b\x00")
CHUNK = Piece("head", 0, (7 << 32) + 2, b"chunk")


def test_pieces_are_written_changed_and_forgotten(registry: SqlRegistry, stream: Stream) -> None:
    """What is not named stays; numbers are beyond 32 bits; another partition has its own."""
    epoch = registry.acquire(stream.id, 0, "w").epoch
    put(registry, stream, epoch, State(b"h", pieces=[A, B, CHUNK]))
    put(registry, stream, epoch, State(b"h", pieces=[A._replace(content=b"new")]), 2)
    registry.save(
        stream.id,
        1,
        registry.acquire(stream.id, 1, "w").epoch,
        next_offset=1,
        state=State(b"h", pieces=[A]),
    )
    assert stored(registry, stream) == [CHUNK, A._replace(content=b"new"), B]
    epoch = registry.acquire(stream.id, 0, "w").epoch
    put(registry, stream, epoch, State(b"h", gone=[Key(*CHUNK[:3]), Key("tail", 9, 9)]), 3)
    assert stored(registry, stream) == [A._replace(content=b"new"), B]
    assert stored(registry, stream, 1) == [A]


def test_more_pieces_than_go_at_once(registry: SqlRegistry, stream: Stream) -> None:
    many = [Piece("series", slot, 0, str(slot).encode()) for slot in range(AT_ONCE + 1)]
    epoch = registry.acquire(stream.id, 0, "w").epoch
    put(registry, stream, epoch, State(b"h", pieces=many))
    assert stored(registry, stream) == many
    epoch = registry.acquire(stream.id, 0, "w").epoch
    put(registry, stream, epoch, State(b"h", gone=[Key(*piece[:3]) for piece in many]), 2)
    assert stored(registry, stream) == []


def test_a_former_owner_writes_no_piece(registry: SqlRegistry, stream: Stream) -> None:
    """Nor does a checkpoint that fails half-way: all of it, or nothing."""
    old = registry.acquire(stream.id, 0, "old").epoch
    put(registry, stream, registry.acquire(stream.id, 0, "new").epoch, State(b"h", pieces=[A]))
    with pytest.raises(StaleEpoch):
        put(registry, stream, old, State(b"h", pieces=[B], gone=[Key(*A[:3])]), 2)
    epoch = registry.acquire(stream.id, 0, "new").epoch
    with pytest.raises(TypeError):
        put(registry, stream, epoch, State(b"other", pieces=[B, Piece("series", 2, 0, None)]), 2)
    assert stored(registry, stream) == [A]


@pytest.mark.parametrize("column", ["content", "crc32"])
def test_a_changed_piece_is_refused(registry: SqlRegistry, stream: Stream, column: str) -> None:
    """One line that names it; pieces of other kinds are read."""
    epoch = registry.acquire(stream.id, 0, "w").epoch
    put(registry, stream, epoch, State(b"h", pieces=[A, CHUNK]))
    other = {"content": b"A", "crc32": 5}[column]
    with registry.engine.begin() as conn:
        table = t.checkpoint_pieces
        conn.execute(update(table).where(table.c.kind == "series").values({column: other}))
    pages = paged(partial(registry.pieces, stream.id, 0, epoch))
    assert list(pages("head")) == [[CHUNK]]
    with pytest.raises(ArtifactCorrupt, match="partition 0: series 0/0 was changed"):
        list(pages("series"))


def test_who_is_replaced_while_it_reads_reads_no_further(
    registry: SqlRegistry, stream: Stream
) -> None:
    """Two pages, and another owner writes between them: what would be read is not of one state."""
    many = [Piece("series", slot, 0, b"old") for slot in range(AT_ONCE + 1)]
    epoch = registry.acquire(stream.id, 0, "w").epoch
    put(registry, stream, epoch, State(b"h", pieces=many))
    pages = paged(partial(registry.pieces, stream.id, 0, epoch))("series")
    assert next(pages) == many[:-1]
    epoch = registry.acquire(stream.id, 0, "other").epoch
    put(registry, stream, epoch, State(b"h", pieces=[many[-1]._replace(content=b"new")]), 2)
    with pytest.raises(StaleEpoch, match="partition 0 has another owner"):
        next(pages)
