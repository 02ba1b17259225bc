"""What a stream process tells Prometheus, and where it does."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import numpy as np
import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from pipeline import telemetry
from pipeline.config import Database, Detect, Kafka, Learn, Run, Score, Settings, Stream
from pipeline.errors import SettingsError
from pipeline.ingest.memory import MemorySink, MemorySource
from pipeline.ingest.message import KINDS
from pipeline.register.sql import SqlRegistry
from pipeline.run.stream import Streamer
from pipeline.run.trainer import Trainer
from pipeline.telemetry import Metrics


def samples(metrics: Metrics) -> dict[tuple[str, ...], float]:
    """(name, labels but the stream) -> value; every sample is of the stream `readings`."""
    found = {}
    for family in text_string_to_metric_families(generate_latest(metrics.registry).decode()):
        for sample in family.samples:
            labels = dict(sample.labels)
            assert labels.pop("stream") == "readings"
            found[sample.name.removeprefix("tidemark_"), *labels.values()] = sample.value
    return found


@pytest.fixture
def made(sqlite_at_head: Database) -> Iterator[tuple[Streamer, MemorySink]]:
    """A stream of 300 readings whose level moves by 8 deviations at row 200, behind a bad record;
    it has a champion after 150 records and follows 20 at a time."""
    values = np.random.default_rng(1).normal(size=(300, 2)).round(3)
    values[200:] += 8.0
    rows = [{"time": 1_767_225_600 + i, "values": row} for i, row in enumerate(values.tolist())]
    log = [(b"press", b"not json"), *((b"press", json.dumps(row).encode()) for row in rows)]
    settings = Settings(
        kafka=Kafka(max_poll_records=20),
        stream=Stream(topic="readings"),
        database=sqlite_at_head,
        score=Score(window=8, hidden=8),
        detect=Detect(warm_up=60, fit_after=100, settle_after=60),
        learn=Learn(adapt_after=64, refine_after=0, epochs=1, reservoir_capacity=50),
        run=Run(checkpoint_interval_s=1e-6),
    )
    registry, sink = SqlRegistry(sqlite_at_head), MemorySink()
    source = MemorySource({0: log}, topic="readings", max_poll_records=20)
    streamer = Streamer(settings, source, sink, registry, owner="test")
    source.subscribe(streamer)
    while source.lag().get(0, 1):
        streamer.poll_once()
        if streamer.live.version is None:
            Trainer(settings, registry, owner="trainer").work_once()
        streamer.live._due = streamer._lag_due = 0.0
    streamer.poll_once()
    yield streamer, sink
    registry.close()


def test_a_stream_tells_what_it_took_in_and_found(made: tuple[Streamer, MemorySink]) -> None:
    """Counted by hand: 300 readings, a bad record of one kind, one boundary, nothing to come."""
    found = samples(made[0].metrics)
    assert found["readings_total",] == 300
    assert found["boundaries_total",] == 1
    assert found["alarms_total", "ADWIN"] >= 1
    assert found["lag_records", "0"] == 0
    assert found["checkpoint_seconds_count",] >= 15  # one a poll at least
    letters = {labels[0]: n for (name, *labels), n in found.items() if name == "dead_letters_total"}
    assert letters == dict.fromkeys(KINDS, 0.0) | {"not_json": 1.0}


def test_the_live_loss_is_the_mean_of_what_is_published(
    made: tuple[Streamer, MemorySink],
) -> None:
    """Scores go out with four digits: the sum is theirs, to half a digit each."""
    streamer, sink = made
    sent = [json.loads(value or b"") for topic, _, value, _ in sink.sent if topic[-6:] == "scores"]
    scores = [score for body in sent for score in body["scores"] if score is not None]
    found = samples(streamer.metrics)
    assert len(scores) >= 100
    assert found["scored_readings_total",] == len(scores)
    assert found["live_loss_total",] == pytest.approx(sum(scores), abs=len(scores) * 0.5e-4)


def test_a_reading_without_a_score_is_none_of_them() -> None:
    """NaN where there is no window yet; one overflow must not spoil the sum for ever."""
    metrics = Metrics("readings")
    metrics.score(np.array([np.nan, 1.5, np.inf, 0.25], dtype=np.float32))
    found = samples(metrics)
    assert (found["scored_readings_total",], found["live_loss_total",]) == (2, 1.75)


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """The servers that are started; ended behind the test."""
    begun: list[Any] = []
    start = telemetry.start_http_server
    monkeypatch.setattr(
        telemetry, "start_http_server", lambda *a, **k: begun.append(start(*a, **k))
    )
    yield begun
    for server, thread in begun:
        server.shutdown()
        server.server_close()
        thread.join()


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def test_metrics_answer_where_they_are_told_to_and_nowhere_else(servers: list[Any]) -> None:
    """127.0.0.2 is this machine too, and another address."""
    port = free_port()
    Metrics("readings").serve("127.0.0.2", port)
    with urlopen(f"http://127.0.0.2:{port}/metrics", timeout=10) as answer:
        assert b'tidemark_readings_total{stream="readings"} 0.0' in answer.read()
    with pytest.raises(URLError):
        urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10)


@pytest.mark.parametrize("host", ["no-such-host.invalid", "192.0.2.1", "a..b"])
def test_an_address_that_is_not_ours_is_one_line(host: str, servers: list[Any]) -> None:
    """A name of nobody, an address of somebody else (RFC 5737), and no name at all."""
    with pytest.raises(SettingsError, match=rf"^run.metrics_host, run.metrics_port: {host}:9 *"):
        Metrics("readings").serve(host, 9)


def test_a_port_that_is_taken_is_one_line(servers: list[Any]) -> None:
    """Two stream processes on a machine need two ports."""
    port = free_port()
    Metrics("readings").serve("127.0.0.1", port)
    with pytest.raises(SettingsError, match=f"127.0.0.1:{port}: "):
        Metrics("readings").serve("127.0.0.1", port)


def test_without_a_port_nobody_is_answered(servers: list[Any]) -> None:
    """The default."""
    Metrics("readings").serve(Run().metrics_host, Run().metrics_port)
    assert servers == []
    assert Run().metrics_host == "127.0.0.1"
