"""A boundary in, one sentence for whoever runs the plant out: what moved, how far, since when."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.records import Boundary, SensorEvent

#: What changed of a sensor, as far as a boundary's record says: its level.
KIND = "level"
#: A sensor that moved by less is not named, nor one that moved by less than this share of the most.
LEAST, SHARE = 0.5, 0.1


def explain(boundary: Boundary, channels: Sequence[str], at: str | None = None) -> str:
    """The sentence; changes are in robust standard deviations of the series' first readings.

    at: when it began, for people; None: its row.

    >>> explain(
    ...     Boundary(
    ...         series="press", segment=1, boundary_row=2000, detected_row=2044,
    ...         boundary_offset=2000, detected_offset=2044, boundary_time=0, detected_time=0,
    ...         signal="level", statistic=9.1, threshold=5.0, detectors=("ADWIN",),
    ...         sensors=((1, -4.21), (0, 0.2)),
    ...     ),
    ...     ["temperature", "flow"],
    ... )
    'press, from row 2,000: flow fell by 4.2 standard deviations (noticed 44 readings later).'
    """
    since = at or f"row {boundary.boundary_row:,}"
    late = boundary.detected_row - boundary.boundary_row
    noticed = f"noticed {late:,} reading{'' if late == 1 else 's'} later"
    return f"{boundary.series}, from {since}: {_what(boundary, channels)} ({noticed})."


def _what(boundary: Boundary, channels: Sequence[str]) -> str:
    moves = _moves(boundary, channels)
    if boundary.signal == "level":
        return moves or "several sensors moved a little at once"
    change = "the sensors vary or move together in another way than before"
    return f"{change}; {moves}" if moves else f"{change}, around unchanged levels"


def _moves(boundary: Boundary, channels: Sequence[str]) -> str:
    """The sensors whose levels moved, most first."""
    most = max((abs(change) for _, change in boundary.sensors), default=0.0)
    told = [
        f"{channels[channel]} {'rose' if change > 0 else 'fell'} by {abs(change):.1f}"
        for channel, change in boundary.sensors
        if abs(change) >= max(LEAST, SHARE * most)
    ]
    if not told:
        return ""
    *first, last = told
    moved = f"{', '.join(first)} and {last}" if first else last
    return f"{moved} standard deviations"


def sensor_event(event: SensorEvent, sensor: str) -> str:
    """What happened to a sensor, in one sentence."""
    what = {
        "sensor_silent": "says nothing any more",
        "sensor_frozen": "repeats one value",
        "sensor_back": "is back",
    }
    return f"{sensor} {what[event.kind]} (reading {event.row} of {event.series})."
