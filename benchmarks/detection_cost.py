"""Polls in, microseconds a reading and bytes a series out."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import detection_data as data
from benchmarks.detection_goals import COST, RATIO, STATE, row
from benchmarks.detection_parts import Rows, Track
from benchmarks.detection_peers import feed, poll
from pipeline.config import Detect
from pipeline.detect.boundary import BoundaryDetector
from pipeline.records import Batch

Single = NDArray[np.float32]

#: Rows before a series is mature (every test armed, some history), and rows that are timed.
MATURE, TIMED = 6_000, 20_000
SIZES = (500, 50, 5_000)
FLEET, FLEET_POLL, FLEET_TIMED = 1_000, 5_000, 500


def cost(track: Track[Any], repeats: int, fleet: int = FLEET) -> Rows:
    """Beside the prototype on the same rows in the same run; CPU time, medians of repeats."""
    peer = data.prototype()
    readings = data.stream("synthetic", data.REPORTED[0]).readings.astype(np.float32)
    lines = []
    for size in SIZES:
        ours, theirs = [], []
        for _ in track(range(repeats), f"polls of {size:,}"):
            ours.append(_one(readings, size))
            if peer is not None:
                theirs.append(_prototype(peer, readings, size, TIMED))
        lines += _lines(f"one series, polls of {size:,}", ours, theirs)
    batches = _fleet(fleet)
    ours = [batches(poll) for poll in track([FLEET_POLL], f"{fleet:,} series")]
    each = FLEET_POLL // FLEET  # to the prototype a poll of many series is many small ones
    theirs = [_prototype(peer, readings, each, TIMED // 10)] if peer is not None else []
    return [*lines, *_lines(f"{fleet:,} series, polls of {FLEET_POLL:,}", ours, theirs)]


def _lines(case: str, ours: list[float], theirs: list[float]) -> Rows:
    made = [row("cost", case, COST, median(ours))]
    if theirs:
        made.append(row("cost", case, "us a reading, prototype", median(theirs)))
        made.append(row("cost", case, RATIO, median(ours) / median(theirs)))
    return made


def state() -> Rows:
    """What a checkpoint holds of a mature series of 8 sensors."""
    return [row("state", "8 sensors", STATE, state_of(Detect()))]


def state_of(settings: Detect) -> float:
    """Kilobytes of a mature series of 8 sensors."""
    readings = data.stream("synthetic", data.REPORTED[0]).readings
    detector = BoundaryDetector(readings.shape[1], settings)
    feed(detector, readings)
    only = np.array([0])
    arrays = sum(array.nbytes for array in detector.state(only).values())
    return (arrays + len(detector.watch.state(only)[0])) / 1000


def cost_of(settings: Detect) -> float:
    """Microseconds a reading of one mature series of 8 sensors in polls of 500; median of 3."""
    readings = data.stream("synthetic", data.REPORTED[0]).readings.astype(np.float32)
    return median(_one(readings, SIZES[0], settings) for _ in range(3))


def _one(readings: Single, size: int, settings: Detect | None = None) -> float:
    """Microseconds a reading of one mature series in polls of `size`."""
    detector = BoundaryDetector(readings.shape[1], settings or Detect())
    feed(detector, readings[:MATURE])
    slot = np.zeros(1, dtype=np.int64)
    ends = range(MATURE, MATURE + TIMED, size)
    polls = [poll(readings[None, low : low + size], low) for low in ends]
    return _timed(lambda batch: detector.update(batch, slot), polls)


def _prototype(peer: Any, readings: Single, size: int, rows: int) -> float:
    detector = peer.Detector(readings.shape[1])
    for low in range(0, MATURE, 500):
        detector.feed(readings[low : low + 500])
    polls = [readings[low : low + size] for low in range(MATURE, MATURE + rows, size)]
    return _timed(detector.feed, polls)


def _fleet(series: int) -> Callable[[int], float]:
    """Many mature series, a few readings of each in a poll.

    Ten streams, each begun at another row for every series.
    """
    bank = [
        data.stream("synthetic", seed).readings[:8_000].astype(np.float32)
        for seed in data.REPORTED[:10]
    ]
    begin = np.array([k // len(bank) * 7 for k in range(series)])

    def part(low: int, rows: int) -> Single:
        every = range(series)
        return np.stack([bank[k % len(bank)][begin[k] + low :][:rows] for k in every])

    def measure(size: int) -> float:
        slots, each = np.arange(series), max(size // series, 1)
        detector = BoundaryDetector(bank[0].shape[1], Detect())
        for low in range(0, MATURE, 50):
            detector.update(poll(part(low, 50), low), slots)
        lows = range(MATURE, MATURE + FLEET_TIMED, each)
        polls = [poll(part(low, each), low) for low in lows]
        return _timed(lambda batch: detector.update(batch, slots), polls)

    return measure


def _timed(update: Callable[[Any], Any], polls: list[Batch] | list[Single]) -> float:
    began = time.process_time()
    for one in polls:
        update(one)
    return (time.process_time() - began) / sum(map(len, polls)) * 1e6
