"""Registries, requests, boundaries and candidates for the tests here and in tests/serve."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Engine, event, select, text

from pipeline.config import Database
from pipeline.errors import RegistryError
from pipeline.records import Boundary, Candidate, Change, Claim, Decision, Request, Version
from pipeline.register import tables
from pipeline.register.orders import Act, AddToken, Mark
from pipeline.register.sql import SqlRegistry, Stream

SECOND = 1_000_000
#: Long enough that no lease ends by itself in a test.
LEASE_S = 60.0
Rows = dict[str, list[tuple[Any, ...]]]


def power_cut(act: Callable[[Callable[..., None]], object], *, after: int) -> bool:
    """Do it in a process of its own that is gone after so many steps, and cleans up nothing.

    act: is given what it has to call at each step. Whether it went so far.
    """
    pid = os.fork()
    if not pid:
        steps = iter(range(after))

        def step(*_: object) -> None:
            if next(steps, None) is None:
                os._exit(9)

        try:
            act(step)
            os._exit(0)
        finally:
            os._exit(1)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code in (0, 9)
    return code == 9


class Clock:
    """Time that stands still until a test moves it, in microseconds."""

    def __init__(self, now: int = 1_000 * SECOND) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now

    def pass_s(self, seconds: float) -> None:
        self.now += int(seconds * SECOND)


def hasty(registry: SqlRegistry) -> SqlRegistry:
    """Let SQLite wait for no disk: nothing here has to survive a power cut."""
    if registry.engine.dialect.name == "sqlite":

        @event.listens_for(registry.engine, "connect")
        def on_connect(dbapi: Any, _: Any) -> None:
            dbapi.execute("PRAGMA synchronous = OFF")

    return registry


@contextmanager
def opened(database: Database, clock: Clock) -> Iterator[SqlRegistry]:
    """A registry over a database at head."""
    registry = hasty(SqlRegistry(database, clock=clock))
    try:
        yield registry
    finally:
        registry.close()


def everything(engine: Engine) -> Rows:
    """Every row of every table: two calls differ if anything at all was written between them."""
    with engine.connect() as conn:
        return {
            table.name: [
                tuple(row) for row in conn.execute(select(table).order_by(*table.primary_key))
            ]
            for table in tables.metadata.sorted_tables
        }


def column(engine: Engine, sql: str, **values: Any) -> list[Any]:
    """The first column of what a query finds."""
    with engine.connect() as conn:
        return list(conn.execute(text(sql), values).scalars())


def change(engine: Engine, sql: str, **values: Any) -> int:
    """Write past the registry; the number of rows."""
    with engine.begin() as conn:
        return int(conn.execute(text(sql), values).rowcount)


def race(*acts: Callable[[], Any]) -> list[Any]:
    """Let all begin in the same moment, each in a thread; what each returned or raised."""
    line = threading.Barrier(len(acts))

    def run(act: Callable[[], Any]) -> Any:
        line.wait()
        try:
            return act()
        except RegistryError as exc:
            return exc

    with ThreadPoolExecutor(len(acts)) as pool:
        return list(pool.map(run, acts))


def boundary(segment: int = 1, series: str = "pump", at: int = 500 * SECOND) -> Boundary:
    """A change at row 96, confirmed at row 127."""
    return Boundary(
        series=series,
        segment=segment,
        boundary_row=96,
        detected_row=127,
        boundary_offset=1096,
        detected_offset=1127,
        boundary_time=at,
        detected_time=at + 31 * SECOND,
        signal="level",
        statistic=7.5,
        threshold=5.25,
        detectors=("ADWIN", "PageHinkley"),
        sensors=(
            Change(kind="level", channel=1, change=4.5, before=10.0, after=19.0),
            Change(kind="correlation", channel=0, other=1, change=-0.5, before=0.7, after=0.2),
        ),
    )


def admitted(registry: SqlRegistry, name: str, role: str = "reader") -> str:
    """A new token of that name."""
    order = AddToken(name=name, role=role)
    made = registry.act(None, order, Act(actor="root", reason="on call")).token
    assert made
    return made


def marked(
    registry: SqlRegistry, stream_id: int, number: int, *, by: str = "ada", why: str, **what: str
) -> dict[str, Any]:
    """What a person says of a task, and what came of it."""
    return registry.act(stream_id, Mark(task=number, **what), Act(actor=by, reason=why)).facts


def asked(stream: Stream, segment: int = 1, **changes: Any) -> Request:
    """A request of a partition, as the stream process makes it."""
    made = Request(
        stream_id=stream.id,
        reason="boundary",
        partition=0,
        series="pump",
        segment=segment,
        inputs={"segment": f"segment-{segment}", "reservoir": f"reservoir-{segment}"},
    )
    return replace(made, **changes)


def by_hand(stream: Stream, **changes: Any) -> Request:
    """A request that may be made any number of times."""
    made = Request(stream_id=stream.id, reason="manual", actor="ada", note="after the repair")
    return replace(made, **changes)


def candidate(
    skills: Mapping[int, float] | None = None,
    parent_skills: Mapping[int, float] | None = None,
    *,
    new: tuple[int, ...] = (),
    weights: bytes = b"weights",
    **metrics: float,
) -> Candidate:
    """What a consolidation might have made."""
    skills = skills or {}
    return Candidate(
        weights=weights,
        ewc=b"ewc of " + weights,
        metrics=metrics or {"loss_after": 0.25},
        skills=skills,
        parent_skills=parent_skills or {},
        new_tasks=new,
        sizes=dict.fromkeys(skills, 40),
        losses=_losses(skills),
        parent_losses=_losses(parent_skills or {}),
        block=18,
        scores=dict.fromkeys(skills, (1.0, 0.25)),
    )


def _losses(skills: Mapping[int, float]) -> dict[int, NDArray[np.float64]]:
    """Losses of one window a task: too few for an interval."""
    return {task: np.array([1.0 - skill]) for task, skill in skills.items()}


def promoted(reason: str = "better") -> Decision:
    """The gate said yes."""
    return Decision(promote=True, reason=reason, figures={"gain": 0.5})


def rejected(reason: str = "worse") -> Decision:
    """The gate said no."""
    return Decision(promote=False, reason=reason, figures={"gain": -0.5})


def register(
    registry: SqlRegistry,
    claim: Claim,
    decision: Decision,
    *,
    parent: Version | None,
    made: Candidate | None = None,
    inputs: Mapping[str, Any] | None = None,
) -> Version:
    """Register with figures that do not matter to the test."""
    return registry.register(
        claim,
        made or candidate(),
        decision,
        parent=parent,
        inputs=inputs or {"segments": [(0, "segment-1")]},
        settings={"learn": {"strategy": "ewc"}},
        strategy="ewc",
        seed=7,
        code_version="0.1.0",
    )


def next_version(
    registry: SqlRegistry,
    stream: Stream,
    decision: Decision | None = None,
    made: Candidate | None = None,
) -> Version:
    """Ask by hand, claim, and register on top of the champion."""
    registry.submit(by_hand(stream))
    claim = claimed(registry)
    return register(
        registry, claim, decision or promoted(), parent=registry.champion(stream.id), made=made
    )


def claimed(registry: SqlRegistry, owner: str = "trainer", **options: Any) -> Claim:
    """A claim that has to be there."""
    claim = registry.claim(owner, LEASE_S, **options)
    assert claim is not None
    return claim
