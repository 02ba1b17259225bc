"""A partition whose readings are summarised, and what comes out by numpy alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select

from pipeline.ingest.series import group
from pipeline.records import Batch, FloatArray
from pipeline.register import tables as t
from pipeline.register.checkpoints import State
from pipeline.register.sql import SqlRegistry, Stream
from pipeline.register.timeline import Buckets, unpacked
from pipeline.run.timeline import Timeline

START, STEP = 1_767_225_600_000_000, 1_000_000


def values_of(rows: int, channels: int = 2, seed: int = 3) -> FloatArray:
    """(rows, d) noise around 1000, a tenth of it missing; and a stretch without any of sensor 0."""
    random = np.random.default_rng(seed)
    values = random.normal(1000.0, 3.0, size=(rows, channels))
    values[random.random(values.shape) < 0.1] = np.nan
    values[100:300, 0] = np.nan
    return values.astype(np.float32)


def batch_of(
    series: NDArray[Any], values: FloatArray, first_offset: int, names: Sequence[str]
) -> Batch:
    """Readings (N,) of series by number, one a record and a second."""
    offsets = np.arange(first_offset, first_offset + len(values))
    return group(
        topic="plant",
        partition=0,
        ids=series,
        names=names,
        offsets=offsets,
        times=START + STEP * offsets,
        values=values,
        next_offset=first_offset + len(values),
    )


class Follower:
    """A process that follows a partition; `crash` forgets all that is not in SQL."""

    def __init__(self, registry: SqlRegistry, stream: Stream, most: int = 100) -> None:
        self.registry, self.stream, self.most = registry, stream, most
        self.crash()

    def crash(self) -> None:
        found = self.registry.acquire(self.stream.id, 0, "follower")
        self.epoch, self.offset = found.epoch, found.next_offset or 0
        self.timeline = Timeline(self.registry.begun(self.stream.id, 0), self.most)

    def take(self, batch: Batch, scores: FloatArray | None = None) -> None:
        self.timeline.add(batch, scores)
        self.offset = batch.next_offset

    def save(self) -> None:
        self.registry.save(
            self.stream.id,
            0,
            self.epoch,
            next_offset=self.offset,
            state=State(b"h"),
            summary=self.timeline.summary(),
        )
        self.timeline.written()


def stored(registry: SqlRegistry, slot: int, level: int, width: int = 3) -> Buckets:
    """The buckets of a series on a level."""
    c = t.timeline_buckets.c
    with registry.engine.connect() as conn:
        rows = conn.execute(
            select(*list(c)[2:]).where(c.slot == slot, c.level == level).order_by(c.bucket)
        )
        return unpacked(rows.all(), width)


def expected(
    values: FloatArray, offsets: NDArray[Any], readings: int, *, open_: bool
) -> list[dict[str, Any]]:
    """Each bucket of so many readings of a series, one by one; open_: and the last, if not full."""
    found = []
    for begin in range(0, len(values), readings):
        part, at = values[begin : begin + readings], offsets[begin : begin + readings]
        if len(part) < readings and not open_:
            break
        seen = [column[~np.isnan(column)].astype(np.float64) for column in part.T]
        found.append(
            {
                "rows": len(part),
                "offsets": (at[0], at[-1]),
                "times": (START + STEP * at[0], START + STEP * at[-1]),
                "low": [min(c, default=np.nan) for c in seen],
                "high": [max(c, default=np.nan) for c in seen],
                "mean": [c.mean() if len(c) else np.nan for c in seen],
                "count": [len(c) for c in seen],
            }
        )
    return found


def assert_same(found: Buckets, wanted: list[dict[str, Any]]) -> None:
    """Lowest, highest and counts are exact; a mean is kept as float32, merged up to 64 times."""
    assert found.rows.tolist() == [each["rows"] for each in wanted]
    assert found.numbers.tolist() == list(range(len(wanted)))
    times = zip(found.first_times.tolist(), found.last_times.tolist(), strict=True)
    assert list(times) == [each["times"] for each in wanted]
    offsets = zip(found.first_offsets.tolist(), found.last_offsets.tolist(), strict=True)
    assert list(offsets) == [each["offsets"] for each in wanted]
    for i, name in enumerate(("low", "high", "mean", "count")):
        meant = np.array([each[name] for each in wanted]).reshape(-1, found.cells.shape[2])
        np.testing.assert_allclose(found.cells[:, i], meant, rtol=4e-6 if name == "mean" else 0)
