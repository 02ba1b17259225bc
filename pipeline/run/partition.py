"""A batch of one partition in; windows to score, boundaries and requests out.

Everything here is a function of the partition's log and the settings alone: not of how the log was
cut into polls, of the clock, of the champion, or of other partitions. So it can be checkpointed,
replayed and compared bit for bit.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.config import Settings
from pipeline.consolidate.readings import split
from pipeline.consolidate.reservoir import Reservoir
from pipeline.consolidate.staging import Closed, Due, Staging
from pipeline.detect.boundary import BoundaryDetector
from pipeline.detect.prints import Print
from pipeline.errors import ArtifactCorrupt, RegistryError
from pipeline.ingest.windows import History
from pipeline.records import (
    Batch,
    Boundary,
    Extent,
    FloatArray,
    IntArray,
    Request,
    SensorEvent,
    Settled,
)
from pipeline.register.checkpoints import (
    WHOLE,
    Checkpoint,
    Piece,
    State,
    pack,
    pack_head,
    unpack,
    unpack_head,
)
from pipeline.run.pieces import SERIES, Pieces, arrays_of, rows_of

#: Kind of the piece that holds the reservoir.
RESERVOIR = "reservoir"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What one batch brought."""

    #: (N, d) readings, and (N, W, d) those before each, labels as the last column if there are any;
    #: and which rows have all W of them.
    readings: FloatArray
    contexts: FloatArray
    ready: NDArray[np.bool_]
    boundaries: list[Boundary]
    events: list[SensorEvent] = field(default_factory=list)
    settled: list[Settled] = field(default_factory=list)
    prints: list[Print] = field(default_factory=list)
    #: River's alarms, by the detector's name.
    alarms: Mapping[str, int] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    #: sha256 -> (kind, content) of the requests' inputs.
    artifacts: dict[str, tuple[str, bytes]] = field(default_factory=dict)


class Partition:
    """Detectors, windows, staged readings and reservoir of one partition's series.

    Parameters
    ----------
    stream_id, topic, number
        Whose state it is; topic and number also seed the reservoir.
    channels
        Sensors in a reading. What the model learns from is as wide, or one wider: with
        `stream.label`, a reading's label is its last column there. Detection gets none.
    """

    def __init__(
        self, *, stream_id: int, topic: str, number: int, channels: int, settings: Settings
    ) -> None:
        self.stream_id = stream_id
        self.settings = settings
        self.channels = channels
        #: Seconds spent in detection by this process: a figure, no part of the state.
        self.detect_s = 0.0
        self.slots: dict[str, int] = {}
        width = self.width
        self.history = History(settings.score.window, width)
        self.detector = BoundaryDetector(channels, settings.detect)
        self.staging = Staging(width, settings.learn)
        self.reservoir = Reservoir(
            settings.learn.reservoir_capacity,
            settings.score.window,
            width,
            seed=_seed(settings.learn.seed, topic, number),
        )
        self._pieces = Pieces(
            {"history": self.history, "detector": self.detector, "staging": self.staging},
            self.detector.watch,
            {"warm": self.detector.warm.log, **self.staging.logs},
        )
        #: Windows that had been offered to the reservoir when it was last written.
        self._offered = 0

    @property
    def width(self) -> int:
        """d, columns of what the model learns from."""
        return self.channels + bool(self.settings.stream.label)

    def advance(self, batch: Batch) -> Step:
        """Take one batch through windows, detection, staging and reservoir."""
        slots = self._slots(batch)
        known = _with_labels(batch)
        self._pieces.touch(slots)
        contexts, ready = self.history.update(slots, batch.starts, known.values)
        started = time.perf_counter()
        boundaries = self.detector.update(batch, slots)
        self.detect_s += time.perf_counter() - started
        step = Step(
            readings=known.values,
            contexts=contexts,
            ready=ready,
            boundaries=boundaries,
            events=self.detector.events,
            settled=self.detector.settled,
            prints=self.detector.prints,
            alarms=self.detector.alarms,
        )
        for event in self.staging.advance(known, slots, boundaries):
            if isinstance(event, Closed):
                self._keep(event)
            else:
                step.requests.append(self._request(event, batch, step.artifacts))
        return step

    def expected_false_per_million(self) -> dict[str, float]:
        """Series -> boundaries in a million readings, if nothing changed."""
        slots = np.array(list(self.slots.values()), dtype=np.int64)
        expected = self.detector.expected_false_per_million(slots)
        return dict(zip(self.slots, expected.tolist(), strict=True))

    def _slots(self, batch: Batch) -> IntArray:
        """(S,) each series' row in the stacked state, numbered in the order of the log."""
        for i in np.argsort(batch.order[batch.starts[:-1]]):
            self.slots.setdefault(batch.series[i], len(self.slots))
        return np.array([self.slots[name] for name in batch.series], dtype=np.int64)

    def _keep(self, segment: Closed) -> None:
        """The ended segment's training windows are offered to the reservoir."""
        learn = self.settings.learn
        train, _ = split(segment.readings, self.settings.score.window, learn.held_out)
        self.reservoir.offer(train, self.slots[segment.series], segment.segment)

    def _request(self, due: Due, batch: Batch, artifacts: dict[str, tuple[str, bytes]]) -> Request:
        """A consolidation of what is staged, with the reservoir as it is at this reading."""
        inputs, offsets = {}, due.readings.offsets
        for role, content in (
            ("segment", due.readings.to_bytes()),
            ("reservoir", self.reservoir.to_bytes(list(self.slots))),
        ):
            inputs[role] = hashlib.sha256(content).hexdigest()
            artifacts[inputs[role]] = (role, content)
        return Request(
            stream_id=self.stream_id,
            reason=due.reason,
            partition=batch.partition,
            series=due.series,
            segment=due.segment,
            inputs=inputs,
            extent=Extent(
                readings=len(offsets),
                first_offset=int(offsets[0]),
                last_offset=int(offsets[-1]),
                until=int(batch.times[batch.order == due.order][0]),
            ),
        )

    # State ------------------------------------------------------------------------------------

    def state(self) -> State:
        """What has changed since it was last `written`; equal states, equal pieces in the end."""
        changed, gone = self._pieces.take(list(self.slots))
        if self.reservoir.seen != self._offered:
            content = pack(self.reservoir.state())
            changed.append(Piece(RESERVOIR, WHOLE, 0, content))
        head = {"fit": self._fit(), "layout": self._pieces.layout(), "series": len(self.slots)}
        return State(head=pack_head(head), pieces=changed, gone=gone)

    def written(self) -> None:
        """What `state` gave is in SQL."""
        self._pieces.written()
        self._offered = self.reservoir.seen

    def restore(
        self, checkpoint: Checkpoint, pages: Callable[[str], Iterable[Sequence[Piece]]]
    ) -> None:
        """Go on from what was written, having seen nothing.

        pages: the pieces of a kind, in their order.

        Raises
        ------
        RegistryError
            The settings that shape the state have changed since.
        ArtifactCorrupt
            The pieces are not those of one state.
        """
        meta = unpack_head(checkpoint.head)
        if meta["fit"] != self._fit():
            raise RegistryError(
                "the checkpoint was made with other settings "
                f"({_difference(meta['fit'], self._fit())}): set them back, or start on a new topic"
            )
        if more := set(checkpoint.kinds) - {SERIES, RESERVOIR, *self._pieces.logs}:
            raise ArtifactCorrupt(f"checkpoint: pieces of no known kind ({', '.join(more)})")
        rows = rows_of(chain.from_iterable(pages(SERIES)))
        if len(rows) != meta["series"]:
            raise ArtifactCorrupt("checkpoint: a series is missing")
        self.slots = {row.name: slot for slot, row in enumerate(rows)}
        for kept in chain.from_iterable(pages(RESERVOIR)):
            self.reservoir.restore(unpack(kept.content))
            self._offered = self.reservoir.seen
        arrays = arrays_of(rows, meta["layout"])
        self.history.restore(arrays["history"])
        self.detector.restore(arrays["detector"], [row.river for row in rows])
        self.staging.restore(arrays["staging"])
        for i, kind in enumerate(self._pieces.logs):
            self._pieces.fill(kind, pages(kind), [row.newest[i] for row in rows])

    def _fit(self) -> dict[str, Any]:
        """The settings that shape the state; all others may change from one start to the next."""
        detect, learn = self.settings.detect, self.settings.learn
        # what is kept of a label is its number in the classes
        labels = {"stream.label": "set", "score.classes": list(self.settings.score.classes)}
        return {
            "channels": self.channels,
            "score.window": self.settings.score.window,
            "detect.detectors": list(detect.detectors),
            "detect.profile": detect.profile,
            "detect.warm_up": detect.warm_up,
            "detect.fit_after": detect.fit_after,
            "learn.held_out": learn.held_out,
            "learn.segment_capacity": learn.segment_capacity,
            "learn.reservoir_capacity": learn.reservoir_capacity,
            **(labels if self.settings.stream.label else {}),
        }


def _with_labels(batch: Batch) -> Batch:
    """The batch with its labels, if it has any, as the last column of its values."""
    if batch.labels is None:
        return batch
    return replace(batch, values=np.column_stack([batch.values, batch.labels]))


def _seed(seed: int, topic: str, number: int) -> tuple[int, ...]:
    """Another stream of chance for each partition of each topic, the same in every process."""
    return (seed, number, *hashlib.sha256(topic.encode()).digest()[:8])


def _difference(before: dict[str, Any], now: dict[str, Any]) -> str:
    return ", ".join(
        f"{name} was {before.get(name, 'not set')}, is {now.get(name, 'not set')}"
        for name in now | before
        if before.get(name) != now.get(name)
    )
