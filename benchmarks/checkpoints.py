"""What a checkpoint costs, and going on from it: a fleet of series in one partition, and a plant.

    make bench-checkpoints
    make bench-checkpoints ARGS="--series 2000 --database postgresql"

The fleet: series of 8 sensors with `detect.profile = "light"`, mature (their references are fitted,
their rings full). A few of them are fed; the others are copies of their state under other names.
Every series gets some readings, or one in a hundred, and a checkpoint is written; then another
owner goes on from it. Seconds depend on the machine and its load; beside them stand those of a bare
loop in the same run: the same bytes into a new table of the same database, and all pieces selected
from it and let go. CPU is of this process.
The plant: 64 series with the default profile and a checkpoint every 10 s.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from sqlalchemy import text

from benchmarks import result
from benchmarks.detection_goals import figure_row
from pipeline.config import Database, Detect, Settings
from pipeline.records import Batch
from pipeline.register.checkpoints import AT_ONCE, Checkpoint, Piece, State, paged
from pipeline.register.migrate import upgrade
from pipeline.register.sql import SqlRegistry
from pipeline.run.partition import Partition
from pipeline.run.pieces import SERIES, rows_of

SENSORS, SEED = 8, 0
#: Series that are really fed, readings that each has then, and those between two checkpoints.
FED, READINGS, BETWEEN = 200, 2500, 10
#: Of the plant.
PLANT, INTERVAL_S = 64, 10.0

_row = partial(figure_row, digits=3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--series", type=int, default=10_000)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--database", choices=["sqlite", "postgresql"], default="sqlite")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--markdown", action="store_true", help="the table for checkpoints.md")
    args = parser.parse_args()
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        database = Database(url=f"sqlite:///{scratch / 'bench.db'}")
        if args.database == "postgresql":
            from tests.databases import new_database, postgres_server

            database = new_database(stack.enter_context(postgres_server()))
        upgrade(database)
        registry = SqlRegistry(database)
        stack.callback(registry.close)
        rows = [*fleet(registry, args.series, args.repeat), *plant(registry, args.repeat)]
    result.write(
        "checkpoints",
        rows,
        seeds=[SEED],
        compared=["sqlalchemy", "msgspec", "numpy", "river"],
        as_json=args.json,
        as_markdown=args.markdown,
        series=args.series,
        database=args.database,
    )


class Line:
    """One partition of many series, its checkpoints and what they take."""

    def __init__(self, registry: SqlRegistry, name: str, series: int, profile: str) -> None:
        self.registry = registry
        self.settings = Settings(detect=Detect(profile=profile))  # type: ignore[arg-type]
        channels = tuple(f"c{i}" for i in range(SENSORS))
        self.stream = registry.open_stream(name, channels)
        self.names = tuple(f"machine-{i}" for i in range(series))
        self.rng = np.random.default_rng(SEED)
        self.offset = 0
        self.epoch = registry.acquire(self.stream.id, 0, "bench").epoch
        self.partition = self.new()

    def new(self) -> Partition:
        """One that has seen nothing."""
        return Partition(
            stream_id=self.stream.id,
            topic=self.stream.name,
            number=0,
            channels=SENSORS,
            settings=self.settings,
        )

    def feed(self, series: int, readings: int) -> None:
        """The first series get some readings each, in turn."""
        n = series * readings
        order = (np.arange(readings) * series + np.arange(series)[:, None]).ravel()
        batch = Batch(
            topic=self.stream.name,
            partition=0,
            series=self.names[:series],
            starts=np.arange(series + 1) * readings,
            offsets=self.offset + order,
            order=order,
            times=(self.offset + order) * 1000,
            values=self.rng.standard_normal((n, SENSORS)).astype(np.float32),
            next_offset=self.offset + n,
        )
        self.partition.advance(batch)
        self.offset += n

    def save(self) -> tuple[float, list[Piece]]:
        """Seconds of a checkpoint, and what it wrote."""
        started = time.perf_counter()
        state = self.partition.state()
        self.registry.save(
            self.stream.id,
            0,
            self.epoch,
            next_offset=self.offset,
            state=state,
        )
        self.partition.written()
        return time.perf_counter() - started, list(state.pieces)

    def go_on(self) -> float:
        """Seconds until another owner has the state."""
        started = time.perf_counter()
        checkpoint = self.registry.acquire(self.stream.id, 0, "bench")
        self.partition = self.new()
        pieces = partial(self.registry.pieces, self.stream.id, 0, checkpoint.epoch)
        self.partition.restore(checkpoint, paged(pieces))
        self.epoch = checkpoint.epoch
        return time.perf_counter() - started

    def read_alone(self) -> float:
        """Seconds of reading the same pieces, and nothing else."""
        engine = self.registry.engine
        started = time.perf_counter()
        with engine.begin() as conn:
            for _ in conn.execute(text("SELECT content FROM checkpoint_pieces")).partitions(1000):
                pass
        return time.perf_counter() - started

    def write_alone(self, pieces: list[Piece]) -> float:
        """Seconds of writing the same bytes in one transaction, and nothing else."""
        engine = self.registry.engine
        blob = "BYTEA" if engine.dialect.name == "postgresql" else "BLOB"
        with engine.begin() as conn:
            conn.execute(text("DROP TABLE IF EXISTS bare"))
            conn.execute(text(f"CREATE TABLE bare (id INTEGER PRIMARY KEY, content {blob})"))
        rows = [{"id": i, "content": piece.content} for i, piece in enumerate(pieces)]
        started = time.perf_counter()
        with engine.begin() as conn:
            conn.execute(text("INSERT INTO bare VALUES (:id, :content)"), rows)
        return time.perf_counter() - started


def fleet(registry: SqlRegistry, series: int, repeat: int) -> Iterator[dict[str, Any]]:
    """Checkpoints of a partition with many series."""
    line = Line(registry, "fleet", series, "light")
    _mature(line, min(FED, series), series)
    line.feed(series, BETWEEN)
    line.save()
    for name, count in (("all", series), ("1 %", max(series // 100, 1))):
        runs, kilobytes = [], []
        for _ in range(repeat):
            line.feed(count, BETWEEN)
            before = time.process_time()
            seconds, pieces = line.save()
            cpu = time.process_time() - before
            kilobytes.append(sum(len(p.content) for p in pieces) / count / 1000)
            runs.append((seconds, cpu, line.write_alone(pieces)))
        took, cpu, alone = (statistics.median(column) for column in zip(*runs, strict=True))
        case = f"{series:,} series, {name} changed"
        yield _row(case, "seconds of a checkpoint", took, 1.0 if name == "all" else None)
        yield _row(case, "CPU seconds of a checkpoint", cpu)
        yield _row(case, "seconds of a bare write of the same bytes", alone)
        yield _row(case, "kB a changed series", statistics.median(kilobytes), 20.0)
    case = f"{series:,} series"
    alone, before = line.read_alone(), time.process_time()
    yield _row(case, "seconds to go on", line.go_on(), 5.0)
    yield _row(case, "CPU seconds to go on", time.process_time() - before)
    yield _row(case, "seconds of a bare read of the same bytes", alone)


def _mature(line: Line, fed: int, series: int) -> None:
    """Feed the first `fed` series, and make the others their copies, in SQL too."""
    for _ in range(READINGS // 100):
        line.feed(fed, 100)
    state = line.partition.state()
    copies = list(_copies(list(state.pieces), fed, series))
    head = msgspec.json.decode(state.head)
    line.partition = line.new()
    line.partition.restore(
        Checkpoint(
            epoch=0,
            next_offset=line.offset,
            head=msgspec.json.encode(head | {"series": series}),
            kinds=sorted({piece.kind for piece in copies}),
        ),
        lambda kind: _pages([piece for piece in copies if piece.kind == kind]),
    )
    line.registry.save(
        line.stream.id, 0, line.epoch, next_offset=line.offset, state=State(state.head, copies)
    )


def _pages(pieces: list[Piece]) -> Iterator[list[Piece]]:
    pieces.sort()
    for begin in range(0, len(pieces), AT_ONCE):
        yield pieces[begin : begin + AT_ONCE]


def _copies(pieces: list[Piece], fed: int, series: int) -> Iterator[Piece]:
    """The pieces of the first `fed` series, again and again under other names."""
    for piece in pieces:
        if piece.slot < 0:
            yield piece
            continue
        for slot in range(piece.slot, series, fed):
            content = piece.content
            if piece.kind == SERIES:
                (row,) = rows_of([piece._replace(slot=0)])
                content = msgspec.structs.replace(row, name=f"machine-{slot}").pack()
            yield piece._replace(slot=slot, content=content)


def plant(registry: SqlRegistry, repeat: int) -> Iterator[dict[str, Any]]:
    """What a checkpoint every 10 s takes of the time."""
    line = Line(registry, "plant", PLANT, "default")
    for _ in range(READINGS // 100):
        line.feed(PLANT, 100)
    line.save()
    times = []
    for _ in range(max(repeat, 5)):
        line.feed(PLANT, BETWEEN * 10)
        times.append(line.save()[0])
    case = f"{PLANT} series, every {INTERVAL_S:g} s"
    yield _row(case, "% of the time", 100 * statistics.median(times) / INTERVAL_S, 3.0)


if __name__ == "__main__":
    main()
