"""A fault before and after each step of a consolidation: it is done once, by somebody.

Every statement and commit of the trainer's transactions is a step, and naming, training and gating
beside them. Training is a pure function of its inputs, so its answer is remembered from one run to
the next, and the sweep costs seconds.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from functools import cache, cached_property
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from sqlalchemy import func, select

from pipeline.config import Database, Gate, Learn, Run, Score, Settings
from pipeline.consolidate.readings import Readings, split
from pipeline.consolidate.reservoir import Reservoir
from pipeline.errors import LeaseLost, PipelineError
from pipeline.records import Request
from pipeline.register import tables as t
from pipeline.register.chain import sound
from pipeline.register.engine import reading
from pipeline.register.requests import LONGEST_S
from pipeline.register.sql import SqlRegistry
from pipeline.run import trainer as trainers
from pipeline.run import work as works
from pipeline.run.trainer import Trainer
from tests.databases import new_database
from tests.faults import steps as s
from tests.faults.following import ENDINGS, content, copy
from tests.faults.steps import Steps, wrap_sql
from tests.faults.test_poll import patient
from tests.register.making import Clock, hasty

STREAM = 1
SETTINGS = Settings(
    score=Score(window=8, hidden=8),
    learn=Learn(epochs=8, lr=0.01, reservoir_capacity=30),
    gate=Gate(min_gain=0.02, max_forgetting=0.5),
    run=Run(lease_s=30.0, max_attempts=3),
)


FAULTS = {
    "sqlite": {"sql": s.SQLITE, "work": s.WORK},
    "postgresql": {"sql": s.POSTGRESQL, "work": s.WORK},
}
#: Kinds of entries that tell of attempts, of which there may be more than one.
ATTEMPTS = ("request_claimed", "request_expired", "request_failed", "request_released")
PASSING = {"sqlite": {"sql": s.SQLITE_PASSING}, "postgresql": {"sql": s.POSTGRESQL_PASSING}}


def segment(level: float, seed: int) -> Readings:
    values = np.random.default_rng(seed).normal(size=(160, 2)) + level
    return Readings(values=values.astype(np.float32), offsets=np.arange(160))


def ask(registry: SqlRegistry, number: int, level: float, reason: str) -> None:
    """A request as the stream writes it: a segment, and the reservoir at its time."""
    reservoir = Reservoir(30, 8, 2, seed=(number,))
    reservoir.offer(split(segment(0.0, 0), 8, 0.25)[0])
    contents = {"segment": segment(level, number).to_bytes(), "reservoir": reservoir.to_bytes()}
    inputs = {role: registry.put(role, content) for role, content in contents.items()}
    registry.submit(
        Request(
            stream_id=STREAM, reason=reason, partition=0, series="press", segment=number,
            inputs=inputs,
        )
    )  # fmt: skip


class Place:
    """A database with a champion and a request to make the next, as often as it is wanted."""

    def __init__(self, start: Database, fresh: Callable[[], Database]) -> None:
        self.fresh = fresh
        #: SQLite files, as hashes, with which the second trainer came to the right end.
        self.ended: set[bytes] = set()
        self.clock = Clock()
        registry = self.open(start)
        assert registry.open_stream("readings", ("a", "b")).id == STREAM
        ask(registry, 0, 0.0, "bootstrap")
        assert Trainer(SETTINGS, registry, owner="before").work_once()
        ask(registry, 1, 9.0, "boundary")
        self.kind = registry.engine.dialect.name
        registry.close()

    @cached_property
    def clean(self) -> tuple[list[str], dict[str, Any]]:
        """The steps of a run in which nothing happens, and what it leaves."""
        return clean(self)

    def open(self, database: Database, steps: Steps | None = None) -> SqlRegistry:
        registry = hasty(SqlRegistry(database, clock=Clock(self.clock.now)))
        if steps is not None:
            wrap_sql(steps, registry.engine)
        return registry


@pytest.fixture(scope="module", autouse=True)
def remembered() -> Iterator[None]:
    """What is computed is a function of its arguments: the same ones are answered at once."""
    known: dict[str, Any] = {}

    def remembering(act: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **_: Any) -> Any:
            key = act.__name__ + repr(args)
            if key not in known:
                known[key] = act(*args)
            return known[key]

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in ("consolidate", "evaluate"):
            patch.setattr(trainers, name, remembering(getattr(trainers, name)))
        yield


@pytest.fixture(scope="module")
def places(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Callable[[str], Place]:
    """The place of a kind, and once for all sweeps what it is without a fault."""

    @cache
    def make(kind: str) -> Place:
        template = request.getfixturevalue(f"{kind}_template")
        if kind == "sqlite":
            folder, names = tmp_path_factory.mktemp("places"), count()
            template = Database(url=f"sqlite:///{template}")
            start = copy(template, folder / "start.db")
            return Place(start, lambda: copy(start, folder / f"{next(names)}.db"))
        server = request.getfixturevalue("postgres")
        start = new_database(server, template)
        return Place(start, lambda: new_database(server, start))

    return make


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, places: Callable[[str], Place]) -> Place:
    return places(request.param)


def stepping(steps: Steps, patch: pytest.MonkeyPatch) -> None:
    """Make what the trainer computes two steps each."""

    def around(module: Any, name: str) -> None:
        act = getattr(module, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            with steps.around("work", name):
                return act(*args, **kwargs)

        patch.setattr(module, name, call)

    around(works, "name")
    around(works, "resolve")
    around(trainers, "consolidate")
    around(trainers, "decide")


def attempt(registry: SqlRegistry, owner: str, steps: Steps | None = None) -> str:
    """One life of a trainer; why it ended, if it did."""
    with pytest.MonkeyPatch.context() as patch:
        if steps is not None:
            stepping(steps, patch)
        try:
            while Trainer(SETTINGS, registry, owner=owner).work_once():
                continue
        except (PipelineError, *ENDINGS) as exc:
            return f"{type(exc).__name__}: {exc}"
        finally:
            registry.close()
            gc.collect()
    return ""


def later(registry: SqlRegistry) -> SqlRegistry:
    """Every lease and every pause is over."""
    registry.clock.pass_s(LONGEST_S + 2 * SETTINGS.run.lease_s)
    return registry


def outcome(registry: SqlRegistry) -> dict[str, Any]:
    """What was decided, once; not when, by whom, and at which attempt."""
    v, r, e = t.versions.c, t.requests.c, t.evaluations.c
    queries = {
        "versions": select(v.number, v.status, v.sha256, v.ewc_sha256, v.decision, v.seed),
        "requests": select(r.id, r.status, r.outcome),
        "tasks": select(t.tasks.c.number, t.tasks.c.fingerprint),
        "skills": select(e.skill, e.parent_skill),
        "artifacts": select(t.artifacts.c.sha256, t.artifacts.c.kind),
        "live": select(func.count()).select_from(t.promotions).where(t.is_live),
        "said": select(t.ledger.c.kind, func.count())
        .where(t.ledger.c.kind.not_in(ATTEMPTS))
        .group_by(t.ledger.c.kind),
    }
    with reading(registry.engine) as conn:
        assert sound(conn)
        return {name: sorted(map(tuple, conn.execute(q))) for name, q in queries.items()}


def clean(place: Place) -> tuple[list[str], dict[str, Any]]:
    """A run in which nothing happens."""
    database, steps = place.fresh(), Steps()
    assert attempt(place.open(database, steps), "a", steps) == ""
    registry = place.open(database)
    found = outcome(registry)
    registry.close()
    assert [row[:2] for row in found["versions"]] == [(1, "retired"), (2, "champion")]
    return steps.seen, found


#: Cases that a sweep's steps are dealt to, so that several workers share it.
PARTS = 6


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("lasting", [False, True], ids=["once", "from then on"])
def test_a_fault_at_any_step_of_a_consolidation_leaves_it_to_be_done_once(
    place: Place, lasting: bool, part: int, every: int
) -> None:
    """Whatever the first trainer came to: the second does what is left of it, and no more."""
    names, expected = place.clean
    dense = place.kind == "sqlite" and not lasting
    swept = range(0, len(names), 1 if dense else every)
    share = -(-len(swept) // PARTS)
    for number in swept[part * share : (part + 1) * share]:
        database = place.fresh()
        fault = Steps(at=number, faults=FAULTS[place.kind], turn=lasting, lasting=lasting)
        told = attempt(place.open(database, fault), "a", fault)
        where = f"{names[number]}: {fault.raised}, told as {told}"
        assert fault.raised, where
        assert told.count("\n") == 0, where
        left = content(database) if place.kind == "sqlite" else b""
        if left in place.ended:  # the same leads to the same
            continue
        attempt(later(place.open(database)), "b")
        registry = place.open(database)
        assert outcome(registry) == expected, where
        registry.close()
        if left:
            place.ended.add(left)


@pytest.mark.parametrize("part", range(PARTS))
def test_a_database_that_passes_by_is_asked_again_at_any_step_of_a_consolidation(
    place: Place, part: int, every: int
) -> None:
    """The same trainer goes on; at most its claim has to run out first, when it was not told of
    one that it had."""
    names, expected = place.clean
    asked = [n for n, name in enumerate(names) if name.startswith("sql")][::every]
    for number in asked[part::PARTS]:
        database, fault = place.fresh(), Steps(at=number, faults=PASSING[place.kind])
        registry = place.open(database, fault)
        registry.outage = patient()
        assert attempt(registry, "a", fault) == "", names[number]
        attempt(later(place.open(database)), "a")
        registry = place.open(database)
        assert outcome(registry) == expected, f"{names[number]}: {fault.raised}"
        registry.close()


# Leases ------------------------------------------------------------------------------------------


@pytest.fixture
def two(sqlite_at_head: Database, tmp_path: Path) -> Iterator[tuple[SqlRegistry, SqlRegistry]]:
    """Two trainers' registries on one database with a request, and one clock."""
    place = Place(sqlite_at_head, lambda: sqlite_at_head)
    pair = place.open(sqlite_at_head), place.open(sqlite_at_head)
    pair[1].clock = pair[0].clock
    yield pair
    for registry in pair:
        registry.close()


def test_two_trainers_never_train_one_stream_at_once(
    two: tuple[SqlRegistry, SqlRegistry], monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one trains, the other finds nothing to do, though another request is waiting."""
    mine, other = two
    ask(mine, 2, 18.0, "boundary")
    real, found = trainers.consolidate, []
    ask_later = iter([3])

    def meanwhile(*args: Any, **kwargs: Any) -> Any:
        for number in ask_later:
            ask(mine, number, 27.0, "boundary")
        found.append(Trainer(SETTINGS, other, owner="b").work_once())
        return real(*args, **kwargs)

    monkeypatch.setattr(trainers, "consolidate", meanwhile)
    assert Trainer(SETTINGS, mine, owner="a").work_once()
    assert found == [False]


def test_a_trainer_that_lost_its_lease_ends_its_training(
    two: tuple[SqlRegistry, SqlRegistry], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was stopped for a minute: another trains the stream now, so it does not go on beside him;
    his version is registered, and its own never."""
    mine, other = two
    real, renew, told = trainers.consolidate, mine.renew, threading.Event()
    stopped = threading.Lock()

    def renewing(*args: Any) -> None:
        try:
            with stopped:
                renew(*args)
        except LeaseLost:
            told.set()
            raise

    def overtaken(*args: Any, progress: Callable[[float], None], **kwargs: Any) -> Any:
        monkeypatch.setattr(trainers, "consolidate", real)
        with stopped:
            mine.clock.pass_s(2 * SETTINGS.run.lease_s)
            assert Trainer(SETTINGS, other, owner="quick").work_once()
        assert told.wait(60)
        while True:  # as an epoch after the other; the first look ends it
            progress(0.5)

    quick_look = msgspec.structs.replace(
        SETTINGS, run=msgspec.structs.replace(SETTINGS.run, lease_s=0.03)
    )
    monkeypatch.setattr(mine, "renew", renewing)
    monkeypatch.setattr(trainers, "consolidate", overtaken)
    assert Trainer(quick_look, mine, owner="slow").work_once()
    found = outcome(mine)
    assert [row[:2] for row in found["versions"]] == [(1, "retired"), (2, "champion")]
    assert {status for _, status, _ in found["requests"]} == {"done"}


@pytest.mark.parametrize("fault", [s.no_memory, KeyboardInterrupt, SystemExit, s.Killed])
def test_a_request_that_kills_its_trainer_is_given_up(
    two: tuple[SqlRegistry, SqlRegistry],
    monkeypatch: pytest.MonkeyPatch,
    fault: Callable[[], BaseException],
) -> None:
    """However it does: after max_attempts it has failed, with the last reason, and the champion is
    what it was."""

    def poison(*_: Any, **__: Any) -> None:
        raise fault()

    monkeypatch.setattr(trainers, "consolidate", poison)
    registry, lives = two[0], 0
    while True:
        try:
            if not Trainer(SETTINGS, later(registry), owner=f"life {lives}").work_once():
                break
        except (KeyboardInterrupt, SystemExit, s.Killed):
            gc.collect()
        lives += 1
    assert lives == SETTINGS.run.max_attempts
    found = outcome(registry)
    reason = "MemoryError: out of memory" if fault is s.no_memory else "the lease ran out"
    assert found["requests"][1][1:] == (
        "failed",
        f"given up after {SETTINGS.run.max_attempts} attempts: {reason}",
    )
    assert [row[:2] for row in found["versions"]] == [(1, "champion")]
