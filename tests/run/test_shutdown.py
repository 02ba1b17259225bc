"""Told to stop in whatever state: every process ends within seconds, and says what it leaves."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from sqlalchemy import make_url, select, text

from pipeline.config import (
    Database,
    Detect,
    Kafka,
    Learn,
    Run,
    Score,
    Serve,
    Settings,
    Stream,
    as_toml,
)
from pipeline.register import tables as t
from pipeline.register.files import backup
from pipeline.register.migrate import upgrade
from pipeline.register.sql import SqlRegistry
from tests.brokers import RealKafka, create_stream_topics, free_ports, kafka_home
from tests.chaos.cast import Postgres
from tests.chaos.proxy import Proxy
from tests.databases import new_database, server_directory
from tests.forks import PATIENCE_S, Forked, Forks
from tests.run.test_trainer import ask, segment

#: What was promised, in seconds.
WITHIN_S = 5.0
#: Records of the logs: a short one, whose last record is bad; a long one, every second one bad.
STILL, BACKLOG = 41, 12_000
FORCED = "tidemark: ended 4 s after it was told to stop; "
READ_AGAIN = FORCED + "what came since the last checkpoint will be read again"
TAKEN_OVER = FORCED + "a request that it held is taken by another trainer once its lease is over"


def record(row: int) -> bytes:
    return json.dumps({"time": 1_767_225_600 + row, "values": [row % 7, row % 5]}).encode()


def until(condition: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


class Stage:
    """A broker, a proxy before it, a database server, and processes."""

    def __init__(self, directory: Path, template: Path, stack: ExitStack) -> None:
        self.directory = directory
        self.template = template
        self.proxy = stack.enter_context(Proxy(lambda: ("127.0.0.1", self.broker.behind)))
        self.broker = RealKafka(directory / "kafka", proxy=self.proxy.port)
        data = server_directory()
        stack.callback(shutil.rmtree, data, ignore_errors=True)
        self.postgres = Postgres(data)
        stack.callback(self.postgres.stop)
        stack.enter_context(self.broker)
        self.forks = stack.enter_context(Forks(directory))
        for name in ("still", "backlog", "behind", "exact"):
            create_stream_topics(self.broker.address, name, 1)
        self.send("still", [record(row) for row in range(STILL - 1)] + [b"bad"])
        long = [b"bad" if row % 2 else record(row) for row in range(BACKLOG)]
        self.send("backlog", long)
        self.send("behind", long)
        self.send("exact", long)
        self.postgres_template = new_database(self.postgres.url)
        upgrade(self.postgres_template)
        self.databases: dict[str, Database] = {}
        self.processes: dict[str, Forked] = {}
        #: Connections of clients who do not hang up.
        self.open: list[socket.socket] = []
        stack.callback(lambda: [each.close() for each in self.open])

    def send(self, topic: str, values: list[bytes]) -> None:
        producer = KafkaProducer(bootstrap_servers=self.broker.address, linger_ms=50)
        for value in values:
            producer.send(topic, key=b"press", value=value, partition=0)
        producer.close()

    def on_sqlite(self, name: str) -> Database:
        file = self.directory / f"{name}.db"
        shutil.copy(self.template, file)
        return Database(url=f"sqlite:///{file}")

    def on_postgres(self) -> Database:
        return new_database(self.postgres.url, self.postgres_template)

    def start(
        self,
        name: str,
        *argv: str,
        topic: str = "still",
        at: str = "",
        database: Database | None = None,
        learn: str = "",
        exactly_once: bool = False,
        **run: Any,
    ) -> None:
        """`tidemark ARGV` on a database of its own.

        learn: a factory; then there is a request to train on.
        """
        database = database or self.on_sqlite(name)
        self.databases[name] = database
        score = Score(window=8, model=f"tests.model.modules:{learn}") if learn else Score(window=8)
        settings = Settings(
            kafka=Kafka(
                bootstrap_servers=at or self.broker.address,
                group_id=name,
                max_poll_records=100,
                exactly_once=exactly_once,
            ),
            stream=Stream(topic=topic, channels=("a", "b")),
            database=database,
            score=score,
            detect=Detect(warm_up=60, fit_after=100),
            learn=Learn(epochs=10_000, max_seconds=3600.0),
            serve=Serve(port=0),
            run=Run(**{"checkpoint_interval_s": 0.2, "lease_s": 1.5, "log_format": "json"} | run),
        )
        if learn:
            registry = SqlRegistry(database)
            registry.open_stream(topic, ("a", "b"))
            ask(registry, 0, segment(0.0, 0), "bootstrap")
            registry.close()
        config = self.directory / f"{name}.toml"
        config.write_text(as_toml(settings))
        self.processes[name] = self.forks.start("--config", str(config), *argv)

    def until(self, name: str, event: str) -> None:
        """Wait for a line in the log."""
        until(lambda: f'"event": "{event}"' in self.processes[name].said(), f"{name}: {event}")

    def ask(self, name: str, *requests: bytes) -> None:
        """Connections that stay open, with a request each."""
        (address,) = (
            line["address"]
            for line in self.processes[name].lines()
            if line["event"] == "serve_started"
        )
        host, port = address.removeprefix("http://").strip("/").split(":")
        for request in requests:
            self.open.append(made := socket.create_connection((host, int(port))))
            made.sendall(request)

    def stop(self, *names: str) -> None:
        """Tell them to stop, and wait; a few at a time, for each is to have a part of the cores."""
        for first in range(0, len(names), 4):
            some = [self.processes[name] for name in names[first : first + 4]]
            for process in some:
                process.send()
            for process in some:
                process.wait()

    @contextmanager
    def locked(self, name: str, *, alone: bool = False) -> Iterator[None]:
        """Another process writes to a SQLite file, and does not end; alone: nobody may read it."""
        other = sqlite3.connect(self.directory / f"{name}.db", isolation_level=None)
        if alone:
            other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE" if alone else "BEGIN IMMEDIATE")
        yield
        other.close()

    def asks(self, database: Database, words: str) -> bool:
        """Whether somebody asks a PostgreSQL database something that begins so."""
        asked = text("SELECT 1 FROM pg_stat_activity WHERE datname = :name AND query LIKE :words")
        name = {"name": make_url(database.url).database, "words": f"{words}%"}
        return bool(self._rows(database, asked, name))

    def is_empty(self, database: Database) -> bool:
        """Whether nothing was copied into it."""
        return not any(
            self._rows(database, select(each).limit(1)) for each in t.metadata.tables.values()
        )

    def _rows(self, database: Database, query: Any, values: Any = None) -> list[Any]:
        registry = SqlRegistry(database)
        with registry.engine.connect() as conn:
            found = list(conn.execute(query, values or {}))
        registry.close()
        return found

    def next_offset(self, name: str) -> int | None:
        return self._one(name, t.checkpoints.c.next_offset)

    def request(self, name: str) -> tuple[str, str | None]:
        return self._one(name, t.requests.c.status), self._one(name, t.requests.c.outcome)

    def _one(self, name: str, column: Any) -> Any:
        registry = SqlRegistry(self.databases[name])
        with registry.engine.connect() as conn:
            found = conn.execute(select(column)).scalar()
        registry.close()
        return found

    def letters(self, topic: str) -> list[int]:
        """Offsets of the records that were sent on as dead letters, as they lie there."""
        consumer = KafkaConsumer(bootstrap_servers=self.broker.address, enable_auto_commit=False)
        partition = TopicPartition(f"{topic}.dead", 0)
        consumer.assign([partition])
        consumer.seek_to_beginning(partition)
        end, found = consumer.end_offsets([partition])[partition], list[int]()
        while consumer.position(partition) < end:
            for each in consumer.poll(timeout_ms=500).get(partition, []):
                found.append(int(dict(each.headers)["offset"]))
        consumer.close()
        return found


@pytest.fixture
def stage(tmp_path: Path, sqlite_template: Path, forgotten_sockets: None) -> Iterator[Stage]:
    if kafka_home() is None:
        pytest.skip("no Kafka jars and Java")
    with ExitStack() as stack:
        yield Stage(tmp_path, sqlite_template, stack)


@dataclass(frozen=True, kw_only=True)
class End:
    """How a process has to end."""

    code: int = 0
    #: What it tells beside its log; None: nothing.
    told: str | None = None
    #: Where its last checkpoint has to stand, if it has one; and from where its last word says that
    #: will be read again.
    next_offset: int | None = None
    read_again_from: int | None = None
    #: Its last words are that something is away.
    in_an_outage: bool = False
    #: What its request has become.
    request: tuple[str, str | None] | None = None

    def differences(self, stage: Stage, name: str) -> dict[str, Any]:
        """What is otherwise: (expected, found) by what it is."""
        process = stage.processes[name]
        left_out = [x for x in process.lines() if x["event"] == "last_checkpoint_left_out"]
        again = [x["read_again_from"]["0"] for x in left_out]
        told = [x.replace(stage.broker.address, "BROKER") for x in process.told() if x != "deaf"]
        pairs: dict[str, tuple[Any, Any]] = {
            "code": (self.code, process.code),
            "told": ([self.told] if self.told else [], told),
            "read_again_from": (
                [] if self.read_again_from is None else [self.read_again_from],
                again,
            ),
            "in_an_outage": (self.in_an_outage, "stopped_in_an_outage" in process.events()),
            "in time": (True, process.took_s < WITHIN_S),
        }
        if self.next_offset is not None:
            pairs["next_offset"] = (self.next_offset, stage.next_offset(name))
        if self.request is not None:
            pairs["request"] = (self.request, stage.request(name))
        found = {what: pair for what, pair in pairs.items() if pair[0] != pair[1]}
        return found | {"log": process.lines()[-5:]} if found else {}


ENDS = {
    "idle": End(next_offset=STILL + 1),
    "backlog": End(),
    "run": End(request=("pending", "interrupted")),
    "training": End(request=("pending", "interrupted")),
    "deaf": End(code=1, told=TAKEN_OVER, request=("claimed", None)),
    "scheduler": End(),
    "locked": End(next_offset=STILL, read_again_from=STILL),
    "waits": End(in_an_outage=True),
    "lost": End(next_offset=0, read_again_from=0),
    "lost_train": End(in_an_outage=True),
    "lost_schedule": End(in_an_outage=True),
    "lost_run": End(next_offset=0, read_again_from=0, in_an_outage=True),
    "late_run": End(in_an_outage=True),
    "missing": End(code=1, told="tidemark: no topic nobody-made-this.scores at BROKER: create it"),
    "refused": End(in_an_outage=True),
    "exact": End(),
    "serve": End(),
    "lost_serve": End(),
    "hole": End(next_offset=STILL + 1),
    "exact_hole": End(),
    "gone": End(next_offset=STILL + 1),
    "begins": End(code=1, told=READ_AGAIN),
    "listing": End(code=1, told=FORCED.removesuffix("; ")),
    "twice": End(code=-signal.SIGTERM),
    "backup": End(code=1, told=FORCED.removesuffix("; ")),
    "restore": End(code=1, told=FORCED.removesuffix("; ")),
    "copy": End(code=1, told="interrupted"),
}
#: Rows of content, of which sixteen at once are copied.
MANY = 200_000


@pytest.mark.timeout(600)
def test_in_every_state_a_process_ends_in_time_with_a_checkpoint_or_a_word(stage: Stage) -> None:
    """Side by side, as each has to start, and some of them end by their limit only.

    Where the database is there, the last checkpoint stands behind all that was published.
    """
    begin(stage)
    moved_or_kept(stage)
    with stage.locked("locked"):
        stage.postgres.shut_down_at_once()
        stage.start("late_run", "run", database=stage.databases["lost"])
        stage.send("still", [record(STILL)])
        for name in ("lost", "lost_train", "lost_schedule", "lost_run", "late_run"):
            stage.until(name, "database_away")
        stage.stop(*list(ENDS)[: list(ENDS).index("hole")])
    stage.proxy.hold()
    through = f"127.0.0.1:{stage.proxy.port}"
    stage.start("begins", "stream", at=through)
    stage.start("twice", "stream", at=through)
    stage.start("listing", "dlq", "list", at=through, database=stage.databases["gone"])
    for name in ("begins", "twice", "listing"):
        until(stage.processes[name].hears, name)
    stage.processes["twice"].send()
    time.sleep(0.3)  # for it to understand, and for the others to ask the broker
    stage.stop("listing", "begins", "twice", "hole", "exact_hole")
    stage.broker.kill()
    stage.until("gone", "broker_away")
    stage.stop("gone")
    stage.postgres.start()
    found = {name: end.differences(stage, name) for name, end in ENDS.items()}
    otherwise = {name: what for name, what in found.items() if what}
    assert otherwise == {}, json.dumps(otherwise, indent=1)
    stage.broker.start()
    for name, topic in (("backlog", "backlog"), ("run", "behind"), ("exact", "exact")):
        next_offset = stage.next_offset(name)
        assert next_offset in range(100, BACKLOG + 1)
        assert stage.letters(topic) == list(range(1, next_offset, 2))


def begin(stage: Stage) -> None:
    """Bring every process into its state."""
    seldom = {"checkpoint_interval_s": 3600.0}
    stage.start("idle", "stream", poll_timeout_s=60.0)
    stage.start("backlog", "stream", topic="backlog", **seldom)
    stage.start("run", "run", topic="behind", learn="slow", **seldom)
    stage.start("training", "train", learn="slow", lease_s=60.0)
    stage.start("deaf", "train", learn="deaf", lease_s=60.0)
    stage.start("scheduler", "schedule")
    stage.start("locked", "stream")
    stage.start("waits", "train", database=stage.databases["locked"])
    stage.start("lost", "stream", database=stage.on_postgres(), **seldom)
    stage.start("lost_train", "train", database=stage.on_postgres())
    stage.start("lost_schedule", "schedule", database=stage.on_postgres())
    stage.start("lost_run", "run", database=stage.on_postgres(), **seldom)
    stage.start("missing", "stream", topic="nobody-made-this")
    stage.start("refused", "stream", at=f"127.0.0.1:{free_ports(1)[0]}")
    stage.start("hole", "stream", at=f"127.0.0.1:{stage.proxy.port}", **seldom)
    stage.start("gone", "stream", **seldom)
    stage.start("exact", "stream", topic="exact", exactly_once=True, **seldom)
    stage.start(
        "exact_hole", "stream", at=f"127.0.0.1:{stage.proxy.port}", exactly_once=True, **seldom
    )
    stage.start("serve", "serve")
    stage.start("lost_serve", "serve", database=stage.on_postgres())
    for name in ("idle", "lost", "lost_run", "hole", "gone", "backlog", "run", "exact"):
        stage.until(name, "dead_letter")
    for name in ("scheduler", "lost_schedule"):
        stage.until(name, "schedule_started")
    for name in ("waits", "lost_train"):
        stage.until(name, "train_started")
    for name in ("serve", "lost_serve"):
        stage.until(name, "serve_started")
        stage.ask(name, b"GET /v1/events HTTP/1.1\r\nHost: here\r\n\r\n", b"GET /v1/str")
    stage.until("exact_hole", "partition_assigned")
    stage.until("refused", "broker_away")
    for name in ("training", "run", "deaf"):
        until(lambda name=name: stage.request(name)[0] == "claimed", name)
    until(lambda: "deaf" in stage.processes["deaf"].told(), "deaf")
    until(lambda: stage.next_offset("locked") == STILL, "locked")


def moved_or_kept(stage: Stage) -> None:
    """Stop those who keep and move a database: what they write is not there, what was there is."""
    kept, target = stage.directory / "kept", stage.on_postgres()
    for name in ("backup", "restore", "copy"):
        stage.databases[name] = stage.on_sqlite(name)
    backup(stage.databases["restore"], kept)
    made = sqlite3.connect(stage.directory / "copy.db")
    with made:
        made.execute(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT ?) "
            "INSERT INTO artifacts (sha256, kind, content, size, created) "
            "SELECT printf('%064d', i), 'segment', x'00', 1, 0 FROM n",
            (MANY,),
        )
    made.close()
    before = {name: (stage.directory / f"{name}.db").read_bytes() for name in ("backup", "restore")}
    with stage.locked("backup", alone=True), stage.locked("restore"):
        who = ("--reason", "test", "--force")
        into = str(stage.directory / "never")
        stage.start("backup", "backup", into, database=stage.databases["backup"])
        stage.start("restore", "restore", str(kept), *who, database=stage.databases["restore"])
        stage.start("copy", "copy", "--to", target.url, database=stage.databases["copy"])
        until(stage.processes["backup"].hears, "backup")
        until((stage.directory / "restore.db-running").exists, "restore")
        until(lambda: stage.asks(target, "INSERT INTO artifacts"), "copy")
        stage.stop("backup", "restore", "copy")
    left = [path.name for path in stage.directory.iterdir() if "partial" in path.name]
    assert left == []
    assert not Path(into).exists()
    after = {name: (stage.directory / f"{name}.db").read_bytes() for name in before}
    assert after == before
    assert stage.is_empty(target)
