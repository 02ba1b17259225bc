from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pipeline.errors import ArtifactCorrupt
from pipeline.ingest.windows import History
from pipeline.model.kinds import Design
from pipeline.model.scaling import KNEE, Scaling
from pipeline.model.weights import Weights
from pipeline.score import scoring
from pipeline.score.scoring import CHUNK, Scorer
from tests.model.making import forecaster

WINDOW, CHANNELS, HIDDEN = 5, 3, 7
DESIGN = Design(window=WINDOW, channels=CHANNELS, hidden=HIDDEN)


@pytest.fixture
def weights() -> Weights:
    """A version with another location, scale and error scale for each channel."""
    return Weights(
        model=forecaster(WINDOW, CHANNELS, HIDDEN, seed=3).eval(),
        scaling=Scaling(torch.tensor([5.0, -2.0, 0.5]), torch.tensor([2.0, 0.5, 4.0])),
        error_scale=torch.tensor([0.5, 1.5, 0.25]),
        design=DESIGN,
    )


def some(n: int, *, holes: float = 0.0, seed: int = 0) -> tuple[NDArray, NDArray]:
    """Contexts (n, W, d) and readings (n, d) with a share of missing cells."""
    rng = np.random.default_rng(seed)
    contexts = rng.normal(1, 3, (n, WINDOW, CHANNELS)).astype(np.float32)
    readings = rng.normal(1, 3, (n, CHANNELS)).astype(np.float32)
    contexts[rng.random(contexts.shape) < holes] = np.nan
    readings[rng.random(readings.shape) < holes] = np.nan
    return contexts, readings


def plain(weights: Weights, context: NDArray, reading: NDArray) -> float:
    """The score of one reading by the definition, number by number, in double precision.

    sqrt(mean over observed channels of ((x - forecast) / held-out error)^2), x in scales.
    """
    location, scale = weights.scaling.location.tolist(), weights.scaling.scale.tolist()

    def scaled(x: float, channel: int) -> float:
        z = (x - location[channel]) / scale[channel]
        far = KNEE + math.log(1 + max(abs(z) - KNEE, 0))
        return z if abs(z) <= KNEE else math.copysign(far, z)

    hidden = [
        0.0 if math.isnan(x) else scaled(float(x), c)
        for row in context
        for c, x in enumerate(row.tolist())
    ]
    linear = [m for m in weights.model.layers if isinstance(m, torch.nn.Linear)]
    for i, layer in enumerate(linear):
        hidden = [
            sum(w * a for w, a in zip(row, hidden, strict=True)) + b
            for row, b in zip(layer.weight.tolist(), layer.bias.tolist(), strict=True)
        ]
        if i < len(linear) - 1:
            hidden = [max(h, 0.0) for h in hidden]
    squares = [
        ((scaled(x, c) - hidden[c]) / float(weights.error_scale[c])) ** 2
        for c, x in enumerate(reading.tolist())
        if not math.isnan(x)
    ]
    return math.sqrt(sum(squares) / len(squares)) if squares else math.nan


@pytest.mark.parametrize("holes", [0.0, 0.3])
def test_a_score_is_the_root_mean_square_of_normalised_forecast_errors(
    weights: Weights, holes: float
) -> None:
    """Against the formula written out number by number, with and without missing cells."""
    contexts, readings = some(40, holes=holes)
    expected = [plain(weights, c, x) for c, x in zip(contexts, readings, strict=True)]
    assert Scorer(weights).score(contexts, readings) == pytest.approx(
        expected, rel=1e-4, nan_ok=True
    )


def test_a_missing_cell_of_a_reading_counts_for_nothing(weights: Weights) -> None:
    """Of n channels with squares s_i, dropping one leaves the mean of the others."""
    contexts, readings = some(1)
    scorer = Scorer(weights)
    single = []
    for channel in range(CHANNELS):
        only = np.full_like(readings, np.nan)
        only[:, channel] = readings[:, channel]
        single.append(float(scorer.score(contexts, only)[0]) ** 2)
    readings[0, 1] = np.nan
    expected = math.sqrt((single[0] + single[2]) / 2)
    assert scorer.score(contexts, readings) == pytest.approx([expected], rel=1e-5)


def test_a_missing_cell_of_a_context_is_its_channels_location(weights: Weights) -> None:
    """The model takes 0 for a hole: the same as a reading at the location."""
    contexts, readings = some(8)
    filled = contexts.copy()
    contexts[:, 2, 1], filled[:, 2, 1] = np.nan, float(weights.scaling.location[1])
    scorer = Scorer(weights)
    assert np.array_equal(scorer.score(contexts, readings), scorer.score(filled, readings))


def test_a_reading_without_any_cell_has_no_score(weights: Weights) -> None:
    """NaN, not 0: nothing was observed, which is not the same as nothing odd; neighbours keep."""
    contexts, readings = some(3)
    expected = Scorer(weights).score(contexts, readings)
    readings[1] = np.nan
    scores = Scorer(weights).score(contexts, readings)
    assert np.isnan(scores[1])
    assert np.array_equal(scores[[0, 2]], expected[[0, 2]])


def test_a_context_without_any_cell_still_gives_a_score(weights: Weights) -> None:
    """The forecast is then the model's answer to zeros; the reading was observed."""
    contexts, readings = some(2)
    contexts[0] = np.nan
    expected = plain(weights, contexts[0], readings[0])
    assert Scorer(weights).score(contexts, readings)[0] == pytest.approx(expected, rel=1e-4)


def test_chunking_does_not_change_the_scores(
    weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows are independent: any size of forward pass gives them the same score (to rounding)."""
    contexts, readings = some(23, holes=0.1)
    whole = Scorer(weights).score(contexts, readings)
    for chunk in (1, 2, 7, 22, 23, 24):
        monkeypatch.setattr(scoring, "CHUNK", chunk)
        part = Scorer(weights).score(contexts, readings)
        assert part == pytest.approx(whole, rel=1e-5, nan_ok=True), chunk


def test_a_poll_longer_than_a_chunk_has_every_score_in_its_place(weights: Weights) -> None:
    """Two chunks and one row over: bit for bit the scores of the three parts."""
    n = 2 * CHUNK + 1
    contexts, readings = some(n)
    scorer = Scorer(weights)
    parts = [
        scorer.score(contexts[i : i + CHUNK], readings[i : i + CHUNK]) for i in range(0, n, CHUNK)
    ]
    assert np.array_equal(scorer.score(contexts, readings), np.concatenate(parts))


def test_a_poll_without_a_reading_has_no_scores(weights: Weights) -> None:
    """Nothing in, nothing out."""
    assert Scorer(weights).score(*some(0)).shape == (0,)


def test_the_arrays_given_are_left_as_they_were(weights: Weights) -> None:
    """Contexts are views into the history that the next stage still reads."""
    contexts, readings = some(6, holes=0.3)
    before = contexts.copy(), readings.copy()
    Scorer(weights).score(contexts, readings)
    assert np.array_equal(contexts, before[0], equal_nan=True)
    assert np.array_equal(readings, before[1], equal_nan=True)


@pytest.mark.parametrize("n", [1, 2])
def test_the_read_only_windows_of_the_history_are_scored_in_silence(
    weights: Weights, n: int
) -> None:
    """A poll of one reading gives a contiguous read-only view, which torch would warn about."""
    history = History(WINDOW, CHANNELS)
    _, readings = some(WINDOW + n)
    slots = np.array([0])
    history.update(slots, np.array([0, WINDOW]), readings[:WINDOW])
    contexts, ready = history.update(slots, np.array([0, n]), readings[WINDOW:])
    assert ready.all()
    expected = [plain(weights, readings[i : i + WINDOW], readings[WINDOW + i]) for i in range(n)]
    last = readings[WINDOW:]
    last.flags.writeable = False
    assert Scorer(weights).score(contexts, last) == pytest.approx(expected, rel=1e-4)


def test_scores_are_free_of_the_autograd_graph(weights: Weights) -> None:
    """Scoring runs beside nothing that trains: no gradient is recorded or written."""
    Scorer(weights).score(*some(3))
    assert all(p.grad is None for p in weights.model.parameters())


def test_a_scorer_loaded_from_bytes_scores_the_same_bits(weights: Weights) -> None:
    """The artifact is all that a version is."""
    contexts, readings = some(9, holes=0.2)
    again = Scorer.load(weights.to_bytes()).score(contexts, readings)
    assert np.array_equal(again, Scorer(weights).score(contexts, readings), equal_nan=True)


def test_a_scorer_is_not_made_of_garbage() -> None:
    """A damaged artifact is refused when it is loaded, not at the first score."""
    with pytest.raises(ArtifactCorrupt):
        Scorer.load(b"garbage")


def test_what_the_model_knows_scores_around_one() -> None:
    """With the held-out error as its unit the mean square score of like errors is 1.

    A model that always forecasts 0 on N(0, sigma^2) has held-out error sigma: E[score^2] = 1.
    """
    rng = np.random.default_rng(5)
    sigma = np.array([0.5, 1.0, 2.0], dtype=np.float32)
    model = forecaster(WINDOW, CHANNELS, HIDDEN)
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    scorer = Scorer(
        Weights(
            model=model,
            scaling=Scaling(torch.zeros(CHANNELS), torch.ones(CHANNELS)),
            error_scale=torch.from_numpy(sigma),
            design=DESIGN,
        )
    )
    n = 4000
    readings = (rng.normal(size=(n, CHANNELS)) * sigma).astype(np.float32)
    scores = scorer.score(np.zeros((n, WINDOW, CHANNELS), np.float32), readings)
    five_sigma = 5 * math.sqrt(2 / (n * CHANNELS))  # of the mean of n d squared normals
    assert abs(float(np.mean(scores.astype(float) ** 2)) - 1) < five_sigma
