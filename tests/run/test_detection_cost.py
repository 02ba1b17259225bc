"""Segments cut where one is told to: as the stream cuts them, and measured on what nobody saw."""

from __future__ import annotations

import csv
from dataclasses import replace as with_
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from pipeline.config import Learn, Score, Settings, Stream
from pipeline.consolidate.readings import Readings, Windows, split
from pipeline.ingest.recording import Columns, Recording
from pipeline.records import Boundary
from pipeline.run.backtest_report import Baseline, DetectionCost
from pipeline.run.comparison import cost
from pipeline.run.cutting import Cut, Told, _covered, unseen
from pipeline.run.detection_cost import _true, detection_cost
from pipeline.run.partition import Partition
from pipeline.run.truth import Kind, Truth

ROWS, POLL = 3600, 300
#: (first row, regime) of each segment.
REGIMES = ((0, "calm"), (1300, "loud"), (2500, "calm"))
SETTINGS = Settings(
    stream=Stream(topic="t"),
    score=Score(window=8, hidden=8),
    learn=Learn(epochs=2, adapt_after=128, refine_after=512, segment_capacity=600),
)


def labels() -> list[str]:
    return [max((f, name) for f, name in REGIMES if f <= row)[1] for row in range(ROWS)]


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    """Two sensors whose level jumps by 6 sigma, and the regime's name beside them."""
    x = np.random.default_rng(0).normal(size=(ROWS, 2))
    x[1300:2500] += 6.0
    path: Path = tmp_path_factory.mktemp("cost") / "plant.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["a", "b", "truth"])
        writer.writerows([*row, name] for row, name in zip(x.tolist(), labels(), strict=True))
    return Recording(path, Columns(truth="truth"), topic="t")


def truth_of(recording: Recording, kind: Kind = "regimes") -> Truth:
    truth = Truth("truth", kind)
    for chunk in recording.chunks(POLL):
        if kind == "changes":
            rows = chunk.batch.offsets.tolist()
            chunk.truth[:] = ["1" if row in (1300, 2500) else "0" for row in rows]
        truth.add(chunk)
    return truth


@pytest.fixture(scope="module")
def truth(recording: Recording) -> Truth:
    return truth_of(recording)


def test_told_what_was_found_it_asks_for_what_the_stream_asked_for(recording: Recording) -> None:
    """The same segments and reservoirs bit for bit, those with the detector's delay among them."""
    stream = Partition(stream_id=0, topic="t", number=0, channels=2, settings=SETTINGS)
    found: list[Boundary] = []
    asked = []
    for chunk in recording.chunks(POLL):
        step = stream.advance(chunk.batch)
        found += step.boundaries
        asked += [request.inputs for request in step.requests]
    assert len(found) == 2
    assert all(b.detected_row > b.boundary_row for b in found)
    again = Cut(SETTINGS, 2, found)
    told = []
    for chunk in recording.chunks(POLL):
        told += [request.inputs for request in again.advance(chunk.batch).requests]
    assert told == asked
    assert len(told) == 6  # each segment at 128 and at 512 readings


@pytest.mark.parametrize("row", [0, 299, 300, ROWS - 1])
def test_each_boundary_is_marked_once_wherever_polls_end(recording: Recording, row: int) -> None:
    """The first and the last reading of a poll, and of the recording."""
    told = Told(2, SETTINGS.detect, [moved(_true(truth_of(recording))[0], row)])
    polls = [told.update(chunk.batch, np.zeros(1, int)) for chunk in recording.chunks(POLL)]
    assert [len(found) for found in polls] == [int(k == row // POLL) for k in range(len(polls))]


def moved(boundary: Boundary, row: int) -> Boundary:
    return with_(boundary, boundary_row=row, detected_row=row)


def test_with_the_true_boundaries_found_detection_costs_nothing(
    recording: Recording, truth: Truth
) -> None:
    """Both lines are one: the comparison itself costs nothing."""
    told = detection_cost(SETTINGS, recording, truth, _true(truth), POLL)
    assert told is not None
    assert told.found.matrix == told.true.matrix
    assert told.found.tasks == ("calm", "loud")
    assert told.found.learned_at == (0, 2)  # calm at 128 and 512 readings, then loud
    assert told.found.rows == (300, 600, 1500, 2100, 2700, 3300)  # the polls with those rows
    assert cost(told).endswith("Detection costs nothing here.")


def test_a_boundary_that_was_missed_costs_its_regime(recording: Recording, truth: Truth) -> None:
    """Nothing found: `loud` is never learned, and takes its toll on the true regimes."""
    told = detection_cost(SETTINGS, recording, truth, [], POLL)
    assert told is not None
    assert len(told.found.rows) == 2
    assert told.found.skills["loud"] < told.true.skills["loud"]
    assert f"Detection costs {told.true.average - told.found.average:.3f} here" in cost(told)


def test_of_changes_nobody_says_which_regimes_are_the_same(recording: Recording) -> None:
    """Each true segment is a regime of its own."""
    truth = truth_of(recording, "changes")
    told = detection_cost(SETTINGS, recording, truth, _true(truth), POLL)
    assert told is not None
    assert told.true.tasks == tuple(f"plant, segment {k}" for k in range(3))


def test_where_no_regime_lasts_there_is_nothing_to_tell(recording: Recording, truth: Truth) -> None:
    """Segments shorter than `adapt_after` are learned by neither."""
    long = replace(SETTINGS, learn=replace(SETTINGS.learn, adapt_after=ROWS + 1))
    assert detection_cost(long, recording, truth, [], POLL) is None


def test_a_window_with_a_reading_that_was_trained_on_measures_nothing() -> None:
    """Windows of 3 over offsets 10, 12, ... 28; seen: 16. Those of rows 1 to 3 hold it."""
    readings = Readings(values=np.zeros((10, 1), np.float32), offsets=np.arange(10, 30, 2))
    first = np.arange(8)
    windows = Windows(
        values=np.zeros((8, 3, 1), np.float32), offsets=readings.offsets[first[:, None] + [0, 2]]
    )
    kept = unseen(readings, windows, np.array([11, 16]))
    assert kept.offsets[:, 0].tolist() == [10, 18, 20, 22, 24]
    assert len(kept.values) == 5
    some = Windows(values=windows.values[[0, 5]], offsets=windows.offsets[[0, 5]])
    assert _covered(readings, some).tolist() == [0, 1, 2, 5, 6, 7]


def test_what_was_trained_on_is_known_whether_learned_or_only_kept(recording: Recording) -> None:
    """Of 600 staged readings of the first segment 512 were asked for; the rest can be replayed."""
    cut = Cut(SETTINGS, 2, [])
    for chunk in recording.chunks(POLL):
        cut.take(chunk.batch, lambda: None)
    values = np.zeros((512, 2), np.float32)
    train, _ = split(Readings(values=values, offsets=np.arange(512)), 8, SETTINGS.learn.held_out)
    rows = np.unique(np.concatenate([np.arange(a, b + 1) for a, b in train.offsets]))
    assert cut.trained().tolist() == rows.tolist()
    closed = Cut(SETTINGS, 2, _true(truth_of(recording)))
    for chunk in recording.chunks(POLL):
        closed.take(chunk.batch, lambda: None)
    first = closed.trained()[closed.trained() < 1300]
    assert first.max() > 512
    assert first.max() < 600
    assert set(rows.tolist()) <= set(first.tolist())


def test_a_regime_that_was_never_measured_is_told() -> None:
    """No average, no difference."""
    line = Baseline(
        skills={}, tasks=(), learned_at=(), rows=(), matrix=(), seconds=0.0
    )  # fmt: skip
    assert "cannot be told" in cost(DetectionCost(found=line, true=line))
