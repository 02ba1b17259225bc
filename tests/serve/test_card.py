"""The version card: every fact of a version, as data and on one page."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import jsonschema
import msgspec
import numpy as np
import pytest
from sqlalchemy import text

from pipeline.config import Database
from pipeline.consolidate.readings import Readings
from pipeline.errors import PipelineError
from pipeline.records import Decision
from pipeline.register.checkpoints import State
from pipeline.register.sql import SqlRegistry, Stream
from pipeline.serve.card import Card, Learned, Left, Live, Measured, page
from pipeline.serve.lineage import Lineage
from tests.register.making import (
    Clock,
    asked,
    boundary,
    by_hand,
    candidate,
    claimed,
    next_version,
    opened,
)

READINGS = Readings(
    values=np.zeros((300, 2), dtype=np.float32), offsets=np.arange(1096, 1396, dtype=np.int64)
)
BETTER = Decision(
    promote=True,
    reason="the new task got better by 0.750 (0.500 to 1.000 at 95%)",
    figures={"changes": {1: {"mean": 0.75, "low": 0.5, "high": 1.0, "windows": 40}}},
)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def registry(at_head: Database, clock: Clock) -> Iterator[SqlRegistry]:
    with opened(at_head, clock) as registry:
        yield registry


@pytest.fixture
def stream(registry: SqlRegistry) -> Stream:
    return registry.open_stream("plant", ["pressure", "flow"])


@pytest.fixture
def lineage(registry: SqlRegistry) -> Iterator[Lineage]:
    made = Lineage(registry.database)
    yield made
    made.close()


def second_version(registry: SqlRegistry, stream: Stream) -> str:
    """Version 2, for a boundary of series pump and a person who asked too; the readings' hash."""
    parent = next_version(registry, stream)
    sha = registry.put("segment", READINGS.to_bytes())
    epoch = registry.acquire(stream.id, 0, "owner").epoch
    request = asked(stream, inputs={"segment": sha})
    registry.save(
        stream.id, 0, epoch, next_offset=2000, state=State(b"s"), boundaries=[boundary()],
        requests=[request],
    )  # fmt: skip
    registry.submit(replace(by_hand(stream), actor="a\x1bda"))
    claim = claimed(registry)
    task = registry.assign(claim, claim.id, np.zeros((2, 2)))
    registry.register(
        claim,
        candidate({task: 0.5}, {task: -0.25}, new=(task,), loss_after=0.25, seconds=1.5),
        BETTER,
        parent=parent,
        inputs={"segments": [(task, sha)], "reservoirs": [], "held_out": {task: [sha]}},
        settings={"learn": {"epochs": 20, "lr": 0.002}},
        strategy="ewc_replay",
        seed=7,
        code_version="0.1.0",
    )
    return sha


def test_the_card_has_every_fact(
    registry: SqlRegistry, stream: Stream, lineage: Lineage, clock: Clock
) -> None:
    """Of a version for a boundary, promoted and then rolled back."""
    sha = second_version(registry, stream)
    clock.pass_s(60)
    registry.roll_back(stream.id, actor="eve", reason="too warm")
    card = lineage.card("plant", 2)
    assert (card.stream, card.version, card.status, card.parent) == ("plant", 2, "rolled_back", 1)
    first, second = card.reasons
    assert (first.trigger, first.actor, second.trigger) == ("boundary", "tidemark", "manual")
    assert first.boundary == (
        "pump, from row 96: flow rose by 4.5 standard deviations (10 to 19); pressure and flow "
        "no longer move together (correlation 0.70 to 0.20) (noticed 31 readings later). "
        "level 7.50 > 5.25; task 1, new"
    )
    assert second.boundary is None
    assert card.learned == (
        Learned(
            task=1, partition=0, series="pump", segment=1, readings=300, first_offset=1096,
            last_offset=1395, sha256=sha,
        ),
    )  # fmt: skip
    assert card.skills == (
        Measured(
            task=1, skill=0.5, parent_skill=-0.25, low=0.5, high=1.0, windows=40, score=1.0,
            spread=0.25,
        ),
    )  # fmt: skip
    assert card.metrics == {"loss_after": 0.25, "seconds": 1.5}
    assert (card.strategy, card.seed, card.code_version) == ("ewc_replay", 7, "0.1.0")
    assert card.settings == {"learn": {"epochs": 20, "lr": 0.002}}
    assert card.inputs["held_out"] == {"1": [sha]}
    assert card.decision == BETTER.reason
    (live,) = card.live
    assert (live.until, live.by, live.because) == (card.rolled_back[0].at, "gate", BETTER.reason)
    assert card.rolled_back == (Left(at=live.until, by="eve", because="too warm", to=1),)


def test_the_first_version_and_one_that_was_never_live(
    registry: SqlRegistry, stream: Stream, lineage: Lineage
) -> None:
    """No parent, or no live time: said so, and nothing made up."""
    second_version(registry, stream)
    registry.submit(by_hand(stream))
    claim = claimed(registry)
    registry.register(
        claim, candidate(), Decision(promote=False, reason="worse"),
        parent=registry.champion(stream.id), inputs={"segments": []}, settings={},
        strategy="ewc", seed=1, code_version="0.1.0",
    )  # fmt: skip
    card = lineage.card("plant", 3)
    assert (card.status, card.live, card.learned, card.skills) == ("rejected", (), (), ())
    shown = page(card)
    assert "Version 3 of plant: rejected, from version 2, made " in shown
    assert "  never live\n" in shown


def test_the_page_tells_it_to_people(
    registry: SqlRegistry, stream: Stream, lineage: Lineage
) -> None:
    """The lines that matter; a name that a stranger chose reaches no terminal as it is."""
    sha = second_version(registry, stream)
    shown = page(lineage.card("plant", 2))
    for line in (
        "  boundary, by tidemark at ",
        "    pump, from row 96: flow rose by 4.5 ",
        f"  task 1: series pump, segment 1: 300 readings, offsets 1096 to 1395, {sha[:12]}\n",
        "  ewc_replay, seed 7, tidemark 0.1.0\n",
        "  learn: epochs 20, lr 0.002\n",
        "  task  skill  parent  change          interval  windows          score\n",
        "     1  0.500  -0.250  +0.750  +0.500 to +1.000       40  1.00 +/- 0.25\n",
        "  loss_after  0.25\n",
        f"  {BETTER.reason}\n",
        " to now, by gate: ",
    ):
        assert line in shown
    assert "\x1b" not in shown


def test_damaged_readings_leave_the_rest_of_the_card(
    registry: SqlRegistry, stream: Stream, lineage: Lineage
) -> None:
    """Their number is not known any more; all else is."""
    sha = second_version(registry, stream)
    with registry.engine.begin() as conn:
        conn.execute(
            text("UPDATE artifacts SET content = :none WHERE sha256 = :sha"),
            {"none": b"", "sha": sha},
        )
    card = lineage.card("plant", 2)
    (part,) = card.learned
    assert (part.series, part.readings, part.first_offset) == ("pump", None, None)
    assert "segment 1: damaged, " in page(card)


def test_the_card_is_what_its_schema_says(
    registry: SqlRegistry, stream: Stream, lineage: Lineage
) -> None:
    """JSON there and back is the same, and the documented fields are those that come."""
    second_version(registry, stream)
    card = lineage.card("plant", 2)
    content = msgspec.json.encode(card)
    assert msgspec.json.decode(content, type=Card) == card
    jsonschema.validate(msgspec.json.decode(content), msgspec.json.schema(Card))
    assert isinstance(card.live[0], Live)


@pytest.mark.parametrize(("name", "number"), [("plant", 9), ("other", 1)])
def test_what_is_not_there_is_said_in_one_line(
    registry: SqlRegistry, stream: Stream, lineage: Lineage, name: str, number: int
) -> None:
    """As for every other question."""
    with pytest.raises(PipelineError, match=r"^no (version 9|stream other)"):
        lineage.card(name, number)
