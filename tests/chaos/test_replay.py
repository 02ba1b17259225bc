"""What was decided comes out the same when the ledger is said again, and only then."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from sqlalchemy import select, update

from pipeline.config import Database
from pipeline.records import Claim
from pipeline.register import naming, promotion
from pipeline.register import requests as queue
from pipeline.register import tables as t
from pipeline.register.sql import SqlRegistry
from pipeline.run import work as works
from pipeline.run.trainer import Trainer
from tests.chaos.again import made_again_in
from tests.chaos.replay import DECIDED, Replay
from tests.databases import new_database
from tests.faults.following import copy
from tests.faults.test_consolidation import SETTINGS, STREAM, ask
from tests.register.making import Clock, by_hand, hasty

History = tuple[SqlRegistry, Callable[[], SqlRegistry]]


def claimed(registry: SqlRegistry, owner: str) -> Claim:
    claim = registry.claim(owner, SETTINGS.run.lease_s)
    assert claim is not None
    return claim


def happen(registry: SqlRegistry, clock: Clock) -> None:
    """A champion; a claim that nobody ends; one that fails; a regime that returns; a roll-back."""
    stream = registry.open_stream("readings", ("a", "b"))
    assert stream.id == STREAM

    def train() -> None:
        clock.pass_s(400)
        while Trainer(SETTINGS, registry, owner="trainer").work_once():
            clock.pass_s(1)

    ask(registry, 0, 0.0, "bootstrap")
    train()
    ask(registry, 1, 9.0, "boundary")
    ask(registry, 1, 9.0, "boundary")  # there already: the database's count goes on
    ask(registry, 2, 0.0, "boundary")
    assert [number for number, _ in claimed(registry, "killed").folded] != []
    train()
    ask(registry, 3, 18.0, "boundary")
    ask(registry, 4, 9.0, "boundary")
    registry.fail(claimed(registry, "unlucky"), "a disk", retry=True)
    train()
    registry.roll_back(STREAM, actor="ada", reason="it smells")
    registry.submit(by_hand(stream))
    train()


@pytest.fixture(params=["sqlite", "postgresql"])
def history(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[History]:
    """A registry in which that happened, and as many empty ones of its kind as are wanted."""
    template: Database = request.getfixturevalue(f"{request.param}_at_head")
    opened: list[SqlRegistry] = []

    def fresh() -> SqlRegistry:
        if request.param == "sqlite":
            database = copy(template, tmp_path / f"{len(opened)}.db")
        else:
            database = new_database(request.getfixturevalue("postgres"), template)
        opened.append(hasty(SqlRegistry(database)))
        return opened[-1]

    registry = fresh()
    registry.clock = clock = Clock()
    happen(registry, clock)
    yield registry, fresh
    for each in opened:
        each.close()


def test_what_is_said_again_in_its_order_is_decided_again(history: History) -> None:
    """Names, folding, inputs, weights, gate, promotions and the roll-back; every kind of them."""
    registry, fresh = history
    replay = Replay(registry, fresh(), {}, SETTINGS)
    assert list(replay.run()) == []
    assert replay.decided.keys() == set(DECIDED)


#: A rule that decides otherwise than the one that was recorded, and the first entry that shows it.
OTHERWISE: list[tuple[ModuleType, str, Any, str]] = [
    (queue, "FOLD_LIMIT", 0, "request_claimed"),
    (works, "HELD_OUT_SEGMENTS", 1, "version"),
    (works, "_seed", lambda *_: 5, "version"),
    (promotion, "_judged", lambda *_: (False, "no"), "version"),
    (naming, "nearest", lambda *_: (None, 0.0), "task_named"),
]


@pytest.mark.parametrize("history", ["sqlite"], indirect=True)
def test_what_differs_when_it_is_made_again_is_found(history: History) -> None:
    """By another rule for folding, inputs, seed, gate or names; then, the seed that was kept."""
    registry, fresh = history
    for module, name, otherwise, kind in OTHERWISE:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, name, otherwise)
            found = list(Replay(registry, fresh(), {}, SETTINGS).run())
        assert kind in found[0], name
    assert made_again_in(registry.database) == []
    v = t.versions.c
    with registry.engine.begin() as conn:
        inputs = json.loads(conn.execute(select(v.inputs).where(v.number == 1)).scalar_one())
        changed = json.dumps(inputs | {"seed": inputs["seed"] + 1})
        conn.execute(update(t.versions).where(v.number == 1).values(inputs=changed))
    assert made_again_in(registry.database)[0] == "version 1: its sha256 is another"
