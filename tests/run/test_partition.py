"""A partition that is stopped and goes on with other settings."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from msgspec.structs import replace

from pipeline.config import Database, Learn, Score, Settings
from pipeline.errors import RegistryError
from pipeline.records import Batch
from pipeline.register.sql import SqlRegistry
from pipeline.run.partition import Partition, Step

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
        state=made.pack(),
        boundaries=step.boundaries,
        requests=step.requests,
        artifacts=step.artifacts,
    )


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
    after.restore(checkpoint.state or b"")
    step = after.advance(readings(300, 450))
    assert [request.reason for request in step.requests] == ["bootstrap"]
    keep(registry, after, checkpoint.epoch, step, 450)
    assert registry.progress() == (450, 1)


def test_the_share_held_out_of_a_segment_stays_while_its_state_is_kept(settings: Settings) -> None:
    """With another share, windows that were trained on would measure the next version."""
    made = partition(settings)
    made.advance(readings(0, 50))
    learn = replace(settings.learn, held_out=0.5)
    with pytest.raises(RegistryError, match=r"learn\.held_out was 0\.25, is 0\.5"):
        partition(replace(settings, learn=learn)).restore(made.pack())
