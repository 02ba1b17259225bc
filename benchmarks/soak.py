"""What a stream process holds while readings come and go: memory, files, threads, SQLite.

    make soak READINGS=10000000
    make soak READINGS=100000000 ARGS="--source memory --segment 20000"

The process under test is `tidemark stream` on a real Kafka broker whose topics keep some hundred
megabytes, and SQLite; with `--source memory` it is the same line without the broker, fed by what
makes the readings. 64 series of 8 sensors move between three regimes that return. A first version
scores; no trainer runs, so requests wait, with their inputs, as history that grows.

After warm-up each figure has to be flat: the mean of every tenth of what is left lies within 5 %
of the mean of all of it. SQLite's log is taken at its largest since the sample before.
"""

from __future__ import annotations

import argparse
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import msgspec

from benchmarks import result
from benchmarks.soak_log import IN_A_MESSAGE, NoSink, Produced, SoakLog, SoakSource
from benchmarks.soak_page import FLAT, Sample, growth, judged, page
from benchmarks.throughput import CHANNELS, bootstrap
from pipeline.config import (
    Database,
    Kafka,
    Learn,
    Settings,
    Stream,
    as_toml,
    plain_environment,
)
from tests.brokers import RealKafka, create_topic

TOPIC = "soak"
#: Samples that are taken in all.
SAMPLES = 200
#: Messages that the producer may be ahead of the last checkpoint.
AHEAD = 20_000
#: Kafka deletes what is older than the newest so many bytes, far more than AHEAD.
KEPT = {"retention.bytes": str(400 << 20), "segment.bytes": str(32 << 20)}
#: Tables whose rows are written over; the others are history, and grow.
STATE = ("streams", "checkpoints", "checkpoint_pieces", "leases")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--readings", type=int, default=10_000_000)
    parser.add_argument("--source", choices=["kafka", "memory"], default="kafka")
    parser.add_argument("--segment", type=int, default=5000, help="readings of a regime")
    parser.add_argument("--directory", type=Path, help="where broker and database go")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        _follow(msgspec.json.decode(args.child.read_bytes(), type=Settings), args)
        return
    with tempfile.TemporaryDirectory(dir=args.directory) as scratch:
        started = time.monotonic()
        samples = _soak(args, Path(scratch))
        took = time.monotonic() - started
    rows = [judged(name, samples) for name in FLAT]
    more = {"readings": args.readings, "source": args.source, "seconds": round(took)}
    more |= {"growth": growth(samples), "samples": samples}
    result.BUILD.mkdir(exist_ok=True)
    (result.BUILD / "soak.json").write_text(json.dumps({"figures": rows, **more}) + "\n")
    if args.json:
        print(json.dumps({"figures": rows, **more}))
    elif args.markdown:
        print(page(rows, more))
    else:
        result.print_table("soak", rows)
        print(more["growth"])
    sys.exit(any(row["verdict"] != "flat" for row in rows))


# Running --------------------------------------------------------------------------------------


def _soak(args: argparse.Namespace, scratch: Path) -> list[Sample]:
    """Feed the process all readings and look at it now and then."""
    database = scratch / "soak.db"
    settings = Settings(
        kafka=Kafka(group_id="soak"),
        stream=Stream(topic=TOPIC, channels=tuple(f"c{i}" for i in range(CHANNELS))),
        database=Database(url=f"sqlite:///{database}"),
        learn=Learn(reservoir_capacity=500),
    )
    _first_version(settings)
    run = _on_kafka if args.source == "kafka" else _in_memory
    samples: list[Sample] = []
    with run(args, settings, scratch) as (process, feed), closing(_read(database)) as conn:
        due, log = 0, 0
        while True:
            done = _progress(conn)
            feed(done)
            log = max(log, _log_bytes(database))
            if done * IN_A_MESSAGE >= due:
                samples.append(_sample(process.pid, conn, done * IN_A_MESSAGE, log))
                log = 0
                due = done * IN_A_MESSAGE + args.readings // SAMPLES
                print(json.dumps(samples[-1]), file=sys.stderr, flush=True)
            if done * IN_A_MESSAGE >= args.readings:
                return samples
            if process.poll() is not None:
                told = (scratch / "stream.log").read_text()[-2000:]
                raise SystemExit(f"the stream process ended: {process.returncode}\n{told}")
            time.sleep(0.05)


Running = Iterator[tuple[subprocess.Popen[bytes], Callable[[int], None]]]


@contextmanager
def _on_kafka(args: argparse.Namespace, settings: Settings, scratch: Path) -> Running:
    """`tidemark stream` beside a broker, and what keeps the topic ahead of it."""
    with RealKafka(scratch / "kafka") as broker:
        for topic in (TOPIC, *settings.stream.result_topics):
            create_topic(broker.address, topic, 1, KEPT)
        settings = msgspec.structs.replace(
            settings, kafka=Kafka(bootstrap_servers=broker.address, group_id="soak")
        )
        config = scratch / "soak.toml"
        config.write_text(as_toml(settings))
        command = [sys.executable, "-m", "pipeline", "--config", str(config), "stream"]
        with Produced(broker.address, TOPIC, SoakLog(args.segment)) as produced:
            last = -(-args.readings // IN_A_MESSAGE)
            with _process(command, scratch) as process:
                yield process, lambda done: produced.upto(min(done + AHEAD, last))


@contextmanager
def _in_memory(args: argparse.Namespace, settings: Settings, scratch: Path) -> Running:
    path = scratch / "settings.json"
    path.write_bytes(msgspec.json.encode(settings))
    command = [sys.executable, "-m", "benchmarks.soak", "--child", str(path)]
    command += ["--readings", str(args.readings), "--segment", str(args.segment)]
    with _process(command, scratch) as process:
        yield process, lambda done: None


@contextmanager
def _process(command: Sequence[str], scratch: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process, ended with the block; its log is a file."""
    with (scratch / "stream.log").open("ab") as log:
        process = subprocess.Popen(command, env=plain_environment(), stdout=log, stderr=log)
        try:
            yield process
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(30)
            process.kill()
            process.wait()


def _first_version(settings: Settings) -> None:
    from pipeline.register.migrate import upgrade
    from pipeline.register.sql import SqlRegistry

    upgrade(settings.database)
    with closing(SqlRegistry(settings.database)) as registry:
        bootstrap(settings, registry)


def _follow(settings: Settings, args: argparse.Namespace) -> None:
    """The line in this process, on readings from memory."""
    import logging

    import structlog
    import torch

    from pipeline.register.sql import SqlRegistry
    from pipeline.run.signals import stop_on_signals
    from pipeline.run.stream import Streamer

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    torch.set_num_threads(settings.score.threads)
    stop = stop_on_signals()
    source = SoakSource(TOPIC, SoakLog(args.segment), -(-args.readings // IN_A_MESSAGE))
    with closing(SqlRegistry(settings.database)) as registry:
        streamer = Streamer(settings, source, NoSink(), registry, owner="soak")
        streamer.run(lambda: stop.wait(0.1) if source.done else stop.is_set())


# Looking --------------------------------------------------------------------------------------


def _read(database: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True, timeout=60)


def _progress(conn: sqlite3.Connection) -> int:
    """Messages that the last checkpoint has behind it."""
    (done,) = conn.execute("SELECT SUM(next_offset) FROM checkpoints").fetchone()
    return int(done or 0)


def _log_bytes(database: Path) -> int:
    """Of SQLite's log now."""
    log = Path(f"{database}-wal")
    return log.stat().st_size if log.exists() else 0


def _sample(pid: int, conn: sqlite3.Connection, readings: int, log: int) -> Sample:
    """What the process holds, as Linux says, and what its database is; log: bytes that SQLite's was
    at most since the sample before, as it comes and goes between two of them."""
    proc = Path(f"/proc/{pid}")
    status = dict(line.split(":", 1) for line in (proc / "status").read_text().splitlines())
    (page,) = conn.execute("PRAGMA page_size").fetchone()
    (pages,) = conn.execute("PRAGMA page_count").fetchone()
    (pieces,) = conn.execute("SELECT SUM(LENGTH(content)) FROM checkpoint_pieces").fetchone()
    (boundaries,) = conn.execute("SELECT COUNT(*) FROM boundaries").fetchone()
    state = _state_bytes(conn, page)
    ticks = (proc / "stat").read_text().rpartition(")")[2].split()[11:13]  # user, system
    return {
        "readings": readings,
        "processor seconds": sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK"),
        "boundaries": boundaries,
        "resident memory": int(status["VmRSS"].split()[0]) / 1e3,
        "threads": int(status["Threads"]),
        "file handles": len(list((proc / "fd").iterdir())),
        "checkpoint": (pieces or 0) / 1e6,
        "SQLite pages that are no history": state / 1e6,
        "write-ahead log": log / 1e6,
        "history": (pages * page - state) / 1e6,
    }


def _state_bytes(conn: sqlite3.Connection, page: int) -> int:
    """Of the tables that are written over, their indexes, and the pages that nobody uses."""
    (free,) = conn.execute("PRAGMA freelist_count").fetchone()
    marks = ", ".join("?" * len(STATE))
    named = f"SELECT name FROM sqlite_master WHERE tbl_name IN ({marks}) AND rootpage > 0"  # noqa: S608
    used = 0
    for (name,) in conn.execute(named, STATE).fetchall():
        one = "SELECT SUM(pgsize) FROM dbstat WHERE name = ? AND aggregate = TRUE"
        used += conn.execute(one, (name,)).fetchone()[0]
    return int(used + free * page)


if __name__ == "__main__":
    main()
