"""Records of the pipeline in, bytes for Kafka out: TOPIC.scores, .boundaries and .events."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import msgspec
import numpy as np

from pipeline.detect.tasks import titled
from pipeline.records import (
    Batch,
    Boundary,
    Change,
    FloatArray,
    Gap,
    IntArray,
    Named,
    RolledBack,
    SensorEvent,
    Settled,
)

#: Readings in one message of scores, at most: below a broker's usual limit of 1 MB.
LONGEST = 10_000

_encode = msgspec.json.Encoder().encode


def iso(time: int) -> str:
    """Microseconds since 1970 UTC as ISO 8601 with zone."""
    return datetime.fromtimestamp(time / 1e6, UTC).isoformat(timespec="microseconds")


def score_messages(
    batch: Batch,
    scores: FloatArray,
    version: int,
    *,
    said: FloatArray | None = None,
    classes: Sequence[str] = (),
) -> Iterator[tuple[bytes, bytes]]:
    """(key, value) for each series of `batch`: its readings' offsets, times and scores.

    said: (N, 2) number and probability of the likeliest of `classes`; None: there are none.

    The key `topic/partition/series` keeps a series' messages in order. After a crash the readings
    since the last checkpoint are published again, cut into other messages: a reader takes those
    above the highest offset that it has seen of the series and partition, and drops the rest.

    A message ends with a record. Only a record of more than LONGEST readings is cut: `place` is
    how many readings of a message's first record came in the messages before it. A reader that
    expects such records compares (offset, place in the record).
    """
    rounded = np.round(scores.astype(np.float64), 4)
    for name, first, end in zip(batch.series, batch.starts, batch.starts[1:], strict=False):
        key = f"{batch.topic}/{batch.partition}/{name}".encode()
        for rows, place in _parts(batch.offsets, int(first), int(end)):
            value = {
                "topic": batch.topic,
                "partition": batch.partition,
                "series": name,
                "version": version,
                "offsets": batch.offsets[rows].tolist(),
                "place": place,
                "times": batch.times[rows].tolist(),
                "scores": rounded[rows].tolist(),
            }
            if said is not None:
                value |= _said(said[rows], classes)
            yield key, _encode(value)


def _said(said: FloatArray, classes: Sequence[str]) -> dict[str, list[Any]]:
    """Names and probabilities; null where nothing was said."""
    numbers = said[:, 0].tolist()
    return {
        "classes": [None if n != n else classes[int(n)] for n in numbers],
        "probabilities": np.round(said[:, 1].astype(np.float64), 4).tolist(),
    }


def _parts(offsets: IntArray, first: int, end: int) -> Iterator[tuple[slice, int]]:
    """Rows of each message of the series in rows first:end, and the place that it begins at."""
    offsets, start = offsets[first:end], 0
    while start < len(offsets):
        cut = _cut(offsets, start)
        place = start - int(np.searchsorted(offsets, offsets[start]))
        yield slice(first + start, first + cut), place
        start = cut


def _cut(offsets: IntArray, start: int) -> int:
    """End of the message that begins at row `start`: between two records, if one fits."""
    end = start + LONGEST
    if end >= len(offsets):
        return len(offsets)
    between = int(np.searchsorted(offsets, offsets[end]))
    return between if between > start else end


def boundary_message(
    topic: str, partition: int, boundary: Boundary, channels: Sequence[str]
) -> tuple[bytes, bytes]:
    """(key, value) of one boundary, with times people can read and sensors by name."""
    value = msgspec.to_builtins(boundary) | {
        "topic": topic,
        "partition": partition,
        "boundary_at": iso(boundary.boundary_time),
        "detected_at": iso(boundary.detected_time),
        "sensors": [_change(change, channels) for change in boundary.sensors],
    }
    return f"{topic}/{partition}/{boundary.series}/{boundary.segment}".encode(), _encode(value)


def settled_message(topic: str, partition: int, settled: Settled) -> tuple[bytes, bytes]:
    """(key, value) of a transition's end: `event` tells it apart from the boundary it began at."""
    value = {
        "event": "transition_over",
        "topic": topic,
        "partition": partition,
        "series": settled.series,
        "segment": settled.segment,
        "end_row": settled.end_row,
        "end_offset": settled.end_offset,
        "end_at": iso(settled.end_time),
    }
    return f"{topic}/{partition}/{settled.series}/{settled.segment}/end".encode(), _encode(value)


def _change(change: Change, channels: Sequence[str]) -> dict[str, Any]:
    """What changed, with the sensors by name."""
    told = asdict(change)
    told["name"] = channels[told.pop("channel")]
    told["other"] = None if change.other is None else channels[change.other]
    return told


def event_message(
    topic: str, partition: int, event: SensorEvent, channels: Sequence[str]
) -> tuple[bytes, bytes]:
    """(key, value) of what happened to a sensor: a value with `event` is no boundary."""
    value = {
        "event": event.kind,
        "topic": topic,
        "partition": partition,
        "series": event.series,
        "sensor": channels[event.channel],
        "row": event.row,
        "offset": event.offset,
        "at": iso(event.time),
    }
    return f"{topic}/{partition}/{event.series}/{event.row}/{event.channel}".encode(), _encode(
        value
    )


def gap_message(topic: str, partition: int, gap: Gap) -> tuple[bytes, bytes]:
    """(key, value) of records that the log had no longer; for TOPIC.events."""
    value = {"event": "records_lost", "topic": topic, "partition": partition} | asdict(gap)
    return f"{topic}/{partition}/lost/{gap.first_offset}".encode(), _encode(value)


def name_message(topic: str, partition: int, named: Named) -> tuple[bytes, bytes]:
    """(key, value) of what a segment was named: a value with `event` is no boundary.

    It follows the boundary that began the segment, again as more was seen of it, at last `final`.
    """
    value = {"event": "task_named", "topic": topic, "partition": partition} | msgspec.to_builtins(
        named
    )
    return f"{topic}/{partition}/{named.series}/{named.segment}/task".encode(), _encode(value)


def rollback_message(topic: str, back: RolledBack) -> tuple[bytes, bytes]:
    """(key, value) of a promotion that was taken back; for TOPIC.events."""
    value = {
        "event": "rolled_back",
        "topic": topic,
        "version": back.version,
        "to": back.to,
        "actor": back.actor,
        "reason": back.reason,
        "at": iso(back.time),
    }
    return f"{topic}/version/{back.version}".encode(), _encode(value)


def task_event(topic: str, partition: int, named: Named) -> tuple[bytes, bytes] | None:
    """(key, value) for TOPIC.events: a segment is of a task that is not learned; else None.

    Once a segment, and again if it is named otherwise: a reader drops a key that it has seen.
    """
    if named.kind == "normal" or not named.changed:
        return None
    value = {
        "event": "task_waits" if named.kind == "asked" else "task_returned",
        "topic": topic,
        "partition": partition,
        "series": named.series,
        "segment": named.segment,
        "task": named.task,
        "kind": named.kind,
        "name": named.name,
        "recurrence": named.recurrence,
        "text": titled(named.task, named.kind, named.name, recurrence=named.recurrence),
    }
    place = f"{topic}/{partition}/{named.series}/{named.segment}"
    return f"{place}/task/{named.task}".encode(), _encode(value)
