"""A recording in, JSON messages on a topic out, at a pace that the consumer can follow."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from pipeline.config import Kafka
from pipeline.ingest.files import read_recording
from pipeline.ingest.kafka import KafkaSink, committed

#: Messages between two looks at the clock, the flush and the consumers' lag.
STRIDE = 100


def replay(
    path: Path,
    *,
    kafka: Kafka,
    topic: str,
    series_column: str | None = None,
    time_column: str | None = None,
    drop: tuple[str, ...] = (),
    rate: float | None = None,
    batch: int = 1,
    max_lag: int | None = None,
    progress: Callable[[int, int | None], None] | None = None,
) -> int:
    """Send every row, keyed by series; the number of readings, all acknowledged.

    Parameters
    ----------
    rate
        Readings a second; None: as fast as it goes.
    batch
        Readings of one series in a message.
    max_lag
        Wait while the consumer group has committed fewer records by more than this.

    Raises
    ------
    SourceError
        The file cannot be read, or a record was not acknowledged.
    """
    pace = _Pace(kafka, topic, rate, max_lag)
    sink = KafkaSink(kafka)
    sent = messages = 0
    held: dict[str, list[dict[str, Any]]] = {}
    try:
        for series, message in read_recording(
            path, series_column=series_column, time_column=time_column, drop=drop
        ):
            readings = held.setdefault(series, [])
            readings.append({"time": time.time()} | message)
            if len(readings) < batch:
                continue
            sink.send(topic, key=series.encode(), value=_encode(held.pop(series)))
            sent, messages = sent + batch, messages + 1
            if messages % STRIDE == 0:
                sink.flush()
                pace.wait(sent, messages, progress)
        for series, readings in held.items():
            sink.send(topic, key=series.encode(), value=_encode(readings))
            sent += len(readings)
        sink.flush()
    finally:
        sink.close()
    if progress:
        progress(sent, sent)
    return sent


class _Pace:
    """Waits until it is time for more: by the clock, and by what the consumers have done."""

    def __init__(self, kafka: Kafka, topic: str, rate: float | None, max_lag: int | None) -> None:
        self.kafka = kafka
        self.topic = topic
        self.rate = rate
        self.max_lag = max_lag
        self.started = time.monotonic()
        self.seen = committed(kafka, topic) if max_lag is not None else 0
        self.before = self.seen

    def wait(
        self, sent: int, messages: int, progress: Callable[[int, int | None], None] | None
    ) -> None:
        while True:
            if progress:
                progress(sent, None)
            early = sent / self.rate - (time.monotonic() - self.started) if self.rate else 0.0
            if early > 0:
                time.sleep(min(early, 0.1))
            elif self.max_lag is not None and messages - self._done() > self.max_lag:
                time.sleep(0.1)
                self.seen = committed(self.kafka, self.topic)
            else:
                return

    def _done(self) -> int:
        return self.seen - self.before


def _encode(readings: list[dict[str, Any]]) -> bytes:
    """One reading as itself; several as one message with arrays."""
    if len(readings) == 1:
        return msgspec.json.encode(readings[0])
    return msgspec.json.encode(
        {
            "time": [r["time"] for r in readings],
            "values": [r["values"] for r in readings],
        }
    )
