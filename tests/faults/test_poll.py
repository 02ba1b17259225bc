"""A fault before and after each step of a poll: a restart gives the undisturbed state.

Compared is every row of every table, ledger and hashes among them, with those of a run in which
nothing happened; and that every message of that run has been acknowledged, of whichever life.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import Database
from pipeline.outage import Outage
from pipeline.register.sql import SqlRegistry
from pipeline.run.trainer import Trainer
from tests.faults import steps as s
from tests.faults.following import (
    POLL,
    ROWS,
    SETTINGS,
    Process,
    clock_of,
    content,
    copy,
    kept,
    ticking,
)
from tests.faults.steps import Steps
from tests.register.making import Rows

#: Of which a trainer works requests off before the next.
TRAINED_AFTER = 0
POLLS = range(ROWS // POLL)
#: The poll with the most steps: all of them are swept, of the others' some (`FAULTS=all`: all).
FULLEST = 1
#: Cases that a sweep's steps are dealt to, so that several workers share it.
PARTS = 4
FAULTS = {"sql": s.SQLITE, "kafka": s.KAFKA, "work": s.WORK}
PASSING = {"sql": s.SQLITE_PASSING, "kafka": (), "work": ()}


#: Of a life that goes on: every row in the end, and what it sent.
End = tuple[Rows, set[Any]]


@dataclass
class Undisturbed:
    """One poll of a run in which nothing happened."""

    before: Database
    after: Rows
    sent: set[Any]
    #: Names of its steps, in order.
    steps: list[str]


@pytest.fixture(scope="module")
def undisturbed(
    sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory
) -> list[Undisturbed]:
    """Each poll by a process of its own."""
    folder, found = tmp_path_factory.mktemp("undisturbed"), []
    database = Database(url=f"sqlite:///{sqlite_template}")
    for poll in POLLS:
        before = copy(database, folder / f"{poll}.db")
        database = copy(before, folder / f"{poll}-after.db")
        process = Process(database, clock_of(poll), (poll + 1) * POLL, Steps())
        process.live()
        names, sent = list(process.steps.seen), set(process.sink.kept)
        found.append(Undisturbed(before, kept(process.registry), sent, names))
        process.end()
        if poll == TRAINED_AFTER:
            train(database)
    return found


@pytest.fixture(scope="module")
def ends() -> dict[tuple[int, bytes], End]:
    """Of the lives that went on, by poll and by the file they found: the same leads to the same."""
    return {}


def train(database: Database) -> None:
    registry = SqlRegistry(database, clock=clock_of(TRAINED_AFTER))
    while Trainer(SETTINGS, registry, owner="t").work_once():
        continue
    registry.close()


def test_the_polls_do_all_that_there_is_to_do(undisturbed: list[Undisturbed]) -> None:
    """What is swept below has scores, boundaries, their ends, names, requests and dead letters."""
    tables, sent = undisturbed[-1].after, [topic for each in undisturbed for topic, *_ in each.sent]
    for name in ("boundaries", "requests", "segments", "tasks", "scored", "versions"):
        assert tables[name], name
    for kind in ("scores", "boundaries", "dead"):
        assert f"readings.{kind}" in sent
    assert min(len(each.steps) for each in undisturbed) > 50
    assert max(undisturbed, key=lambda each: len(each.steps)) is undisturbed[FULLEST]


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("poll", POLLS)
@pytest.mark.parametrize("lasting", [False, True], ids=["once", "from then on"])
def test_a_fault_at_any_step_of_a_poll_costs_nothing(
    undisturbed: list[Undisturbed],
    ends: dict[tuple[int, bytes], End],
    tmp_path: Path,
    poll: int,
    lasting: bool,
    part: int,
    every: int,
) -> None:
    """The process ends as it may; the next one goes on from what there is."""
    clean = undisturbed[poll]

    def life(number: int) -> tuple[Process, Steps]:
        database = copy(clean.before, tmp_path / f"{number}.db")
        fault = Steps(at=number, faults=FAULTS, turn=poll + lasting, lasting=lasting)
        return Process(database, clock_of(poll), (poll + 1) * POLL, fault), fault

    def end(before: Database) -> End:
        second = Process(before, clock_of(poll), (poll + 1) * POLL, Steps())
        second.live()
        found = kept(second.registry), set(second.sink.kept)
        second.end()
        return found

    dense = poll == FULLEST and not lasting
    swept = list(enumerate(clean.steps))[:: 1 if dense else every]
    share = -(-len(swept) // PARTS)
    for number, step in swept[part * share : (part + 1) * share]:
        first, fault = life(number)
        told = first.die()
        where = f"{step}: {fault.raised}, told as {told}"
        assert fault.raised, where
        assert told.count("\n") == 0, where
        left = poll, content(first.database)
        if left not in ends:
            ends[left] = end(first.database)
        rows, sent = ends[left]
        assert rows == clean.after, where
        assert not clean.sent - set(first.sink.kept) - sent, where
        (tmp_path / f"{number}.db").unlink()


@pytest.mark.parametrize("poll", POLLS)
def test_a_database_that_passes_by_is_asked_again_at_any_step(
    undisturbed: list[Undisturbed], tmp_path: Path, poll: int, every: int
) -> None:
    """The process lives on, and has done everything once, whichever answer was lost."""
    clean = undisturbed[poll]
    said = [(n, step) for n, step in enumerate(clean.steps) if step.startswith("sql")]
    for number, step in said[poll % every :: every]:
        database = copy(clean.before, tmp_path / f"{number}.db")
        fault = Steps(at=number, faults=PASSING, turn=poll)
        process = Process(database, clock_of(poll), (poll + 1) * POLL, fault)
        process.registry.outage = patient()
        process.live()
        assert fault.raised
        assert kept(process.registry) == clean.after, f"{step}: {fault.raised}"
        assert not clean.sent - set(process.sink.kept), step
        process.end()
        (tmp_path / f"{number}.db").unlink()


def patient() -> Outage:
    """Waits without waiting."""
    outage = Outage("database", 1e9, clock=ticking())
    outage.pause = lambda _: None
    return outage
