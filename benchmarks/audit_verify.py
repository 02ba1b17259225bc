"""How many ledger entries a second `tidemark audit verify` follows.

    make bench-audit-verify
    make bench-audit-verify ARGS="--markdown"

A ledger of boundaries as the stream writes them, on SQLite and, where there is one, PostgreSQL: the
chain alone, the best of some runs, then all that the command does, with the tables, once. Wall time
counts; the processor time is this process's, without the server's.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from benchmarks import result
from benchmarks.audit_fill import CHANNELS, STREAM
from benchmarks.detection_goals import at_least, judged
from pipeline.config import Database
from pipeline.records import Boundary, Change
from pipeline.register import boundaries
from pipeline.register.chain import sound
from pipeline.register.engine import connect, reading, writing
from pipeline.register.migrate import upgrade
from pipeline.register.proof import verify
from pipeline.register.streams import open_

#: Entries a second of the chain, at least.
GOAL = at_least(200_000)
#: Boundaries written in one transaction.
CHUNK = 5000
PAGE = Path(__file__).with_suffix(".md")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--entries", type=int, default=200_000)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--markdown", action="store_true", help="write benchmarks/audit_verify.md")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    rows = list(_measured(args.entries, args.repeat))
    compared = ["sqlalchemy", "psycopg", "msgspec"]
    result.write("audit-verify", rows, seeds=[], compared=compared, as_json=args.json)
    if args.markdown:
        PAGE.write_text(page(rows))


def page(rows: list[dict[str, Any]]) -> str:
    """benchmarks/audit_verify.md."""
    lines = [
        "# The ledger, verified",
        "",
        f"`make bench-audit-verify{result.arguments()}` on {result.told_machine()}.",
        "",
        *(__doc__ or "").split("\n\n")[2].splitlines(),
        "",
        result.markdown(rows),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _measured(entries: int, repeat: int) -> Iterator[dict[str, Any]]:
    with databases() as found:
        for name, database in found:
            fill(database, entries)
            yield _row(name, "chain", entries, best(lambda d=database: chain(d), repeat), GOAL)
            yield _row(name, "chain and tables", entries, best(lambda d=database: whole(d), 1))


def _row(
    database: str, what: str, entries: int, taken: tuple[float, float], goal: Any = None
) -> dict[str, Any]:
    cpu, wall = (entries / seconds for seconds in taken)
    return {
        "database": database,
        "what": what,
        "entries": f"{entries:,}",
        "a_second": f"{wall:,.0f}",
        "a_processor_second": f"{cpu:,.0f}",
        **judged(wall, goal),
    }


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
        stream = open_(conn, STREAM, CHANNELS, at=0)
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
