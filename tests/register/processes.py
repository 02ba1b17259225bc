"""What the tests run in processes of their own; nothing else, so that they start quickly."""

from __future__ import annotations

import time
from typing import Any

from pipeline.config import Database
from pipeline.errors import StaleEpoch
from pipeline.records import Request
from pipeline.register import migrate
from pipeline.register.checkpoints import State
from pipeline.register.sql import SqlRegistry


def migrated_by_itself(url: str, line: Any, found: Any) -> None:
    """Migrate in the same moment as the others; put the revision, or what went wrong."""
    database = Database(url=url)
    line.wait()
    try:
        migrate.upgrade(database)
        found.put(migrate.current_and_head(database)[0])
    except Exception as exc:
        found.put(f"{type(exc).__name__}: {exc}")


def work(url: str, number: int, rounds: int, line: Any, found: Any) -> None:
    """One process of `tidemark run`: its own partition, everybody's requests; put what failed."""
    line.wait()
    failures: list[str] = []
    for round_ in range(rounds):
        try:
            _round(url, number, round_)
        except Exception as exc:
            failures.append(f"{type(exc).__name__}: {exc}")
    found.put(failures)


def _round(url: str, number: int, round_: int) -> None:
    registry = SqlRegistry(Database(url=url))  # as a restarted process would: a new connection
    stream = registry.open_stream("readings", ["a", "b"])
    epoch = registry.acquire(stream.id, number, f"worker-{number}").epoch
    registry.save(
        stream.id,
        number,
        epoch,
        next_offset=round_ + 1,
        state=State(b"state"),
        requests=[
            Request(
                stream_id=stream.id,
                reason="boundary",
                partition=number,
                series="p",
                segment=round_,
            )
        ],
        artifacts={"x": ("segment", f"{number}/{round_}".encode())},
    )
    registry.lease("scheduler", f"worker-{number}", 60)
    if (claim := registry.claim(f"worker-{number}", 60)) is not None:
        registry.renew(claim, 60)
        registry.finish(claim, "done")
    registry.progress()
    try:
        registry.save(stream.id, number, epoch - 1, next_offset=0, state=State(b""))
    except StaleEpoch:
        registry.close()
    else:
        raise AssertionError("a stale epoch was taken")


def run_until_killed(url: str, up: Any) -> None:
    """Run on the database, and end by a signal only."""
    registry = SqlRegistry(Database(url=url))
    registry.run_as("stream@there:1")
    up.set()
    time.sleep(600)
