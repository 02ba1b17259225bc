"""Predictions over HTTP are what the stream's own scoring says of the same windows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient

from pipeline.model.kinds import Design
from pipeline.model.scaling import KNEE, Scaling
from pipeline.register.sql import SqlRegistry, Stream
from pipeline.score.scoring import Scorer
from tests.model.making import version
from tests.register.making import candidate, next_version
from tests.serve.http.conftest import connected

PATH = "/v1/streams/plant/predict"
W, D, N = 4, 2, 5
FORECASTER = Design(window=W, channels=D, hidden=8)


def windows(seed: int = 0, channels: int = D) -> tuple[Any, Any]:
    """Windows (N, W, d) and readings (N, d), each with a hole, as lists."""
    rng = np.random.default_rng(seed)
    contexts, readings = rng.normal(size=(N, W, channels)), rng.normal(size=(N, channels))
    lists = contexts.tolist(), readings.tolist()
    lists[0][0][0][0] = lists[1][1][1] = None
    return lists


def arrays(contexts: Any, readings: Any) -> tuple[Any, Any]:
    return tuple(
        np.array(each, dtype=np.float64).astype(np.float32) for each in (contexts, readings)
    )


@pytest.fixture
def plant(registry: SqlRegistry) -> Stream:
    """A stream with two forecasters, 2 the champion, and an autoencoder, 3, that is not."""
    stream = registry.open_stream("plant", ["a", "b"])
    for seed in (1, 2):
        weights = version(FORECASTER, seed).to_bytes()
        next_version(registry, stream, made=candidate(weights=weights))
    return stream


@pytest.fixture
def client(registry: SqlRegistry, plant: Stream) -> Iterator[TestClient]:
    """A client of an application that takes five windows at once."""
    with connected(registry, max_windows=N) as client:
        yield client


def test_the_champion_and_any_version_answer_as_they_score(client: TestClient) -> None:
    """Number by number those of the same weights, asked directly; null where nothing was seen."""
    contexts, readings = windows()
    for body, seed, number in (({}, 2, 2), ({"version": 1}, 1, 1), ({"version": 2}, 2, 2)):
        scorer = Scorer(version(FORECASTER, seed))
        told = client.post(PATH, json={"windows": contexts, "readings": readings} | body).json()
        said, scores = (
            scorer.predict(*arrays(contexts, readings)),
            scorer.score(*arrays(contexts, readings)),
        )
        assert (told["version"], told["channels"]) == (number, ["a", "b"])
        np.testing.assert_array_equal(np.float32(told["forecasts"]), said)
        np.testing.assert_array_equal(np.float32(told["scores"]), scores)


def test_a_forecast_needs_no_reading(client: TestClient) -> None:
    """It is of the time that has not come."""
    contexts, readings = windows()
    with_, without = (
        client.post(PATH, json={"windows": contexts} | more).json()
        for more in ({"readings": readings}, {})
    )
    assert without["forecasts"] == with_["forecasts"]
    assert without["scores"] is None


def test_a_forecast_is_in_the_sensors_units() -> None:
    """Scaled by hand and back: location + scale z, with z beyond KNEE as log's inverse."""
    scaling = Scaling(torch.tensor([5.0, -2.0, 1.0]), torch.tensor([2.0, 0.5, 4.0]))
    readings = torch.tensor([[5.0, -2.0, 1.0], [9.0, -1.0, 41.0], [105.0, -12.0, 441.0]])
    torch.testing.assert_close(scaling.undo(scaling.apply(readings)), readings)
    torch.testing.assert_close(scaling.undo(torch.tensor([[1.0]]), 1), torch.tensor([[-1.5]]))
    far = torch.tensor([[KNEE + 1.0]])
    expected = 1.0 + 4.0 * (KNEE + np.e - 1)
    torch.testing.assert_close(scaling.undo(far, 2), torch.tensor([[expected]]).float())


@pytest.mark.parametrize(
    ("design", "columns"),
    [
        (Design(window=W, channels=D, hidden=8, kind="autoencoder"), D),
        (Design(window=W, channels=D, hidden=8, kind="regressor", target=1), 1),
        (
            Design(window=W, channels=3, hidden=8, kind="classifier", target=2, classes=("x", "y")),
            2,
        ),
    ],
)
def test_what_answers_of_the_reading_needs_it(
    client: TestClient, registry: SqlRegistry, plant: Stream, design: Design, columns: int
) -> None:
    """An autoencoder's, a regressor's and a classifier's; labels need not be given to be asked."""
    next_version(registry, plant, made=candidate(weights=version(design, 3).to_bytes()))
    contexts, readings = windows()
    without = client.post(PATH, json={"windows": contexts})
    assert (without.status_code, without.json()["detail"][:9]) == (422, "readings:")
    told = client.post(PATH, json={"windows": contexts, "readings": readings}).json()
    assert np.shape(told["forecasts"]) == (N, columns)
    assert len(told["scores"]) == N
    if design.classes:
        assert told["classes"] == ["x", "y"]
        np.testing.assert_allclose(np.sum(told["forecasts"], axis=1), 1, rtol=1e-6)


@pytest.mark.parametrize(
    ("body", "status", "detail"),
    [
        ({}, 422, "body: Object missing required field `windows`"),
        ({"windows": []}, 422, "body: Expected `array` of length >= 1"),
        ({"windows": [[[1, 2]]]}, 422, "windows: 1 x 4 x 2 numbers are needed"),
        ({"windows": [[[1, 2]] * 4, [[1, 2]] * 3]}, 422, "windows: 2 x 4 x 2 numbers are needed"),
        ({"windows": [[[1]] * 4]}, 422, "windows: 1 x 4 x 2 numbers are needed"),
        ({"windows": [[[1, "x"]] * 4]}, 422, "body: Expected `float | null`, got `str`"),
        ({"windows": [[[1, 2]] * 4], "readings": []}, 422, "readings: 1 x 2 numbers are needed"),
        ({"windows": [[[1, 2]] * 4], "other": 1}, 422, "body: Object contains unknown field"),
        ({"windows": [[[1, 2]] * 4], "version": 9}, 404, "no 9 among the stream's versions"),
        ({"windows": [[[1, 2]] * 4], "version": 0}, 422, "body: Expected `int` >= 1"),
        ({"windows": [[[1, 2]] * 4] * 6}, 413, "windows: up to 5 at once (serve.max_windows)"),
    ],
)
def test_what_cannot_be_answered_is_one_line(
    client: TestClient, body: Any, status: int, detail: str
) -> None:
    """Another shape, another type, too many, or no such version."""
    found = client.post(PATH, json=body)
    assert found.status_code == status
    assert found.json()["detail"].startswith(detail)


def test_numbers_that_are_none_for_a_sensor_are_missing(client: TestClient) -> None:
    """Larger than a float32 holds: as null, as the stream has it."""
    contexts, readings = windows()
    contexts[0][0][0] = 1e39
    huge = client.post(PATH, json={"windows": contexts, "readings": readings}).json()
    contexts[0][0][0] = None
    assert client.post(PATH, json={"windows": contexts, "readings": readings}).json() == huge


def test_a_stream_without_a_champion_says_so(registry: SqlRegistry) -> None:
    """404: there is nothing that could answer."""
    registry.open_stream("plant", ["a", "b"])
    with connected(registry) as client:
        found = client.post(PATH, json={"windows": [[[1, 2]] * 4]})
    assert (found.status_code, found.json()["detail"]) == (404, "no version is live yet")
