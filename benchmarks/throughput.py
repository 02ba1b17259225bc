"""The whole line against a bare poll + decode loop of the same client, on real Kafka.

    make bench-throughput
    make bench-throughput ARGS="--readings 100000 --repeat 3 --json"
    make bench-throughput ARGS="--exactly-once"

Each cell is a process of its own that reads a topic of one partition from its beginning: first the
bare loop (poll, msgspec decode, nothing else), then one stream process with all stages: decode,
windows, score by a champion, river, tests, staging, reservoir, published scores, checkpoints in
SQLite. `share` is the bare loop's time by the stream's, both as wall time, medians over the
repeats; CPU is of the whole process, client threads included, from first record to last. With
--exactly-once there is a third process, a stream with `kafka.exactly_once`; `share_once` is the
stream's wall time by this one's.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from benchmarks import result
from pipeline.config import Database, Kafka, Settings, Stream

CHANNELS = 8
SEED = 0
#: (readings in a message, series)
CELLS = ((1, 1), (50, 1), (1, 1000), (50, 1000))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--readings", type=int, default=300_000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--profile", action="store_true", help="cProfile of the stream processes")
    parser.add_argument("--exactly-once", action="store_true", help="with transactions as well")
    parser.add_argument("--child", choices=["bare", "stream", "once"], help=argparse.SUPPRESS)
    parser.add_argument("--settings", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        settings = msgspec.json.decode(args.settings.read_bytes(), type=Settings)
        child = bare if args.child == "bare" else stream
        print(json.dumps(child(settings, args.readings)))
        return
    _measure_all(args)


def _measure_all(args: argparse.Namespace) -> None:
    from tests.brokers import RealKafka, create_stream_topics

    rows = []
    with tempfile.TemporaryDirectory() as scratch, RealKafka(Path(scratch) / "kafka") as broker:
        for batch, series in CELLS:
            topic = f"readings-{batch}-{series}"
            create_stream_topics(broker.address, topic, 1)
            _produce(broker.address, topic, args.readings, batch, series)
            rows.append(_measure(args, broker.address, topic, batch, series, Path(scratch)))
            print(json.dumps(rows[-1]), file=sys.stderr)
    one = {row["in_a_message"]: row for row in rows if row["series"] == 1}
    for row in rows:
        row["cost_to_one_series"] = row["cpu_us"] / one[row["in_a_message"]]["cpu_us"]
    result.write(
        "throughput",
        rows,
        seeds=[SEED],
        compared=["kafka-python", "msgspec", "river", "torch", "numpy", "sqlalchemy"],
        as_json=args.json,
        readings=args.readings,
        channels=CHANNELS,
    )


def _measure(
    args: argparse.Namespace, address: str, topic: str, batch: int, series: int, scratch: Path
) -> dict[str, Any]:
    """Bare loop and stream in turn, so that both meet the same machine."""
    kinds = ("bare", "stream", "once")[: 3 if args.exactly_once else 2]
    taken: dict[str, list[dict[str, float]]] = {kind: [] for kind in kinds}
    for repeat in range(args.repeat):
        for kind, runs in taken.items():
            settings = Settings(
                kafka=Kafka(
                    bootstrap_servers=address,
                    group_id=f"bench-{kind}-{repeat}",
                    exactly_once=kind == "once",
                ),
                stream=Stream(topic=topic),
                database=Database(url=f"sqlite:///{scratch / f'{topic}-{kind}-{repeat}.db'}"),
            )
            path = scratch / "settings.json"
            path.write_bytes(msgspec.json.encode(settings))
            command = [sys.executable]
            if args.profile and kind == "stream":
                command += ["-m", "cProfile", "-o", f"build/throughput-{batch}-{series}.prof"]
            command += ["-m", "benchmarks.throughput", "--child", kind, "--settings", str(path)]
            command += ["--readings", str(args.readings)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
            runs.append(json.loads(done.stdout.splitlines()[-1]))
    median = {
        kind: {f: statistics.median(run[f] for run in runs) for f in ("wall", "cpu")}
        for kind, runs in taken.items()
    }
    n = args.readings
    once = {}
    if args.exactly_once:
        once = {
            "share_once": median["stream"]["wall"] / median["once"]["wall"],
            "once_cpu_us": median["once"]["cpu"] / n * 1e6,
        }
    return {
        "in_a_message": batch,
        "series": series,
        "readings_per_s": n / median["stream"]["wall"],
        "cpu_us": median["stream"]["cpu"] / n * 1e6,
        "bare_readings_per_s": n / median["bare"]["wall"],
        "bare_cpu_us": median["bare"]["cpu"] / n * 1e6,
        "share": median["bare"]["wall"] / median["stream"]["wall"],
        "share_cpu": median["bare"]["cpu"] / median["stream"]["cpu"],
        **once,
    }


def readings(n: int) -> np.ndarray:
    """(n, CHANNELS) of AR(1) noise, phi = .8, in mixed units."""
    rng = np.random.default_rng(SEED)
    x = rng.normal(size=(n, CHANNELS))
    for t in range(1, n):
        x[t] += 0.8 * x[t - 1]
    return np.round(x * 10.0 ** np.arange(-1, CHANNELS - 1) + 20.0, 3)


def _produce(address: str, topic: str, n: int, batch: int, series: int) -> None:
    from kafka import KafkaProducer

    producer = KafkaProducer(
        bootstrap_servers=address, linger_ms=20, batch_size=500_000, acks="all"
    )
    values = readings(n)
    for message, first in enumerate(range(0, n, batch)):
        rows = values[first : first + batch]
        times = [1_767_225_600 + (first + k) // series for k in range(len(rows))]
        body: dict[str, Any] = {"time": times, "values": rows.tolist()}
        if batch == 1:
            body = {"time": times[0], "values": rows[0].tolist()}
        producer.send(topic, msgspec.json.encode(body), key=f"machine-{message % series}".encode())
    producer.flush()
    producer.close()


def bare(settings: Settings, readings: int) -> dict[str, float]:
    """Poll and decode, nothing else."""
    from kafka import KafkaConsumer, TopicPartition

    class Message(msgspec.Struct):
        time: float | list[float]
        values: list[float | list[float]]

    decode = msgspec.json.Decoder(Message).decode
    consumer = KafkaConsumer(
        bootstrap_servers=settings.kafka.bootstrap_servers,
        enable_auto_commit=False,
        max_poll_records=settings.kafka.max_poll_records,
    )
    partition = TopicPartition(settings.stream.topic, 0)
    consumer.assign([partition])
    consumer.seek_to_beginning()
    seen = 0
    started: tuple[float, float] | None = None
    while seen < readings:
        for records in consumer.poll(500, max_records=settings.kafka.max_poll_records).values():
            started = started or (time.perf_counter(), time.process_time())
            for message in [decode(r.value) for r in records]:
                seen += len(message.time) if isinstance(message.time, list) else 1
    return _since(started)


def stream(settings: Settings, readings: int) -> dict[str, float]:
    """One stream process, wired as in production, with a champion."""
    import logging

    import structlog
    import torch

    from pipeline.ingest.kafka_sink import KafkaSink
    from pipeline.ingest.kafka_source import KafkaSource
    from pipeline.ingest.kafka_transactions import KafkaTransactions
    from pipeline.register.migrate import upgrade
    from pipeline.register.sql import SqlRegistry
    from pipeline.run.stream import Streamer

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    torch.set_num_threads(settings.score.threads)
    upgrade(settings.database)
    registry = SqlRegistry(settings.database)
    bootstrap(settings, registry)
    source = KafkaSource(settings.kafka, settings.stream.topic)
    sink = KafkaSink(settings.kafka)
    transactions = (
        KafkaTransactions(settings.kafka, source) if settings.kafka.exactly_once else None
    )
    streamer = Streamer(settings, source, sink, registry, owner="bench", transactions=transactions)
    source.subscribe(streamer)
    seen = 0
    started: tuple[float, float] | None = None
    while seen < readings:
        before = (time.perf_counter(), time.process_time())
        taken = streamer.poll_once()
        if taken and started is None:
            started = before
        seen += taken
    streamer.checkpoint()
    spent = _since(started)
    source.close()
    if transactions is not None:
        transactions.close()
    sink.close()
    registry.close()
    return spent


def bootstrap(settings: Settings, registry: Any) -> None:
    """A first version, so that scoring has something to score with."""
    from pipeline.consolidate.readings import Readings
    from pipeline.records import Request
    from pipeline.run.trainer import Trainer

    values = readings(1000).astype(np.float32)
    segment = Readings(values=values, offsets=np.arange(1000)).to_bytes()
    names = tuple(f"c{i}" for i in range(CHANNELS))
    known = registry.open_stream(settings.stream.topic, names)
    sha = registry.put("segment", segment)
    whose = {"partition": 0, "series": "before", "segment": 0}
    inputs = {"segment": sha}
    registry.submit(Request(stream_id=known.id, reason="bootstrap", inputs=inputs, **whose))
    Trainer(settings, registry, owner="bench").work_once()
    if registry.champion(known.id) is None:
        raise SystemExit("the first version was not made: there would be nothing to score with")


def _since(started: tuple[float, float] | None) -> dict[str, float]:
    if started is None:
        raise SystemExit("no record came")
    return {
        "wall": time.perf_counter() - started[0],
        "cpu": time.process_time() - started[1],
    }


if __name__ == "__main__":
    main()
