"""Labelled streams in, lines of the table out: F1, covering, recurrence, robustness, units."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from statistics import fmean
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from benchmarks import detection_data as data
from benchmarks import detection_goals as goals
from benchmarks.detection_data import Labelled
from benchmarks.detection_goals import row
from benchmarks.detection_peers import adwin, boundaries, follow
from benchmarks.detection_score import control, covering, naming, pooled
from pipeline.detect.prints import Print
from pipeline.records import Boundary

T = TypeVar("T")
#: Iterates, and says on standard error how far it is.
Track = Callable[[Sequence[T], str], Iterable[T]]
Rows = list[dict[str, Any]]
#: Readings after its boundary by which a segment's task is named.
NAMED_AT = (256, 480, 1200)


def rows_of(found: Sequence[Boundary]) -> list[int]:
    """Alarms."""
    return [b.detected_row for b in found]


def places_of(found: Sequence[Boundary]) -> list[int]:
    """Where the alarms put their boundaries."""
    return [b.boundary_row for b in found]


# F1 -------------------------------------------------------------------------------------------


def streams(track: Track[Any], seeds: Sequence[int]) -> tuple[Rows, Rows]:
    """The four streams; and how often their recurring regimes were recognised."""
    lines: Rows = []
    recurring: Rows = []
    for name in data.STREAMS:
        if name == "AReM" and "../shared/data/arem" in data.missing():
            continue
        made = [data.stream(name, seed) for seed in track(seeds, f"{name}: making")]
        followed = [follow(one.readings) for one in track(made, name)]
        found = [boundaries for boundaries, _ in followed]
        lines += _scored(name, made, found, [adwin(s.readings) for s in track(made, "ADWIN")], 1)
        recurring += _recurrence(name, made, followed)
    return lines, recurring


def skab(track: Track[Any]) -> Rows:
    """All files, the half on which settings were chosen, and the other half."""
    if "../shared/data/skab" in data.missing():
        return []
    made = [
        one
        for seed in data.SKAB_SEEDS
        for one in data.trimmed(data.skab(), seed, data.TOLERANCE["SKAB"])
    ]
    found = [boundaries(one.readings) for one in track(made, "SKAB")]
    rivals = [adwin(one.readings) for one in track(made, "SKAB: ADWIN")]
    files, lines = len(data.skab()), Rows()
    for case, halves in (
        ("SKAB all", (0, 1)),
        ("SKAB even files (settings chosen)", (0,)),
        ("SKAB odd files", (1,)),
    ):
        which = [k for k in range(len(made)) if k % files % 2 in halves]
        lines += _scored(
            case,
            [made[k] for k in which],
            [found[k] for k in which],
            [rivals[k] for k in which],
            len(data.SKAB_SEEDS),
        )
    return lines


def occupancy(track: Track[Any]) -> Rows:
    """The room without its light."""
    if "../shared/data/occupancy" in data.missing():
        return []
    made = data.occupancy()
    found = [boundaries(one.readings) for one in track(made, "occupancy")]
    return _scored("occupancy", made, found, [adwin(one.readings) for one in made], 1)


def _scored(
    case: str,
    made: Sequence[Labelled],
    found: Sequence[Sequence[Boundary]],
    rivals: Sequence[Sequence[int]],
    passes: int,
) -> Rows:
    """Lines of one stream; counts are of one pass where each file was taken several times."""
    alarms = [rows_of(each) for each in found]
    ours = pooled(made, alarms, [places_of(each) for each in found])
    evenly, river = pooled(made, control(made, alarms)), pooled(made, rivals)
    all_ = (ours, evenly, river)

    def line(figure: str, *values: goals.Value) -> dict[str, Any]:
        return row("streams", case, figure, *values)

    return [
        line(goals.F1, *(p.f1 for p in all_)),
        line(goals.MEAN_F1, *(p.mean_f1 for p in all_)),
        line(goals.ABOVE, ours.f1 - evenly.f1, "", river.f1 - evenly.f1),
        line(f"{goals.HITS} of {ours.transitions / passes:.4g}", *(p.hits / passes for p in all_)),
        line(goals.FALSE, *(p.false_alarms / passes for p in all_)),
        line(goals.A_TRANSITION, *(p.alarms_a_transition for p in all_)),
        line(goals.DELAY, *(p.median_delay for p in all_)),
        line(goals.ERROR, ours.median_error),
    ]


def univariate(track: Track[Any]) -> Rows:
    """Covering of TSSB's and UTSA's series, beside that of no boundary at all."""
    made = list(data.univariate())
    if not made:
        return []
    scores: dict[str, list[tuple[float, float, float]]] = {"places": [], "alarms": []}
    nothing = []
    for one in track(made, "TSSB + UTSA"):
        found, n = boundaries(one.readings), len(one.readings)
        rival = adwin(one.readings)
        for kind, points in (("places", places_of(found)), ("alarms", rows_of(found))):
            evenly = control([one], [points])[0]
            three = (points, evenly, rival)
            scores[kind].append(tuple(100 * covering(one.truth, p, n) for p in three))  # type: ignore[arg-type]
        nothing.append(100 * covering(one.truth, [], n))
    means = {kind: [fmean(s) for s in zip(*each, strict=True)] for kind, each in scores.items()}
    case = "TSSB + UTSA"
    return [
        row("covering", case, goals.COVERING, *means["places"]),
        row("covering", case, goals.COVERING_ALARMS, *means["alarms"]),
        row("covering", case, "covering of no boundary at all", fmean(nothing)),
        row("covering", case, "series", len(made)),
    ]


# Recurrence -----------------------------------------------------------------------------------


def _recurrence(
    name: str, made: Sequence[Labelled], followed: Sequence[tuple[list[Boundary], list[Print]]]
) -> Rows:
    lines = []
    for rows in NAMED_AT:
        named = [
            naming(prints, one.regimes, sorted(places_of(found)), rows)
            for one, (found, prints) in zip(made, followed, strict=True)
        ]
        share = sum(n.right for n in named) / max(sum(n.segments for n in named), 1)
        lines.append(row("recurrence", name, f"right at {rows:,} rows", share))
    lines.append(row("recurrence", name, "tasks made", sum(n.tasks for n in named)))
    regimes = sum(n.regimes for n in named)
    lines.append(row("recurrence", name, "regimes that there were", regimes))
    return lines


# Robustness -----------------------------------------------------------------------------------


def robustness(track: Track[Any], seeds: Sequence[int]) -> Rows:
    """`synthetic` with a ninth sensor that no regime touches, and what becomes of that one."""
    made = [data.stream("synthetic", seed) for seed in seeds]
    beside = [data.noise("AR(1) .9", one, len(s.readings), 1) for one, s in enumerate(made)]
    scores = {}
    for case in ("clean", *BROKEN):
        alarms = [
            rows_of(boundaries(np.hstack([one.readings, broken(extra, case)])))
            for one, extra in track(list(zip(made, beside, strict=True)), f"a sensor {case}")
        ]
        scores[case] = pooled(made, alarms)
    clean = scores["clean"]
    return [
        line
        for case in BROKEN
        for line in (
            row(
                "robustness",
                case,
                goals.MORE_FALSE,
                scores[case].false_alarms - clean.false_alarms,
            ),
            row("robustness", case, goals.F1_CHANGE, scores[case].f1 - clean.f1),
        )
    ]


BROKEN = ("NaN from the start", "NaN from the middle", "dead (constant)", "frozen in the middle")


def broken(sensor: NDArray[np.float64], how: str) -> NDArray[np.float64]:
    """A sensor (N, 1) as it would be then."""
    x, half = sensor.copy(), len(sensor) // 2
    if how == "NaN from the start":
        x[:] = np.nan
    elif how == "NaN from the middle":
        x[half:] = np.nan
    elif how == "dead (constant)":
        x[:] = x[0]
    elif how == "frozen in the middle":
        x[half:] = x[half]
    return x


# Units ----------------------------------------------------------------------------------------


def units(track: Track[Any], seeds: Sequence[int]) -> Rows:
    """The same streams in other units: the same boundaries, row by row."""
    lines = []
    names = [n for n in data.STREAMS if n != "AReM" or "../shared/data/arem" not in data.missing()]
    for name in names:
        made = [data.stream(name, seed).readings for seed in seeds]
        plain = [_rows(x) for x in track(made, f"{name}: units")]
        for factor in (0.001, 1000.0):
            same = [_rows(x * factor) == p for x, p in zip(made, plain, strict=True)]
            value = "yes" if all(same) else f"{sum(same)} of {len(same)}"
            lines.append(row("units", f"{name} x {factor:g}", goals.SAME, value))
    return lines


def _rows(readings: NDArray[np.float64]) -> list[tuple[int, int]]:
    return [(b.boundary_row, b.detected_row) for b in boundaries(readings)]
