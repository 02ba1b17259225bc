"""A version that passed the gate and fails on the stream: rolled back, once, and told."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator

import msgspec
import numpy as np
import pytest
import torch
from msgspec.structs import replace
from sqlalchemy import select

from pipeline.config import (
    Database,
    Detect,
    Gate,
    Kafka,
    Learn,
    Retrain,
    Score,
    Settings,
    Stream,
)
from pipeline.errors import SettingsError
from pipeline.ingest.memory import MemorySink, MemorySource, Message
from pipeline.model.weights import Weights
from pipeline.records import Candidate, Decision, Request, Version
from pipeline.register import tables as t
from pipeline.register.sql import SqlRegistry
from pipeline.run.stream import FALL_AFTER, Streamer
from pipeline.run.trainer import Trainer
from tests.register.making import hasty, register

ROWS, BOOTSTRAP, PROMOTED = 1200, 300, 500


@pytest.fixture(scope="module")
def log() -> list[Message]:
    """One series of two sensors in which nothing ever changes."""
    values = np.random.default_rng(2).normal(size=(ROWS, 2)).round(3)
    return [
        (b"press", json.dumps({"time": 1_767_225_600 + row, "values": x}).encode())
        for row, x in enumerate(values.tolist())
    ]


@pytest.fixture
def settings(sqlite_at_head: Database) -> Settings:
    return Settings(
        kafka=Kafka(max_poll_records=50),
        stream=Stream(topic="readings"),
        database=sqlite_at_head,
        score=Score(window=8, hidden=8),
        detect=Detect(warm_up=60, fit_after=100, settle_after=60),
        learn=Learn(adapt_after=64, refine_after=0, epochs=2, reservoir_capacity=50),
        gate=Gate(rollback_after=200),
    )


@pytest.fixture
def registry(settings: Settings) -> Iterator[SqlRegistry]:
    made = hasty(SqlRegistry(settings.database))
    yield made
    made.close()


def streamer(
    settings: Settings, registry: SqlRegistry, log: list[Message], sink: MemorySink
) -> Streamer:
    source = MemorySource({0: log}, topic="readings", max_poll_records=50)
    made = Streamer(settings, source, sink, registry, owner="test")
    source.subscribe(made)
    return made


def follow(made: Streamer, until: int) -> None:
    """Go on to an offset, looking for a champion at every poll."""
    while made.source.lag().get(0, ROWS) > ROWS - until:
        made.live._due = 0.0
        made.poll_once()


def blind(registry: SqlRegistry, champion: Version) -> Version:
    """A version like the champion that forecasts nonsense, and whose figures are the champion's."""
    weights = Weights.from_bytes(registry.get(champion.sha256))
    with torch.no_grad():
        for p in weights.model.parameters():
            p.add_(3.0)
    task = registry.tasks(champion.stream_id)[0].id
    seen = registry.expected_scores(champion)
    registry.submit(
        Request(stream_id=champion.stream_id, reason="manual", actor="ada", note="again")
    )
    claim = registry.claim("trainer", 60.0)
    assert claim is not None
    made = Candidate(
        weights=weights.to_bytes(),
        ewc=b"",
        metrics={},
        skills={task: 0.5},
        parent_skills={task: 0.25},
        new_tasks=(task,),
        sizes={task: 1},
        losses={task: np.ones(1)},
        parent_losses={task: np.ones(1)},
        block=1,
        scores={task: seen[1]},
    )
    decision = Decision(promote=True, reason="it looked better")
    return register(registry, claim, decision, parent=champion, made=made)


def promoted_blind(
    settings: Settings, registry: SqlRegistry, log: list[Message]
) -> tuple[Streamer, MemorySink, Version]:
    """A stream at PROMOTED, with a first version that serves and a second that does not."""
    sink = MemorySink()
    made = streamer(settings, registry, log, sink)
    follow(made, BOOTSTRAP)
    assert Trainer(settings, registry, owner="trainer").work_once()
    follow(made, PROMOTED)
    first = registry.champion(made.stream.id)
    assert first is not None
    return made, sink, blind(registry, first)


def events(sink: MemorySink) -> list[dict[str, object]]:
    return [json.loads(value) for topic, _, value, _ in sink.sent if topic == "readings.events"]


def test_it_is_rolled_back_by_itself_and_told(settings, registry, log) -> None:
    """After rollback_after readings, to the one before; the reason has the figures; once."""
    made, sink, bad = promoted_blind(settings, registry, log)
    follow(made, PROMOTED + 200)
    assert registry.champion(made.stream.id).number == bad.number == 2
    assert events(sink) == []
    follow(made, PROMOTED + 250)
    assert registry.champion(made.stream.id).number == 1
    assert made.live.version.number == 1
    follow(made, ROWS)
    (event,) = events(sink)
    seen = registry.expected_scores(bad)[1]
    reason = event.pop("reason")
    assert reason.startswith("task 1 in series press: mean score ")
    assert f"over 250 readings, the gate saw {seen[0]:.2f} and up to " in reason
    assert event.pop("at").endswith("+00:00")
    assert event == {
        "event": "rolled_back",
        "topic": "readings",
        "version": 2,
        "to": 1,
        "actor": "rollback",
    }


def pieces(registry) -> set:
    with registry.engine.connect() as conn:
        found = set(conn.execute(select(t.checkpoint_pieces)).all())
    assert found
    return found


def test_what_a_partition_finds_does_not_depend_on_it(
    settings, registry, log, sqlite_template, tmp_path
) -> None:
    """The same checkpoint bytes as where nothing is watched and nothing was ever promoted."""
    made, _, _ = promoted_blind(settings, registry, log)
    follow(made, ROWS)
    file = shutil.copy(sqlite_template, tmp_path / "other.db")
    other = hasty(SqlRegistry(Database(url=f"sqlite:///{file}")))
    alone = streamer(
        msgspec.structs.replace(settings, gate=Gate(rollback_after=0)), other, log, MemorySink()
    )
    follow(alone, ROWS)
    assert pieces(registry) == pieces(other)
    other.close()


def test_turned_off_it_stays(settings, registry, log) -> None:
    """gate.rollback_after = 0: nobody but a person takes it back."""
    off = msgspec.structs.replace(settings, gate=Gate(rollback_after=0))
    made, sink, _ = promoted_blind(off, registry, log)
    follow(made, ROWS)
    assert registry.champion(made.stream.id).number == 2
    assert events(sink) == []


def test_scores_that_rise_ask_for_a_training(settings, registry, log) -> None:
    """With the champion left where it is, after FALL_AFTER readings: once, with the figures. The
    trainer that boundaries wait for takes it."""
    rules = Retrain(on_boundary=False, on_metric_fall=0.5)
    asks = replace(settings, gate=Gate(rollback_after=0), retrain=rules)
    made, _, bad = promoted_blind(asks, registry, log)
    follow(made, PROMOTED + FALL_AFTER)
    assert reasons(registry) == ["bootstrap", "manual"]
    follow(made, ROWS)
    assert reasons(registry) == ["bootstrap", "manual", "metric"]
    claim = registry.claim("t", 60.0, rules=rules)
    assert (claim.request.reason, claim.request.actor) == ("metric", "rollback")
    assert claim.request.note.startswith("task 1 in series press: mean score ")
    registry.release(claim, "it was only looked at")
    assert Trainer(asks, registry, owner="trainer").work_once()
    assert registry.last_request(made.stream.id) == claim.id
    assert registry.champion(made.stream.id).number >= bad.number


def test_scores_that_rise_ask_for_nothing_unless_it_is_wanted(settings, registry, log) -> None:
    """on_metric_fall = 0, as it is by default."""
    made, _, _ = promoted_blind(replace(settings, gate=Gate(rollback_after=0)), registry, log)
    follow(made, ROWS)
    assert reasons(registry) == ["bootstrap", "manual"]


def reasons(registry) -> list[str]:
    with registry.engine.connect() as conn:
        return list(conn.execute(select(t.requests.c.reason).order_by(t.requests.c.id)).scalars())


def test_who_is_second_finds_another_champion_and_goes_on(settings, registry, log) -> None:
    """A person was quicker by a poll: refused, logged, and the champion that is there is taken."""
    made, sink, _ = promoted_blind(settings, registry, log)
    follow(made, PROMOTED + 200)
    registry.roll_back(made.stream.id, actor="ada", reason="no")
    made.live._due = np.inf  # it has not heard
    made.poll_once()
    assert made.live.version.number == 1
    assert events(sink) == []


def test_after_a_restart_a_series_has_to_be_served_first(settings, registry, log) -> None:
    """The watch is in no checkpoint: the next owner knows the tasks, and not what was before."""
    made, _, _ = promoted_blind(settings, registry, log)
    follow(made, PROMOTED + 150)
    made.checkpoint()
    again = streamer(settings, registry, log, MemorySink())
    follow(again, ROWS)
    assert registry.champion(again.stream.id).number == 2
    (known,) = registry.newest_named(again.stream.id, 0)
    assert known == ("press", 0, 1)


STATES = ("idle", "busy")
#: Where a classifier's labels are -> its settings, and a reading's part of the message.
LABELS = {
    "in a channel": (1, "", lambda x, n: {"values": [x, n]}),
    "as text in a field": (
        *(-1, "state"),
        lambda x, n: {"values": [x], "state": None if n is None else STATES[n]},
    ),
}


@pytest.mark.parametrize(("target", "label", "said"), LABELS.values(), ids=LABELS)
def test_a_classifier_publishes_the_class_beside_the_score(
    settings, registry, target, label, said
) -> None:
    """Two classes six deviations apart, every other reading labelled: .998 could be right."""
    rng = np.random.default_rng(4)
    truth = rng.integers(0, 2, ROWS)
    readings = [
        said(float(x), None if hidden else int(n))
        for x, n, hidden in zip(rng.normal(6.0 * truth), truth, rng.random(ROWS) < 0.5, strict=True)
    ]
    log = [
        (b"press", json.dumps({"time": 1_767_225_600 + row} | reading).encode())
        for row, reading in enumerate(readings)
    ]
    score = Score(window=8, hidden=16, model="classifier", target=target, classes=STATES)
    settings = replace(
        settings,
        score=score,
        stream=replace(settings.stream, label=label),
        learn=replace(settings.learn, epochs=60),
    )
    sink = MemorySink()
    made = streamer(settings, registry, log, sink)
    follow(made, BOOTSTRAP)
    assert Trainer(settings, registry, owner="trainer").work_once()
    follow(made, ROWS)
    assert made.stream.channels == (("c0",) if label else ("c0", "c1"))
    bodies = [json.loads(value) for topic, _, value, _ in sink.sent if topic == "readings.scores"]
    told = {
        row: (name, p)
        for body in bodies
        for row, name, p in zip(
            body["offsets"], body["classes"], body["probabilities"], strict=True
        )
    }
    assert len(told) > 800
    right = [name == STATES[truth[row]] for row, (name, _) in told.items()]
    assert np.mean(right) > 0.95
    assert all(0.5 <= p <= 1 for _, p in told.values())


def test_a_version_of_another_factory_stops_the_stream_with_one_line(
    settings, registry, log
) -> None:
    """The settings say what is imported, not the database."""
    own = replace(settings, score=replace(settings.score, model="tests.model.modules:persistence"))
    made = streamer(own, registry, log, MemorySink())
    follow(made, BOOTSTRAP)
    assert Trainer(own, registry, owner="trainer").work_once()
    follow(made, BOOTSTRAP + 50)
    assert made.live.version.number == 1
    other = streamer(settings, registry, log, MemorySink())
    with pytest.raises(SettingsError, match="the version is of tests"):
        follow(other, ROWS)
