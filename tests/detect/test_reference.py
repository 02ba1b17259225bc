"""References against regressions and covariances done another way."""

from __future__ import annotations

import math
import random
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from pipeline.detect.reference import (
    CLIP_READING,
    CLIP_RESIDUAL,
    DIAGONAL,
    PAIRS,
    RIDGE,
    Forecaster,
    inflation,
    lag_one,
    most_correlated,
    robust,
)
from tests.detect.test_signals import correlated

Array = NDArray[np.float64]


# Location and scale ---------------------------------------------------------------------------


@given(arrays.arrays(np.float64, (9, 3), elements=st.integers(-20, 20)), st.randoms())
@settings(max_examples=60, deadline=None)
def test_the_robust_reference_is_that_of_the_readings_that_there_are(
    x: Array, rng: random.Random
) -> None:
    """NaN is missing: the answer is that of the finite cells of the sensor alone."""
    holes = np.array([[rng.random() < 0.3 for _ in range(3)] for _ in range(9)])
    holes[0] = False
    location, scale = robust(np.where(holes, np.nan, x))
    for j in range(3):
        known = x[~holes[:, j], j][:, None]
        alone_location, alone_scale = robust(known)
        assert location[j] == alone_location[0] == np.median(known)
        assert scale[j] == alone_scale[0] > 0


def test_a_silent_sensor_has_a_reference_that_harms_nobody() -> None:
    """Location 0 and scale 1: whatever it says later is itself, and the others are as ever."""
    x = np.random.default_rng(2).normal(5, 2, size=(300, 2))
    location, scale = robust(np.column_stack([x, np.full(300, np.nan)]))
    assert (location[2], scale[2]) == (0.0, 1.0)
    assert location[:2].tolist() == robust(x)[0].tolist()
    assert scale[:2].tolist() == robust(x)[1].tolist()


def test_the_robust_scale_is_the_deviation_of_normal_readings() -> None:
    """Quartiles of N(mu, s) are 1.349 s apart; 2 % of wild readings change it by little."""
    x = np.random.default_rng(1).normal(20, 3, size=(20_000, 1))
    x[:400] = 1e6
    location, scale = robust(x)
    assert location[0] == pytest.approx(20, abs=0.15)
    assert scale[0] == pytest.approx(3, rel=0.06)


def test_a_sensor_that_hardly_moves_has_a_scale_above_nothing() -> None:
    """Mostly one value: the standard deviation; always one: a thousandth of it; 0: 1e-9."""
    x = np.zeros((100, 3))
    x[:10, 0] = 1.0
    x[:, 1] = -250.0
    location, scale = robust(x)
    assert location.tolist() == [0, -250, 0]
    assert scale == pytest.approx([math.sqrt(0.1 * 0.9), 0.25, 1e-9])


# The forecaster -------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_the_forecaster_is_the_ridge_regression_of_each_row_on_the_one_before(
    channels: int,
) -> None:
    """Normal equations summed row by row; residual, covariance and whitening from their sums."""
    x = correlated(300, channels)
    fit = Forecaster.fit(x)
    location, scale = robust(x)
    z = [np.clip((row - location) / scale, -CLIP_READING, CLIP_READING) for row in x]
    gram, moment = RIDGE * np.eye(channels + 1), np.zeros((channels + 1, channels))
    for before, after in pairwise(z):
        padded = np.append(before, 1.0)
        gram += np.outer(padded, padded)
        moment += np.outer(padded, after)
    solved = np.linalg.solve(gram, moment)
    assert fit.coefficients == pytest.approx(solved[:channels], rel=1e-7, abs=1e-10)
    assert fit.intercept == pytest.approx(solved[channels], rel=1e-7, abs=1e-10)

    errors = [after - before @ fit.coefficients - fit.intercept for before, after in pairwise(z)]
    centre = sum(errors) / len(errors)
    variance = sum((e - centre) ** 2 for e in errors) / len(errors)
    assert fit.residual == pytest.approx(np.sqrt(variance))

    clipped = [np.clip(e / fit.residual, -CLIP_RESIDUAL, CLIP_RESIDUAL) for e in errors]
    centre = sum(clipped) / len(clipped)
    covariance = DIAGONAL * np.eye(channels)
    for r in clipped:
        covariance += np.outer(r - centre, r - centre) / (len(clipped) - 1)
    whitened = fit.whitening.T @ covariance @ fit.whitening
    assert whitened == pytest.approx(np.eye(channels), abs=1e-9)
    assert np.allclose(fit.whitening, fit.whitening.T), "no sensor comes first"


@pytest.mark.parametrize("channels", [1, 4])
def test_the_forecaster_is_the_least_squares_of_rows_with_a_ridge(channels: int) -> None:
    """Another way to the same: sqrt(ridge) I below the rows, and numpy's own least squares.

    Missing cells stand at the location, 0 when standardised.
    """
    x = correlated(400, channels, seed=6)
    x[np.random.default_rng(1).random(x.shape) < 0.05] = np.nan
    fit = Forecaster.fit(x)
    z = np.clip((x - fit.location) / fit.scale, -CLIP_READING, CLIP_READING)
    z = np.nan_to_num(z, nan=0.0)
    rows = np.column_stack([z[:-1], np.ones(len(z) - 1)])
    rows = np.vstack([rows, math.sqrt(RIDGE) * np.eye(channels + 1)])
    solved = np.linalg.lstsq(rows, np.vstack([z[1:], np.zeros((channels + 1, channels))]))[0]
    assert fit.coefficients == pytest.approx(solved[:-1], rel=1e-7, abs=1e-9)
    assert fit.intercept == pytest.approx(solved[-1], rel=1e-7, abs=1e-9)


def residuals(fit: Forecaster, x: Array) -> Array:
    """R, row by row."""
    z = np.clip((x - fit.location) / fit.scale, -CLIP_READING, CLIP_READING)
    rows = [after - before @ fit.coefficients - fit.intercept for before, after in pairwise(z)]
    return np.clip(np.array(rows) / fit.residual, -CLIP_RESIDUAL, CLIP_RESIDUAL)


@pytest.mark.parametrize("channels", [2, 5])
def test_a_partial_residual_is_what_a_regression_on_the_other_sensors_leaves(
    channels: int,
) -> None:
    """Of R with independent noise of variance DIAGONAL, as whose covariance S is.

    Up to a factor that makes its variance 1; and what is left says nothing of the others.
    """
    x = correlated(300, channels, seed=8)
    fit = Forecaster.fit(x)
    r = residuals(fit, x)
    # rows with exactly the covariance S: R centred, and sqrt((n - 1) DIAGONAL) I below it
    n = len(r)
    rows = np.vstack([r - r.mean(axis=0), math.sqrt((n - 1) * DIAGONAL) * np.eye(channels)])
    for j in range(channels):
        others = [i for i in range(channels) if i != j]
        beta = np.linalg.lstsq(rows[:, others], rows[:, j])[0]
        left = rows[:, j] - rows[:, others] @ beta
        left /= math.sqrt(left @ left / (n - 1))
        e = rows @ fit.partial[:, j]
        assert e == pytest.approx(left, abs=1e-8)
        assert e @ rows[:, others] / n == pytest.approx(np.zeros(channels - 1), abs=1e-9)


def test_a_sensor_that_never_speaks_leaves_the_forecast_of_the_others_alone() -> None:
    """Its column is 0 throughout: no weight from it, none to it, and all figures are numbers."""
    x = correlated(300, 3, seed=9)
    fit, with_silent = Forecaster.fit(x), Forecaster.fit(np.insert(x, 1, np.nan, axis=1))
    rest = [0, 2, 3]
    assert with_silent.coefficients[np.ix_(rest, rest)] == pytest.approx(fit.coefficients)
    assert with_silent.coefficients[1].tolist() == with_silent.coefficients[:, 1].tolist()
    assert with_silent.coefficients[1].tolist() == [0.0] * 4
    assert with_silent.partial[np.ix_(rest, rest)] == pytest.approx(fit.partial)
    assert with_silent.partial[1, rest].tolist() == with_silent.partial[rest, 1].tolist()
    assert np.abs(with_silent.partial[1, rest]).max() < 1e-9


@pytest.mark.parametrize("channels", [1, 2, 8, 9, 20])
def test_the_watched_pairs_are_the_most_correlated(channels: int) -> None:
    """All of 8 sensors, then the PAIRS largest |correlation|; in order of the sensors."""
    rng = np.random.default_rng(channels)
    mixed = rng.normal(size=(channels, channels))
    covariance = mixed @ mixed.T * np.outer(*[10.0 ** rng.integers(-3, 4, channels)] * 2)
    strength = {
        (i, j): abs(covariance[i, j]) / math.sqrt(covariance[i, i] * covariance[j, j])
        for i in range(channels)
        for j in range(i + 1, channels)
    }
    best = sorted(strength, key=lambda pair: -strength[pair])[:PAIRS]
    assert [tuple(pair) for pair in most_correlated(covariance).T.tolist()] == sorted(best)


# Autocorrelation ------------------------------------------------------------------------------


def test_the_lag_one_autocorrelation_is_that_of_its_definition() -> None:
    """sum (x_t - m)(x_{t-1} - m) / n over sum (x_t - m)^2 / n, each mean over its own terms."""
    rng = np.random.default_rng(5)
    ar = np.zeros(500)
    for t in range(1, 500):
        ar[t] = 0.8 * ar[t - 1] + rng.normal()
    alternating = np.resize([1.0, -1.0], 500)
    x = np.stack([ar, alternating, np.full(500, 3.0), np.arange(500.0)], axis=1)
    c = ar - ar.mean()
    mine = (sum(c[t] * c[t - 1] for t in range(1, 500)) / 499) / (sum(c * c) / 500)
    phi = lag_one(x)
    assert phi[0] == pytest.approx(mine)
    assert 0.7 < phi[0] < 0.9
    assert phi[1:].tolist() == [0.0, 0.0, 0.98], "kept within [0, .98]; a constant has none"


@pytest.mark.parametrize("m", [1, 5, 25])
def test_the_inflation_is_the_deviation_of_an_autocorrelated_mean(m: int) -> None:
    """Var(mean of m) of an AR(1) of variance 1 is sum_{i, j} phi^|i - j| / m^2; alone it is 1 / m.

    The formula sums along the diagonals of that matrix.
    """
    for phi in (0.0, 0.5, 0.98):
        double = sum(phi ** abs(i - j) for i in range(m) for j in range(m)) / m**2
        assert inflation(np.array([phi]), m)[0] == pytest.approx(math.sqrt(double * m))
