"""The audit's nine questions at size, on SQLite and PostgreSQL, beside MLflow's own search.

    make bench-audit
    make bench-audit ARGS="--small"
    make bench-audit ARGS="--markdown"

10^5 versions, 10^6 boundaries, 10^7 scored ranges in one stream (--small: a hundredth). Each
question is asked of random versions, times and offsets by the class that command line and HTTP ask,
with all that belongs to a call: connection, queries, plain data out. MLflow, in an environment of
its own, has as many runs and versions in the same kind of database and is asked in the same run,
with what comes nearest: it has no answer to `live at T`. SQLite is as it is after the fill, without
statistics. Wall time counts; processor time is that of the process that asks, without the server's.
`nothing` is a transaction with SELECT 1: what no question can be quicker than on that machine.
"""

from __future__ import annotations

import argparse
import gc
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import make_url

from benchmarks import audit_peer, result
from benchmarks.audit_fill import PARTITIONS, RANGE, STREAM, Size, fill, time_of
from benchmarks.detection_goals import Goal, at_most, verdict
from pipeline.config import Database
from pipeline.register.engine import connect, reading
from pipeline.register.migrate import upgrade
from pipeline.serve.audit import Audit

SEED = 0
FULL = Size(versions=10**5, boundaries=10**6, scored=10**7)
SMALL = Size(versions=10**3, boundaries=10**4, scored=10**5)
#: Largest 99th percentile, in milliseconds; of a lineage of so many versions.
MOST_MS, LINEAGE_MS, DEPTH = 5.0, 50.0, 1000
NOTHING = "nothing"
PAGE = Path(__file__).with_suffix(".md")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="a hundredth of everything")
    parser.add_argument("--calls", type=int, default=1000, help="of each question")
    parser.add_argument("--peer-calls", type=int, default=200)
    parser.add_argument("--markdown", action="store_true", help="write benchmarks/audit.md")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    size = SMALL if args.small else FULL
    rows = []
    for row in _measured(args, size):
        print(*row.values(), sep="\t", file=sys.stderr)  # one that is stopped has told what it knew
        rows.append(row)
    result.write(
        "audit", rows, seeds=[SEED], compared=["sqlalchemy", "psycopg"], as_json=args.json,
        versions_=size.versions, boundaries=size.boundaries, scored=size.scored,
    )  # fmt: skip
    if args.markdown:
        PAGE.write_text(page(rows, size))


def _measured(args: argparse.Namespace, size: Size) -> Iterator[dict[str, Any]]:
    from tests.databases import new_database, postgres_server

    python = audit_peer.environment()
    with tempfile.TemporaryDirectory() as scratch, postgres_server() as server:
        home = Path(scratch)
        home.chmod(0o755)
        for kind in ("sqlite", "postgresql"):
            if kind == "sqlite":
                ours, theirs = (Database(url=f"sqlite:///{home / n}.db") for n in ("our", "their"))
            else:
                ours, theirs = new_database(server), new_database(server)
            yield from _ours(kind, ours, size, args.calls)
            url = make_url(theirs.url)
            if kind == "postgresql":
                url = url.set(drivername="postgresql+psycopg2")
            told = url.render_as_string(hide_password=False)
            found = audit_peer.ask(python, told, size.versions, args.peer_calls, home)
            for what, taken in found["taken"].items():
                yield _row(kind, f"MLflow {found['version']} {what}", taken, None)


def _ours(kind: str, database: Database, size: Size, calls: int) -> Iterator[dict[str, Any]]:
    began = time.perf_counter()
    upgrade(database)
    engine = connect(database)
    fill(engine, size)
    engine.dispose()
    print(f"{kind}: filled in {time.perf_counter() - began:.0f} s", file=sys.stderr)
    yield from _asked(kind, database, size, calls)


def _asked(kind: str, database: Database, size: Size, calls: int) -> Iterator[dict[str, Any]]:
    audit, rng = Audit(database), random.Random(SEED)
    gc.collect()
    gc.freeze()  # as in `tidemark serve`
    for question, ask in _questions(audit, rng, size).items():
        goal = None if question == NOTHING else at_most(MOST_MS)
        if question.startswith("lineage"):
            goal, calls = at_most(LINEAGE_MS), max(calls // 10, 10)
        yield _row(kind, question, list(_timed(ask, calls)), goal)
    audit.close()


def _questions(audit: Audit, rng: random.Random, size: Size) -> dict[str, Callable[[], Any]]:
    """Each question, of something else at each call."""
    deep = min(2 * DEPTH, size.versions)

    def number() -> int:
        return rng.randint(1, size.versions)

    def at() -> int:
        return rng.randint(time_of(1), time_of(size.versions))

    def place() -> tuple[int, int]:
        most = size.scored // PARTITIONS * RANGE
        return rng.randrange(PARTITIONS), rng.randrange(most)

    def nothing() -> None:
        with reading(audit.engine) as conn:
            conn.exec_driver_sql("SELECT 1").all()

    depth = audit.lineage(STREAM, deep)["depth"]
    return {
        NOTHING: nothing,
        "live-at T": lambda: audit.live_at(STREAM, at()),
        "why N": lambda: audit.why(STREAM, number()),
        "data N": lambda: audit.data(STREAM, number()),
        "metrics-at T": lambda: audit.metrics_at(STREAM, at()),
        "decided N": lambda: audit.decided(STREAM, number()),
        "rejected, 20 from T on": lambda: audit.rejected(STREAM, at(), limit=20),
        "scored TOPIC PARTITION OFFSET": lambda: audit.scored(STREAM, *place()),
        "diff N M": lambda: audit.diff(STREAM, number(), number()),
        f"lineage N, {depth:,} deep": lambda: audit.lineage(STREAM, deep),
    }


def _timed(ask: Callable[[], Any], calls: int) -> Iterator[audit_peer.Taken]:
    for _ in range(min(calls, 20)):  # connections and compiled statements are there
        ask()
    for _ in range(calls):
        yield audit_peer.taken(ask)[1]


def _row(
    kind: str, question: str, taken: Sequence[audit_peer.Taken], goal: Goal | None
) -> dict[str, Any]:
    (half, most), cpu = np.percentile(np.array(taken) * 1000, (50, 99), axis=0).T
    return {
        "database": kind,
        "question": question,
        "calls": len(taken),
        "median_ms": round(float(half), 2),
        "p99_ms": round(float(most), 2),
        "processor_ms": round(float(cpu[0]), 2),
        "processor_p99_ms": round(float(cpu[1]), 2),
        "goal_ms": str(goal or ""),
        "verdict": verdict(most, goal),
    }


def page(rows: list[dict[str, Any]], size: Size) -> str:
    """benchmarks/audit.md."""
    lines = [
        "# The audit's questions at size",
        "",
        f"`make bench-audit{result.arguments()}` on {result.told_machine()}: {size.versions:,} "
        f"versions, {size.boundaries:,} boundaries, {size.scored:,} scored ranges.",
        "",
        *(__doc__ or "").split("\n\n")[2].splitlines(),
        "",
        result.markdown(rows),
    ]
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    main()
