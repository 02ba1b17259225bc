"""A small plant that a stream process follows, poll by poll, and what there is to compare."""

from __future__ import annotations

import gc
import hashlib
import itertools
import json
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import select

from pipeline.config import Database, Detect, Kafka, Learn, Run, Score, Settings, Stream
from pipeline.errors import PipelineError
from pipeline.ingest.kafka_client import translated
from pipeline.ingest.memory import MemorySource, Message
from pipeline.records import Records
from pipeline.register import tables as t
from pipeline.register.sql import SqlRegistry
from pipeline.run.stream import Streamer
from tests.faults.steps import Killed, Steps, wrap, wrap_sql
from tests.register.making import SECOND, Clock, Rows, everything, hasty

#: Topic, key, value.
Sent = tuple[str, bytes | None, bytes | None]

TOPIC, PARTITIONS = "readings", 2
ROWS, SHIFT, POLL = 480, 200, 160
SETTINGS = Settings(
    kafka=Kafka(max_poll_records=POLL),
    stream=Stream(topic=TOPIC),
    score=Score(window=8, hidden=4),
    detect=Detect(warm_up=60, fit_after=100, settle_after=60),
    learn=Learn(adapt_after=64, refine_after=0, epochs=1, reservoir_capacity=30),
    run=Run(checkpoint_interval_s=1e-6),
)


def log(partition: int) -> list[Message]:
    """A series of two sensors whose level moves by 8 deviations, and a bad record in every poll."""
    values = np.random.default_rng(partition).normal(size=(ROWS, 2)).round(3)
    values[SHIFT:] += 8.0
    key = b"press %d" % partition
    made: list[Message] = [
        (key, json.dumps({"time": 1_767_225_600 + row, "values": x}).encode())
        for row, x in enumerate(values.tolist())
    ]
    for row in range(POLL // 2, ROWS, POLL):
        made[row] = key, b"not json"
    return made


LOGS = {number: log(number) for number in range(PARTITIONS)}


class StepSource(MemorySource):
    """What Kafka's source would do, its failures translated as there."""

    def __init__(self, steps: Steps, upto: int) -> None:
        logs = {number: records[:upto] for number, records in LOGS.items()}
        super().__init__(logs, topic=TOPIC, max_poll_records=POLL)
        self.steps = steps

    def poll(self, timeout_s: float) -> list[Records]:
        with translated(SETTINGS.kafka), self.steps.around("kafka", "poll"):
            return super().poll(timeout_s)

    def commit(self, next_offsets: Any) -> None:
        with translated(SETTINGS.kafka), self.steps.around("kafka", "commit"):
            super().commit(next_offsets)

    def lag(self) -> dict[int, int]:
        with translated(SETTINGS.kafka), self.steps.around("kafka", "lag"):
            return super().lag()


class StepSink:
    """Holds what it is sent back until it is flushed, as a producer may: then it is `kept`."""

    def __init__(self, steps: Steps) -> None:
        self.steps = steps
        self.kept: Counter[Sent] = Counter()
        self._held: list[Sent] = []

    def require(self, topics: Sequence[str]) -> None:
        pass

    def send(self, topic: str, *, key: bytes | None, value: bytes | None, **_: Any) -> None:
        with translated(SETTINGS.kafka), self.steps.around("kafka", f"send to {topic}"):
            self._held.append((topic, key, value))

    def flush(self) -> None:
        with translated(SETTINGS.kafka), self.steps.around("kafka", "flush"):
            self.kept.update(map(_told, self._held))
            self._held = []

    def close(self) -> None:
        pass


def _told(sent: Sent) -> Sent:
    """A message, but for what the next owner cannot know: whether the last had said its names."""
    topic, key, value = sent
    return topic, key, value and value.replace(b'"changed":false', b'"changed":true')


#: What ends a process without a word of its own: the interpreter's, and a library's own surprise.
ENDINGS = (MemoryError, KeyboardInterrupt, SystemExit, Killed, RuntimeError, OSError)


@dataclass
class Process:
    """One life of a stream process on a database, up to an offset of every partition."""

    database: Database
    now: Clock
    upto: int
    steps: Steps

    def __post_init__(self) -> None:
        self.registry = hasty(SqlRegistry(self.database, clock=self.now))
        wrap_sql(self.steps, self.registry.engine)
        self.source, self.sink = StepSource(self.steps, self.upto), StepSink(self.steps)

    def live(self) -> None:
        """Start, and follow the log to its end; a checkpoint at every poll."""
        made = Streamer(SETTINGS, self.source, self.sink, self.registry, owner="s", clock=ticking())
        wrap(self.steps, "work", made.decoder, "decode")
        wrap(self.steps, "work", made.live, "refresh", "score")
        wrap(self.steps, "work", made, "_advance", "_publish", "_save")
        self.source.subscribe(made)
        while made.poll_once():
            continue

    def die(self) -> str:
        """Live until something goes wrong, and leave nothing open behind: its first words."""
        try:
            self.live()
        except (PipelineError, *ENDINGS) as exc:
            return f"{type(exc).__name__}: {exc}"
        finally:
            self.end()
            gc.collect()  # a dead process holds no cursor, and so no lock
        return ""

    def end(self) -> None:
        self.registry.close()


def ticking() -> Any:
    """Monotonic seconds, one a look: whatever is due by the clock is due."""
    return itertools.count(step=1.0).__next__


def copy(database: Database, to: Path) -> Database:
    """A SQLite file that nobody has open, beside itself."""
    shutil.copy(database.url.removeprefix("sqlite:///"), to)
    return Database(url=f"sqlite:///{to}")


def content(database: Database) -> bytes:
    """All that is in a SQLite file which nobody has open, as a hash."""
    file = database.url.removeprefix("sqlite:///")
    assert not Path(f"{file}-wal").exists()
    return hashlib.sha256(Path(file).read_bytes()).digest()


def clock_of(poll: int) -> Clock:
    """The time in which a poll is taken, whoever takes it."""
    return Clock((1_000 + poll) * SECOND)


def kept(registry: SqlRegistry) -> Rows:
    """Every row of every table, the ledger's chain of hashes among them; but for who was owner,
    and how often it changed."""
    found = everything(registry.engine)
    found["checkpoints"] = [
        tuple(value for name, value in row._asdict().items() if name != "epoch")
        for row in _rows(registry)
    ]
    return found


def _rows(registry: SqlRegistry) -> list[Any]:
    with registry.engine.connect() as conn:
        order = t.checkpoints.c.stream_id, t.checkpoints.c.partition
        return list(conn.execute(select(t.checkpoints).order_by(*order)))
