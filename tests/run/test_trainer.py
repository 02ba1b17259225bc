"""Requests in, versions and decisions out: every way that a claim can end."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace
from sqlalchemy import select

from pipeline.config import Database, Gate, Learn, Retrain, Run, Score, Settings, Stream
from pipeline.consolidate import consolidation
from pipeline.consolidate.consolidation import evaluate
from pipeline.consolidate.readings import Readings, split
from pipeline.consolidate.reservoir import Reservoir
from pipeline.errors import DatabaseAway, PipelineError, VersionConflict
from pipeline.model.weights import Weights
from pipeline.records import Request
from pipeline.register import tables as t
from pipeline.register.envelope import Limits
from pipeline.register.orders import Act, Agree, Pause, Resume
from pipeline.register.requests import LONGEST_S
from pipeline.register.sql import SqlRegistry
from pipeline.run import trainer
from pipeline.run.trainer import Trainer
from pipeline.serve.lineage import Lineage
from tests.full_disk import fill, rows
from tests.register.making import hasty

STREAM = 1


@pytest.fixture
def settings(sqlite_at_head: Database) -> Settings:
    return Settings(
        database=sqlite_at_head,
        score=Score(window=8, hidden=8),
        learn=Learn(epochs=8, lr=0.01, reservoir_capacity=100),
        gate=Gate(min_gain=0.02, max_forgetting=0.5),
        run=Run(lease_s=30.0, max_attempts=2),
    )


@pytest.fixture
def registry(settings: Settings) -> Iterator[SqlRegistry]:
    made = hasty(SqlRegistry(settings.database))
    assert made.open_stream("readings", ("a", "b")).id == STREAM
    yield made
    made.close()


def segment(level: float, seed: int, n: int = 160) -> Readings:
    values = np.random.default_rng(seed).normal(size=(n, 2)) + level
    return Readings(values=values.astype(np.float32), offsets=np.arange(n))


def ask(registry: SqlRegistry, number: int, readings: Readings | None, reason: str = "boundary"):
    """A request as the stream would write it: the segment, and a reservoir of the one before."""
    inputs = {}
    if readings is not None:
        inputs["segment"] = registry.put("segment", readings.to_bytes())
        reservoir = Reservoir(100, 8, 2, seed=(number,))
        reservoir.offer(split(segment(0.0, 0), 8, 0.25)[0])
        inputs["reservoir"] = registry.put("reservoir", reservoir.to_bytes())
    return registry.submit(
        Request(
            stream_id=STREAM,
            reason=reason,
            partition=0 if readings is not None else None,
            series="press",
            segment=number,
            inputs=inputs,
            actor="tester",
        )
    )


def work_later(worker: Trainer) -> bool:
    """Do one request once every pause after a failure is over."""
    now = worker.registry.clock
    worker.registry.clock = lambda: now() + LONGEST_S * 1_000_000
    return worker.work_once()


def damage(registry: SqlRegistry, readings: Readings) -> None:
    """Change the stored bytes of a segment."""
    sha256 = hashlib.sha256(readings.to_bytes()).hexdigest()
    this = t.artifacts.c.sha256 == sha256
    with registry.engine.begin() as conn:
        assert conn.execute(t.artifacts.update().where(this).values(content=b"")).rowcount == 1


def column(registry: SqlRegistry, found) -> list:
    with registry.engine.connect() as conn:
        return list(conn.execute(select(found).order_by(found.table.c.id)).scalars())


def requests(registry: SqlRegistry) -> list[tuple[str, str | None]]:
    with registry.engine.connect() as conn:
        rows = conn.execute(
            select(t.requests.c.status, t.requests.c.outcome).order_by(t.requests.c.id)
        )
        return [tuple(row) for row in rows]


def versions(registry: SqlRegistry) -> list[tuple[int, str]]:
    with registry.engine.connect() as conn:
        rows = conn.execute(
            select(t.versions.c.number, t.versions.c.status).order_by(t.versions.c.number)
        )
        return [tuple(row) for row in rows]


def test_each_version_has_the_figures_of_r_so_far(registry, settings) -> None:
    """From the rows in SQL, by the definitions: task k was learned by version k.

    forward: of task 3 alone, its skill before it was learned, less that of the first version.
    """
    tolerant = replace(settings, gate=Gate(max_forgetting=1000.0))
    worker = Trainer(tolerant, registry, owner="a")
    for number, level in enumerate((0.0, 3.0, 6.0)):
        ask(registry, number, segment(level, number), "bootstrap" if not number else "boundary")
        assert worker.work_once()
    lineage = Lineage(settings.database)
    one, two, three = (row["skills"] for row in lineage.matrix("readings"))
    parents = lineage.matrix("readings")[2]["parent_skills"]
    figures = [row["metrics"] for row in lineage.history("readings")]
    assert [row["fate"] for row in lineage.history("readings")] == [
        "retired",
        "retired",
        "champion",
    ]
    names = ("forgetting", "backward_transfer", "forward_transfer")
    first, second, third = ([f.get(name) for name in names] for f in figures)
    lost = [one["task 1"] - two["task 1"]]
    assert first == [None, None, None]
    assert second == [pytest.approx(lost[0]), pytest.approx(-lost[0]), None]
    best = [max(one["task 1"], two["task 1"]), two["task 2"]]
    forgetting = sum(b - three[t] for b, t in zip(best, ("task 1", "task 2"), strict=True)) / 2
    backward = (three["task 1"] - one["task 1"] + three["task 2"] - two["task 2"]) / 2
    begun = registry.first_version(STREAM)
    held = {0: (segment(6.0, 2).to_bytes(),)}
    frozen = evaluate(registry.get(begun.sha256), held, settings.learn)[0][0]
    forward = parents["task 3"] - frozen
    assert third == [pytest.approx(x) for x in (forgetting, backward, forward)]
    for f in figures:
        assert f["learning_curve_area"] > 0
        assert f["windows_held_out"] == len(split(segment(0.0, 0), 8, 0.25)[1]) * f["tasks"]
    lineage.close()


def test_nothing_to_do_is_told(registry, settings) -> None:
    """An empty list of requests: no work, no version."""
    assert not Trainer(settings, registry, owner="a").work_once()
    assert versions(registry) == []


def test_a_paused_stream_is_left_alone_and_told_once(registry, settings, capsys) -> None:
    """Its request waits, however often the trainer looks; then it is trained."""
    ask(registry, 0, segment(0.0, 0), "bootstrap")
    worker = Trainer(settings, registry, owner="a")
    registry.act(STREAM, Pause(), Act(actor="ada", reason="stocktaking"))
    for _ in range(3):
        assert not worker.work_once()
        worker._tell_pauses()
    registry.act(STREAM, Resume(), Act(actor="ada", reason="done"))
    worker._tell_pauses()
    told = capsys.readouterr().out
    assert (told.count("stream_paused"), told.count("stream_resumed")) == (1, 1)
    assert "stocktaking" in told
    assert worker.work_once()
    assert versions(registry) == [(1, "champion")]


def test_a_version_outside_of_the_envelope_waits_and_the_champion_goes_on(
    registry, settings
) -> None:
    """How far the weights moved is among the figures of a real training, and judged by; the first
    has no parent to have moved from."""
    worker = Trainer(settings, registry, owner="a")
    limits = Limits(max_weight_change=0.0)
    registry.act(STREAM, Agree(limits=limits), Act(actor="ada", reason="plan 12"))
    for number, level in enumerate((0.0, 9.0)):
        ask(registry, number, segment(level, number), "boundary" if number else "bootstrap")
        assert worker.work_once()
    assert versions(registry) == [(1, "champion"), (2, "waiting")]
    before, after = (
        Weights.from_bytes(registry.get(sha)).model.state_dict()
        for sha in column(registry, t.versions.c.sha256)
    )
    flat = [np.concatenate([w.numpy().ravel() for w in made.values()]) for made in (before, after)]
    change = np.linalg.norm(flat[1] - flat[0]) / np.linalg.norm(flat[0])
    ((_, held),) = registry.waiting(STREAM)
    assert [each.said for each in held.outside] == [
        f"its weights moved by {change:.4g}, more than 0"
    ]


def test_a_new_regime_becomes_a_version_and_its_return_needs_none(registry, settings) -> None:
    """Level 0, level 9, level 0 again: two versions, and the third is served by the second."""
    worker = Trainer(settings, registry, owner="a")
    for number, level in enumerate((0.0, 9.0, 0.0)):
        ask(registry, number, segment(level, number), "bootstrap" if not number else "boundary")
        assert worker.work_once()
    assert versions(registry) == [(1, "retired"), (2, "champion")]
    last = requests(registry)[-1]
    assert last[0] == "done"
    assert last[1].startswith("no training needed: version 2 serves it")


def test_a_champion_is_measured_again_on_what_is_held_out_by_now(registry, settings) -> None:
    """Trained on level 0, measured when level 9 has been seen: one figure a task, no version.

    The gate saw the same of task 1; of task 2 it is what `evaluate` says of its held-out readings.
    """
    worker = Trainer(settings, registry, owner="a")
    ask(registry, 0, segment(0.0, 0), "bootstrap")
    assert worker.work_once()
    strict = Trainer(replace(settings, gate=Gate(min_gain=1000.0)), registry, owner="a")
    ask(registry, 1, segment(9.0, 1))
    assert strict.work_once()
    number = registry.submit(Request(stream_id=STREAM, reason="evaluate", actor="scheduler", due=1))
    assert worker.work_once()
    assert versions(registry) == [(1, "champion"), (2, "rejected")]
    assert requests(registry)[-1] == ("done", "version 1 measured")
    champion = registry.champion(STREAM)
    held = {1: (segment(9.0, 1).to_bytes(),)}
    new, sizes = evaluate(registry.get(champion.sha256), held, settings.learn)
    with registry.engine.connect() as conn:
        rows = conn.execute(select(t.measurements).order_by(t.measurements.c.task_id)).all()
    assert [(row.request_id, row.version_id, row.task_id) for row in rows] == [
        (number, champion.id, 1),
        (number, champion.id, 2),
    ]
    assert rows[0].skill == pytest.approx(registry.skills(champion.id)[1])
    assert (rows[1].skill, rows[1].windows) == (pytest.approx(new[1]), sizes[1])


def test_there_may_be_no_champion_to_measure(registry, settings) -> None:
    """The request is done and says so."""
    registry.submit(Request(stream_id=STREAM, reason="evaluate", actor="scheduler", due=1))
    assert Trainer(settings, registry, owner="a").work_once()
    assert requests(registry) == [("done", "no champion yet")]


def test_a_training_waits_for_the_rules_of_the_settings(registry, settings) -> None:
    """The second version of the day is one too many; the request says why it waits."""
    worker = Trainer(replace(settings, retrain=Retrain(budget_per_day=1)), registry, owner="a")
    ask(registry, 0, segment(0.0, 0), "bootstrap")
    assert worker.work_once()
    number = ask(registry, 1, segment(9.0, 1))
    assert not worker.work_once()
    ((held, reason, why),) = registry.held(STREAM)
    assert (held, reason) == (number, "boundary")
    assert why.startswith("the 1 a day are used up on ")


def test_requests_that_piled_up_become_one_version(registry, settings) -> None:
    """Two series of two regimes at once: one consolidation learns both, and both are done."""
    ask(registry, 0, segment(0.0, 0), "bootstrap")
    ask(registry, 1, segment(9.0, 1))
    worker = Trainer(settings, registry, owner="a")
    assert worker.work_once()
    assert not worker.work_once()
    assert versions(registry) == [(1, "champion")]
    assert [status for status, _ in requests(registry)] == ["done", "done"]


def test_a_segment_too_short_to_learn_fails_for_good_with_its_reason(registry, settings) -> None:
    """Trying again would not help: it is not tried again, and the next request is."""
    ask(registry, 0, segment(0.0, 0, n=12), "bootstrap")
    worker = Trainer(settings, registry, owner="a")
    assert worker.work_once()
    assert requests(registry) == [
        ("failed", "the new segment is too short to train and to measure on")
    ]
    ask(registry, 1, segment(0.0, 1), "bootstrap")
    assert worker.work_once()
    assert versions(registry) == [(1, "champion")]


def test_a_poisonous_request_is_given_up(registry, settings, monkeypatch) -> None:
    """After max_attempts the reason of the last attempt is kept, and nobody takes it again."""

    def broken(*_, **__):
        raise RuntimeError("out of luck")

    monkeypatch.setattr(trainer, "consolidate", broken)
    ask(registry, 0, segment(0.0, 0), "bootstrap")
    worker = Trainer(settings, registry, owner="a")
    assert [work_later(worker) for _ in range(3)] == [True, True, False]
    ((status, outcome),) = requests(registry)
    assert status == "failed"
    assert "given up after 2 attempts: RuntimeError: out of luck" in outcome


def test_a_result_that_comes_after_the_lease_is_thrown_away(
    registry, settings, monkeypatch
) -> None:
    """Another trainer took the request meanwhile: one version, the other one's."""
    ask(registry, 0, segment(0.0, 0), "bootstrap")
    slow, quick = (Trainer(settings, registry, owner=name) for name in ("slow", "quick"))
    real, now = trainer.consolidate, registry.clock

    def overtaken(*args, **kwargs):
        candidate = real(*args, **kwargs)
        monkeypatch.setattr(trainer, "consolidate", real)
        registry.clock = lambda: now() + 60_000_000  # the lease of 30 s is over
        assert quick.work_once()
        return candidate

    monkeypatch.setattr(trainer, "consolidate", overtaken)
    assert slow.work_once()
    assert versions(registry) == [(1, "champion")]
    with registry.engine.connect() as conn:
        assert conn.execute(select(t.requests.c.owner)).scalar() == "quick"


def test_told_to_stop_it_gives_the_request_back(registry, settings) -> None:
    """SIGTERM in mid-training: no version, and the request is there for the next process."""
    ask(registry, 0, segment(0.0, 0), "bootstrap")
    stop = threading.Event()
    stop.set()
    worker = Trainer(settings, registry, owner="a")
    for _ in range(settings.run.max_attempts + 1):
        assert worker.work_once(stop)
        assert requests(registry) == [("pending", "interrupted")]
    assert versions(registry) == []
    assert worker.work_once()
    assert versions(registry) == [(1, "champion")]


def test_after_each_task_it_measures_it_looks_whether_to_stop(
    registry, settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There may be many tasks, and a model that is slow: a watchdog has to hear of each.

    Of all that is measured: candidate, parent, first version, what returned, the champion again.
    """
    seen: list[str] = []

    class Looks(threading.Event):
        def is_set(self) -> bool:
            seen.append("look")
            return super().is_set()

    prepared = consolidation._held_out

    def measure(*args: Any) -> Any:
        seen.append("task")
        return prepared(*args)

    monkeypatch.setattr(consolidation, "_held_out", measure)
    worker = Trainer(settings, registry, owner="a")
    for number, level in enumerate((0.0, 9.0, 18.0, 0.0)):
        ask(registry, number, segment(level, number), "boundary" if number else "bootstrap")
        assert worker.work_once(Looks())
    for asked in ("evaluate", "manual"):
        ask(registry, 4, None, asked)
        assert worker.work_once(Looks())
    assert {status for status, _ in requests(registry)} == {"done"}
    assert seen.count("task") > 10
    assert ("task", "task") not in set(itertools.pairwise(seen))


def test_told_to_stop_it_does_not_measure_to_the_end(registry, settings) -> None:
    """The request to measure is there for the next process, as any other."""
    worker = Trainer(settings, registry, owner="a")
    ask(registry, 0, segment(0.0, 0), "bootstrap")
    assert worker.work_once()
    ask(registry, 1, None, "evaluate")
    stop = threading.Event()
    stop.set()
    assert worker.work_once(stop)
    assert requests(registry)[-1] == ("pending", "interrupted")
    assert worker.work_once()
    assert requests(registry)[-1] == ("done", "version 1 measured")


def test_a_manual_request_goes_over_every_known_task(registry, settings) -> None:
    """It names no segment: the newest of each task is learned again, and the gate decides."""
    worker = Trainer(settings, registry, owner="a")
    ask(registry, 0, segment(0.0, 0), "bootstrap")
    worker.work_once()
    ask(registry, 1, None, "manual")
    assert worker.work_once()
    assert len(versions(registry)) == 2
    with registry.engine.connect() as conn:
        assert conn.execute(select(t.requests.c.status)).scalars().all() == ["done", "done"]


def test_a_manual_request_before_any_reading_fails_with_a_reason(registry, settings) -> None:
    """There is nothing to learn from."""
    ask(registry, 0, None, "manual")
    assert Trainer(settings, registry, owner="a").work_once()
    assert requests(registry) == [("failed", "there is no reading to begin with")]


def test_a_due_time_before_any_reading_is_no_failure(registry, settings) -> None:
    """The clock cannot know; a person who asks beside it is told."""
    worker = Trainer(settings, registry, owner="a")
    ask(registry, 0, None, "schedule")
    assert worker.work_once()
    early = "nothing to learn yet: no segment is long enough"
    assert requests(registry) == [("done", early)]
    ask(registry, 1, None, "schedule")
    ask(registry, 2, None, "manual")
    assert worker.work_once()
    assert worker.work_once()
    failed = ("failed", "there is no reading to begin with")
    assert sorted(requests(registry)[1:]) == sorted([failed, failed])
    assert versions(registry) == []


def test_a_champion_that_changed_meanwhile_costs_no_attempt(
    registry, settings, monkeypatch
) -> None:
    """The candidate was measured against another one: again, at once and as often as need be."""
    real, rounds = registry.register, settings.run.max_attempts + 1

    def overtaken(*args, **kwargs):
        raise VersionConflict("the stream has another champion by now")

    monkeypatch.setattr(registry, "register", overtaken)
    ask(registry, 0, segment(0.0, 0), "bootstrap")
    worker = Trainer(settings, registry, owner="a")
    assert [worker.work_once() for _ in range(rounds)] == [True] * rounds
    monkeypatch.setattr(registry, "register", real)
    assert worker.work_once()
    assert versions(registry) == [(1, "champion")]


def test_a_training_out_of_time_fails_for_good_and_names_the_key(registry, settings) -> None:
    """What is too slow for the limit is too slow the next time: a person has to decide."""
    ask(registry, 0, segment(0.0, 0), "bootstrap")
    hurried = replace(settings, learn=replace(settings.learn, max_seconds=1e-9))
    assert Trainer(hurried, registry, owner="a").work_once()
    assert requests(registry) == [("failed", "not done within learn.max_seconds = 1e-09")]


def test_one_damaged_request_does_not_take_the_good_ones_down(registry, settings) -> None:
    """Its readings are lost: it is given up, and what came before and after it is learned."""
    bad = segment(5.0, 5)
    for number, readings in enumerate((segment(0.0, 0), bad, segment(0.0, 2))):
        ask(registry, number, readings)
    damage(registry, bad)
    worker = Trainer(settings, registry, owner="a")
    while work_later(worker):
        continue
    assert [status for status, _ in requests(registry)] == ["done", "failed", "done"]
    assert versions(registry) == [(1, "champion")]


def test_damaged_readings_of_an_old_segment_are_left_out_of_measuring(
    registry, settings, capsys
) -> None:
    """They cannot be brought back; the task has others, and the stream must go on learning."""
    old = segment(0.0, 0)
    worker = Trainer(settings, registry, owner="a")
    ask(registry, 0, old, "bootstrap")
    assert worker.work_once()
    damage(registry, old)
    ask(registry, 1, segment(9.0, 1))
    assert worker.work_once()
    assert versions(registry) == [(1, "retired"), (2, "champion")]
    told = json.loads(column(registry, t.versions.c.inputs)[1])
    assert [len(shas) for shas in told["held_out"].values()] == [1]
    assert "readings_skipped" in capsys.readouterr().out


def test_a_segment_asked_for_twice_is_learned_once(registry, settings) -> None:
    """Its first readings are the beginning of its later ones: only those are trained on."""
    worker = Trainer(settings, registry, owner="a")
    ask(registry, 0, segment(0.0, 0, n=400), "bootstrap")
    first, longer = segment(9.0, 1, n=400), segment(9.0, 1, n=400)
    ask(registry, 1, Readings(values=first.values[:160], offsets=first.offsets[:160]))
    refined = ask(registry, 1, longer, "refine")
    while worker.work_once():
        continue
    told = json.loads(column(registry, t.versions.c.inputs)[0])
    shas = [hashlib.sha256(s.to_bytes()).hexdigest() for s in (segment(0.0, 0, n=400), longer)]
    assert [sha for _, sha in told["segments"]] == shas
    assert sorted(sha for held in told["held_out"].values() for sha in held) == sorted(shas)
    assert column(registry, t.requests.c.task_id)[1:] == [registry.task_of(refined)] * 2


def test_sentences_name_tasks_by_their_number_in_the_stream(registry, settings) -> None:
    """Ids are the database's: in this one another stream has taken the first."""
    for n in range(3):
        number = registry.submit(
            Request(
                stream_id=registry.open_stream(f"other-{n}", ()).id,
                reason="bootstrap",
                partition=0,
                series="press",
                segment=0,
            )
        )
        claim = registry.claim("a", 60.0)
        registry.assign(claim, number, np.zeros((2, 2)))
        registry.finish(claim, "done")
    worker = Trainer(settings, registry, owner="a")
    for number, level in enumerate((0.0, 9.0, 0.0)):
        ask(registry, number, segment(level, number), "bootstrap" if not number else "boundary")
        assert worker.work_once()
    last = requests(registry)[-1][1]
    assert "(task 1: " in last
    strict = replace(
        settings,
        gate=Gate(min_gain=0.0, max_forgetting=0.0),
        learn=replace(settings.learn, strategy="fine_tune"),  # it forgets
    )
    ask(registry, 3, segment(4.0, 3))
    assert Trainer(strict, registry, owner="a").work_once()
    decision = column(registry, t.versions.c.decision)[-1]
    assert re.search(r"^task [12] got worse by", decision)


def test_a_corrupt_input_is_not_used(registry, settings) -> None:
    """Bytes that do not match their hash stop the consolidation, not the trainer."""
    ask(registry, 0, segment(0.0, 0), "bootstrap")
    with registry.engine.begin() as conn:
        conn.execute(t.artifacts.update().values(content=b"other bytes"))
    worker = Trainer(settings, registry, owner="a")
    while work_later(worker):
        continue
    ((status, outcome),) = requests(registry)
    assert status == "failed"
    assert "does not match its hash" in outcome


def test_the_same_inputs_make_the_same_version_again(
    settings, sqlite_template: Path, tmp_path: Path
) -> None:
    """Another database, the same requests: the weights' hashes are equal."""
    hashes = []
    for name in ("one", "two"):
        file = shutil.copy(sqlite_template, tmp_path / f"{name}.db")
        other = hasty(SqlRegistry(Database(url=f"sqlite:///{file}")))
        other.open_stream("readings", ("a", "b"))
        for number, level in enumerate((0.0, 9.0)):
            ask(other, number, segment(level, number), "bootstrap" if not number else "boundary")
            Trainer(settings, other, owner=name).work_once()
        with other.engine.connect() as conn:
            hashes.append(conn.execute(select(t.versions.c.sha256, t.versions.c.ewc_sha256)).all())
        other.close()
    assert hashes[0] == hashes[1]
    assert len(hashes[0]) == 2


def test_an_error_of_the_pipeline_is_tried_again(registry, settings, monkeypatch) -> None:
    """A database that was away for a moment costs an attempt, not the request."""
    real = trainer.consolidate

    def once(*args, **kwargs):
        monkeypatch.setattr(trainer, "consolidate", real)
        raise PipelineError("the database was away")

    monkeypatch.setattr(trainer, "consolidate", once)
    ask(registry, 0, segment(0.0, 0), "bootstrap")
    worker = Trainer(settings, registry, owner="a")
    assert worker.work_once()
    assert not worker.work_once()  # at once, the database would be away still
    assert work_later(worker)
    assert versions(registry) == [(1, "champion")]


# Labels ---------------------------------------------------------------------------------------


def with_labels(readings: Readings) -> Readings:
    """Every other reading has one."""
    rows = np.arange(len(readings.offsets))
    said = np.where(rows % 2 == 0, readings.values[:, 0] > 0, np.nan).astype(np.float32)
    return Readings(values=np.column_stack([readings.values, said]), offsets=readings.offsets)


def labelled(settings: Settings) -> Settings:
    score = replace(settings.score, model="classifier", classes=("low", "high"))
    return replace(settings, score=score, stream=Stream(label="state"))


def test_a_task_is_named_by_its_sensors_and_not_by_its_labels(registry, settings) -> None:
    """The same readings, with labels and without, have the same fingerprint."""
    ask(registry, 0, segment(0.0, 1))
    assert Trainer(settings, registry, owner="t").work_once()
    other = registry.open_stream("labelled", ("a", "b"))
    content = with_labels(segment(0.0, 1)).to_bytes()
    inputs = {"segment": registry.put("segment", content)}
    request = Request(
        stream_id=other.id, reason="bootstrap", partition=0, series="s", segment=0, inputs=inputs
    )
    registry.submit(request)
    assert Trainer(labelled(settings), registry, owner="t").work_once()
    plain, same = column(registry, t.tasks.c.fingerprint)
    assert plain == same
    assert [status for _, status in versions(registry)] == ["champion", "champion"]


@pytest.mark.parametrize("kept", ["with labels", "without labels"])
def test_readings_that_were_kept_otherwise_are_not_learned_from(registry, settings, kept) -> None:
    """Else a sensor would be taken for labels, or labels for a sensor."""
    has = kept == "with labels"
    readings = segment(0.0, 1)
    ask(registry, 0, with_labels(readings) if has else readings)
    assert Trainer(settings if has else labelled(settings), registry, owner="t").work_once()
    ((status, outcome),) = requests(registry)
    assert status == "failed"
    assert f"the readings were kept {kept}: set stream.label as the stream has it" in outcome
    assert versions(registry) == []


# A full disk ----------------------------------------------------------------------------------


class Patience:
    """Looks at the database whenever a process pauses, and does something at the third time."""

    def __init__(self, registry: SqlRegistry, then: Callable[[], None]) -> None:
        self.registry, self.then = registry, then
        self.seen: list[dict[str, list[Any]]] = []
        registry.outage.limit_s, registry.outage.pause = 300.0, self.look

    def look(self, _: float) -> None:
        self.seen.append(rows(self.registry))
        if len(self.seen) == 3:
            self.then()


@pytest.fixture
def either(at_head: Database) -> Iterator[SqlRegistry]:
    """A stream with one version, on a database of each kind."""
    made = SqlRegistry(at_head)
    assert made.open_stream("readings", ("a", "b")).id == STREAM
    yield made
    made.close()


def test_a_version_that_finds_no_room_waits_for_it(either, settings, capsys, monkeypatch) -> None:
    """Nothing of it is kept meanwhile: not a row, and the champion stays. Then it is registered as
    if nothing had been, on its first attempt, and one line has said what to do."""
    worker = Trainer(settings, either, owner="a")
    ask(either, 0, segment(0.0, 0), "bootstrap")
    worker.work_once()
    ask(either, 1, segment(9.0, 1))
    capsys.readouterr()
    real, more = trainer.consolidate, []

    def and_then_it_is_full(*args: Any, **kwargs: Any) -> Any:
        """The claim has found room, which its entry needs too."""
        made = real(*args, **kwargs)
        more.append(fill(either, "promotions"))
        return made

    monkeypatch.setattr(trainer, "consolidate", and_then_it_is_full)
    patience = Patience(either, lambda: more.pop()())
    assert worker.work_once()

    first, second, third, *_ = patience.seen
    assert first == second == third
    assert [row.status for row in first["versions"]] == ["champion"]
    (_, waiting) = first["requests"]
    assert (waiting.status, waiting.attempts) == ("claimed", 1)
    told = capsys.readouterr().out
    assert told.count("database_away") == 1
    assert "free space" in told
    assert versions(either) == [(1, "retired"), (2, "champion")]
    assert column(either, t.requests.c.attempts) == [1, 1]


def test_told_to_stop_it_waits_no_longer_for_room(either, settings) -> None:
    """The process ends with the failure, and no version is half there."""
    ask(either, 0, segment(0.0, 0), "bootstrap")
    large = replace(settings, score=Score(window=8, hidden=64))  # more than a page has left
    worker = Trainer(large, either, owner="a")
    patience = Patience(either, either.outage.stop.set)
    fill(either, "promotions")
    with pytest.raises(DatabaseAway, match="free space on its disk"):
        worker.work_once()
    assert len(patience.seen) >= 3
    found = rows(either)
    assert not found["versions"]
    assert not found["promotions"]
    assert {row.kind for row in found["artifacts"]} <= {"segment", "reservoir"}


# Bad input ------------------------------------------------------------------------------------


def with_cells(change: Callable[[np.ndarray], None]) -> Readings:
    """A segment of another level, some of its cells changed."""
    made = segment(9.0, 1)
    change(made.values)
    return made


def constant(values: np.ndarray) -> None:
    values[:, 0] = 9.0


def hole_in_every_window(values: np.ndarray) -> None:
    values[::4] = np.nan


def silent(values: np.ndarray) -> None:
    values[:] = np.nan


def exploding(values: np.ndarray) -> None:
    values[80:] *= np.float32(1e37)


@pytest.mark.parametrize(
    ("readings", "status", "outcome"),
    [
        (segment(9.0, 1, n=20), "failed", "the new segment is too short"),
        (with_cells(constant), "done", "version 2 "),
        (with_cells(hole_in_every_window), "done", "version 2 "),
        (with_cells(silent), "failed", "the new segment has no observed cell"),
        (with_cells(exploding), "done", "version 2 "),
    ],
    ids=["20 readings", "constant", "holes", "silent", "exploding"],
)
def test_a_bad_segment_has_a_defined_answer(
    registry, settings, readings: Readings, status: str, outcome: str
) -> None:
    """A sentence beside the request; a version whose figures are numbers, or none; one champion."""
    worker = Trainer(settings, registry, owner="a")
    ask(registry, 0, segment(0.0, 0), "bootstrap")
    worker.work_once()
    ask(registry, 1, readings)
    assert worker.work_once()
    found = requests(registry)[1]
    assert found[0] == status
    assert found[1].startswith(outcome)
    assert "\n" not in found[1]
    assert len(versions(registry)) == (2 if status == "done" else 1)
    assert [status for _, status in versions(registry)].count("champion") == 1
    found_ = rows(registry)
    assert all(np.isfinite(row.skill) for row in found_["evaluations"])
    assert len([a for a in found_["artifacts"] if a.kind == "weights"]) == len(versions(registry))


def test_a_loss_that_is_no_number_makes_no_version(registry, settings) -> None:
    """The request fails with the reason, for good; the champion is what it was."""
    ask(registry, 0, segment(0.0, 0), "bootstrap")
    Trainer(settings, registry, owner="a").work_once()
    ask(registry, 1, segment(9.0, 1))
    wild = replace(settings, learn=replace(settings.learn, lr=1e20))
    assert Trainer(wild, registry, owner="a").work_once()
    status, outcome = requests(registry)[1]
    assert status == "failed"
    assert re.fullmatch(r"the loss is (nan|inf) after epoch \d+", outcome)
    assert versions(registry) == [(1, "champion")]


def test_an_empty_reservoir_is_learned_without_replay(registry, settings) -> None:
    """Nothing is kept yet: the segment is learned all the same."""
    worker = Trainer(settings, registry, owner="a")
    ask(registry, 0, segment(0.0, 0), "bootstrap")
    worker.work_once()
    inputs = {
        "segment": registry.put("segment", segment(9.0, 1).to_bytes()),
        "reservoir": registry.put("reservoir", Reservoir(100, 8, 2, seed=(1,)).to_bytes()),
    }
    registry.submit(
        Request(
            stream_id=STREAM,
            reason="boundary",
            partition=0,
            series="press",
            segment=1,
            inputs=inputs,
            actor="tester",
        )
    )
    assert worker.work_once()
    assert requests(registry)[1][0] == "done"
    replayed = [row.value for row in rows(registry)["metrics"] if row.name == "windows_replayed"]
    assert replayed == [0.0, 0.0]
    assert versions(registry) == [(1, "retired"), (2, "champion")]


def test_weights_that_do_not_match_their_hash_are_not_built_upon(registry, settings) -> None:
    """The champion's bytes are damaged: no version is made of them, and the request says why."""
    worker = Trainer(settings, registry, owner="a")
    ask(registry, 0, segment(0.0, 0), "bootstrap")
    worker.work_once()
    with registry.engine.begin() as conn:
        damaged = t.artifacts.c.kind == "weights"
        conn.execute(t.artifacts.update().where(damaged).values(content=b"other bytes"))
    ask(registry, 1, segment(9.0, 1))
    while work_later(worker):
        continue
    status, outcome = requests(registry)[1]
    assert status == "failed"
    assert "does not match its hash" in outcome
    assert versions(registry) == [(1, "champion")]


def test_a_factory_that_raises_makes_no_version(registry, settings) -> None:
    """In the trainer too, should it raise later than at the start: one line, and no version."""
    broken = replace(settings, score=Score(model="tests.model.modules:raising", window=8))
    worker = Trainer(broken, registry, owner="a")
    ask(registry, 0, segment(0.0, 0), "bootstrap")
    while work_later(worker):
        continue
    ((status, outcome),) = requests(registry)
    assert status == "failed"
    assert "raising" in outcome
    assert "\n" not in outcome
    assert versions(registry) == []
