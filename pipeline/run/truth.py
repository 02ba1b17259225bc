"""A column of truth in, the score of the boundaries found out. Only the scorer reads it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Literal

import numpy as np

from pipeline.detect.matching import Match, match, pairs, periodic, pool
from pipeline.errors import SourceError
from pipeline.ingest.recording import Chunk, codes
from pipeline.records import Boundary, IntArray
from pipeline.run.backtest_report import Detection, PeriodicControl

Kind = Literal["regimes", "changes"]


class Truth:
    """Where each series truly changes its regime.

    Parameters
    ----------
    kind
        `regimes`: a label a row, a change where it is another than the row before. `changes`: 1 in
        the first row of each new regime, else 0; rows of 1 that follow each other are one change.
    """

    def __init__(self, column: str, kind: Kind) -> None:
        self.column = column
        self.kind = kind
        self._labels: dict[str, int] = {}
        self._parts: dict[str, list[IntArray]] = {}

    def add(self, chunk: Chunk) -> None:
        """Take in the labels of some rows.

        Raises
        ------
        SourceError
            One of `changes` is neither 0 nor 1.
        """
        found = codes(map(str.strip, chunk.truth), self._labels)
        if self.kind == "changes":
            known = {code: self._mark(label) for label, code in self._labels.items()}
            found = np.array([known[code] for code in range(len(known))])[found]
        starts = chunk.batch.starts
        for name, first, end in zip(chunk.batch.series, starts, starts[1:], strict=False):
            self._parts.setdefault(name, []).append(found[first:end])

    def _mark(self, label: str) -> int:
        try:
            mark = float(label or 0)
        except ValueError:
            mark = -1.0
        if mark not in (0.0, 1.0):
            raise SourceError(
                f"column {self.column!r} has {label[:40]!r}: change points are 0 or 1 "
                "(--truth-kind regimes takes labels)"
            )
        return int(mark)

    def of(self, series: str) -> IntArray:
        """(rows,) label of each row: a number of its own, or 0 and 1."""
        return np.concatenate(self._parts[series])

    def drifts(self) -> dict[str, list[int]]:
        """Rows of each series at which a new regime begins."""
        return {name: self._drifts(self.of(name)) for name in self._parts}

    def _drifts(self, labels: IntArray) -> list[int]:
        step = labels[1:] != labels[:-1]
        if self.kind == "changes":
            step &= labels[1:] == 1
        found: list[int] = (np.flatnonzero(step) + 1).tolist()
        return found

    def regimes(self) -> list[str]:
        """The labels, by their numbers."""
        return list(self._labels)


def detection(
    truth: Truth,
    boundaries: Sequence[Boundary],
    rows: Mapping[str, int],
    *,
    tolerance: int,
    warm_up: int,
) -> Detection:
    """The score: series matched each for itself, then counted together.

    An alarm hits a change k if it is the first in [k, min(k + tolerance, next change)); every
    other one is false. Alarms in a series' first `warm_up` readings are not scored.
    """
    drifts = truth.drifts()
    found: list[Match] = []
    control: list[Match] = []
    errors: list[int] = []
    for name, changes in drifts.items():
        mine = [b for b in boundaries if b.series == name and b.detected_row >= warm_up]
        alarms = [b.detected_row for b in mine]
        found.append(match(alarms, changes, rows[name], tolerance))
        control.append(match(periodic(len(alarms), rows[name]), changes, rows[name], tolerance))
        met = pairs(alarms, changes, rows[name], tolerance)
        errors += [abs(mine[a].boundary_row - changes[d]) for d, a in met]
    score, beside = pool(found), pool(control)
    return Detection(
        tolerance=tolerance,
        true_boundaries=sum(map(len, drifts.values())),
        hits=score.hits,
        false_alarms=score.false_alarms,
        precision=score.precision,
        recall=score.recall,
        f1=score.f1,
        median_delay=score.median_delay,
        median_location_error=median(errors) if errors else None,
        false_per_10000=score.false_alarms / sum(rows.values()) * 10_000,
        recurrence_accuracy=None,
        periodic_control=PeriodicControl(alarms=beside.hits + beside.false_alarms, f1=beside.f1),
    )


def recurrence_accuracy(
    truth: Truth,
    named: Sequence[Mapping[str, object]],
    ends: Mapping[tuple[str, int], tuple[int, int]],
) -> float | None:
    """Share of the named segments, but each series' first, that were rightly new or rightly task k.

    named: series, segment and task of each, in the order of naming. ends: the rows of each segment.
    A segment's true regime is the one that most of its rows have; a task's is that of the segment
    that was named so first. None if there is nothing to judge.
    """
    if truth.kind != "regimes":
        return None
    meaning: dict[object, int] = {}
    seen: set[int] = set()
    right = []
    for entry in named:
        series, segment = str(entry["series"]), int(str(entry["segment"]))
        first, end = ends[series, segment]
        label = Counter(truth.of(series)[first:end].tolist()).most_common(1)[0][0]
        task = entry["task"]
        if segment:
            again = task in meaning
            right.append(meaning[task] == label if again else label not in seen)
        meaning.setdefault(task, label)
        seen.add(label)
    return sum(right) / len(right) if right else None
