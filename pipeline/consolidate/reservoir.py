"""Algorithm R over forecast windows: every window offered so far is held with the same chance."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from pipeline.consolidate.readings import Windows
from pipeline.errors import ArtifactCorrupt


class Reservoir:
    """A uniform sample of everything offered (Vitter 1985, Algorithm R).

    Parameters
    ----------
    capacity
        Windows held, at most.
    window, channels
        W and d: a window is (W + 1, d).
    seed
        Of its own generator, whose state belongs to the checkpoint.
    """

    def __init__(
        self, capacity: int, window: int, channels: int, seed: Sequence[int] = (0,)
    ) -> None:
        self.capacity = capacity
        self.seen = 0
        self._rng = np.random.Generator(np.random.PCG64(list(seed)))
        self._values = np.zeros((0, window + 1, channels), dtype=np.float32)
        self._offsets = np.zeros((0, 2), dtype=np.int64)

    def __len__(self) -> int:
        return len(self._values)

    def offer(self, windows: Windows) -> None:
        """Take windows in, perhaps in place of older ones; of two for one place the later stays.

        Item number n (from 1) gets the place randrange(n), and is held if that is < capacity.
        """
        free = min(self.capacity - len(self), len(windows))
        self._values = np.concatenate([self._values, windows.values[:free]])
        self._offsets = np.concatenate([self._offsets, windows.offsets[:free]])
        n = self.seen + np.arange(free + 1, len(windows) + 1)
        self.seen += len(windows)
        if not len(n):
            return
        place = self._rng.integers(0, n)
        taken = np.flatnonzero(place < self.capacity)
        # assignment with repeated indices keeps the last one
        self._values[place[taken]] = windows.values[free + taken]
        self._offsets[place[taken]] = windows.offsets[free + taken]

    def state(self) -> dict[str, NDArray[Any]]:
        """Arrays that `restore` goes on from."""
        rng = json.dumps(self._rng.bit_generator.state, sort_keys=True).encode()
        return {
            "values": self._values,
            "offsets": self._offsets,
            "seen": np.array([self.seen]),
            "rng": np.frombuffer(rng, dtype=np.uint8),
        }

    @classmethod
    def restore(
        cls, state: Mapping[str, NDArray[Any]], capacity: int, window: int, channels: int
    ) -> Reservoir:
        """Go on from `state()`."""
        reservoir = cls(capacity, window, channels)
        reservoir.seen = int(state["seen"][0])
        reservoir._values = np.array(state["values"], dtype=np.float32)
        reservoir._offsets = np.array(state["offsets"], dtype=np.int64)
        reservoir._rng.bit_generator.state = json.loads(state["rng"].tobytes())
        return reservoir

    def to_bytes(self) -> bytes:
        """What is held and how much was seen, as an artifact."""
        arrays = {"values": self._values, "offsets": self._offsets, "seen": np.array([self.seen])}
        return save({name: np.ascontiguousarray(a) for name, a in arrays.items()})


def union(artifacts: Sequence[bytes], capacity: int, seed: int) -> Windows | None:
    """One sample of several partitions' reservoirs; None if they hold nothing.

    Drawn down to `capacity`, from each in proportion to what it has seen; give or take a window
    for each partition, since none is left out.
    """
    parts = [part for part in map(_load, artifacts) if len(part["values"])]
    if not parts:
        return None
    rng = np.random.Generator(np.random.PCG64(seed))
    seen = np.array([float(part["seen"][0]) for part in parts])
    shares = np.floor(capacity * seen / seen.sum()).astype(int)
    values, offsets = [], []
    for part, share in zip(parts, shares, strict=True):
        held = len(part["values"])
        total = sum(len(p["values"]) for p in parts)
        kept = rng.permutation(held)[: held if total <= capacity else max(1, int(share))]
        values.append(part["values"][np.sort(kept)])
        offsets.append(part["offsets"][np.sort(kept)])
    return Windows(values=np.concatenate(values), offsets=np.concatenate(offsets))


def _load(content: bytes) -> dict[str, NDArray[Any]]:
    try:
        arrays: dict[str, NDArray[Any]] = load(content)
        return {name: arrays[name] for name in ("values", "offsets", "seen")}
    except (SafetensorError, KeyError) as exc:
        raise ArtifactCorrupt(f"not a reservoir: {exc}") from None
