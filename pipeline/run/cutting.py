"""Readings and the boundaries to cut them at in, versions trained on the segments out.

The same staging, reservoir and requests as the stream's, and no gate: what is trained is kept.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable

import numpy as np

from pipeline.config import Detect, Settings
from pipeline.consolidate.readings import Readings, Windows, split
from pipeline.consolidate.staging import Closed
from pipeline.consolidate.strategies import STRATEGIES
from pipeline.detect.boundary import BoundaryDetector
from pipeline.records import Batch, Boundary, IntArray, Request
from pipeline.run.baselines import State, Step, take
from pipeline.run.partition import Partition


class Told(BoundaryDetector):
    """Marks the boundaries that it was told, each when the row of its detection is read."""

    def __init__(self, channels: int, settings: Detect, boundaries: Iterable[Boundary]) -> None:
        super().__init__(channels, settings)
        self._told: dict[str, list[Boundary]] = defaultdict(list)
        for boundary in boundaries:
            self._told[boundary.series].append(boundary)
        self._rows: dict[str, int] = defaultdict(int)

    def update(self, batch: Batch, slots: IntArray) -> list[Boundary]:
        """Those of a batch, in the log's order."""
        found: list[tuple[int, Boundary]] = []
        for name, first, end in zip(batch.series, batch.starts, batch.starts[1:], strict=False):
            row, last = self._rows[name], self._rows[name] + int(end - first)
            mine = [b for b in self._told[name] if row <= b.detected_row < last]
            found += [(int(batch.order[first + b.detected_row - row]), b) for b in mine]
            self._rows[name] = last
        return [boundary for _, boundary in sorted(found, key=lambda pair: pair[0])]


class Cut(Partition):
    """A partition that is told its boundaries, and trains what it asks for."""

    def __init__(self, settings: Settings, channels: int, boundaries: Iterable[Boundary]) -> None:
        super().__init__(
            stream_id=0, topic=settings.stream.topic, number=0, channels=channels, settings=settings
        )
        self.detector = Told(channels, settings.detect, boundaries)
        #: What there was after each consolidation, and the offset that had been read by then.
        self.states: list[State] = []
        self.rows: list[int] = []
        #: (series, segment) -> its newest readings that were asked to be learned.
        self.segments: dict[tuple[str, int], bytes] = {}
        self._trained: list[IntArray] = []

    def take(self, batch: Batch, tick: Callable[[], None]) -> None:
        """A batch through staging, and its requests through training; tick: see `follow`."""
        step = self.advance(batch)
        for request in step.requests:
            segment, reservoir = (
                step.artifacts[request.inputs[role]][1] for role in ("segment", "reservoir")
            )
            made = self._step(request, segment, reservoir)
            self._note(Readings.from_bytes(segment))
            state = self.states[-1] if self.states else State()
            self.states.append(take(made, state, self.settings, tick))
            self.rows.append(batch.next_offset)

    def trained(self) -> IntArray:
        """Offsets of the readings that were trained on, or could be replayed."""
        return np.unique(np.concatenate([np.zeros(0, np.int64), *self._trained]))

    def _step(self, request: Request, segment: bytes, reservoir: bytes) -> Step:
        place = (str(request.series), request.segment or 0)
        self.segments.pop(place, None)
        keeps = STRATEGIES[self.settings.learn.strategy].keeps
        earlier = tuple(self.segments.values()) if keeps in ("latest", "everything") else ()
        self.segments[place] = segment
        return Step(
            task=0,
            segment=segment,
            reservoirs=(reservoir,) if keeps == "reservoir" else (),
            earlier=earlier,
            seed=self.settings.learn.seed + len(self.states) + 1,
        )

    def _keep(self, segment: Closed) -> None:
        super()._keep(segment)
        self._note(segment.readings)

    def _note(self, readings: Readings) -> None:
        windows, _ = split(readings, self.settings.score.window, self.settings.learn.held_out)
        self._trained.append(readings.offsets[_covered(readings, windows)])


def unseen(readings: Readings, windows: Windows, seen: IntArray) -> Windows:
    """Those windows of a segment that hold no reading of `seen`, offsets."""
    before = np.concatenate([[0], np.cumsum(np.isin(readings.offsets, seen))])
    first, last = np.searchsorted(readings.offsets, windows.offsets).T
    clean = before[last + 1] == before[first]
    return Windows(values=windows.values[clean], offsets=windows.offsets[clean])


def _covered(readings: Readings, windows: Windows) -> IntArray:
    """Rows of a segment that lie in one of its windows."""
    first, last = np.searchsorted(readings.offsets, windows.offsets).T
    change = np.zeros(len(readings.offsets) + 1, dtype=np.int64)
    np.add.at(change, first, 1)
    np.add.at(change, last + 1, -1)
    return np.flatnonzero(np.cumsum(change)[:-1] > 0)
