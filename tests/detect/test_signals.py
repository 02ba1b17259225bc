"""Signals against plain loops over rows, from the formulas."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from pipeline.detect.blocks import Blocker
from pipeline.detect.reference import (
    CLIP_READING,
    CLIP_RESIDUAL,
    DIAGONAL,
    RIDGE,
    Forecaster,
    inflation,
    lag_one,
    robust,
)
from pipeline.detect.signals import BLOCK, LINEAR, block_means, hold, joint_residual, level

Array = NDArray[np.float64]

cells = st.one_of(
    st.floats(-100, 100, width=32), st.sampled_from([math.nan, math.inf, -math.inf, 3e38, 1e-42])
)


def correlated(rows: int, channels: int, seed: int = 0) -> Array:
    """A VAR(1) whose sensors have units of their own, with a few wild readings."""
    rng = np.random.default_rng(seed)
    mixing = 0.4 * np.eye(channels) + 0.3 * rng.normal(size=(channels, channels)) / channels
    x = np.zeros((rows, channels))
    for t in range(1, rows):
        x[t] = x[t - 1] @ mixing + rng.normal(size=channels)
    x[rng.integers(0, rows, 5)] += 60
    return x * 10.0 ** rng.integers(-3, 4, channels) + rng.normal(size=channels) * 50


def fields(fit: Forecaster) -> dict[str, Array]:
    return {name: getattr(fit, name) for name in Forecaster.__dataclass_fields__}


# hold -----------------------------------------------------------------------------------------


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_a_missing_cell_holds_the_sensors_last_value(data: st.DataObject) -> None:
    """Reading by reading: finite cells stay, others repeat; each series has its own past."""
    counts = data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=4))
    values = data.draw(arrays.arrays(np.float32, (sum(counts), 2), elements=cells))
    last = data.draw(
        arrays.arrays(np.float64, (len(counts), 2), elements=st.sampled_from([math.nan, -7.0, 0.5]))
    )
    expected = []
    rows = iter(values.tolist())
    for series, count in enumerate(counts):
        held = [v if math.isfinite(v) else 0.0 for v in last[series].tolist()]
        for _ in range(count):
            held = [v if math.isfinite(v) else h for v, h in zip(next(rows), held, strict=True)]
            expected.append(held)
    given_ = values.copy()
    assert hold(values, np.cumsum([0, *counts]), last).tolist() == expected
    assert np.array_equal(values, given_, equal_nan=True), "the batch is not this stage's to change"


def test_what_is_held_lasts_over_polls() -> None:
    """A sensor that fell silent in one poll is still known in the next; never seen, it is 0."""
    blocker = Blocker(3)
    blocker.grow(2)
    slots, starts, nan = np.array([1]), np.array([0, 2]), math.nan
    blocker.clean(slots, starts, np.array([[4, 5, nan], [nan, 6, nan]], np.float32))
    again = blocker.clean(slots, starts, np.array([[nan, nan, nan], [nan, 8, 9]], np.float32))
    assert again.tolist() == [[4, 6, 0], [4, 8, 9]]
    assert np.isnan(blocker.held[0]).all()


# level and block means ------------------------------------------------------------------------


@given(st.floats(-1e6, 1e6), st.floats(-10, 10), st.floats(1e-3, 1e3))
def test_the_level_is_the_robust_z_up_to_a_limit_and_its_logarithm_beyond(
    x: float, location: float, scale: float
) -> None:
    """y, or sign(y) L (1 + ln(|y| / L)) when |y| > L: continuous, and slope 1 on both sides."""
    y = (x - location) / scale
    if abs(y) > LINEAR:
        y = math.copysign(LINEAR * (1 + math.log(abs(y) / LINEAR)), y)
    one = level(np.array([[x]]), np.array([location]), np.array([scale]))[0, 0]
    assert one == pytest.approx(y, rel=1e-12)


def test_the_level_of_many_series_is_that_of_each() -> None:
    """Stacked references (N, d) pick each reading's own, bit for bit."""
    rng = np.random.default_rng(0)
    x, location = rng.normal(size=(40, 3)) * 30, rng.normal(size=(2, 3))
    scale, which = rng.random((2, 3)) + 0.1, rng.integers(0, 2, 40)
    both = level(x, location[which], scale[which])
    for row in range(40):
        one = level(x[row : row + 1], location[which[row]], scale[which[row]])
        assert one.tobytes() == both[row : row + 1].tobytes()


@given(arrays.arrays(np.float64, (4 * BLOCK, 2), elements=st.floats(-1e3, 1e3)))
def test_a_block_is_the_mean_of_five_rows_added_from_the_first(rows: Array) -> None:
    """The order of the additions is part of the answer's bits."""
    expected = []
    for first in range(0, len(rows), BLOCK):
        total = rows[first].copy()
        for row in rows[first + 1 : first + BLOCK]:
            total = total + row
        expected.append(total / BLOCK)
    assert block_means(rows).tobytes() == np.array(expected).tobytes()


# The reference --------------------------------------------------------------------------------


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
    assert np.array_equal(fit.whitening, np.triu(fit.whitening)), "L^-T is upper triangular"


@pytest.mark.parametrize("channels", [1, 3])
def test_the_joint_residual_is_the_log_of_the_squared_white_residual(channels: int) -> None:
    """log(.05 d + sum (r P r)) with P the inverse of L L', reading by reading."""
    x = correlated(200, channels, seed=2)
    fit = Forecaster.fit(x[:150])
    inverse = fit.whitening @ fit.whitening.T
    before = np.concatenate([x[:1], x[:-1]])
    expected = []
    for now, then in zip(x, before, strict=True):
        z = np.clip((now - fit.location) / fit.scale, -CLIP_READING, CLIP_READING)
        z_then = np.clip((then - fit.location) / fit.scale, -CLIP_READING, CLIP_READING)
        forecast = z_then @ fit.coefficients + fit.intercept
        r = np.clip((z - forecast) / fit.residual, -CLIP_RESIDUAL, CLIP_RESIDUAL)
        expected.append(math.log(DIAGONAL * channels + r @ inverse @ r))
    assert joint_residual(x, before, fields(fit), None) == pytest.approx(expected, rel=1e-9)


def test_the_joint_residual_of_many_series_is_that_of_each_bit_for_bit() -> None:
    """Series are stacked for speed only: which rows come together must not reach the bits."""
    x = correlated(120, 3, seed=3)
    fits = [Forecaster.fit(x[:60]), Forecaster.fit(x[60:])]
    stacked = {name: np.stack([getattr(f, name) for f in fits]) for name in fields(fits[0])}
    before = np.concatenate([x[:1], x[:-1]])
    which = np.random.default_rng(4).integers(0, 2, len(x))
    together = joint_residual(x, before, stacked, which)
    for row in range(len(x)):
        here = slice(row, row + 1)
        alone = joint_residual(x[here], before[here], fields(fits[which[row]]), None)
        assert alone.tobytes() == together[here].tobytes()


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
