"""What travels between the stages: frozen records, arrays inside, every field with its unit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import atanh, log
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]

#: Rows of a log that a checkpoint writes at once, when the last of them is there; and of a log
#: that is long, of which so many chunks are made one.
CHUNK, LONG_CHUNK = 64, 512

#: What a person may say of a task. Until somebody does, it may be `asked` (learn.new_tasks).
KINDS = ("normal", "fault", "ignore")


#: Kind of an event -> its severity: what a person may want to be told of.
EVENTS = {
    "boundary": "info",
    "new_regime": "info",
    "returning_regime": "info",
    "fault_regime": "error",
    "regime_waits": "warning",
    "version": "info",
    "promotion": "info",
    "version_waits": "warning",
    "refusal": "warning",
    "roll_back": "error",
    "training_failed": "warning",
    "gap": "error",
    "sensor_silent": "warning",
    "sensor_frozen": "warning",
    "sensor_back": "info",
    "verify_failed": "error",
    "login_failed": "warning",
    "restored": "warning",
    "notifications_expired": "warning",
}
#: From what may be looked at some day to what should be looked at now.
SEVERITIES = ("info", "warning", "error")


@dataclass(frozen=True, slots=True)
class Log:
    """Rows of many series that stay as they are while newer ones come and the oldest go.

    A checkpoint writes each of them once. All rows of a chunk can be read as long as one of them is
    kept.
    """

    #: Of a row.
    dtype: np.dtype[np.void]
    #: (S,) slots -> generation, first and end row of what is kept of each series. In another
    #: generation all rows are other ones.
    spans: Callable[[IntArray], tuple[IntArray, IntArray, IntArray]]
    #: (N,) slots and rows -> what they are.
    read: Callable[[IntArray, IntArray], NDArray[np.void]]
    #: (N,) slots, rows and what was read of them: put back.
    write: Callable[[IntArray, IntArray, NDArray[np.void]], None]
    #: Rows of a chunk.
    chunk: int = CHUNK


@dataclass(frozen=True, slots=True, kw_only=True)
class Records:
    """Raw records of one partition, in offset order, as one poll gave them."""

    topic: str
    partition: int
    #: Offsets may have holes (compacted topics, transactions).
    offsets: Sequence[int]
    keys: Sequence[bytes | None]
    values: Sequence[bytes | None]
    #: When each was written, by its producer's clock or the broker's, in milliseconds since 1970
    #: UTC; below 0 where the log does not say. Empty: it says so of none.
    written: Sequence[int] = ()
    #: First offset that this poll did not reach.
    next_offset: int

    def __len__(self) -> int:
        return len(self.offsets)


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Readings of one partition from one poll, grouped by series.

    Rows of series `i` are `starts[i]:starts[i + 1]`, in the order of the log.
    """

    topic: str
    partition: int
    #: (S,) names of the series with readings here, each once.
    series: tuple[str, ...]
    #: (S + 1,) first row of each series.
    starts: IntArray
    #: (N,) offset of the record that each reading came in; a record may hold several readings.
    offsets: IntArray
    #: (N,) rank of each reading in the poll's log order: ties between series are broken by it.
    order: IntArray
    #: (N,) event time, microseconds since 1970 UTC.
    times: IntArray
    #: (N, d) sensor values; NaN where a cell is missing.
    values: FloatArray
    #: First offset that the poll did not reach (dead letters count as reached).
    next_offset: int
    #: (N,) number of each reading's class, NaN where it has no label; None: the stream has none.
    labels: FloatArray | None = None

    def __len__(self) -> int:
        return len(self.values)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A record that could not be decoded, and why."""

    topic: str
    partition: int
    offset: int
    #: A short, stable code such as `not_json`: counted and logged by it.
    kind: str
    #: One sentence for a person.
    reason: str
    key: bytes | None
    value: bytes | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LogRecord:
    """One record of a topic, as it lies in its log."""

    partition: int
    offset: int
    #: When it was written, in microseconds since 1970 UTC.
    time: int
    key: bytes | None
    value: bytes | None
    headers: Mapping[str, bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outgoing:
    """One record to be published."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What changed of a sensor, or between two, at a boundary."""

    #: level | spread | correlation | dynamics
    kind: str
    #: Index of the sensor; of a correlation's second one.
    channel: int
    other: int | None = None
    #: Of a level, in robust standard deviations of the series' first readings; of a spread, the
    #: factor; of a correlation and, for dynamics, of an autocorrelation, the difference.
    change: float
    #: What it was and what it is: level and standard deviation (of what the sensor's past does not
    #: explain) in the sensor's unit, correlation, autocorrelation.
    before: float
    after: float

    @property
    def effect(self) -> float:
        """Its size in one currency: deviations of a level, the logarithm of a spread's factor, or
        the difference of Fisher's z, which is that of the spread of two sensors' sum to that of
        their difference."""
        if self.kind == "level":
            return abs(self.change)
        if self.kind == "spread":
            return abs(log(self.change))
        return abs(atanh(self.after) - atanh(self.before))


@dataclass(frozen=True, slots=True, kw_only=True)
class Boundary:
    """Where one segment of a series ends and the next begins."""

    series: str
    #: Number of the segment that begins here; a series starts in segment 0.
    segment: int
    #: Rows (readings of this series since its first) of the change and of its detection.
    boundary_row: int
    detected_row: int
    #: Kafka offsets of those rows' records.
    boundary_offset: int
    detected_offset: int
    #: Event times of those rows, microseconds since 1970 UTC.
    boundary_time: int
    detected_time: int
    #: Signal whose test crossed: `level` or `residual`.
    signal: str
    #: The test's statistic and the threshold that it crossed.
    statistic: float
    threshold: float
    #: river detectors whose alarms had opened the watch, sorted by name.
    detectors: tuple[str, ...]
    #: What changed of which sensors, the largest change first.
    sensors: tuple[Change, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """The transition that began at a boundary is over."""

    series: str
    #: Number of the segment that began with it.
    segment: int
    #: First reading at which the series had arrived: row, offset and event time. That of the
    #: boundary if it changed at once.
    end_row: int
    end_offset: int
    end_time: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SensorEvent:
    """A sensor that stopped saying anything, or says something again. It is not a drift."""

    series: str
    #: Index of the sensor.
    channel: int
    #: sensor_silent | sensor_frozen | sensor_back
    kind: str
    #: Row (readings of this series since its first) at which it was known.
    row: int
    offset: int
    #: Event time of that row, microseconds since 1970 UTC.
    time: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """Records that a log no longer had when they were to be read."""

    #: Half-open, [first_offset, end_offset); a log may have holes, so at most so many records.
    first_offset: int
    end_offset: int
    #: What was left of the log then: its `earliest` record or its `latest`, where reading went on.
    went_on: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """A segment's task: a new one, or task k again."""

    series: str
    segment: int
    #: Number of the task within the stream; what people said of it.
    task: int
    kind: str
    name: str | None
    recurrence: bool
    #: To the nearest other task, in borders (from 1 on a regime is new); None: there was none.
    distance: float | None
    #: Readings of the segment that were seen, and whether no more will be asked.
    rows: int
    final: bool
    #: Whether it was another task, or none, that was said of the segment before.
    changed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """Where the readings of a request lie in its partition."""

    readings: int
    #: Offsets of the first and the last of them.
    first_offset: int
    last_offset: int
    #: Event time of the reading with which they were enough, microseconds since 1970 UTC.
    until: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A consolidation to do, with content-addressed inputs."""

    stream_id: int
    #: bootstrap | boundary | refine | schedule | manual | metric | readings | evaluate; the last
    #: trains nothing.
    reason: str
    #: What made it due; for a person or a schedule, who and why.
    actor: str = "tidemark"
    note: str = ""
    partition: int | None = None
    series: str | None = None
    segment: int | None = None
    #: sha256 of the artifacts it works on, by role: `segment`, `reservoir`.
    inputs: Mapping[str, str] = field(default_factory=dict)
    #: Of the readings in `segment`; None: nobody said.
    extent: Extent | None = None
    #: For `schedule` and `evaluate`: when it was due, microseconds; unique by stream and reason.
    due: int | None = None
    #: Number of the task that the version may not have learned.
    without_task: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A request that this process may work on until the lease ends."""

    id: int
    request: Request
    #: Fencing number: a later claim of the same request has a larger one.
    fence: int
    attempts: int
    #: Further pending requests of the same stream that this one takes along (id, request).
    folded: tuple[tuple[int, Request], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """An immutable set of weights and where it came from."""

    id: int
    stream_id: int
    #: 1, 2, ... within the stream.
    number: int
    parent_id: int | None
    #: sha256 of the weights' artifact.
    sha256: str
    #: sha256 of the online EWC state's artifact.
    ewc_sha256: str | None
    #: candidate | champion | retired | rejected | rolled_back | waiting | refused
    status: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RolledBack:
    """A promotion that was taken back."""

    #: Number of the version that was left, and of the one that is champion again.
    version: int
    to: int
    #: `rollback` where the stream saw by itself that it had to be.
    actor: str
    reason: str
    #: Microseconds since 1970 UTC.
    time: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """What a consolidation made: weights and state as safetensors bytes, and its figures."""

    weights: bytes
    ewc: bytes
    #: Plain figures by name (losses, seconds, lambda, sizes).
    metrics: Mapping[str, float]
    #: Row of the error matrix R: task id -> skill (1 - MSE / variance) of this candidate on the
    #: task's held-out windows.
    skills: Mapping[int, float]
    #: The same for its parent, on the same windows; empty for a bootstrap.
    parent_skills: Mapping[int, float]
    #: Tasks that this consolidation set out to learn.
    new_tasks: tuple[int, ...]
    #: Held-out windows behind each skill.
    sizes: Mapping[int, int]
    #: Task id -> (N,) losses of its held-out windows in their order, the candidate's and its
    #: parent's; a skill is 1 - their mean.
    losses: Mapping[int, NDArray[np.float64]]
    parent_losses: Mapping[int, NDArray[np.float64]]
    #: Consecutive held-out windows that share readings: those of one run.
    block: int
    #: Task id -> mean and standard deviation of the candidate's scores of the held-out readings.
    scores: Mapping[int, tuple[float, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What the gate said, with the figures it looked at."""

    promote: bool
    reason: str
    figures: Mapping[str, Any] = field(default_factory=dict)
