"""Algorithm R over forecast windows: every window offered so far is held with the same chance."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from pipeline.consolidate.readings import Windows
from pipeline.errors import ArtifactCorrupt

#: Series and number of the segment that a window was cut from.
Origin = tuple[str, int]

#: Of windows in an artifact from before origins were kept: no segment has this one.
UNKNOWN: Origin = ("", -1)


class Reservoir:
    """A uniform sample of everything offered (Vitter 1985, Algorithm R).

    It knows no tasks: each window keeps its origin, by which a consolidation leaves it out.

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
        #: (k, 2) slot of the series, and number of the segment.
        self._origins = np.zeros((0, 2), dtype=np.int64)

    def __len__(self) -> int:
        return len(self._values)

    def offer(self, windows: Windows, slot: int = 0, segment: int = 0) -> None:
        """Take a segment's windows in, perhaps in place of older ones; of two for one place the
        later stays.

        Item number n (from 1) gets the place randrange(n), and is held if that is < capacity.
        """
        free = min(self.capacity - len(self), len(windows))
        self._values = np.concatenate([self._values, windows.values[:free]])
        self._offsets = np.concatenate([self._offsets, windows.offsets[:free]])
        origin = np.array([slot, segment], dtype=np.int64)
        self._origins = np.concatenate([self._origins, np.tile(origin, (free, 1))])
        n = self.seen + np.arange(free + 1, len(windows) + 1)
        self.seen += len(windows)
        if not len(n):
            return
        place = self._rng.integers(0, n)
        taken = np.flatnonzero(place < self.capacity)
        # assignment with repeated indices keeps the last one
        self._values[place[taken]] = windows.values[free + taken]
        self._offsets[place[taken]] = windows.offsets[free + taken]
        self._origins[place[taken]] = origin

    def state(self) -> dict[str, NDArray[Any]]:
        """Arrays that `restore` goes on from."""
        rng = json.dumps(self._rng.bit_generator.state, sort_keys=True).encode()
        return {
            "values": self._values,
            "offsets": self._offsets,
            "origins": self._origins,
            "seen": np.array([self.seen]),
            "rng": np.frombuffer(rng, dtype=np.uint8),
        }

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go on from `state()`, having seen nothing."""
        self.seen = int(state["seen"][0])
        self._values = np.array(state["values"], dtype=np.float32)
        self._offsets = np.array(state["offsets"], dtype=np.int64)
        self._origins = np.array(state["origins"], dtype=np.int64)
        self._rng.bit_generator.state = json.loads(state["rng"].tobytes())

    def to_bytes(self, series: Sequence[str] = ("",)) -> bytes:
        """What is held, of which segments, and how much was seen, as an artifact.

        series: name of each slot; only those of what is held are kept.
        """
        slots, rows = np.unique(self._origins[:, 0], return_inverse=True)
        names = json.dumps([series[slot] for slot in slots]).encode()
        arrays = {
            "values": self._values,
            "offsets": self._offsets,
            "origins": np.stack([rows, self._origins[:, 1]], axis=1),
            "series": np.frombuffer(names, dtype=np.uint8),
            "seen": np.array([self.seen]),
        }
        return save({name: np.ascontiguousarray(a) for name, a in arrays.items()})


def origins(artifact: bytes) -> Counter[Origin]:
    """Windows held of each segment; ArtifactCorrupt if it is no reservoir."""
    return Counter(_origins(_load(artifact)))


def union(
    artifacts: Sequence[bytes],
    capacity: int,
    seed: int,
    left_out: Sequence[Collection[Origin]] = (),
) -> Windows | None:
    """One sample of several partitions' reservoirs; None if they hold nothing.

    Drawn down to `capacity`, from each in proportion to what it has seen; give or take a window
    for each partition, since none is left out.

    left_out: of each reservoir, the segments whose windows do not count; of what it has seen, the
    share counts that is still held.
    """
    every = [_load(content) for content in artifacts]
    for part, gone in zip(every, left_out, strict=bool(left_out)):
        part |= _without(part, set(gone))
    parts = [part for part in every if len(part["values"])]
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


Arrays = dict[str, NDArray[Any]]


def _load(content: bytes) -> Arrays:
    try:
        arrays: Arrays = load(content)
        known = {"origins", "series"} & arrays.keys()
        return {name: arrays[name] for name in ("values", "offsets", "seen", *known)}
    except (SafetensorError, KeyError) as exc:
        raise ArtifactCorrupt(f"not a reservoir: {exc}") from None


def _origins(part: Arrays) -> list[Origin]:
    """Of each window."""
    if "origins" not in part:
        return [UNKNOWN] * len(part["values"])
    try:
        names = json.loads(part["series"].tobytes())
        return [(names[row], segment) for row, segment in part["origins"].tolist()]
    except (KeyError, ValueError, IndexError) as exc:
        raise ArtifactCorrupt(f"not a reservoir: {exc}") from None


def _without(part: Arrays, left_out: Collection[Origin]) -> Arrays:
    """The reservoir as if it had never been offered some segments' windows."""
    if not left_out:
        return part
    stays = np.array([origin not in left_out for origin in _origins(part)], dtype=np.bool_)
    return {
        "values": part["values"][stays],
        "offsets": part["offsets"][stays],
        "seen": part["seen"] * stays.mean() if stays.size else part["seen"],
    }
