"""river's bundled Shuttle recording in, a stream with regimes that return out: the demo's input.

Statlog (Shuttle): 49,097 readings of nine sensors of a space shuttle, labelled normal or anomalous,
in an order without time (UCI 148, as river ships it). The readings are real and each is used at
most once; the arrangement is ours: four series of seven segments each, normal and anomalous in
turn, one reading a second. The labels decide the order and are then only the truth to compare with.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

CHANNELS = tuple(f"f{i}" for i in range(1, 10))
SERIES = ("orbiter-1", "orbiter-2", "orbiter-3", "orbiter-4")
#: Readings in each segment of a series: even ones normal, odd ones anomalous.
SEGMENTS = (1000, 290, 600, 290, 600, 290, 600)
START = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """What was written, and the truth about it."""

    path: Path
    rows: int
    channels: tuple[str, ...]
    #: First row of each segment but the first, the same for every series.
    boundaries: tuple[int, ...]


def write(path: Path) -> Recording:
    """Arrange the recording as CSV: series, time, f1 ... f9; the series take turns, row by row."""
    columns = [list(rows) for rows in _arranged()]
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("series", "time", *CHANNELS))
        for row, readings in enumerate(zip(*columns, strict=True)):
            time = (START + timedelta(seconds=row)).isoformat()
            writer.writerows((name, time, *x) for name, x in zip(SERIES, readings, strict=True))
    firsts = [sum(SEGMENTS[:k]) for k in range(1, len(SEGMENTS))]
    return Recording(
        path=path,
        rows=len(SERIES) * sum(SEGMENTS),
        channels=CHANNELS,
        boundaries=tuple(firsts),
    )


def _arranged() -> Iterator[Iterator[tuple[int, ...]]]:
    """Each series' readings, taken from the recording in its own order, none twice."""
    from river.datasets import Shuttle

    kinds: tuple[list[tuple[int, ...]], ...] = ([], [])
    for x, anomalous in Shuttle():
        kinds[int(anomalous)].append(tuple(x[name] for name in CHANNELS))
    used = [0, 0]
    for _ in SERIES:
        rows: list[tuple[int, ...]] = []
        for number, length in enumerate(SEGMENTS):
            kind = number % 2
            rows += kinds[kind][used[kind] : used[kind] + length]
            used[kind] += length
        yield iter(rows)
