"""Readings in, alarms out: this detector, and river's ADWIN as people use it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from river import drift

from benchmarks.detection_data import WARM_UP
from pipeline.config import Detect
from pipeline.detect.boundary import BoundaryDetector
from pipeline.detect.prints import Print
from pipeline.records import Batch, Boundary

ADWIN: Any = drift.ADWIN  # river has no types
#: Features that fire within so many rows fire together.
TOGETHER = 50


def poll(values: NDArray[np.float32], first: int) -> Batch:
    """One poll of several series at once: values (S, n, d), each from its row `first` on."""
    series, n, d = values.shape
    rows = np.tile(np.arange(first, first + n), series)
    order = np.arange(series * n)
    return Batch(
        topic="readings",
        partition=0,
        series=tuple(map(str, range(series))),
        starts=np.arange(series + 1) * n,
        offsets=rows * series + np.repeat(np.arange(series), n),
        order=order,
        times=rows * 1_000_000,
        values=values.reshape(-1, d),
        next_offset=(first + n) * series,
    )


def feed(
    detector: BoundaryDetector,
    readings: NDArray[np.floating],
    *,
    size: int = 500,
    first: int = 0,
) -> list[Boundary]:
    """Boundaries of the only series of a detector, in polls of `size`."""
    values = np.asarray(readings, np.float32)[None]
    slot = np.zeros(1, dtype=np.int64)
    found = []
    for low in range(0, values.shape[1], size):
        found += detector.update(poll(values[:, low : low + size], first + low), slot)
    return found


def follow(
    readings: NDArray[np.floating], settings: Detect | None = None, *, size: int = 500
) -> tuple[list[Boundary], list[Print]]:
    """Boundaries and fingerprints of one series by a new detector with the shipped settings."""
    detector = BoundaryDetector(readings.shape[1], settings or Detect())
    found: list[Boundary] = []
    prints: list[Print] = []
    for low in range(0, len(readings), size):
        found += feed(detector, readings[low : low + size], size=size, first=low)
        prints += detector.prints
    return found, prints


def boundaries(
    readings: NDArray[np.floating], settings: Detect | None = None, *, size: int = 500
) -> list[Boundary]:
    """Boundaries of one series by a new detector with the shipped settings."""
    return follow(readings, settings, size=size)[0]


def adwin(readings: NDArray[np.float64]) -> list[int]:
    """Alarms of one ADWIN a sensor, with river's defaults.

    A sensor that is missing holds its last value. It is standardised by its first WARM_UP rows;
    one that is silent or constant there is left out. The alarm is raised when half of the sensors
    have fired within TOGETHER rows; after it, every ADWIN begins anew.
    """
    x = _held(readings)
    head = x[:WARM_UP]
    spread = head.std(axis=0)
    live = np.isfinite(spread) & (spread > 1e-9 * np.maximum(np.abs(head.mean(axis=0)), 1e-300))
    if not live.any():
        return []
    z = (x[WARM_UP:, live] - head[:, live].mean(axis=0)) / spread[live]
    return [WARM_UP + row for row in _vote(z.tolist(), int(live.sum()))]


def _vote(rows: Sequence[Sequence[float]], sensors: int) -> list[int]:
    needed = -(-sensors // 2)
    detectors = [ADWIN() for _ in range(sensors)]
    fired = [-TOGETHER] * sensors
    alarms = []
    for row, values in enumerate(rows):
        news = False
        for k, value in enumerate(values):
            detector = detectors[k]
            detector.update(value)
            if detector.drift_detected:
                fired[k] = row
                news = True
        if news and sum(row - last < TOGETHER for last in fired) >= needed:
            alarms.append(row)
            detectors = [ADWIN() for _ in range(sensors)]
            fired = [row - TOGETHER] * sensors
    return alarms


def _held(readings: NDArray[np.float64]) -> NDArray[np.float64]:
    """Every hole filled by the last value, the first ones by the first value."""
    there = np.isfinite(readings)
    index = np.where(there, np.arange(len(readings))[:, None], 0)
    index = np.where(
        np.logical_or.accumulate(there, axis=0),
        np.maximum.accumulate(index, axis=0),
        there.argmax(axis=0),
    )
    return np.asarray(np.take_along_axis(readings, index, axis=0))
