"""Checkpoint bytes: what went in comes out, and anything else is refused."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from safetensors.numpy import save

from pipeline.errors import RegistryError
from pipeline.register.checkpoints import FORMAT, pack, unpack

KINDS = st.sampled_from([np.bool_, np.uint8, np.int32, np.int64, np.float32, np.float64])
ARRAYS = st.dictionaries(
    st.text(st.characters(codec="utf-8"), min_size=1, max_size=12).map("part.".__add__),
    KINDS.flatmap(lambda kind: hnp.arrays(kind, hnp.array_shapes(min_dims=0, min_side=0))),
    max_size=4,
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
META = st.dictionaries(st.text(), JSON, max_size=3)


@given(arrays=ARRAYS, meta=META)
def test_what_was_packed_is_unpacked(arrays: dict[str, NDArray[Any]], meta: dict[str, Any]) -> None:
    """A restart goes on from exactly the state that was left: every bit, shape, kind and name."""
    found, head = unpack(pack(arrays, meta))
    assert head == meta
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        assert found[name].tobytes() == array.tobytes()


@given(arrays=ARRAYS, meta=META)
def test_equal_contents_have_equal_bytes(
    arrays: dict[str, NDArray[Any]], meta: dict[str, Any]
) -> None:
    """Two runs are compared by their checkpoints' bytes: the order of making must not show."""
    backwards = dict(reversed(arrays.items())), dict(reversed(meta.items()))
    assert pack(*backwards) == pack(arrays, meta)


def test_a_view_with_gaps_is_packed_by_its_cells() -> None:
    """State is often a slice of a larger array; its neighbours must not come along."""
    whole = np.arange(24, dtype=np.int64).reshape(4, 6)
    for view in (whole[::2, 1::2], whole.T, whole[::-1]):
        found, _ = unpack(pack({"view": view}, {}))
        assert np.array_equal(found["view"], view)


def test_another_format_is_refused_with_advice() -> None:
    """Bytes of another version of tidemark are never misread as this one's."""
    text = json.dumps({"format": FORMAT + 1, "meta": {}}).encode()
    content = save({"__meta__": np.frombuffer(text, dtype=np.uint8)})
    with pytest.raises(RegistryError, match=rf"format {FORMAT + 1}, .* reads {FORMAT}: go on"):
        unpack(content)


@pytest.mark.parametrize("head", [b"", b"{", b"[]", b"1", b"null", b"{}", b'"format"', b"\xff"])
def test_a_strange_head_is_refused(head: bytes) -> None:
    """safetensors that something else wrote may hold anything under our name."""
    content = save({"__meta__": np.frombuffer(head, dtype=np.uint8)})
    with pytest.raises(RegistryError):
        unpack(content)


def test_tensors_without_a_head_are_refused() -> None:
    """The weights of a model are no checkpoint, though they are safetensors."""
    with pytest.raises(RegistryError, match="not a checkpoint"):
        unpack(save({"weight": np.zeros(3)}))


@given(content=st.binary(max_size=200))
def test_garbage_is_refused(content: bytes) -> None:
    """A worker that reads garbage says so in one line, instead of crashing somewhere inside."""
    with pytest.raises(RegistryError, match="not a checkpoint") as refused:
        unpack(content)
    assert "\n" not in str(refused.value)


@given(cut=st.integers(0, 10_000), flip=st.integers(1, 255))
def test_damaged_bytes_are_refused_or_of_the_same_shape(cut: int, flip: int) -> None:
    """Damage in the structure is noticed here; in the values, by the sha256 beside the bytes."""
    whole = pack({"a": np.arange(5.0), "b": np.ones((2, 3), np.float32)}, {"series": ["p1"]})
    at = cut % len(whole)
    with pytest.raises(RegistryError):
        unpack(whole[:at])
    damaged = whole[:at] + bytes([whole[at] ^ flip]) + whole[at + 1 :]
    try:
        arrays, _ = unpack(damaged)
    except RegistryError:
        return
    assert sum(array.nbytes for array in arrays.values()) <= len(whole)
