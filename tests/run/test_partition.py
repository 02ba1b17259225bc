"""A partition that is stopped and goes on with other settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
from msgspec.structs import replace

from pipeline.config import Database, Detect, Learn, Score, Settings, Stream
from pipeline.errors import RegistryError
from pipeline.records import Batch, Extent
from pipeline.register.checkpoints import paged
from pipeline.register.sql import SqlRegistry
from pipeline.run.partition import Partition, Step
from tests.run.restoring import restore

CHANNELS = 2


@pytest.fixture
def settings(sqlite_at_head: Database) -> Settings:
    return Settings(
        database=sqlite_at_head, score=Score(window=8), learn=Learn(adapt_after=256, refine_after=0)
    )


@pytest.fixture
def registry(settings: Settings) -> Iterator[SqlRegistry]:
    made = SqlRegistry(settings.database)
    yield made
    made.close()


def partition(settings: Settings, stream_id: int = 1) -> Partition:
    return Partition(
        stream_id=stream_id, topic="readings", number=0, channels=CHANNELS, settings=settings
    )


def readings(first: int, end: int) -> Batch:
    """Rows first ... end of one series of noise: the same row has the same values every time."""
    rows = np.arange(first, end)
    noise = np.random.default_rng(1).normal(size=(1000, CHANNELS)).astype(np.float32)
    return Batch(
        topic="readings",
        partition=0,
        series=("pump",),
        starts=np.array([0, len(rows)]),
        offsets=rows,
        order=np.arange(len(rows)),
        times=rows * 1_000_000,
        values=noise[rows],
        next_offset=end,
    )


def keep(registry: SqlRegistry, made: Partition, epoch: int, step: Step, end: int) -> None:
    registry.save(
        made.stream_id,
        0,
        epoch,
        next_offset=end,
        state=made.state(),
        boundaries=step.boundaries,
        requests=step.requests,
        artifacts=step.artifacts,
    )
    made.written()


def go_on(after: Partition, before: Partition) -> None:
    """From what a new partition's first checkpoint is."""
    state = before.state()
    restore(after, state.head, state.pieces)


def test_a_segment_that_is_due_again_after_a_restart_is_asked_for_once(
    registry: SqlRegistry, settings: Settings
) -> None:
    """Due at 256 readings, then at 400: the stream goes on, with the request that is there."""
    stream = registry.open_stream("readings", ("a", "b"))
    before = partition(settings, stream.id)
    epoch = registry.acquire(stream.id, 0, "before").epoch
    step = before.advance(readings(0, 300))
    assert [request.reason for request in step.requests] == ["bootstrap"]
    keep(registry, before, epoch, step, 300)

    learn = replace(settings.learn, adapt_after=400)
    after = partition(replace(settings, learn=learn), stream.id)
    checkpoint = registry.acquire(stream.id, 0, "after")
    pieces = partial(registry.pieces, stream.id, 0, checkpoint.epoch)
    after.restore(checkpoint, paged(pieces))
    step = after.advance(readings(300, 450))
    assert [request.reason for request in step.requests] == ["bootstrap"]
    keep(registry, after, checkpoint.epoch, step, 450)
    assert registry.progress() == (450, 1)


@pytest.mark.parametrize("cuts", [(0, 300), (0, 100, 256, 300), (0, 255, 257, 300)])
def test_a_request_says_where_its_readings_lie(settings: Settings, cuts: tuple[int, ...]) -> None:
    """The first 256, enough at row 255 and its time, however the log was cut into polls."""
    made = partition(settings)
    steps = [made.advance(readings(first, end)) for first, end in pairwise(cuts)]
    (request,) = (request for step in steps for request in step.requests)
    assert request.extent == Extent(
        readings=256, first_offset=0, last_offset=255, until=255 * 1_000_000
    )


def test_the_share_held_out_of_a_segment_stays_while_its_state_is_kept(settings: Settings) -> None:
    """With another share, windows that were trained on would measure the next version."""
    made = partition(settings)
    made.advance(readings(0, 50))
    learn = replace(settings.learn, held_out=0.5)
    with pytest.raises(RegistryError, match=r"learn\.held_out was 0\.25, is 0\.5"):
        go_on(partition(replace(settings, learn=learn)), made)


# Labels ---------------------------------------------------------------------------------------

CLASSIFIER = Score(window=8, model="classifier", classes=("idle", "busy"))
#: Readings at which the level moves by 8 deviations, and of all of them.
SHIFT, ROWS = 400, 900


def with_labels(settings: Settings, **score: object) -> Settings:
    return replace(settings, stream=Stream(label="state"), score=replace(CLASSIFIER, **score))


def labelled(first: int, end: int) -> Batch:
    """Readings of one series that change at SHIFT, every third with a label."""
    batch = readings(first, end)
    rows = np.arange(first, end)
    values = batch.values + np.where(rows >= SHIFT, 8, 0)[:, None].astype(np.float32)
    labels = np.where(rows % 3 == 0, rows % 2, np.nan).astype(np.float32)
    return dataclasses.replace(batch, values=values, labels=labels)


def parts(made: Partition) -> dict[str, np.ndarray]:
    """Everything that is kept of its one series."""
    only, head = np.array([0]), made.staging.logs["head"]
    rows = np.arange(head.spans(only)[2][0])
    staged = head.read(np.zeros_like(rows), rows)
    return {
        **{f"history.{name}": array for name, array in made.history.state(only).items()},
        **{f"detector.{name}": array for name, array in made.detector.state(only).items()},
        **{f"reservoir.{name}": array for name, array in made.reservoir.state().items()},
        "river": np.frombuffer(made.detector.watch.state(only)[0], dtype=np.uint8),
        "staging.values": staged["values"],
        "staging.offsets": staged["offset"],
    }


def test_detection_is_the_same_bit_for_bit_with_labels_and_without(settings: Settings) -> None:
    """State, boundaries, prints and events; what the model learns from has one column more."""
    early = replace(
        settings,
        detect=Detect(warm_up=60, fit_after=100, settle_after=60),
        learn=Learn(adapt_after=64, refine_after=0, reservoir_capacity=50),
    )
    told, untold = partition(with_labels(early)), partition(early)
    boundaries, prints = [], []
    for first in range(0, ROWS, 90):
        batch = labelled(first, first + 90)
        one, other = told.advance(batch), untold.advance(dataclasses.replace(batch, labels=None))
        assert one.boundaries == other.boundaries
        assert (one.events, one.settled) == (other.events, other.settled)
        assert [r.reason for r in one.requests] == [r.reason for r in other.requests]
        np.testing.assert_equal(*([dataclasses.asdict(p) for p in s.prints] for s in (one, other)))
        boundaries += one.boundaries
        prints += one.prints
    assert abs(boundaries[0].boundary_row - SHIFT) <= 20
    assert prints
    ours, theirs = parts(told), parts(untold)
    assert ours.keys() == theirs.keys()
    wider = {name for name in ours if ours[name].shape != theirs[name].shape}
    assert wider == {"history.last", "staging.values", "reservoir.values"}
    for name in ours:
        sensors = ours[name][..., :-1] if name in wider else ours[name]
        assert sensors.tobytes() == theirs[name].tobytes(), name
    offsets = ours["staging.offsets"]
    expected = np.where(offsets % 3 == 0, offsets % 2, np.nan)
    np.testing.assert_equal(ours["staging.values"][:, -1], expected)


def same(one: Partition, other: Partition) -> bool:
    ours, theirs = parts(one), parts(other)
    return {n: a.tobytes() for n, a in ours.items()} == {n: a.tobytes() for n, a in theirs.items()}


def test_labels_survive_a_checkpoint(settings: Settings) -> None:
    """Stopped in the middle, and not: the same bytes."""
    chosen = with_labels(settings)
    undisturbed, before, after = (partition(chosen) for _ in range(3))
    undisturbed.advance(labelled(0, 300))
    before.advance(labelled(0, 150))
    go_on(after, before)
    after.advance(labelled(150, 300))
    assert same(after, undisturbed)


@pytest.mark.parametrize(
    ("before", "now", "says"),
    [
        ({}, {"classes": ("busy", "idle")}, r"score\.classes was \['idle', 'busy'\], is \['busy'"),
        (None, {}, r"stream\.label was not set, is set"),
        ({}, None, r"stream\.label was set, is not set"),
    ],
)
def test_labels_stay_what_they_are_while_their_state_is_kept(
    settings: Settings, before: dict[str, object] | None, now: dict[str, object] | None, says: str
) -> None:
    """What is kept of them is a number, in a column that is there or not."""
    made, again = (
        partition(settings if score is None else with_labels(settings, **score))
        for score in (before, now)
    )
    batch = labelled(0, 50)
    made.advance(batch if before is not None else dataclasses.replace(batch, labels=None))
    with pytest.raises(RegistryError, match=says):
        go_on(again, made)


def test_the_field_of_labels_may_be_renamed(settings: Settings) -> None:
    """Nothing that is kept depends on its name."""
    made = partition(with_labels(settings))
    made.advance(labelled(0, 50))
    renamed = replace(with_labels(settings), stream=Stream(label="mode"))
    again = partition(renamed)
    go_on(again, made)
    assert same(again, made)
