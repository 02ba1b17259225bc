"""A version is trained again from what SQL keeps, and is the same, or is told to be another."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pytest

from pipeline.config import Database, Gate, Learn, Run, Score, Settings
from pipeline.consolidate.readings import Readings
from pipeline.errors import PipelineError
from pipeline.records import Request
from pipeline.register.sql import SqlRegistry
from pipeline.run.environment import environment
from pipeline.run.reproduce import reproduce
from pipeline.run.trainer import Trainer
from tests.register.making import change, column


@pytest.fixture
def settings(at_head: Database) -> Settings:
    return Settings(
        database=at_head,
        score=Score(window=8, hidden=8),
        learn=Learn(epochs=4, lr=0.01, reservoir_capacity=100),
        gate=Gate(max_forgetting=0.5),
        run=Run(lease_s=30.0),
    )


@pytest.fixture
def registry(settings: Settings) -> Iterator[SqlRegistry]:
    """A history of two versions; nothing of the process that made them is left."""
    registry = SqlRegistry(settings.database)
    stream = registry.open_stream("readings", ("a", "b"))
    trainer = Trainer(settings, registry, owner="a")
    for number in range(2):
        values = np.random.default_rng(number).normal(size=(160, 2)) + 9.0 * number
        readings = Readings(values=values.astype(np.float32), offsets=np.arange(160))
        request = Request(
            stream_id=stream.id,
            reason="boundary" if number else "bootstrap",
            partition=0,
            series="press",
            segment=number,
            inputs={"segment": registry.put("segment", readings.to_bytes())},
        )
        registry.submit(request)
        assert trainer.work_once()
    yield registry
    registry.close()


def test_a_version_comes_out_the_same_and_another_does_not(
    registry: SqlRegistry, settings: Settings
) -> None:
    """With a parent: every input is found by its hash. Then the record is changed bit by bit.

    A seed that was changed gives other weights: where nothing else differs that is no accident of
    the platform. Where it says that it was made on another, the weights decide by how far.
    """
    made = reproduce(settings, "readings", 2)
    assert made.verdict == "same bytes"
    assert made.environment == {}
    assert [made.sha256[0]] == column(
        registry.engine, "SELECT sha256 FROM versions WHERE number = 2"
    )
    assert made.ewc_sha256[0] == made.ewc_sha256[1]

    (inputs,) = column(registry.engine, "SELECT inputs FROM versions WHERE number = 1")
    seeded = json.dumps(json.loads(inputs) | {"seed": 1})
    change(registry.engine, "UPDATE versions SET inputs = :i WHERE number = 1", i=seeded)
    made = reproduce(settings, "readings", 1)
    assert made.verdict == "differs"
    assert made.distance is not None
    assert made.distance > 0.1
    assert "same environment" in made.sentence

    change(registry.engine, "DELETE FROM artifacts WHERE kind = 'segment'")
    with pytest.raises(PipelineError, match=r"^version 2 cannot be trained again: its inputs are"):
        reproduce(settings, "readings", 2)


def test_what_is_not_there_is_told_in_a_line(registry: SqlRegistry, settings: Settings) -> None:
    """Before a process is started, and of a record that this version cannot read."""
    with pytest.raises(PipelineError, match="no stream other"):
        reproduce(settings, "other", 1)
    with pytest.raises(PipelineError, match="the stream has no version 3"):
        reproduce(settings, "readings", 3)
    change(registry.engine, "UPDATE versions SET settings = '{}' WHERE number = 1")
    with pytest.raises(PipelineError, match=r"its record is of tidemark [\d.]+:"):
        reproduce(settings, "readings", 1)


def test_the_environment_is_recorded_with_each_version(registry: SqlRegistry) -> None:
    """Who trains again elsewhere must know what it was."""
    for text in column(registry.engine, "SELECT settings FROM versions"):
        assert json.loads(text)["environment"] == environment()
