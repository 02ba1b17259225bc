"""Stationary noise in; false alarms, and the delay of a shift, out."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import detection_data as data
from benchmarks.detection_goals import STATIONARY, row
from benchmarks.detection_parts import Rows, Track
from benchmarks.detection_peers import boundaries, feed
from pipeline.config import Detect
from pipeline.detect.boundary import BoundaryDetector

SENSORS = {1: "1 sensor", 8: "8 sensors"}
LENGTH = 100_000
#: (rows before the shift, its sizes in sigma), in the order of the stream.
ONLY = np.array([0])
SHIFTS = ((5_000, (1.0,)), (20_000, (0.25, 0.5, 1.0, 2.0)))
#: Boundaries allowed in a million readings, and streams that tell how many there are.
BUDGETS = {10.0: 10, 100.0: 3, 1000.0: 1}
#: A shift that raises no alarm within so many rows is missed.
WITHIN = 2_000


def stationary(track: Track[Any], seeds: Sequence[int]) -> Rows:
    """False alarms where nothing changes."""
    lines = []
    for kind in data.NOISES:
        for sensors, name in SENSORS.items():
            false = 0
            for seed in track(seeds, f"{kind}, {name}"):
                false += len(boundaries(data.noise(kind, seed, LENGTH, sensors), size=5_000))
            value = false / len(seeds) * (100_000 / LENGTH)
            lines.append(row("stationary", f"{kind}, {name}", STATIONARY, value))
    return lines


def budgets(track: Track[Any], seeds: Sequence[int]) -> Rows:
    """Boundaries where nothing changes, by what the budget allows."""
    lines = []
    for kind in data.NOISES:
        for sensors, name in SENSORS.items():
            for budget, streams in BUDGETS.items():
                settings, some = Detect(false_boundaries_per_million=budget), seeds[:streams]
                false = 0
                for seed in track(some, f"{kind}, {name}, {budget:g} in a million"):
                    false += len(boundaries(data.noise(kind, seed, LENGTH, sensors), settings))
                allowed = budget * LENGTH * len(some) / 1e6
                what = f"{budget:g} in a million: boundaries by the budget"
                lines.append(row("budget", f"{kind}, {name}", what, false / allowed))
    return lines


def delays(track: Track[Any], seeds: Sequence[int]) -> Rows:
    """A shift on all sensors at once, in deviations of the rows before it."""
    lines = []
    for kind in data.NOISES:
        for sensors, name in SENSORS.items():
            taken: dict[tuple[int, float], list[float]] = {}
            for seed in track(seeds, f"shifts of {kind}, {name}"):
                x = data.noise(kind, seed, SHIFTS[-1][0] + WITHIN, sensors)
                for cell, delay in _shifted(x).items():
                    taken.setdefault(cell, []).append(delay)
            for (rows, size), each in sorted(taken.items(), key=lambda item: item[0]):
                case, what = f"{kind}, {name}", f"{size:g} sigma after {rows:,} rows"
                middle = median(each)
                value = middle if np.isfinite(middle) else None
                lines.append(row("delay", case, f"{what}: median delay", value))
                missed = sum(not np.isfinite(d) for d in each)
                lines.append(row("delay", case, f"{what}: missed", missed))
    return lines


def _shifted(x: NDArray[np.float64]) -> dict[tuple[int, float], float]:
    """Rows from each shift to its alarm; infinite if there is none.

    One detector takes in the stream up to a shift; every size goes on from its checkpoint.
    """
    sensors, seen = x.shape[1], 0
    detector = BoundaryDetector(sensors, Detect())
    found = {}
    for rows, sizes in SHIFTS:
        feed(detector, x[seen:rows], first=seen)
        seen = rows
        state, river = detector.state(ONLY), detector.watch.state(ONLY)
        for size in sizes:
            later = BoundaryDetector(sensors, Detect())
            later.restore(state, river)
            moved = x[rows : rows + WITHIN] + size * x[:rows].std(axis=0)
            alarms = [b.detected_row - rows for b in feed(later, moved, first=rows)]
            found[rows, size] = float(min((a for a in alarms if a >= 0), default=np.inf))
    return found
