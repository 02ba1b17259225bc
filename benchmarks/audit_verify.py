"""How many ledger entries a second `tidemark audit verify` follows: `make bench-audit-verify`.

A ledger of boundaries as the stream writes them, on SQLite and, where there is one, PostgreSQL; the
chain alone, then with the tables, each the best of some runs of processor time and of wall time.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from pipeline.config import Database
from pipeline.records import Boundary, Change
from pipeline.register import boundaries
from pipeline.register.chain import sound
from pipeline.register.engine import connect, reading, writing
from pipeline.register.migrate import upgrade
from pipeline.register.proof import verify
from pipeline.register.streams import open_

#: What is aimed at, entries a second.
GOAL = 200_000
#: Boundaries written in one transaction.
CHUNK = 5000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entries", type=int, default=200_000)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--markdown", action="store_true")
    options = parser.parse_args()
    rows = []
    with ExitStack() as stack:
        for name, database in stack.enter_context(databases()):
            fill(database, options.entries)
            rows.append((name, "chain", *best(lambda d=database: chain(d), options.repeat)))
            rows.append((name, "chain and tables", *best(lambda d=database: whole(d), 1)))
    if not options.markdown:
        print(
            json.dumps(
                [dict(zip(("database", "what", "cpu_s", "s"), r, strict=True)) for r in rows]
            )
        )
        return
    print(f"| database | {options.entries:,} entries | per processor second | per second | goal |")
    print("|---|---|---|---|---|")
    for name, what, cpu, wall in rows:
        goal = f"{GOAL:,}" if what == "chain" else ""
        n = options.entries
        print(f"| {name} | {what} | {n / cpu:,.0f} | {n / wall:,.0f} | {goal} |")


@contextmanager
def databases() -> Iterator[list[tuple[str, Database]]]:
    """Empty ones, at head."""
    with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
        Path(directory).chmod(0o755)
        found = [("SQLite", Database(url=f"sqlite:///{directory}/tidemark.db"))]
        try:
            from tests.databases import new_database, postgres_server

            server = stack.enter_context(postgres_server())
            found.append(("PostgreSQL", new_database(server)))
        except ImportError:
            pass
        for _, database in found:
            upgrade(database)
        yield found


def fill(database: Database, entries: int) -> None:
    """A stream, and its boundaries."""
    engine = connect(database)
    with writing(engine) as conn:
        stream = open_(conn, "readings", ("pressure", "flow"), at=0)
    for first in range(1, entries, CHUNK):
        part = [boundary(n) for n in range(first, min(first + CHUNK, entries))]
        with writing(engine) as conn:
            boundaries.record(conn, stream.id, 0, part, at=first)
    engine.dispose()


def boundary(number: int) -> Boundary:
    """One of a series of its own."""
    change = Change(kind="level", channel=1, change=4.5, before=10.0, after=19.0)
    return Boundary(
        series=f"pump-{number}",
        segment=1,
        boundary_row=96,
        detected_row=127,
        boundary_offset=1096,
        detected_offset=1127,
        boundary_time=number,
        detected_time=number + 31,
        signal="level",
        statistic=7.5,
        threshold=5.25,
        detectors=("ADWIN", "PageHinkley"),
        sensors=(change,),
    )


def chain(database: Database) -> None:
    """Follow it to its end."""
    engine = connect(database)
    with reading(engine) as conn:
        assert sound(conn)  # noqa: S101
    engine.dispose()


def whole(database: Database) -> None:
    """As the command does."""
    assert not verify(database).findings  # noqa: S101


def best(act: Callable[[], None], repeat: int) -> tuple[float, float]:
    """The least processor time and the least time, in seconds."""
    cpu, wall = [], []
    for _ in range(repeat):
        began, start = time.process_time(), time.perf_counter()
        act()
        cpu.append(time.process_time() - began)
        wall.append(time.perf_counter() - start)
    return min(cpu), min(wall)


if __name__ == "__main__":
    main()
