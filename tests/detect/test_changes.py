"""What is said to have changed, on streams where that is known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.detect import moments
from pipeline.detect.reference import Forecaster
from pipeline.detect.signals import residual
from pipeline.records import Boundary, Change
from tests.detect.logs import find

Array = NDArray[np.float64]

ROWS, AT, CHANNELS = 5200, 4000, 4


def stationary(seed: int, phi: float | Array) -> Array:
    """AR(1) of variance 1 at every row; phi is one number, or one a row and sensor."""
    rng = np.random.default_rng(seed)
    phis, normal = np.broadcast_to(phi, (ROWS, CHANNELS)), rng.normal(size=(ROWS, CHANNELS))
    values = normal.copy()
    for t in range(1, ROWS):
        values[t] = phis[t] * values[t - 1] + np.sqrt(1 - phis[t] ** 2) * normal[t]
    return values


def step(seed: int) -> Array:
    """Sensor 1 falls by 3 deviations."""
    values = stationary(seed, 0.6)
    values[AT:, 1] -= 3
    return values


def doubled(seed: int) -> Array:
    """Sensor 1 varies twice as much."""
    values = stationary(seed, 0.6)
    values[AT:, 1] *= 2
    return values


def correlated(seed: int) -> Array:
    """Sensors 0 and 1 have the correlation .8, sensor 1 then varies twice as much."""
    values = stationary(seed, 0.6)
    values[:, 1] = 0.8 * values[:, 0] + 0.6 * values[:, 1]
    values[AT:, 1] *= 2
    return values


def flipped(seed: int) -> Array:
    """The correlation .8 of sensors 0 and 1 becomes -.8."""
    values = stationary(seed, 0.6)
    sign = np.where(np.arange(ROWS) < AT, 1, -1)
    values[:, 1] = 0.8 * sign * values[:, 0] + 0.6 * values[:, 1]
    return values


def forgetful(seed: int) -> Array:
    """Sensor 1's autocorrelation falls from .9 to .2 at the same variance."""
    phi = np.full((ROWS, CHANNELS), 0.9)
    phi[AT:, 1] = 0.2
    return stationary(seed, phi)


def of(values: Array) -> Boundary:
    (boundary,) = (b for b in find(values) if abs(b.boundary_row - AT) < 100)
    return boundary


SEEDS = range(8)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_step_is_one_of_the_level(seed: int) -> None:
    """0 to -3, means of 25 readings and more of deviation sqrt((1 + .6) / (1 - .6) / 25) = .4."""
    (change,) = of(step(seed)).sensors
    assert (change.kind, change.channel) == ("level", 1)
    assert change.before == pytest.approx(0, abs=1.2)
    assert change.after == pytest.approx(-3, abs=1.2)
    assert change.effect == pytest.approx(3, abs=1.2)


@pytest.mark.parametrize("make", [doubled, correlated])
@pytest.mark.parametrize("seed", SEEDS)
def test_a_doubled_spread_is_one(make: Callable[[int], Array], seed: int) -> None:
    """Of the one sensor, also if it moves together with another."""
    (change,) = of(make(seed)).sensors
    assert (change.kind, change.channel) == ("spread", 1)
    assert change.change == pytest.approx(2, rel=0.35)
    assert change.before == pytest.approx(0.8, rel=0.2)  # sqrt(1 - .6^2)
    assert change.after == pytest.approx(change.change * change.before, rel=1e-3)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_flipped_correlation_is_of_that_pair(seed: int) -> None:
    """The spreads of partial residuals change with it; those of the sensors do not.

    What it becomes is known poorly: products far from what they were are cut.
    """
    (change,) = of(flipped(seed)).sensors
    assert (change.kind, change.channel, change.other) == ("correlation", 0, 1)
    assert change.before == pytest.approx(0.8, abs=0.1)
    assert -0.95 < change.after < 0.2


@pytest.mark.parametrize("seed", SEEDS)
def test_another_autocorrelation_at_the_same_variance_is_dynamics(seed: int) -> None:
    """What is left over varies 2.9 times as much, and the means of blocks half as much."""
    change = of(forgetful(seed)).sensors[0]
    assert (change.kind, change.channel) == ("dynamics", 1)
    assert change.before == pytest.approx(0.9, abs=0.1)
    assert change.after == pytest.approx(0.2, abs=0.35)


@pytest.mark.parametrize("make", [step, doubled, flipped, forgetful])
@pytest.mark.parametrize("order", [(1, 2, 3, 0), (3, 2, 1, 0)])
def test_another_order_of_the_sensors_permutes_what_changed(
    make: Callable[[int], Array], order: tuple[int, ...]
) -> None:
    """And nothing else of it: the numbers are the same but for rounding."""
    values = make(0)
    plain, permuted = of(values).sensors, of(values[:, list(order)]).sensors
    assert [_facts(c, (0, 1, 2, 3)) for c in plain] == [_facts(c, order) for c in permuted]
    for one, other in zip(plain, permuted, strict=True):
        assert (other.change, other.before, other.after) == pytest.approx(
            (one.change, one.before, one.after), rel=0.01, abs=0.01
        )


def _facts(change: Change, order: tuple[int, ...]) -> tuple[str, frozenset[int]]:
    return change.kind, frozenset(
        order[sensor] for sensor in (change.channel, change.other) if sensor is not None
    )


@pytest.mark.parametrize("correlation", [-0.7, 0.0, 0.7])
@pytest.mark.parametrize("spread", [0.5, 1.0, 1.5])
def test_the_residuals_covariance_comes_back_from_their_features(
    correlation: float, spread: float
) -> None:
    """White noise is its own residual: features of 40,000 readings give S D R D of them back."""
    rng = np.random.default_rng(3)
    fit = Forecaster.fit(_noise(rng, 20_000, 0.5))
    values = _noise(rng, 40_000, correlation) * [spread, 1, 1]
    blocks = values.reshape(-1, 5, 3)
    named = {name: getattr(fit, name) for name in Forecaster.__slots__}
    before = np.concatenate([blocks[:1, 0], blocks[:-1, -1]])
    means = residual(blocks, before, named, None).astype(np.float64).mean(axis=(0, 1))
    _, found = moments.covariances(means, means, named)
    unit = [spread, 1, 1] / (fit.residual * fit.scale)
    assert moments.deviations(found) == pytest.approx(unit, rel=0.05)
    assert moments.correlations(found)[0, 1] == pytest.approx(correlation, abs=0.06)
    assert moments.correlations(found)[0, 2] == pytest.approx(0, abs=0.06)


def _noise(rng: np.random.Generator, rows: int, correlation: float) -> Array:
    """White, of deviation 1, the first two of three sensors correlated."""
    values = rng.normal(size=(rows, 3))
    values[:, 1] = correlation * values[:, 0] + np.sqrt(1 - correlation**2) * values[:, 1]
    return values
