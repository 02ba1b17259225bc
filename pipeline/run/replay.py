"""A recording in, JSON messages on a topic out, at a pace that the consumer can follow."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec

from pipeline.config import Kafka
from pipeline.ingest.files import read_recording
from pipeline.ingest.kafka_client import GroupLag
from pipeline.ingest.kafka_sink import KafkaSink

#: Messages between two flushes and looks at the clock and the consumers' lag.
STRIDE = 100

#: Called with (readings sent, total or None).
Progress = Callable[[int, int | None], None]


def replay(
    path: Path,
    *,
    kafka: Kafka,
    topic: str,
    series_column: str | None = None,
    time_column: str | None = None,
    drop: tuple[str, ...] = (),
    label: str = "",
    rate: float | None = None,
    batch: int = 1,
    max_lag: int | None = None,
    progress: Progress | None = None,
) -> int:
    """Send every row, keyed by series; the number of readings, all acknowledged.

    Parameters
    ----------
    label
        Field with a reading's label, if the recording has one of that name.
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
    rows = read_recording(
        path, series_column=series_column, time_column=time_column, drop=drop, label=label
    )
    rows = chain([next(rows)], rows)  # a file that cannot be read fails before Kafka is asked
    sent = 0
    with (
        closing(_Pace(kafka, topic, rate, max_lag)) as pace,
        closing(KafkaSink(kafka)) as sink,
    ):
        for number, (series, readings) in enumerate(_messages(rows, batch, label), 1):
            sink.send(topic, key=series.encode(), value=_encode(readings, label))
            sent += sum(len(r["time"]) if isinstance(r["time"], list) else 1 for r in readings)
            if number % STRIDE == 0:
                sink.flush()
                pace.wait(sent, progress)
        sink.flush()
    if progress:
        progress(sent, sent)
    return sent


def _messages(
    rows: Iterable[tuple[str, dict[str, Any]]], batch: int, label: str
) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """(series, readings) of each message: `batch` of one series, or fewer where forms differ."""
    held: dict[str, list[dict[str, Any]]] = {}
    for series, row in rows:
        reading = {"time": time.time()} | row
        form = _form(reading, label)
        if series in held and _form(held[series][0], label) is not form:
            yield series, held.pop(series)
        held.setdefault(series, []).append(reading)
        if form is None or len(held[series]) >= batch:
            yield series, held.pop(series)
    yield from held.items()


def _form(reading: dict[str, Any], label: str) -> type | None:
    """How one plain reading gives its values; None: a message that shares with no other."""
    values = reading.get("values")
    cells = values.values() if isinstance(values, dict) else values
    alone = (reading["time"], reading.get(label))
    plain = isinstance(cells, Iterable) and not any(
        isinstance(c, list | dict) for c in chain(cells, alone)
    )
    if not plain or reading.keys() - {"time", "values", label}:
        return None
    return type(values)


class _Pace:
    """Waits until it is time for more: by the clock, and by what the consumers have done."""

    def __init__(self, kafka: Kafka, topic: str, rate: float | None, max_lag: int | None) -> None:
        self.rate = rate
        self.max_lag = max_lag
        self.started = time.monotonic()
        self.lag = GroupLag(kafka, topic) if max_lag is not None else None

    def wait(self, sent: int, progress: Progress | None) -> None:
        """Return when the next readings may go."""
        while True:
            if progress:
                progress(sent, None)
            early = sent / self.rate - (time.monotonic() - self.started) if self.rate else 0.0
            behind = self.lag is not None and self.lag.records() > (self.max_lag or 0)
            if early <= 0 and not behind:
                return
            time.sleep(min(early, 0.1) if early > 0 else 0.1)

    def close(self) -> None:
        """Leave."""
        if self.lag is not None:
            self.lag.close()


def _encode(readings: list[dict[str, Any]], label: str) -> bytes:
    """One reading as itself; several as one message with arrays."""
    if len(readings) == 1:
        return msgspec.json.encode(readings[0])
    rows = [r["values"] for r in readings]
    values: Any = rows
    if isinstance(rows[0], dict):
        names = sorted({name for row in rows for name in row})
        values = {name: [row.get(name) for row in rows] for name in names}
    message = {"time": [r["time"] for r in readings], "values": values}
    if any(label in r for r in readings):
        message[label] = [r.get(label) for r in readings]
    return msgspec.json.encode(message)
