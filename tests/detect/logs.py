"""Series in, a log of one partition out: cut into polls, and given to a detector."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.config import Detect
from pipeline.detect.boundary import BoundaryDetector
from pipeline.records import Batch, Boundary, IntArray, Settled
from pipeline.records import Log as Rows

#: References are fitted early, so that a short stream reaches every part.
QUICK = Detect(warm_up=60, fit_after=200)


@dataclass(frozen=True)
class Log:
    """The readings of one partition: offsets with holes, a series each, times of its own."""

    series: NDArray[Any]
    offsets: NDArray[np.int64]
    times: NDArray[np.int64]
    values: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.series)

    def of(self, name: str) -> NDArray[np.int64]:
        """Places in the log of one series' readings."""
        return np.flatnonzero(self.series == name)

    def batch(self, low: int, high: int) -> Batch:
        """One poll: readings low <= i < high, grouped by series."""
        names = tuple(dict.fromkeys(self.series[low:high].tolist()))
        rows = [low + np.flatnonzero(self.series[low:high] == name) for name in names]
        index = np.concatenate(rows)
        return Batch(
            topic="readings",
            partition=0,
            series=names,
            starts=np.cumsum([0, *map(len, rows)]),
            offsets=self.offsets[index],
            order=index - low,
            times=self.times[index],
            values=self.values[index],
            next_offset=int(self.offsets[high - 1]) + 1,
        )

    def polls(self, sizes: Iterable[int], start: int = 0) -> Iterator[Batch]:
        """Polls of these many readings, and one of what is left."""
        for size in sizes:
            if start >= len(self):
                return
            yield self.batch(start, min(start + size, len(self)))
            start += size
        if start < len(self):
            yield self.batch(start, len(self))


def interleave(series: Mapping[str, NDArray[Any]], seed: int = 0) -> Log:
    """A log with every series' readings in their own order, mixed at random."""
    rng = np.random.default_rng(seed)
    names = list(series)
    which = rng.permutation(np.repeat(np.arange(len(names)), [len(series[n]) for n in names]))
    values = np.empty((len(which), next(iter(series.values())).shape[1]), dtype=np.float32)
    for i, name in enumerate(names):
        values[which == i] = series[name]
    return Log(
        series=np.array(names)[which],
        offsets=np.cumsum(rng.integers(1, 4, len(which))),
        times=1_700_000_000_000_000 + np.cumsum(rng.integers(1, 2_000_000, len(which))),
        values=values,
    )


def feed(
    detector: BoundaryDetector, polls: Iterable[Batch], slots: Mapping[str, int]
) -> list[Boundary]:
    """Boundaries of these polls, in the order in which they came out."""
    return hear(detector, polls, slots)[0]


def hear(
    detector: BoundaryDetector, polls: Iterable[Batch], slots: Mapping[str, int]
) -> tuple[list[Boundary], list[Settled]]:
    """The same, and the transitions that were over."""
    found: list[Boundary] = []
    settled: list[Settled] = []
    for batch in polls:
        found += detector.update(batch, np.array([slots[name] for name in batch.series]))
        settled += detector.settled
    return found, settled


def find(
    values: NDArray[Any], settings: Detect | None = None, *, poll: int = 500
) -> list[Boundary]:
    """Boundaries of one series, whose reading i has offset 10 i and time 1000 i."""
    return find_all(values, settings, poll=poll)[0]


def find_all(
    values: NDArray[Any], settings: Detect | None = None, *, poll: int = 500
) -> tuple[list[Boundary], list[Settled]]:
    """The same, and the transitions that were over."""
    settings = settings or Detect()
    rows = np.arange(len(values))
    log = Log(np.array(["a"] * len(rows)), rows * 10, rows * 1000, np.asarray(values, np.float32))
    detector = BoundaryDetector(log.values.shape[1], settings)
    return hear(detector, log.polls([poll] * (len(rows) // poll)), {"a": 0})


def of_series(detector: BoundaryDetector, slots: Mapping[str, int]) -> dict[str, dict[str, bytes]]:
    """Every array of `state()` as bytes, taken apart by series: slot numbers fall away."""
    used = used_by(detector)
    state, river = detector.state(used), detector.watch.state(used)
    parts: dict[str, dict[str, bytes]] = {}
    for name, slot in slots.items():
        part = {key: array[slot].tobytes() for key, array in state.items()}
        part["river"] = river[slot]
        warm = detector.warm.log.read(*rows_of(detector.warm.log, used[[slot]]))
        part |= {f"warm.{key}": warm[key].tobytes() for key in ("values", "places")}
        parts[name] = part
    return parts


def used_by(detector: BoundaryDetector) -> IntArray:
    """Slots up to the last one that has seen a reading."""
    return np.arange(np.flatnonzero(detector.fields["rows"]).max(initial=-1) + 1)


def rows_of(log: Rows, slots: IntArray) -> tuple[IntArray, IntArray]:
    """Series and number of every row that a log keeps of them."""
    _, low, high = log.spans(slots)
    ends = zip(low.tolist(), high.tolist(), strict=True)
    rows = [np.arange(a, b) for a, b in ends]
    return np.repeat(slots, high - low), np.concatenate([np.zeros(0, dtype=np.int64), *rows])


def restarted(detector: BoundaryDetector, settings: Detect) -> BoundaryDetector:
    """One that goes on from the other's state."""
    used, made = used_by(detector), BoundaryDetector(detector.channels, settings)
    made.restore(detector.state(used), detector.watch.state(used))
    of, rows = rows_of(detector.warm.log, used)
    made.warm.log.write(of, rows, detector.warm.log.read(of, rows))
    return made


def same(one: BoundaryDetector, other: BoundaryDetector) -> bool:
    """Whether their states are equal, bit for bit."""
    slots = {str(slot): slot for slot in used_by(one).tolist()}
    return of_series(one, slots) == of_series(other, slots)


def by_series(boundaries: Sequence[Boundary]) -> dict[str, list[Boundary]]:
    """Boundaries taken apart by series, each in its order."""
    apart: dict[str, list[Boundary]] = {}
    for boundary in boundaries:
        apart.setdefault(boundary.series, []).append(boundary)
    return apart
