"""Alarms in, scores out: pooled matches, covering, and who named a task rightly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, median

import numpy as np
from numpy.typing import NDArray

from benchmarks.detection_data import Labelled
from pipeline.detect.matching import Match, match, periodic
from pipeline.detect.prints import Print
from pipeline.detect.tasks import Fingerprint, Known, merge, nearest


@dataclass(frozen=True, slots=True, kw_only=True)
class Pooled:
    """How the alarms of several series met their boundaries."""

    matches: tuple[Match, ...]
    #: Readings from each boundary that was hit to where it was located.
    errors: tuple[int, ...] = ()

    @property
    def hits(self) -> int:
        """Over all series."""
        return sum(m.hits for m in self.matches)

    @property
    def false_alarms(self) -> int:
        """Over all series."""
        return sum(m.false_alarms for m in self.matches)

    @property
    def transitions(self) -> int:
        """True boundaries of all series."""
        return sum(m.hits + m.missed for m in self.matches)

    @property
    def f1(self) -> float:
        """Of all alarms and boundaries together."""
        return 2 * self.hits / max(self.hits + self.false_alarms + self.transitions, 1)

    @property
    def mean_f1(self) -> float:
        """Mean of the series' own."""
        return fmean(m.f1 for m in self.matches)

    @property
    def alarms_a_transition(self) -> float:
        """All alarms by all boundaries."""
        return (self.hits + self.false_alarms) / max(self.transitions, 1)

    @property
    def median_delay(self) -> float | None:
        """Over all hits; None without one."""
        delays = [d for m in self.matches for d in m.delays]
        return median(delays) if delays else None

    @property
    def median_error(self) -> float | None:
        """Over all hits; None without one."""
        return median(self.errors) if self.errors else None


def pooled(
    series: Sequence[Labelled],
    alarms: Sequence[Sequence[int]],
    located: Sequence[Sequence[int]] | None = None,
) -> Pooled:
    """Score the alarms of each series; `located` says where each alarm puts its boundary."""
    matches, errors = [], []
    for k, (one, rows) in enumerate(zip(series, alarms, strict=True)):
        n = len(one.readings)
        matches.append(match(rows, one.truth, rows=n, tolerance=one.tolerance))
        if located is not None:
            places = dict(zip(rows, located[k], strict=True))
            errors += location_errors(places, one.truth, n, one.tolerance)
    return Pooled(matches=tuple(matches), errors=tuple(errors))


def location_errors(
    places: Mapping[int, int], truth: Sequence[int], rows: int, tolerance: int
) -> list[int]:
    """|located - true| of each boundary that was hit; places: alarm -> located boundary."""
    found = []
    for k, end in zip(truth, [*truth, rows][1:], strict=True):
        inside = [a for a in places if k <= a < min(k + tolerance, end)]
        if inside:
            found.append(abs(places[min(inside)] - k))
    return found


def control(series: Sequence[Labelled], alarms: Sequence[Sequence[int]]) -> list[list[int]]:
    """As many alarms on each series, evenly spaced."""
    return [
        periodic(len(rows), len(one.readings)) if rows else []
        for one, rows in zip(series, alarms, strict=True)
    ]


def covering(truth: Sequence[int], found: Sequence[int], rows: int) -> float:
    """How well the segments found cover the true ones, 0 to 1.

    C = 1/n sum_A |A| max_B |A n B| / |A u B|, A true and B found segments
    (Arbelaez et al. 2011; van den Burg and Williams 2020).
    """
    total = 0.0
    pieces = _pieces(found, rows)
    for low, high in _pieces(truth, rows):
        best = 0.0
        for start, end in pieces:
            common = min(high, end) - max(low, start)
            if common > 0:
                best = max(best, common / (max(high, end) - min(low, start)))
        total += (high - low) * best
    return total / rows


def _pieces(points: Sequence[int], rows: int) -> list[tuple[int, int]]:
    edges = [0, *sorted({p for p in points if 0 < p < rows}), rows]
    return list(pairwise(edges))


@dataclass(frozen=True, slots=True, kw_only=True)
class Naming:
    """Segments whose task was named, and how many of them rightly."""

    segments: int
    right: int
    #: Tasks that there are in the end, and regimes that there were.
    tasks: int
    regimes: int


def naming(
    prints: Sequence[Print], regimes: NDArray[np.int64], starts: Sequence[int], rows: int
) -> Naming:
    """Name each segment of a series by its newest fingerprint of at most `rows` readings.

    As the registry does (register/naming.py): the segment is the nearest task or a new one, and the
    tasks learn from final fingerprints only. A segment begins at 0 or where a boundary was located;
    it is named by its first fingerprint at least, which may be of more readings. Its regime is that
    of most of its readings here. Right is: new, if the regime has no task yet; else the task that
    the regime made first. The first segment is named without choice and is not counted.
    """
    known: dict[int, Known] = {}
    own: dict[int, int] = {}
    named = right = 0
    for segment, (start, end) in enumerate(pairwise([0, *starts, len(regimes)])):
        mine = [p for p in prints if p.segment == segment]
        for made in [p for k, p in enumerate(mine) if not k or p.rows <= rows][-1:]:
            task, _ = _task(made, known)
            if known:
                named += 1
                right += task == own.get(_regime(regimes[start : min(start + rows, end)]))
        for made in [p for p in mine if p.final]:
            task, whole = _task(made, known)
            if task is None:
                task = len(known)
                own.setdefault(_regime(regimes[start : start + made.rows]), task)
            known[task] = Known(own=whole, units=whole.units)
    return Naming(segments=named, right=right, tasks=len(known), regimes=len(np.unique(regimes)))


def _task(made: Print, known: Mapping[int, Known]) -> tuple[int | None, Fingerprint]:
    """The task that a fingerprint is, and the task's with it in it."""
    task, _ = nearest(made.fingerprint.units, known, made.fingerprint)
    before = None if task is None else known[task].own
    return task, merge(before, made.fingerprint) if before is not None else made.fingerprint


def _regime(labels: NDArray[np.int64]) -> int:
    return int(np.bincount(labels).argmax())
