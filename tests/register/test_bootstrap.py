"""The interval of a mean change: against scipy, on dependent data, and on next to no data."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.signal import lfilter
from scipy.stats import bootstrap, norm, t

from pipeline.register.bootstrap import effect, interval, resampled_means


def test_on_independent_data_it_is_scipys() -> None:
    """Blocks of one window are the ordinary bootstrap; scipy is given the expanded percentiles."""
    values = np.random.default_rng(1).exponential(2.0, 60) - 1.5
    k = len(values)
    tail = norm.cdf(math.sqrt(k / (k - 1)) * t.ppf(0.05, k - 1))
    expected = bootstrap(
        (values,),
        np.mean,
        n_resamples=200_000,
        method="percentile",
        confidence_level=1 - 2 * tail,
        rng=np.random.default_rng(2),
    ).confidence_interval
    found = effect([values], 1, 200_000, 0.9, (7,))
    width = expected.high - expected.low
    assert found.mean == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx(tuple(expected), abs=0.01 * width)


def test_blocks_are_consecutive_and_every_window_counts_alike() -> None:
    """Of 0 ... 9 in a circle, blocks of 4, 4 and 2: each mean is that of three such runs."""
    values = np.arange(10.0)
    means = resampled_means(values, 4, 50_000, np.random.default_rng(3))
    circle = np.concatenate([values, values])
    four = {circle[i : i + 4].sum() for i in range(10)}
    two = {circle[i : i + 2].sum() for i in range(10)}
    possible = {(a + b + c) / 10 for a in four for b in four for c in two}
    assert {round(m, 6) for m in means} == {round(m, 6) for m in possible}
    assert means.mean() == pytest.approx(4.5, abs=5 * means.std() / math.sqrt(len(means)))


def covered(block: int) -> float:
    """Share of 400 autoregressive series (phi = .8) whose interval holds the true mean, 0."""
    rng = np.random.default_rng(4)
    hits = 0
    for seed in range(400):
        noise = rng.normal(size=700)
        values = lfilter([1.0], [1.0, -0.8], noise)[100:]
        found = effect([values], block, 500, 0.95, (seed,))
        assert found.low is not None
        assert found.high is not None
        hits += found.low <= 0 <= found.high
    return hits / 400


def test_dependent_data_are_covered_by_blocks_and_not_without() -> None:
    """Windows overlap: taken one by one, they seem to be surer than they are."""
    assert 0.88 <= covered(30) <= 0.98
    assert covered(1) < 0.65


def test_two_blocks_say_no_more_than_the_two() -> None:
    """The quantile of t with one degree of freedom is past every percentile: least and largest."""
    values = np.repeat([1.0, 3.0], 5)
    found = effect([values], 5, 2000, 0.95, (1,))
    assert (found.low, found.mean, found.high) == (1.0, 2.0, 3.0)
    assert found.is_rise


@pytest.mark.parametrize("n", [1, 4, 9])
def test_fewer_than_two_blocks_have_no_interval(n: int) -> None:
    """Only the mean is known, and its sign speaks."""
    found = effect([np.full(n, -0.5)], 5, 200, 0.95, (1,))
    assert (found.mean, found.low, found.high, found.windows) == (-0.5, None, None, n)
    assert found.is_fall
    assert not found.is_rise


def test_more_confidence_a_wider_interval() -> None:
    """And many blocks bring it to the plain percentiles."""
    means = np.random.default_rng(5).normal(size=100_000)
    narrow, wide = (interval(means, 10_000, confidence) for confidence in (0.5, 0.99))
    assert narrow == pytest.approx((norm.ppf(0.25), norm.ppf(0.75)), abs=0.02)
    assert wide == pytest.approx((norm.ppf(0.005), norm.ppf(0.995)), abs=0.1)


def test_tasks_weigh_alike_however_many_windows_they_have() -> None:
    """The gain is the mean of their means; windows are counted together."""
    found = effect([np.full(20, 1.0), np.full(200, 0.0)], 5, 200, 0.95, (1,))
    assert (found.low, found.mean, found.high, found.windows) == (0.5, 0.5, 0.5, 220)
