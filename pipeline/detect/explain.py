"""A boundary in, one sentence for whoever runs the plant out: what changed, how far, since when."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.records import Boundary, Change, SensorEvent

#: Sensors move together from this correlation on.
TOGETHER = 0.3
#: An autocorrelation that differs by less is the same.
SAME = 0.05
#: Digits of a value, at least and at most.
FEW, MANY = 3, 9


def explain(boundary: Boundary, channels: Sequence[str], at: str | None = None) -> str:
    """The sentence; changes of level are in robust standard deviations of the first readings.

    at: when it began, for people; None: its row.

    >>> from pipeline.records import Change
    >>> explain(
    ...     Boundary(
    ...         series="press", segment=1, boundary_row=2000, detected_row=2044,
    ...         boundary_offset=2000, detected_offset=2044, boundary_time=0, detected_time=0,
    ...         signal="level", statistic=9.1, threshold=5.0, detectors=("ADWIN",),
    ...         sensors=(
    ...             Change(kind="level", channel=1, change=-4.21, before=12.1, after=7.9),
    ...             Change(kind="spread", channel=0, change=2.1, before=0.5, after=1.05),
    ...         ),
    ...     ),
    ...     ["temperature", "flow"],
    ... )  # doctest: +NORMALIZE_WHITESPACE
    'press, from row 2,000: flow fell by 4.2 standard deviations (12.1 to 7.9); temperature varies
    2.1 times as much (noticed 44 readings later).'
    """
    since = at or f"row {boundary.boundary_row:,}"
    late = boundary.detected_row - boundary.boundary_row
    noticed = f"noticed {late:,} reading{'' if late == 1 else 's'} later"
    what = "; ".join(told(change, channels) for change in boundary.sensors)
    return f"{boundary.series}, from {since}: {what or 'something changed'} ({noticed})."


def told(change: Change, channels: Sequence[str]) -> str:
    """One change, in a clause.

    >>> from pipeline.records import Change
    >>> told(Change(kind="dynamics", channel=0, change=-0.4, before=0.9, after=0.5), ["flow"])
    'flow follows its own past less closely (autocorrelation 0.90 to 0.50)'
    """
    name = channels[change.channel]
    if change.kind == "level":
        moved = "rose" if change.change > 0 else "fell"
        return f"{name} {moved} by {abs(change.change):.1f} standard deviations ({_values(change)})"
    if change.kind == "spread":
        return f"{name} varies {change.change:.2g} times as much"
    values = f"correlation {change.before:.2f} to {change.after:.2f}"
    if change.kind == "correlation" and change.other is not None:
        return f"{name} and {channels[change.other]} {_together(change)} ({values})"
    if abs(change.change) < SAME:
        return f"{name} reacts in another way to what came before"
    closely = "more" if change.change > 0 else "less"
    return f"{name} follows its own past {closely} closely (auto{values})"


def _together(change: Change) -> str:
    """What a correlation has become."""
    before, after = (_way(value) for value in (change.before, change.after))
    if before == after:
        more = abs(change.after) > abs(change.before)
        return f"{before or 'move together'} {'more' if more else 'less'} closely"
    if not after:
        return f"no longer {before}"
    return f"{after} instead of {before.removeprefix('move ')}" if before else f"now {after}"


def _way(correlation: float) -> str:
    if abs(correlation) < TOGETHER:
        return ""
    return "move together" if correlation > 0 else "move in opposite directions"


def _values(change: Change) -> str:
    """Before and after, with as many digits as tell them apart."""
    pairs = (
        (_digits(change.before, digits), _digits(change.after, digits))
        for digits in range(FEW, MANY + 1)
    )
    before, after = next((pair for pair in pairs if pair[0] != pair[1]), ("", ""))
    return f"{before or change.before} to {after or change.after}"


def _digits(value: float, digits: int) -> str:
    """12.1 and 1,234 and 0.00123 and 1.2e+09."""
    if 10**digits <= abs(value) < 10**MANY:
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"


def sensor_event(event: SensorEvent, sensor: str) -> str:
    """What happened to a sensor, in one sentence."""
    what = {
        "sensor_silent": "says nothing any more",
        "sensor_frozen": "repeats one value",
        "sensor_back": "is back",
    }
    return f"{sensor} {what[event.kind]} (reading {event.row} of {event.series})."
