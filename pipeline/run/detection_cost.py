"""A recording, its truth and what was found in; what detection costs the learning out.

The method of the settings twice, without a gate: on segments cut where boundaries were found, and
on segments cut at the true ones, by the same rules. Both are measured on what is held out of the
true segments, but for readings that the first was trained on.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from functools import partial

import numpy as np

from pipeline.config import Settings
from pipeline.consolidate.measure import Measure
from pipeline.consolidate.readings import Readings, split
from pipeline.ingest.recording import Recording
from pipeline.records import Boundary, FloatArray
from pipeline.run.backtest_report import Baseline, DetectionCost
from pipeline.run.baselines import line
from pipeline.run.comparison import summary
from pipeline.run.cutting import Cut, unseen
from pipeline.run.progress import Show, silent
from pipeline.run.truth import Truth

#: Its name among the baselines that may be asked for.
TRUE_BOUNDARIES = "true_boundaries"


def detection_cost(
    settings: Settings,
    recording: Recording,
    truth: Truth,
    boundaries: Iterable[Boundary],
    poll: int,
    show: Show = silent,
) -> DetectionCost | None:
    """The two lines; None where no true segment is long enough to be learned and measured.

    poll: readings that are taken at once, as the stream took them.
    """
    channels = len(recording.sensors)
    found, true = (Cut(settings, channels, marks) for marks in (boundaries, _true(truth)))
    for chunk in recording.chunks(poll):
        done = chunk.batch.next_offset
        tick = partial(show, done, max(recording.rows, done), f"baseline {TRUE_BOUNDARIES}")
        for cut in (found, true):
            cut.take(chunk.batch, tick)
    names, windows, begins = _regimes(settings, truth, found, true)
    if not names or not found.states:
        return None
    measure = Measure(windows, settings.score.factory)
    first = [begins[regime] for regime in measure.tasks]
    regimes = tuple(names[regime] for regime in measure.tasks)
    told = [_told(cut, measure, regimes, first) for cut in (found, true)]
    return DetectionCost(found=told[0], true=told[1])


def _true(truth: Truth) -> list[Boundary]:
    """The true boundaries, as if each were noticed with its first reading."""
    return [
        Boundary(
            series=series, segment=k, boundary_row=row, detected_row=row, boundary_offset=row,
            detected_offset=row, boundary_time=0, detected_time=0, signal="truth", statistic=0.0,
            threshold=0.0, detectors=(),
        )
        for series, rows in truth.drifts().items()
        for k, row in enumerate(rows, start=1)
    ]  # fmt: skip


def _regimes(
    settings: Settings, truth: Truth, found: Cut, true: Cut
) -> tuple[dict[int, str], dict[int, FloatArray], dict[int, int]]:
    """Name, windows to measure on and first offset of each true regime that has any."""
    drifts, labels, seen = truth.drifts(), truth.regimes(), found.trained()
    names: dict[int, str] = {}
    windows: dict[int, list[FloatArray]] = defaultdict(list)
    begins: dict[int, int] = {}
    for number, ((series, segment), content) in enumerate(true.segments.items()):
        readings = Readings.from_bytes(content)
        _, held = split(readings, settings.score.window, settings.learn.held_out)
        held = unseen(readings, held, seen)
        if not len(held):
            continue
        if truth.kind == "regimes":
            regime = int(truth.of(series)[[0, *drifts[series]][segment]])
            names[regime] = labels[regime]
        else:  # nobody says which of them are the same
            regime = number
            names[regime] = f"{series}, segment {segment}"
        windows[regime].append(held.values)
        begins.setdefault(regime, int(readings.offsets[0]))
    joined = {regime: np.concatenate(parts) for regime, parts in windows.items()}
    return names, joined, begins


def _told(cut: Cut, measure: Measure, regimes: tuple[str, ...], first: list[int]) -> Baseline:
    """A regime counts as learned by the first version made after it began, or the last one."""
    last = len(cut.rows) - 1
    learned_at = tuple(min(int(np.searchsorted(cut.rows, at, "right")), last) for at in first)
    return summary(line(cut.states, measure), regimes, learned_at, cut.rows)
