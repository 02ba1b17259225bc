"""Records of the pipeline in, bytes for Kafka out: TOPIC.scores and TOPIC.boundaries."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

import msgspec
import numpy as np

from pipeline.records import Batch, Boundary, FloatArray

#: Readings in one message of scores, at most: below a broker's usual limit of 1 MB.
LONGEST = 10_000

_encode = msgspec.json.Encoder().encode


def iso(time: int) -> str:
    """Microseconds since 1970 UTC as ISO 8601 with zone."""
    return datetime.fromtimestamp(time / 1e6, UTC).isoformat(timespec="microseconds")


def score_messages(batch: Batch, scores: FloatArray, version: int) -> Iterator[tuple[bytes, bytes]]:
    """(key, value) for each series of `batch`: its readings' offsets, times and scores.

    The key `topic/partition/first offset` says what a message begins with, so a reader can drop
    what it has seen already when a poll is published again after a crash. A part that begins
    inside a record has `+` and the reading's place in it.
    """
    rounded = np.round(scores.astype(np.float64), 4)
    for name, first, end in zip(batch.series, batch.starts, batch.starts[1:], strict=False):
        for start in range(int(first), int(end), LONGEST):
            rows = slice(start, min(start + LONGEST, int(end)))
            offsets = batch.offsets[rows].tolist()
            inside = _place(batch, int(first), start)
            value = {
                "topic": batch.topic,
                "partition": batch.partition,
                "series": name,
                "version": version,
                "offsets": offsets,
                "times": batch.times[rows].tolist(),
                "scores": rounded[rows].tolist(),
            }
            key = f"{batch.topic}/{batch.partition}/{offsets[0]}{f'+{inside}' if inside else ''}"
            yield key.encode(), _encode(value)


def _place(batch: Batch, first: int, start: int) -> int:
    """Readings of row `start`'s record that come before it; its series begins at row `first`."""
    if start == first:
        return 0
    mine = batch.offsets[first:start]
    return int((mine == batch.offsets[start]).sum())


def boundary_message(
    topic: str, partition: int, boundary: Boundary, channels: Sequence[str]
) -> tuple[bytes, bytes]:
    """(key, value) of one boundary, with times people can read and sensors by name."""
    value = msgspec.to_builtins(boundary) | {
        "topic": topic,
        "partition": partition,
        "boundary_at": iso(boundary.boundary_time),
        "detected_at": iso(boundary.detected_time),
        "sensors": [
            {"name": channels[channel], "change": change} for channel, change in boundary.sensors
        ],
    }
    return f"{topic}/{partition}/{boundary.series}/{boundary.segment}".encode(), _encode(value)
