"""Boundaries, their ends, sensor events and gaps as found, inside the caller's transaction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from sqlalchemy import Connection, bindparam, insert, update

from pipeline.records import Boundary, Gap, SensorEvent, Settled
from pipeline.register import ledger
from pipeline.register import tables as t


def record(
    conn: Connection, stream_id: int, partition: int, boundaries: Sequence[Boundary], *, at: int
) -> None:
    """Keep where segments began, with the tests that crossed; each boundary once."""
    rows = [
        {
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
        for boundary in boundaries
    ]
    if rows:
        conn.execute(insert(t.boundaries).values(recorded=at), rows)
        ledger.append(conn, "boundary", *rows, at=at, stream_id=stream_id)


def settle(
    conn: Connection, stream_id: int, partition: int, settled: Sequence[Settled], *, at: int
) -> None:
    """Keep where the transitions ended that began at boundaries."""
    if not settled:
        return
    c = t.boundaries.c
    conn.execute(
        update(t.boundaries)
        .where(
            c.stream_id == stream_id,
            c.partition == partition,
            c.series == bindparam("whose"),
            c.segment == bindparam("which"),
        )
        .values({name: bindparam(name) for name in ("end_row", "end_offset", "end_time")}),
        [
            {
                "whose": end.series,
                "which": end.segment,
                "end_row": end.end_row,
                "end_offset": end.end_offset,
                "end_time": end.end_time,
            }
            for end in settled
        ],
    )
    whose = {"stream_id": stream_id, "partition": partition}
    entries = [whose | asdict(end) for end in settled]
    ledger.append(conn, "transition_over", *entries, at=at, stream_id=stream_id)


def record_events(
    conn: Connection, stream_id: int, partition: int, events: Sequence[SensorEvent], *, at: int
) -> None:
    """Keep which sensors fell silent, froze or came back; each event once."""
    if events:
        whose = {"stream_id": stream_id, "partition": partition}
        rows = [whose | asdict(event) for event in events]
        conn.execute(insert(t.sensor_events).values(recorded=at), rows)
        ledger.append(conn, "sensor_event", *rows, at=at, stream_id=stream_id)


def record_gaps(
    conn: Connection, stream_id: int, partition: int, gaps: Sequence[Gap], *, at: int
) -> None:
    """Keep which records were lost before they were read; each gap once."""
    rows = [{"stream_id": stream_id, "partition": partition} | asdict(gap) for gap in gaps]
    if rows:
        conn.execute(insert(t.gaps).values(recorded=at), rows)
        ledger.append(conn, "records_lost", *rows, at=at, stream_id=stream_id)
