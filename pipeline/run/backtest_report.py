"""What a backtest answers, as structures: the JSON's schema, version 1, is generated from them.

Within a version fields may be added; none is renamed, removed or given another meaning.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

#: The schema as a file, for those who read the answer with another program.
SCHEMA = Path(__file__).with_name("backtest.schema.json")

Row = Annotated[int, Meta(ge=0)]
Count = Annotated[int, Meta(ge=0)]
Share = Annotated[float, Meta(ge=0, le=1)]


class Part(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of the answer."""


class Moved(Part, frozen=True, kw_only=True):
    """What changed of a sensor at a boundary, or between two."""

    name: str
    other: Annotated[str | None, Meta(description="The other one, of a correlation; else null")]
    kind: Annotated[str, Meta(description="What changed: level, spread, correlation or dynamics")]
    change: Annotated[
        float,
        Meta(
            description="Of a level, in robust standard deviations of the series' first readings; "
            "of a spread, the factor; of a correlation or, for dynamics, of the autocorrelation, "
            "the difference"
        ),
    ]
    before: Annotated[
        float,
        Meta(
            description="Level in the sensor's unit; standard deviation of what its past does not "
            "explain, in its unit; correlation; autocorrelation"
        ),
    ]
    after: float


class Found(Part, frozen=True, kw_only=True):
    """A boundary: where one segment of a series ends and the next begins."""

    series: str
    segment: Annotated[int, Meta(ge=1, description="Number of the segment that begins here")]
    boundary_row: Annotated[
        int, Meta(ge=0, description="Reading of the series, from 0, where the change lies")
    ]
    detected_row: Annotated[int, Meta(ge=0, description="Reading at which it was noticed")]
    boundary_at: Annotated[
        str | None, Meta(description="Its time, ISO 8601; null without a column of times")
    ]
    detected_at: str | None
    end_row: Annotated[
        Row | None,
        Meta(description="Reading at which the change was complete; null while it goes on"),
    ]
    end_at: Annotated[str | None, Meta(description="Its time; null without one")]
    task: Annotated[int | None, Meta(description="Regime that begins here; null if none was named")]
    recurrence: Annotated[
        bool | None, Meta(description="Whether that regime was known already; null without a task")
    ]
    distance: Annotated[
        float | None,
        Meta(description="To the nearest other regime known then; from 1 on it is a new one"),
    ] = None
    detectors: Annotated[
        tuple[str, ...], Meta(description="river detectors whose alarms had opened the watch")
    ]
    signal: Annotated[str, Meta(description="Signal whose test crossed: level or residual")]
    statistic: float
    threshold: float
    effect: Annotated[
        float,
        Meta(
            description="Largest change in one currency: standard deviations of a level, natural "
            "logarithm of a spread's factor, difference of Fisher's z (atanh) of a correlation or "
            "an autocorrelation"
        ),
    ]
    sensors: Annotated[tuple[Moved, ...], Meta(description="What changed, most first")]
    text: Annotated[str, Meta(description="The same in one sentence")]


class Event(Part, frozen=True, kw_only=True):
    """Something that happened to a sensor and is no boundary."""

    series: str
    row: Row
    kind: Annotated[str, Meta(description="Such as sensor_silent or sensor_frozen")]
    sensor: str
    text: str


class TaskSegment(Part, frozen=True, kw_only=True):
    """A stretch of a series: readings first_row to end_row - 1."""

    series: str
    first_row: Row
    end_row: Row


class FoundTask(Part, frozen=True, kw_only=True):
    """A regime and where it was found."""

    task: Annotated[int, Meta(ge=1)]
    readings: Count
    segments: tuple[TaskSegment, ...]


class TrainedVersion(Part, frozen=True, kw_only=True):
    """A version of the model."""

    version: Annotated[int, Meta(ge=1)]
    trigger: Annotated[str, Meta(description="Reason of its request, such as boundary")]
    row: Annotated[int, Meta(ge=0, description="Rows of the recording read when it was made")]
    status: Annotated[str, Meta(description="champion, retired, rejected or rolled_back")]
    decision: Annotated[str, Meta(description="What the gate said")]
    seconds: Annotated[float, Meta(ge=0, description="Duration of its training")]


class Summaries(Part, frozen=True, kw_only=True):
    """Of an error matrix; null where there is nothing to say."""

    average: Annotated[float | None, Meta(description="Mean skill at the end")] = None
    forgetting: Annotated[
        float | None,
        Meta(description="Mean fall from a task's best since it was learned to the end"),
    ] = None
    backward_transfer: float | None = None
    forward_transfer: float | None = None
    learning_curve_area: Annotated[
        float | None,
        Meta(description="Mean over the rows of the mean skill on the tasks that had come up"),
    ] = None


class Retention(Summaries, frozen=True, kw_only=True):
    """Skill (1 - MSE / variance) of the versions that were live, as measured when each was made."""

    tasks: tuple[str, ...]
    versions: tuple[int, ...]
    R: Annotated[
        tuple[tuple[float | None, ...], ...],
        Meta(description="A row a version, a column a task; null: not measured"),
    ]


class Baseline(Summaries, frozen=True, kw_only=True):
    """What one way to learn makes of the requests, by what is held out of every task at the end.

    Row 0 is the first version, each further row the model after one more request.
    """

    skills: Annotated[dict[str, float], Meta(description="Task: skill at the end")]
    tasks: Annotated[tuple[str, ...], Meta(description="The matrix's columns")]
    learned_at: Annotated[
        tuple[Row, ...], Meta(description="Row of the matrix by which each task had come up")
    ]
    rows: Annotated[
        tuple[Row, ...],
        Meta(description="Rows of the recording read by then; empty where there is none"),
    ]
    matrix: tuple[tuple[float | None, ...], ...]
    seconds: Annotated[float, Meta(ge=0, description="Duration of its trainings")]


class DetectionCost(Part, frozen=True, kw_only=True):
    """The settings' method without a gate, on segments cut at two kinds of boundaries.

    Both are measured on what is held out of the true segments, a column a true regime, but for
    readings that `found` was trained on. Row 0 is the first version of each.
    """

    found: Annotated[Baseline, Meta(description="Cut at the boundaries that were found")]
    true: Annotated[Baseline, Meta(description="Cut at the true ones")]


class Calibration(Part, frozen=True, kw_only=True):
    """Boundaries in a million readings where nothing changes."""

    budget: Annotated[float, Meta(description="detect.false_boundaries_per_million")]
    expected: Annotated[
        dict[str, float],
        Meta(
            description="Series: how many its thresholds let through at the end, by its own "
            "history; more than the budget where one would have to be above a new series'"
        ),
    ]


class PeriodicControl(Part, frozen=True, kw_only=True):
    """As many alarms, evenly spaced: what a score must beat to mean anything."""

    alarms: Count
    f1: Share


class Detection(Part, frozen=True, kw_only=True):
    """The boundaries against the truth."""

    tolerance: Annotated[int, Meta(ge=1, description="Readings after a change that are a hit")]
    true_boundaries: Count
    hits: Count
    false_alarms: Count
    precision: Share
    recall: Share
    f1: Share
    median_delay: Annotated[
        float | None, Meta(description="Readings from a change to its alarm; null without a hit")
    ]
    median_location_error: Annotated[
        float | None, Meta(description="Readings between a change and where it was located")
    ]
    false_per_10000: Annotated[float, Meta(ge=0)]
    recurrence_accuracy: Annotated[
        Share | None,
        Meta(description="Share of the named segments that are rightly new, or rightly task k"),
    ]
    periodic_control: PeriodicControl


class Rates(Part, frozen=True, kw_only=True):
    """How quick it was; without the training and what it reports at the end."""

    seconds: Annotated[float, Meta(ge=0, description="The whole run")]
    readings_per_s: Annotated[float, Meta(ge=0)]
    detect_us_per_reading: Annotated[float, Meta(ge=0)]


class Packages(Part, frozen=True, kw_only=True):
    """What the answer depends on besides the file and the settings."""

    tidemark: str
    river: str
    torch: str
    numpy: str


class Report(Part, frozen=True, kw_only=True):
    """The answer of `tidemark backtest`."""

    schema: Literal["tidemark.backtest/1"] = "tidemark.backtest/1"
    file: Annotated[str, Meta(description="Name of the recording, without its folder")]
    rows: Annotated[int, Meta(ge=1)]
    sensors: tuple[str, ...]
    series: dict[str, int]
    boundaries: tuple[Found, ...]
    calibration: Calibration
    events: tuple[Event, ...]
    tasks: tuple[FoundTask, ...]
    versions: tuple[TrainedVersion, ...]
    retention: Annotated[Retention | None, Meta(description="null without training")]
    baselines: Annotated[
        dict[str, Baseline],
        Meta(description="champion: what was live; the others have no gate. Empty without any"),
    ]
    detection: Annotated[Detection | None, Meta(description="null without a column of truth")]
    detection_cost: Annotated[
        DetectionCost | None,
        Meta(description="null without truth or training, or if true_boundaries is not asked for"),
    ] = None
    rates: Rates
    settings: dict[str, Any]
    seed: Annotated[int, Meta(ge=0)]
    versions_of: Packages


def schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of the answer."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | msgspec.json.schema(Report)


def to_json(report: Report) -> bytes:
    """The answer for people and programs."""
    return msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n"


if __name__ == "__main__":
    SCHEMA.write_bytes(msgspec.json.format(msgspec.json.encode(schema()), indent=2) + b"\n")
