"""Lines beside the champion: each equal to consolidating by hand."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from pipeline.config import Database, Gate, Learn, Score, Settings
from pipeline.consolidate.consolidation import Inputs, consolidate, evaluate
from pipeline.consolidate.readings import Readings, split
from pipeline.consolidate.reservoir import Reservoir
from pipeline.records import Request
from pipeline.register.migrate import upgrade
from pipeline.register.sql import SqlRegistry
from pipeline.run.backtest_report import Baseline
from pipeline.run.baselines import BASELINES, METHODS, Line, Lines, compare
from pipeline.run.comparison import figure, first_row, summaries, table, verdict
from pipeline.run.trainer import Trainer

STREAM, WINDOW, SHARE = 1, 8, 0.25
#: Level of each segment: the third is the first's regime again.
LEVELS = (0.0, 6.0, 0.0, -6.0)


def segment(level: float, seed: int) -> Readings:
    values = np.random.default_rng(seed).normal(size=(160, 2)) + level
    return Readings(values=values.astype(np.float32), offsets=np.arange(160) + 160 * seed)


SEGMENTS = [segment(level, seed).to_bytes() for seed, level in enumerate(LEVELS)]


def reservoirs() -> list[bytes]:
    """As a partition would have it at each segment: the windows of those that ended."""
    held, found = Reservoir(100, WINDOW, 2), []
    for content in SEGMENTS:
        found.append(held.to_bytes())
        held.offer(split(Readings.from_bytes(content), WINDOW, SHARE)[0])
    return found


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings(
        database=Database(url=f"sqlite:///{tmp_path_factory.mktemp('lines') / 'tidemark.db'}"),
        score=Score(window=WINDOW, hidden=8),
        learn=Learn(epochs=4, lr=0.01, reservoir_capacity=100, held_out=SHARE),
        gate=Gate(min_gain=0.0, max_forgetting=100.0),  # all that is trained goes live
    )


@pytest.fixture(scope="module")
def registry(settings: Settings) -> Iterator[SqlRegistry]:
    """A stream of four segments, each asked for and worked off one second after the other."""
    upgrade(settings.database)
    clock = iter(range(1_000_000, 10**12, 1_000_000)).__next__
    made = SqlRegistry(settings.database, clock=clock)
    made.open_stream("readings", ("a", "b"))
    for number, (content, kept) in enumerate(zip(SEGMENTS, reservoirs(), strict=True)):
        inputs = {"segment": made.put("segment", content), "reservoir": made.put("reservoir", kept)}
        reason = "boundary" if number else "bootstrap"
        made.submit(
            Request(
                stream_id=STREAM, reason=reason, partition=0, series="press", segment=number,
                inputs=inputs,
            )
        )  # fmt: skip
        assert Trainer(settings, made, owner="me").work_once()
    yield made
    made.close()


@pytest.fixture(scope="module")
def lines(settings: Settings, registry: SqlRegistry) -> Lines:
    found = compare(settings, registry, STREAM)
    assert found is not None
    return found


def held_out(tasks: tuple[int, ...]) -> dict[int, tuple[bytes, ...]]:
    """What is held out at the end: of the first task its two segments, the newest first."""
    one, two, three = tasks
    return {one: (SEGMENTS[2], SEGMENTS[0]), two: (SEGMENTS[1],), three: (SEGMENTS[3],)}


def row(weights: bytes, lines: Lines, settings: Settings) -> list[float]:
    found, _ = evaluate(weights, held_out(lines.tasks), settings.learn)
    return [found[task] for task in lines.tasks]


def test_the_regimes_are_three_in_four_segments(lines: Lines) -> None:
    """The second comes up with row 1, the first version's first with row 0, the third with 3."""
    assert lines.learned_at == (0, 1, 3)
    assert list(lines.by_name) == ["champion", *BASELINES]
    assert {line.r.shape for line in lines.by_name.values()} == {(4, 3)}
    assert list(lines.done) == sorted(set(lines.done))


@pytest.mark.parametrize("name", METHODS)
def test_a_line_is_consolidating_by_hand(
    name: str, lines: Lines, registry: SqlRegistry, settings: Settings
) -> None:
    """From the first version on, the segments in turn, by the pure function: the same R."""
    first = registry.first_version(STREAM)
    assert first is not None
    learn = replace(settings.learn, strategy=METHODS[name])
    weights, ewc = registry.get(first.sha256), None
    expected = [row(weights, lines, settings)]
    one, two, three = lines.tasks
    for k, task in ((1, two), (2, one), (3, three)):
        made = consolidate(
            Inputs(
                parent=weights,
                ewc=ewc,
                segments=((task, SEGMENTS[k]),),
                ended=(SEGMENTS[k - 1],),
                reservoirs=(reservoirs()[k],) if name == "replay_only" else (),
                earlier=tuple(SEGMENTS[:k]) if name == "joint" else (),
                held_out={task: (SEGMENTS[k],)},
                seed=k + 1,  # the request's number
            ),
            settings.score,
            learn,
        )
        weights, ewc = made.weights, made.ewc or None
        expected.append(row(weights, lines, settings))
    np.testing.assert_array_equal(lines.by_name[name].r, np.array(expected))


def test_the_champion_s_line_is_what_was_live(
    lines: Lines, registry: SqlRegistry, settings: Settings
) -> None:
    """One row a request: the third was served without training, and leaves the row as it was."""
    r = lines.by_name["champion"].r
    lives = [sha for _, sha in registry.lives(STREAM)]
    assert len(lives) == 3
    expected = [row(registry.get(lives[k]), lines, settings) for k in (0, 1, 1, 2)]
    np.testing.assert_array_equal(r, np.array(expected))
    np.testing.assert_array_equal(lines.by_name["frozen"].r, np.array(expected[:1] * 4))


def test_another_seed_trains_the_baselines_otherwise(
    lines: Lines, registry: SqlRegistry, settings: Settings
) -> None:
    """Or several seeds would say less than they seem to."""
    other = replace(settings, learn=replace(settings.learn, seed=5))
    found = compare(other, registry, STREAM, ("naive",))
    assert found is not None
    naive = found.by_name["naive"].r
    np.testing.assert_array_equal(naive[0], lines.by_name["naive"].r[0])
    assert (naive[1:] != lines.by_name["naive"].r[1:]).any()


def test_what_cannot_be_trained_on_leaves_a_line_as_it_was(
    lines: Lines, registry: SqlRegistry, settings: Settings
) -> None:
    """A rate that makes every loss infinite: rows all as the first, no error."""
    mad = replace(settings, learn=replace(settings.learn, lr=1e30))
    found = compare(mad, registry, STREAM, ("naive",))
    assert found is not None
    np.testing.assert_array_equal(found.by_name["naive"].r, lines.by_name["frozen"].r)


def test_the_work_is_told_line_by_line(registry: SqlRegistry, settings: Settings) -> None:
    """Each step is told before it is made, with the baseline's name and how many there are."""
    told: list[tuple[int, int | None, str | None]] = []

    def show(done: int, total: int | None = None, what: str | None = None) -> None:
        told.append((done, total, what))

    compare(settings, registry, STREAM, ("joint", "naive"), show)
    steps = [(name, k) for name in ("naive", "joint") for k in range(3)]
    assert list(dict.fromkeys(told)) == [(k, 3, f"baseline {name}") for name, k in steps]


def test_a_stream_without_a_version_has_no_lines(tmp_path: Path) -> None:
    """A run that was too short."""
    database = Database(url=f"sqlite:///{tmp_path / 'tidemark.db'}")
    upgrade(database)
    registry = SqlRegistry(database)
    stream = registry.open_stream("readings", ("a",)).id
    assert compare(Settings(database=database), registry, stream) is None
    assert summaries(None, {}, 0.0) == {}
    registry.close()


# What is told of them -------------------------------------------------------------------------


def test_a_line_is_summed_up_by_its_numbers() -> None:
    """Columns by the task's number: ids 7 and 9 are tasks 2 and 1.

    R in that order is (.5 .1) (.7 -) (.4 .8): average .6, forgetting .7 - .4, backward .4 - .5;
    task 2 was learned with row 2, and the row before says nothing; area (.5 + .7 + .6) / 3.
    """
    r = np.array([[0.1, 0.5], [np.nan, 0.7], [0.8, 0.4]])
    lines = Lines(
        tasks=(7, 9),
        learned_at=(2, 0),
        done=(0, 1, 2),
        by_name={"champion": Line(r=r, seconds=0.0), "naive": Line(r=r, seconds=2.0)},
    )
    told = summaries(lines, {7: 2, 9: 1}, 9.0, (500, 900, 1300))
    champion = told["champion"]
    assert champion.tasks == ("task 1", "task 2")
    assert champion.learned_at == (0, 2)
    assert champion.matrix == ((0.5, 0.1), (0.7, None), (0.4, 0.8))
    assert champion.rows == (500, 900, 1300)
    assert champion.skills == {"task 1": 0.4, "task 2": 0.8}
    assert champion.average == pytest.approx(0.6)
    assert champion.forgetting == pytest.approx(0.3)
    assert champion.backward_transfer == pytest.approx(-0.1)
    assert champion.forward_transfer is None
    assert champion.learning_curve_area == pytest.approx(0.6)
    assert (champion.seconds, told["naive"].seconds) == (9.0, 2.0)
    assert first_row(told) == {"task 1": 0.5, "task 2": 0.1}
    assert table(told)[1] == ("naive", "0.600", "0.300", "-0.100", "", "0.600", "2.0")
    assert figure(None) == ""


@pytest.mark.parametrize(
    ("averages", "says"),
    [
        ({"naive": 0.50, "replay_only": 0.52, "champion": 0.90}, "as good as replay_only"),
        ({"naive": 0.54, "replay_only": 0.52}, "as good as replay_only"),
        ({"naive": 0.545, "replay_only": 0.52}, "better than replay_only"),
        ({"naive": 0.50, "champion": 0.51}, "as good as champion"),
        ({"naive": 0.49, "replay_only": 0.52}, None),
        ({"naive": None, "replay_only": 0.52}, None),
        ({"champion": 0.52}, None),
        ({}, None),
    ],
)
def test_where_replay_was_not_needed_it_is_said(averages: dict[str, Any], says: str | None) -> None:
    """Within .02 of each other, or naive above; else nothing is said."""
    none: Any = {"skills": {}, "tasks": (), "learned_at": (), "rows": (), "matrix": ()}
    lines = {
        name: Baseline(average=average, seconds=0.0, **none) for name, average in averages.items()
    }
    sentence = verdict(lines)
    assert (sentence is None) == (says is None)
    if says is not None:
        assert says in str(sentence)
        assert f"{averages['naive']:.3f}" in str(sentence)
