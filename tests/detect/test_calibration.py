"""Thresholds that meet a budget: against simulated peaks, and on a stream where nothing changes."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.config import Detect
from pipeline.detect import calibration
from pipeline.detect.boundary import BoundaryDetector
from pipeline.detect.calibration import FIRST, POWER, budget_of, learn, rate_of, thresholds
from tests.detect.logs import find

SETTLE = Detect().settle_after


def learnt(peaks: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What is known after peaks (n,), the same of every channel."""
    known = (np.zeros((1, 3)), np.zeros((1, 3)), np.zeros((1, 3)))
    for peak in peaks:
        known = learn(*known, np.full((1, 3), peak))
    return known


def test_mean_and_variance_are_those_of_all_peaks() -> None:
    peaks = np.random.default_rng(0).uniform(1, 4, size=50)
    count, mean, variance = learnt(peaks)
    assert count[0, 0] == 50
    assert mean[0] == pytest.approx((peaks**POWER).mean())
    assert variance[0] == pytest.approx((peaks**POWER).var())


@pytest.mark.parametrize("rate", [0.5, 0.05])
def test_a_threshold_is_exceeded_at_its_rate(rate: float) -> None:
    """Gumbel peaks: a window without a crossing has the probability exp(-rate).

    300 peaks know the mean to scale / 13 and the scale to 5 %: at rate .05 that is 20 %.
    """
    draw = np.random.default_rng(1)
    power = lambda n: draw.gumbel(4.0, 0.5, size=n)  # noqa: E731
    _, mean, variance = learnt(power(300) ** (1 / POWER))
    exceeded = calibration.exceeded(mean, variance, rate)[0, 0]
    share = (power(200_000) ** (1 / POWER) > exceeded).mean()
    assert share == pytest.approx(1 - np.exp(-rate), rel=0.6)


def test_a_larger_budget_has_lower_thresholds() -> None:
    known = calibration.blend(*learnt(np.linspace(2, 3, 40)))
    rows = [thresholds(*known, rate_of(b, SETTLE))[0] for b in (1, 10, 100, 1000)]
    assert (np.diff(rows, axis=0) < 0).all()


def test_a_new_series_begins_with_the_first_thresholds_and_changes_do_not_raise_them() -> None:
    rate = rate_of(calibration.NOMINAL, 0)
    for peaks in ((), np.full(40, 20.0), np.tile([2.0, 20.0], 20)):
        known = calibration.blend(*learnt(np.array(peaks)))
        assert (thresholds(*known, rate)[0] <= FIRST + 1e-9).all()
    assert thresholds(*calibration.blend(*learnt(np.array([]))), rate)[0] == pytest.approx(FIRST)


@pytest.mark.parametrize("budget", [1.0, 10.0, 100.0, 900.0])
def test_a_budget_and_its_rate_are_inverse(budget: float) -> None:
    assert budget_of(np.array(rate_of(budget, SETTLE)), SETTLE) == pytest.approx(budget)


@pytest.mark.parametrize("budget", [300.0, 1000.0])
def test_a_stationary_stream_has_the_budget_within_a_factor_of_two(budget: float) -> None:
    """n rows expect n budget / 1e6; half and twice that, and four deviations of a Poisson count."""
    values = np.random.default_rng(7).normal(size=(100_000, 4))
    expected = len(values) * budget / 1e6
    found = find(values, Detect(false_boundaries_per_million=budget), poll=5000)
    low, high = expected / 2, expected * 2
    assert low - 4 * low**0.5 <= len(found) <= high + 4 * high**0.5


def test_a_new_series_expects_its_budget() -> None:
    detector = BoundaryDetector(2, Detect(false_boundaries_per_million=20.0))
    detector.search.calibration.fields.grow(1)
    assert detector.expected_false_per_million(np.array([0])) == pytest.approx(20.0)
