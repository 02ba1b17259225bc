"""Where a segment falls into two, measured by itself."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.detect.evidence import statistic
from pipeline.detect.halves import LEAST, by_history, splits


def test_a_split_is_measured_as_defined() -> None:
    """Sum by sum, from both ends: |S_k| / sqrt(n) by the strayings of both halves' sums."""
    x = np.random.default_rng(1).normal(size=(40, 3)).cumsum(axis=0)
    places, values = splits(x)
    assert places.tolist() == list(range(LEAST, 40 - LEAST + 1))
    y, n = x - x.mean(axis=0), len(x)
    for k, value in zip(places, values, strict=True):
        stray = np.zeros(3)
        for half in (y[:k], y[k:][::-1]):
            total = half.sum(axis=0)
            for i in range(1, len(half) + 1):
                stray += (half[:i].sum(axis=0) - i / len(half) * total) ** 2
        expected = np.abs(y[:k].sum(axis=0)) / np.sqrt(n) / np.sqrt(stray / n**2)
        assert value == pytest.approx(expected, rel=1e-6)


def test_neither_unit_nor_level_matters() -> None:
    """It is measured by itself."""
    x = np.random.default_rng(2).normal(size=(60, 2))
    assert splits(1000 * x + 7)[1] == pytest.approx(splits(x)[1], rel=1e-6)


@pytest.mark.parametrize("at", [20, 50, 70])
@pytest.mark.parametrize("period", [3, 11])
def test_a_cycle_does_not_hide_a_step(at: int, period: int) -> None:
    """A step as high as the cycle is split where it is; the cycle by itself is not split."""
    rng = np.random.default_rng(at)
    cycle = np.sin(2 * np.pi * np.arange(100) / period)[:, None] + 0.2 * rng.normal(size=(100, 3))
    stepped = cycle + (np.arange(100) >= at)[:, None]
    places, values = splits(stepped)
    assert abs(places[statistic(values).argmax()] - at) <= period
    assert statistic(values).max() > 2 * statistic(splits(cycle)[1]).max()


def test_by_history_is_the_difference_in_standard_errors() -> None:
    """Of means of 20 readings, sigma being of one."""
    x = np.concatenate([np.zeros((30, 1)), np.full((15, 1), 0.5)])
    z = by_history(x, 30, np.array([2.0]), unit=20)
    assert z == pytest.approx([0.5 / np.sqrt(4 / 600 + 4 / 300)])


def test_noise_is_rarely_split() -> None:
    """Segments of white noise, seven features: not one in a hundred is above 8."""
    rng = np.random.default_rng(3)
    most = [statistic(splits(rng.normal(size=(140, 7)))[1]).max() for _ in range(500)]
    assert np.mean(np.array(most) > 8.0) < 0.01
