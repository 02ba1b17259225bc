from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import Kafka, Stream
from pipeline.errors import SourceError
from pipeline.ingest.decode import Decoder
from pipeline.records import Records
from pipeline.run.replay import STRIDE, replay
from tests.ingest.kafka_topics import Topics

#: More than two strides, and no multiple of one.
ROWS = 2 * STRIDE + 37
SERIES = ("a", "b", "ü")

#: (series, time in microseconds, cells)
Reading = tuple[str, int, list[float]]


def recording(folder: Path, rows: int = ROWS) -> tuple[Path, list[Reading]]:
    """A CSV of three series, unevenly mixed, and what it holds."""
    path = folder / "plant.csv"
    held = [(SERIES[i * i % 5 % 3], i, [float(i), -0.5 * i]) for i in range(rows)]
    lines = [f"{who},{t},{x},{y}" for who, t, (x, y) in held]
    path.write_text("\n".join(["who,t,x,y", *lines]), encoding="utf-8")
    return path, [(who, t * 1_000_000, cells) for who, t, cells in held]


def of_series(readings: Iterable[Reading]) -> dict[str, list[Reading]]:
    """Each series' readings in order; between series, partitions have none."""
    found: dict[str, list[Reading]] = {}
    for reading in readings:
        found.setdefault(reading[0], []).append(reading)
    return found


def decoded(polled: list[Any], channels: tuple[str, ...] = ("x", "y")) -> list[Reading]:
    """The readings in these records; a dead letter fails the test."""
    records = Records(
        topic="t",
        partition=0,
        offsets=range(len(polled)),
        keys=[r.key for r in polled],
        values=[r.value for r in polled],
        next_offset=len(polled),
    )
    batch, letters = Decoder(Stream(), 1_000_000, channels).decode(records)
    assert letters == []
    assert batch is not None
    return [
        (series, int(batch.times[n]), batch.values[n].tolist())
        for i, series in enumerate(batch.series)
        for n in range(batch.starts[i], batch.starts[i + 1])
    ]


@pytest.mark.parametrize("batch", [1, 8, 10_000])
def test_every_row_arrives_once_in_the_order_of_its_series(
    embedded_topics: Topics, tmp_path: Path, batch: int
) -> None:
    """Also those that fill no batch; a message holds one series, and is keyed by it."""
    path, rows = recording(tmp_path)
    topic = embedded_topics.new()
    sent = replay(
        path,
        kafka=embedded_topics.kafka(topic),
        topic=topic,
        series_column="who",
        time_column="t",
        batch=batch,
    )
    counts = Counter(series for series, _, _ in rows)
    polled = embedded_topics.read(topic, sum(math.ceil(n / batch) for n in counts.values()))
    assert of_series(decoded(polled)) == of_series(rows)
    assert sent == len(rows)


@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_labels_are_sent_with_their_readings(
    embedded_topics: Topics, tmp_path: Path, batch: int, ending: str
) -> None:
    """One a message, or a list of as many as readings; 20 readings are 20 messages, or 3."""
    said = [None if n % 3 else ("idle", "busy")[n % 2] for n in range(20)]
    path = tmp_path / f"plant.{ending}"
    if ending == "csv":
        path.write_text(
            "\n".join(["t,x,state", *(f"{n},{n},{s or ''}" for n, s in enumerate(said))])
        )
    else:
        rows = [
            {"time": n, "values": [n]} | ({"state": s} if s else {}) for n, s in enumerate(said)
        ]
        path.write_text("\n".join(map(json.dumps, rows)))
    topic = embedded_topics.new()
    replay(
        path,
        kafka=embedded_topics.kafka(topic),
        topic=topic,
        time_column="t" if ending == "csv" else None,
        batch=batch,
        label="state",
    )
    polled = embedded_topics.read(topic, math.ceil(20 / batch))
    found = {}
    for record in polled:
        message = json.loads(record.value)
        if batch == 1:
            found[message["time"]] = message.get("state")
        else:
            found |= dict(zip(message["time"], message["state"], strict=True))
    assert found == dict(enumerate(said))


def test_rows_without_a_time_are_sent_as_of_now(embedded_topics: Topics, tmp_path: Path) -> None:
    """A replay stands in for sensors that measure while it runs."""
    path, rows = recording(tmp_path, rows=5)
    topic = embedded_topics.new()
    before = time.time_ns() // 1000
    replay(
        path,
        kafka=embedded_topics.kafka(topic),
        topic=topic,
        series_column="who",
        drop=("t",),
    )
    after = time.time_ns() // 1000
    readings = decoded(embedded_topics.read(topic, 5))
    assert sorted(cells for _, _, cells in readings) == sorted(cells for _, _, cells in rows)
    assert all(before - 1 <= t <= after + 1 for _, t, _ in readings)


@pytest.mark.parametrize("batch", [1, 2, 100])
def test_messages_of_every_form_share_with_none_that_they_do_not_match(
    embedded_topics: Topics, tmp_path: Path, batch: int
) -> None:
    """JSON lines are messages already: by name, by place, or with many readings in one."""
    lines: list[dict[str, Any]] = [
        {"time": 0, "values": {"x": 0, "y": 0}},
        {"time": 1, "values": {"y": 1, "x": 1}},
        {"time": 2, "values": [2, 2]},
        {"time": [3, 4], "values": [[3, 3], [4, 4]]},
        {"time": [5], "values": {"x": [5], "y": [5]}},
        {"time": 6, "values": [6, 6]},
        {"time": 7, "values": [7, 7]},
        {"time": 8, "values": {"x": 8, "y": 8}},
    ]
    path = tmp_path / "plant.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in lines))
    topic = embedded_topics.new()
    sent = replay(path, kafka=embedded_topics.kafka(topic), topic=topic, batch=batch)
    messages = len(lines) if batch == 1 else len(lines) - 2
    readings = decoded(embedded_topics.read(topic, messages))
    assert readings == [("plant", i * 1_000_000, [float(i)] * 2) for i in range(9)]
    assert sent == 9


def test_a_field_beside_the_reading_goes_out_with_it(
    embedded_topics: Topics, tmp_path: Path
) -> None:
    """It may be the one that names the series; in a batch there is no place for it."""
    lines = [{"time": i, "values": [i], "id": f"pump {i % 2}"} for i in range(4)]
    path = tmp_path / "plant.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in lines))
    topic = embedded_topics.new()
    replay(path, kafka=embedded_topics.kafka(topic), topic=topic, batch=10)
    assert [json.loads(r.value) for r in embedded_topics.read(topic, 4)] == lines


def test_a_replay_waits_for_a_group_that_lags_behind(
    embedded_topics: Topics, tmp_path: Path
) -> None:
    """More goes out only once the group has all but `max_lag` of what went before."""
    path, rows = recording(tmp_path)
    topic, max_lag = embedded_topics.new(), STRIDE // 2
    calls: list[int] = []
    let_go: list[int] = []

    def progress(sent: int, total: int | None) -> None:
        """Stands in for the group: it commits after having been waited for three times."""
        calls.append(sent)
        if total is None and calls.count(sent) == 3:
            done = {partition: offset for partition, offset in ends().items() if offset}
            embedded_topics.commit(topic, done)
            let_go.append(sent)

    def ends() -> dict[int, int]:
        with embedded_topics.client(topic) as (consumer, partitions):
            return {p.partition: n for p, n in consumer.end_offsets(partitions).items()}

    sent = replay(
        path,
        kafka=embedded_topics.kafka(topic),
        topic=topic,
        series_column="who",
        time_column="t",
        max_lag=max_lag,
        progress=progress,
    )
    assert let_go == [STRIDE, 2 * STRIDE]
    assert all(calls.count(n) >= 3 for n in let_go)
    assert calls[-1] == sent == len(rows)


def test_a_rate_is_kept(
    embedded_topics: Topics, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that only sleeping moves: n readings take n / rate, to the stride."""

    class Clock:
        now = 0.0

        def monotonic(self) -> float:
            return self.now

        def sleep(self, seconds: float) -> None:
            self.now += seconds

    clock = Clock()
    monkeypatch.setattr("pipeline.run.replay.time", clock)
    path, rows = recording(tmp_path)
    monkeypatch.setattr(clock, "time", lambda: 0.0, raising=False)
    topic, rate = embedded_topics.new(), 40.0
    sent = replay(
        path,
        kafka=embedded_topics.kafka(topic),
        topic=topic,
        series_column="who",
        time_column="t",
        rate=rate,
    )
    assert sent == len(rows)
    assert clock.now == pytest.approx(2 * STRIDE / rate)


def test_progress_is_told_the_count_and_at_last_the_total(
    embedded_topics: Topics, tmp_path: Path
) -> None:
    """The total is not known before the end: the file is never held whole."""
    path, _ = recording(tmp_path)
    topic = embedded_topics.new()
    told: list[tuple[int, int | None]] = []
    replay(
        path,
        kafka=embedded_topics.kafka(topic),
        topic=topic,
        progress=lambda sent, total: told.append((sent, total)),
        drop=("who",),
    )
    assert told == [(STRIDE, None), (2 * STRIDE, None), (ROWS, ROWS)]


def test_a_file_that_cannot_be_read_is_said_before_kafka_is_asked(
    nobody: Kafka, tmp_path: Path
) -> None:
    """Both are missing: the answer at once is the one that needs no network."""
    with pytest.raises(SourceError, match=r"none\.csv"):
        replay(tmp_path / "none.csv", kafka=nobody, topic="t")


@pytest.mark.parametrize("max_lag", [None, 10])
def test_a_broker_that_is_not_there_is_one_line(
    nobody: Kafka, tmp_path: Path, max_lag: int | None
) -> None:
    """With the address that was tried."""
    path, _ = recording(tmp_path)
    with pytest.raises(SourceError, match=nobody.bootstrap_servers) as caught:
        replay(path, kafka=nobody, topic="t", max_lag=max_lag)
    assert len(str(caught.value).splitlines()) == 1


def test_a_line_that_cannot_be_read_ends_a_replay(embedded_topics: Topics, tmp_path: Path) -> None:
    """What came before it has gone out, and the error says where to look."""
    path = tmp_path / "plant.csv"
    path.write_text("x\n1\n2\n3,4\n")
    topic = embedded_topics.new()
    with pytest.raises(SourceError, match="line 4"):
        replay(path, kafka=embedded_topics.kafka(topic), topic=topic)
    assert [json.loads(r.value)["values"] for r in embedded_topics.read(topic, 2)] == [[1], [2]]
