"""A stream with a long time line in a database: readings, boundaries, versions and their reigns."""

from __future__ import annotations

import json

import numpy as np
from sqlalchemy import Connection, insert, update

from benchmarks.audit_fill import BEGIN, RANGE, SENSORS, TASKS, Size
from benchmarks.audit_fill import fill as fill_history
from pipeline.register import tables as t
from pipeline.register.sql import SqlRegistry
from pipeline.register.timeline import Summary, in_buckets, write

SERIES, CHANNELS = "machine-7", 8
#: Microseconds between two readings, and readings that are summarised at once.
APART, CHUNK = 1_000_000, 100_000


def fill(registry: SqlRegistry, *, readings: int, boundaries: int, versions: int, seed: int) -> int:
    """Fill a database at head; the microsecond at which the series begins.

    One series of partition 0, a reading a second; boundaries at even distances; each version that
    was champion scored as many of its readings.
    """
    fill_history(
        registry.engine, Size(versions=versions, boundaries=1, scored=10 * readings // RANGE)
    )
    with registry.engine.begin() as conn:
        names = json.dumps([f"sensor {i}" for i in range(1, CHANNELS + 1)])
        conn.execute(update(t.streams).values(channels=names))
        _readings(conn, readings, seed)
        _boundaries(conn, readings, boundaries)
    return BEGIN


def _readings(conn: Connection, readings: int, seed: int) -> None:
    """A wave with noise and a few spikes on each sensor; scores are noise."""
    rng = np.random.default_rng(seed)
    for first in range(0, readings, CHUNK):
        rows = np.arange(first, min(first + CHUNK, readings))
        wave = np.sin(rows[:, None] / 5000 + np.arange(CHANNELS + 1))
        values = wave + rng.normal(scale=0.2, size=wave.shape)
        values[rng.random(values.shape) < 1e-5] = 8.0
        slots, times = np.zeros_like(rows), BEGIN + APART * rows
        buckets = in_buckets(slots, rows, times, rows, values.astype(np.float32))
        counts = {"before": np.array([first]), "rows": rows[-1:] + 1}
        write(conn, 1, 0, Summary(series=[SERIES], buckets=buckets, **counts))


def _boundaries(conn: Connection, readings: int, boundaries: int) -> None:
    rows = (np.arange(1, boundaries + 1) * (readings / (boundaries + 1))).astype(int).tolist()
    whose = {"stream_id": 1, "partition": 0, "series": SERIES}
    test = {"signal": "level", "statistic": 7.5, "threshold": 5.25, "sensors": SENSORS}
    found = [
        {
            **{"segment": i, "boundary_row": row, "detected_row": row + 31, "recorded": row},
            **{"boundary_offset": row, "detected_offset": row + 31},
            **{"boundary_time": BEGIN + APART * row, "detected_time": BEGIN + APART * (row + 31)},
            "detectors": '["ADWIN"]',
        }
        for i, row in enumerate(rows, start=1)
    ]
    named = [
        {"segment": i, "task_id": i % TASKS + 1, "recurrence": i >= TASKS}
        for i in range(boundaries + 1)
    ]
    if found:
        conn.execute(insert(t.boundaries), [whose | test | each for each in found])
    seen = {"rows": 900, "final": True, "named": 1}
    conn.execute(insert(t.segments), [whose | seen | each for each in named])
