"""Statistics against their formulas on the raw means, brute force and the chi-square."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from scipy import stats

from pipeline.detect.evidence import (
    JOINT,
    LARGEST,
    TESTS,
    hotelling,
    joint,
    split,
    statistic,
)
from pipeline.detect.evidence import Test as Comparison
from pipeline.detect.ring import UNIT, Stretch

Array = NDArray[np.float64]

each_test = pytest.mark.parametrize("test", TESTS, ids=lambda t: f"{t.signal}-{t.m}")
each_residual_test = pytest.mark.parametrize(
    "test", [t for t in TESTS if t.signal == "residual"], ids=lambda t: str(t.m)
)


def stretch_of(x: Array, held: int, first: int) -> Stretch:
    """Of series (S, n, F), `held` means of which came before number `first`."""
    steps = np.rint(x / UNIT).astype(np.int64)
    return Stretch.joined(steps[:, :held], np.full(len(x), first), steps[:, held:])


def wandering(test: Comparison, series: int = 2, features: int = 4, seed: int = 0) -> Array:
    """Means of readings of deviation 1, after a while shifted and wider."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(series, 2 * (test.q + test.most), features)) / math.sqrt(test.unit)
    x[:, -test.q :] = x[:, -test.q :] * 3 + rng.normal(size=features) * 0.4
    return np.rint(x / UNIT) * UNIT


@each_test
def test_z_is_the_change_by_its_deviation(test: Comparison) -> None:
    """Two series at numbers of their own; references short, long, and longer than is used.

    Without Welch's floor |d| / (sigma sqrt(1/m + 1/g)); with it the variance of either side is at
    least 1.05^2 times that of its means, times the readings in one. Where it is not due, anything
    but a warning.
    """
    x = wandering(test)
    n, first = x.shape[1], 1000
    stretch = stretch_of(x, held=n - 40, first=first)
    number = first + 40 - np.array([[0, 7, 1, 3], [25, 5, 0, 2]])  # means seen, of `first + 40`
    length = np.array([[test.least, test.most, test.most + 50, 1], [test.least + 3, 90, 10**6, 0]])
    sigma = np.random.default_rng(1).uniform(0.3, 3, size=(2, 4, 4))
    found = test.z(stretch, number, length, sigma)
    for i in range(2):
        for k in range(3):
            end = n - (first + 40 - number[i, k])
            g = min(length[i, k], test.most)
            after, before = x[i, end - test.q : end], x[i, end - test.q - g : end - test.q]
            d = np.abs(after.mean(axis=0) - before.mean(axis=0))
            floor = sigma[i, k] ** 2
            post = np.maximum(floor, test.welch * test.unit * after.var(axis=0))
            pre = np.maximum(floor, test.welch * test.unit * before.var(axis=0))
            expected = d / np.sqrt(post / test.m + pre / (g * test.unit))
            assert found[i, k] == pytest.approx(expected, rel=1e-7)


@each_test
def test_the_samples_of_a_scale_are_changes_for_one_reading(test: Comparison) -> None:
    """Local: against the 2 q means before; as used: against the segment, g_max of it at most."""
    x = wandering(test, seed=3)
    n = x.shape[1]
    stretch = stretch_of(x, held=n - 10, first=n - 10)
    t, q = np.array([[n, n - 4], [n - 1, n - 2]]), test.q
    length = np.array([[test.least, test.most + 9], [test.most, 77]])
    local, used = np.moveaxis(test.samples(stretch, t, length), 2, 0)
    for i in range(2):
        for k in range(2):
            end, g = t[i, k], min(length[i, k], test.most)
            after = x[i, end - q : end].mean(axis=0)
            d = np.abs(after - x[i, end - 3 * q : end - q].mean(axis=0))
            assert local[i, k] == pytest.approx(d / math.sqrt(1 / test.m + 0.5 / test.m))
            d = np.abs(after - x[i, end - q - g : end - q].mean(axis=0))
            assert used[i, k] == pytest.approx(d / math.sqrt(1 / test.m + 1 / (g * test.unit)))


@each_residual_test
def test_the_floor_of_welch_keeps_a_restless_change_small(test: Comparison) -> None:
    """A history that was quiet would make any burst a change: its own spread is held against it.

    With sigma next to nothing z is at most |d| by the deviation of its own means, and a large
    sigma makes the spread of the means irrelevant.
    """
    x = wandering(test, series=1)
    n, g = x.shape[1], test.most
    stretch = stretch_of(x, held=n, first=n)
    t, length = np.array([[n]]), np.array([[g]])
    after, before = x[0, -test.q :], x[0, -test.q - g : -test.q]
    d = np.abs(after.mean(axis=0) - before.mean(axis=0))
    spread = np.sqrt(after.var(axis=0) / test.q + before.var(axis=0) / g)
    welch = d / (math.sqrt(test.welch) * spread)
    tiny, large = np.full((1, 1, 4), 1e-9), np.full((1, 1, 4), 1e3)
    assert test.z(stretch, t, length, tiny)[0, 0] == pytest.approx(welch, rel=1e-7)
    by_sigma = d / (1e3 * math.sqrt(1 / test.m + 1 / (g * test.unit)))
    assert test.z(stretch, t, length, large)[0, 0] == pytest.approx(by_sigma, rel=1e-7)


# From many z to one figure --------------------------------------------------------------------


@given(arrays.arrays(np.float64, st.tuples(st.integers(1, 3), st.integers(1, 9)),
                     elements=st.floats(0, 1e6)))  # fmt: skip
def test_the_statistic_is_the_rms_of_the_three_largest(z: Array) -> None:
    """Of as many as there are."""
    for row, found in zip(z.tolist(), statistic(z), strict=True):
        top = sorted(row)[-LARGEST:]
        assert found == pytest.approx(math.sqrt(sum(v * v for v in top) / len(top)), rel=1e-12)


@pytest.mark.parametrize("p", [1, 2, 5, 20, 200])
@pytest.mark.parametrize("chance", [0.5, 0.9, 0.99, 0.9999])
def test_the_joint_statistic_is_a_normal_variable(p: int, chance: float) -> None:
    """A sum of squares at a quantile of chi-square lies at that quantile of N(0, 1) x JOINT.

    Wilson and Hilferty are good to 3 % of the value and .02; with one degree of freedom to .15.
    """
    total = float(stats.chi2.ppf(chance, p))
    z = np.full((1, p), math.sqrt(total / p))
    expected = JOINT * float(stats.norm.ppf(chance))
    assert joint(z, p)[0] == pytest.approx(expected, abs=0.15 if p == 1 else 0.02, rel=0.03)


@each_residual_test
def test_the_joint_statistic_again_is_by_the_covariance_of_the_segment(test: Comparison) -> None:
    """Hotelling's quadratic form from sums over the raw means, the last p features only."""
    p, g = 3, test.most - 7
    mixing = np.array([[1.0, 0.6, 0], [0, 0.7, 0.2], [0, 0, 1.5]])
    x = np.random.default_rng(5).normal(size=(2, 2 * test.q + test.most, 5)) / math.sqrt(test.unit)
    x[..., -p:] = x[..., -p:] @ mixing
    x[1, -test.q :, -p:] += [0.1, -0.2, 0.15]
    x = np.rint(x / UNIT) * UNIT
    stretch = stretch_of(x, held=10, first=10)
    n = x.shape[1]
    sigma = np.array([0.5, 0.5, 4.0])
    after, before = x[1, -test.q :, -p:], x[1, -test.q - g : -test.q, -p:]
    centred = before - before.mean(axis=0)
    covariance = sum(np.outer(row, row) for row in centred) / (g - 1) * test.unit
    raised = covariance.copy()
    for j in range(p):
        raised[j, j] = max(covariance[j, j], sigma[j] ** 2) + 0.02 * covariance[j, j]
    assert raised[2, 2] > 10
    d = after.mean(axis=0) - before.mean(axis=0)
    q = d @ np.linalg.inv(raised) @ d / (1 / test.m + 1 / (g * test.unit))
    spread = 2 / (9 * p)
    expected = 1.15 * ((q / p) ** (1 / 3) - 1 + spread) / math.sqrt(spread)
    assert hotelling(test, stretch, 1, n, g, sigma, np.arange(2, 5)) == pytest.approx(
        expected, rel=1e-7
    )


@each_residual_test
def test_hotelling_on_noise_is_about_normal(test: Comparison) -> None:
    """No change: J / JOINT over 300 series has mean 0 and deviation 1, within 5 deviations.

    A covariance from g means makes it larger by about p / g (g = 120: .025); 2 % on the diagonal
    smaller.
    """
    p, n = 3, test.q + test.most
    x = np.random.default_rng(6).normal(size=(300, n, p)) / math.sqrt(test.unit)
    stretch = stretch_of(x, held=n, first=n)
    sigma, every = np.full(p, 0.01), np.arange(p)
    j = [hotelling(test, stretch, i, n, test.most, sigma, every) / JOINT for i in range(300)]
    assert abs(np.mean(j)) < 5 / math.sqrt(300)
    assert abs(np.std(j) - 1) < 5 / math.sqrt(600)


# Where ---------------------------------------------------------------------------------------


@given(
    n=st.integers(5, 40), features=st.integers(1, 4), seed=st.integers(0, 10**6), at=st.floats(0, 1)
)
@settings(max_examples=100, deadline=None)
def test_the_split_is_the_best_of_all_places(n: int, features: int, seed: int, at: float) -> None:
    """argmax of k (n - k) / n sum (difference of the means)^2, two means at least on each side."""
    x = np.random.default_rng(seed).normal(size=(n, features))
    x[int(at * n) :] += 2.0
    gains = {}
    for k in range(2, n - 1):
        difference = x[:k].mean(axis=0) - x[k:].mean(axis=0)
        gains[k] = k * (n - k) / n * float(difference @ difference)
    assert gains[split(x)] == pytest.approx(max(gains.values()), rel=1e-9)
