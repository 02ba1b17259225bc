"""Boundaries, their ends and sensor events as they were found, inside the caller's transaction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from sqlalchemy import Connection, insert, update

from pipeline.records import Boundary, SensorEvent, Settled
from pipeline.register import ledger
from pipeline.register import tables as t


def record(
    conn: Connection, stream_id: int, partition: int, boundary: Boundary, *, at: int
) -> None:
    """Keep where a segment began, with the test that crossed; each boundary once."""
    row = {
        "stream_id": stream_id,
        "partition": partition,
        "series": boundary.series,
        "segment": boundary.segment,
        "boundary_row": boundary.boundary_row,
        "detected_row": boundary.detected_row,
        "boundary_offset": boundary.boundary_offset,
        "detected_offset": boundary.detected_offset,
        "boundary_time": boundary.boundary_time,
        "detected_time": boundary.detected_time,
        "signal": boundary.signal,
        "statistic": boundary.statistic,
        "threshold": boundary.threshold,
        "detectors": ledger.canonical(list(boundary.detectors)),
        "sensors": ledger.canonical([asdict(change) for change in boundary.sensors]),
    }
    conn.execute(insert(t.boundaries).values(recorded=at, **row))
    ledger.append(conn, "boundary", row, at=at, stream_id=stream_id)


def settle(conn: Connection, stream_id: int, partition: int, settled: Settled, *, at: int) -> None:
    """Keep where the transition ended that began at a boundary."""
    end = {
        "end_row": settled.end_row,
        "end_offset": settled.end_offset,
        "end_time": settled.end_time,
    }
    whose = {"series": settled.series, "segment": settled.segment}
    conn.execute(
        update(t.boundaries)
        .where(
            t.boundaries.c.stream_id == stream_id,
            t.boundaries.c.partition == partition,
            t.boundaries.c.series == settled.series,
            t.boundaries.c.segment == settled.segment,
        )
        .values(**end)
    )
    entry = {"stream_id": stream_id, "partition": partition} | whose | end
    ledger.append(conn, "transition_over", entry, at=at, stream_id=stream_id)


def record_events(
    conn: Connection, stream_id: int, partition: int, events: Sequence[SensorEvent], *, at: int
) -> None:
    """Keep which sensors fell silent, froze or came back; each event once."""
    if events:
        whose = {"stream_id": stream_id, "partition": partition, "recorded": at}
        conn.execute(insert(t.sensor_events), [whose | asdict(event) for event in events])
