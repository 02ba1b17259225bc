"""The line in one process: a regime is marked a fault, returns, is told, and is never learned."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace
from safetensors.numpy import load
from sqlalchemy import select

from pipeline.config import Database, Detect, Gate, Learn, Score, Settings, Stream
from pipeline.consolidate.consolidation import Inputs, consolidate
from pipeline.consolidate.readings import Readings
from pipeline.consolidate.reservoir import union
from pipeline.ingest.memory import MemorySink, MemorySource, Message
from pipeline.records import Request
from pipeline.register import tables as t
from pipeline.register.sql import SqlRegistry
from pipeline.run import trainer as trainers
from pipeline.run.stream import Streamer
from pipeline.run.trainer import Trainer
from pipeline.serve.lineage import Lineage
from tests.register.making import marked

#: Readings of each segment, and the level of its regime: normal, a fault, another normal one.
NORMAL, FAULT, OTHER = 0.0, 8.0, -8.0
ROWS = 600


@pytest.fixture
def settings(sqlite_at_head: Database) -> Settings:
    return Settings(
        stream=Stream(topic="readings", channels=("flow", "heat")),
        database=sqlite_at_head,
        score=Score(window=8, hidden=8),
        detect=Detect(warm_up=60, fit_after=100, settle_after=60),
        learn=Learn(adapt_after=256, refine_after=0, epochs=3, reservoir_capacity=200),
        gate=Gate(min_gain=0.0, max_forgetting=100.0),
    )


class Line:
    """Stream and trainer over one series; each call goes on where the last one ended."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.registry = SqlRegistry(settings.database)
        self.sink = MemorySink()
        self.log: list[Message] = []
        self.levels: list[float] = []
        self.trainer = Trainer(settings, self.registry, owner="t")
        self.lineage = Lineage(settings.database)

    def reads(self, *levels: float) -> None:
        """Segments of these levels go by, and the trainer works off what they ask for."""
        for level in levels:
            rng = np.random.default_rng(len(self.log))
            for values in (rng.normal(size=(ROWS, 2)) + level).round(3).tolist():
                reading = {"time": 1_767_225_600 + len(self.log), "values": values}
                self.log.append((b"press", json.dumps(reading).encode()))
                self.levels.append(level)
            source = MemorySource({0: self.log}, topic="readings", max_poll_records=300)
            made = Streamer(self.settings, source, self.sink, self.registry, owner="s")
            source.subscribe(made)
            while made.poll_once() or source.lag().get(0, 1):
                pass
            made.checkpoint()
            self.works()

    def works(self) -> None:
        while self.trainer.work_once():
            pass

    def mark(self, task: int, kind: str, **more: str) -> dict[str, Any]:
        return marked(self.registry, 1, task, kind=kind, why="it shook", **more)

    def sent(self, topic: str, event: str) -> list[dict[str, Any]]:
        """Messages of that kind, once each, however often they were sent."""
        found = {
            key: json.loads(value)
            for where, key, value, _ in self.sink.sent
            if where == f"readings.{topic}"
        }
        return [value for value in found.values() if value.get("event") == event]

    def inputs(self) -> list[dict[str, Any]]:
        """What each version was made from, in order."""
        with self.registry.engine.connect() as conn:
            rows = conn.execute(select(t.versions.c.inputs).order_by(t.versions.c.id)).scalars()
            return [json.loads(row) for row in rows]

    def outcomes(self) -> list[tuple[str, str]]:
        with self.registry.engine.connect() as conn:
            columns = t.requests.c.status, t.requests.c.outcome
            return [tuple(row) for row in conn.execute(select(*columns).order_by(t.requests.c.id))]

    def offsets(self, inputs: dict[str, Any]) -> set[int]:
        """Offsets of every reading that a version was made from or measured with."""
        held = [sha for shas in inputs["held_out"].values() for sha in shas]
        older = inputs["ended"] + inputs["earlier"]
        found: set[int] = set()
        for sha in [sha for _, sha in inputs["segments"]] + held + older:
            found |= set(Readings.from_bytes(self.registry.get(sha)).offsets.tolist())
        contents = [self.registry.get(sha) for sha in inputs["reservoirs"]]
        left_out = [{(name, n) for name, n in gone} for gone in inputs["left_out"]]
        windows = union(contents, 10**6, 0, left_out)
        for first, last in windows.offsets.tolist() if windows else ():
            found |= set(range(first, last + 1))
        return found

    def of(self, level: float) -> set[int]:
        """Offsets of all readings of a regime."""
        return {offset for offset, other in enumerate(self.levels) if other == level}


@pytest.fixture
def line(settings: Settings) -> Iterator[Line]:
    made = Line(settings)
    made.registry.open_stream("readings", settings.stream.channels)
    yield made
    made.lineage.close()
    made.registry.close()


#: A boundary is placed so near to the change, in readings: so many may count for the wrong regime.
NEAR = 5


def test_a_fault_that_returns_is_told_and_not_learned(line: Line) -> None:
    """Learned once as a regime like any other; marked; from then on in no version's inputs."""
    line.reads(NORMAL, FAULT, NORMAL)
    before = len(line.inputs())
    assert len(line.offsets(line.inputs()[-1]) & line.of(FAULT)) > 200
    learned_by = line.mark(2, "fault", name="bearing")["learned_by"]
    assert learned_by
    assert learned_by[-1] == before
    line.reads(FAULT, NORMAL, OTHER)

    told = line.sent("events", "task_returned")
    assert [(e["task"], e["kind"], e["name"], e["text"]) for e in told] == [
        (2, "fault", "bearing", 'task 2 again: fault "bearing"')
    ]
    named = {e["segment"]: e for e in line.sent("boundaries", "task_named")}
    assert (named[3]["task"], named[3]["kind"], named[3]["name"]) == (2, "fault", "bearing")
    assert (named[4]["task"], named[4]["kind"], named[4]["name"]) == (1, "normal", None)
    assert ("done", "task 2 is a fault: not learned") in line.outcomes()
    after = line.inputs()[before:]
    assert after, "the third regime was learned"
    for inputs in after:
        assert len(line.offsets(inputs) & line.of(FAULT)) <= 2 * NEAR
    assert line.offsets(after[-1]) & line.of(NORMAL)
    assert line.offsets(after[-1]) & line.of(OTHER)


@pytest.mark.parametrize("strategy", ["joint", "ewc_only", "fifo"])
def test_no_strategy_goes_back_to_a_fault(line: Line, settings: Settings, strategy: str) -> None:
    """Whatever it keeps of the past: all segments, the newest windows, or the Fisher diagonal."""
    other = replace(settings, learn=replace(settings.learn, strategy=strategy))
    line.settings, line.trainer = other, Trainer(other, line.registry, owner="t")
    line.reads(NORMAL, FAULT)
    assert len(line.offsets(line.inputs()[-1]) & line.of(FAULT)) > 200
    line.mark(2, "fault")
    line.reads(OTHER)
    assert len(line.inputs()) == 3
    assert len(line.offsets(line.inputs()[-1]) & line.of(FAULT)) <= 2 * NEAR


def test_a_version_without_the_fault_has_none_of_its_readings(line: Line) -> None:
    """From the version before it: its parent's inputs, and its own, are free of the fault."""
    line.reads(NORMAL, FAULT, NORMAL)
    line.mark(2, "fault")
    line.reads(OTHER)
    first, *_, last = line.registry.first_version(1), line.registry.champion(1)
    ask = Request(stream_id=1, reason="manual", actor="ada", note="shook", without_task=2)
    line.registry.submit(ask)
    line.works()
    made = line.registry.champion(1)
    assert made.number == last.number + 1
    assert made.parent_id == first.id
    inputs = line.inputs()[-1]
    assert inputs["without"] == 2
    assert len(line.offsets(inputs) & line.of(FAULT)) <= 2 * NEAR
    for level in (NORMAL, OTHER):
        assert len(line.offsets(inputs) & line.of(level)) > 200
    learned = line.lineage.task("readings", 2)["learned_by"]
    assert made.number not in learned
    assert set(learned) == set(range(2, last.number + 1))
    told = line.lineage.why("readings", made.number)
    assert (told["without_task"], told["parent"]) == (2, 1)
    assert told["decision"] == "without task 2: no task worse by more than allowed"


def test_where_every_version_has_learned_it_the_new_one_begins_anew(line: Line) -> None:
    """Without the first task: no parent, no EWC state, and all that is kept of the others."""
    line.reads(NORMAL, OTHER)
    line.registry.submit(
        Request(stream_id=1, reason="manual", actor="ada", note="why", without_task=1)
    )
    line.works()
    made, inputs = line.registry.champion(1), line.inputs()[-1]
    assert made.parent_id is None
    assert inputs["parent"] is None
    assert len(line.offsets(inputs) & line.of(NORMAL)) <= 2 * NEAR
    assert len(line.offsets(inputs) & line.of(OTHER)) > 200


def test_what_was_left_out_is_recorded_and_makes_the_same_version_again(line: Line) -> None:
    """From the version's recorded inputs alone, also after the fault has been taken back."""
    line.reads(NORMAL, FAULT, NORMAL)
    line.mark(2, "fault")
    line.reads(OTHER)
    inputs = line.inputs()[-1]
    assert ["press", 1] in inputs["left_out"][0]
    assert list(map(int, inputs["replayed"])) == [1]
    line.mark(2, "normal")
    get = line.registry.get
    again = consolidate(
        Inputs(
            parent=get(inputs["parent"]["sha256"]),
            ewc=get(inputs["parent"]["ewc_sha256"]) if inputs["parent"]["ewc_sha256"] else None,
            segments=tuple((task, get(sha)) for task, sha in inputs["segments"]),
            ended=tuple(map(get, inputs["ended"])),
            reservoirs=tuple(map(get, inputs["reservoirs"])),
            left_out=tuple(tuple((s, n) for s, n in gone) for gone in inputs["left_out"]),
            held_out={int(k): tuple(map(get, shas)) for k, shas in inputs["held_out"].items()},
            seed=inputs["seed"],
        ),
        line.settings.score,
        line.settings.learn,
    )
    assert hashlib.sha256(again.weights).hexdigest() == line.registry.champion(1).sha256


def test_a_task_that_is_normal_again_takes_part_again(line: Line) -> None:
    """Its windows are replayed and its readings measured, as if nobody had said anything."""
    line.reads(NORMAL, FAULT, NORMAL)
    line.mark(2, "fault")
    line.mark(2, "normal")
    line.reads(OTHER)
    inputs = line.inputs()[-1]
    assert inputs["left_out"] == [[]]
    assert list(map(int, inputs["replayed"])) == [1, 2]
    assert set(map(int, inputs["held_out"])) >= {1, 2}


def test_with_ask_a_new_regime_waits_until_somebody_says(line: Line, settings: Settings) -> None:
    """It is told, holds up nothing, and is learned once it is normal."""
    asking = replace(settings, learn=replace(settings.learn, new_tasks="ask"))
    line.settings, line.trainer = asking, Trainer(asking, line.registry, owner="t")
    line.reads(NORMAL, OTHER, NORMAL)
    assert len(line.inputs()) == 1
    (told,) = line.sent("events", "task_waits")
    assert (told["task"], told["segment"]) == (2, 1)
    assert told["text"] == "new task 2: not learned until somebody says what it is"
    assert [task["waiting"] for task in line.lineage.tasks("readings")] == [0, 1]
    for inputs in line.inputs():
        assert not line.offsets(inputs) & line.of(OTHER)

    line.mark(2, "normal")
    line.works()
    assert len(line.inputs()) == 2
    assert len(line.offsets(line.inputs()[-1]) & line.of(OTHER)) > 200
    assert [task["waiting"] for task in line.lineage.tasks("readings")] == [0, 0]


def test_a_task_marked_in_mid_training_is_not_registered(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The candidate is thrown away, and its request ends with the sentence."""
    line.reads(NORMAL)
    real = trainers.consolidate

    def meanwhile(*args: Any, **kwargs: Any) -> Any:
        monkeypatch.setattr(trainers, "consolidate", real)
        made = real(*args, **kwargs)
        line.mark(2, "fault")
        return made

    monkeypatch.setattr(trainers, "consolidate", meanwhile)
    line.reads(FAULT)
    assert len(line.inputs()) == 1
    assert line.outcomes()[-1] == ("done", "task 2 is a fault: not learned")


def test_a_fault_too_short_for_a_name_is_not_replayed(line: Line) -> None:
    """Nobody can tell its windows from a known fault's; without any fault they are replayed."""
    line.reads(NORMAL, FAULT, NORMAL)
    with line.registry.engine.begin() as conn:  # as a short segment is: without a name
        conn.execute(t.segments.delete().where(t.segments.c.segment == 1))
    line.reads(OTHER)
    assert line.inputs()[-1]["left_out"] == [[]]
    line.mark(2, "ignore")
    line.reads(NORMAL, OTHER * 2)
    assert ["press", 1] in line.inputs()[-1]["left_out"][0]


def test_a_reservoir_knows_the_segments_by_name(line: Line) -> None:
    """Its artifact stands by itself: which slot a series has elsewhere does not matter."""
    line.reads(NORMAL, OTHER)
    arrays = load(line.registry.get(line.inputs()[-1]["reservoirs"][0]))
    assert json.loads(arrays["series"].tobytes()) == ["press"]
    assert set(map(tuple, arrays["origins"].tolist())) == {(0, 0)}
