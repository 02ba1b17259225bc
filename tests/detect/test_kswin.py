"""KSWIN with a table of p-values against river's own, and the table against scipy."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from river.drift import KSWIN
from scipy import stats

from pipeline.detect import kswin

R = 30


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("values", [2, 7, 10_000])
def test_distance_and_p_value_are_scipys_with_and_without_ties(seed: int, values: int) -> None:
    rng = np.random.default_rng(seed)
    for shift in np.linspace(0, 1, 12):
        a = rng.integers(0, values, R) / values
        b = rng.integers(0, values, R) / values + shift
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs = stats.ks_2samp(a, b, method="auto")
        k = kswin.steps(a, b)
        assert k / R == pytest.approx(theirs.statistic, abs=1e-12)
        assert kswin.p_values(R)[k] == theirs.pvalue


@pytest.mark.parametrize("seed", range(3))
def test_alarms_and_state_are_rivers_own(seed: int) -> None:
    rng = np.random.default_rng(seed)
    level = np.repeat([0.0, 2.0, 2.0, -1.0], 150)
    values = (level + rng.normal(size=600)).tolist()
    river, ours = KSWIN(seed=0), kswin.KSWIN(seed=0)
    alarms = 0
    for value in values:
        river.update(value)
        ours.update(value)
        assert ours.drift_detected == river.drift_detected
        assert ours.p_value == river.p_value
        alarms += river.drift_detected
    assert alarms >= 2  # both shifts
    assert list(ours.window) == list(river.window)
    assert ours._rng.getstate() == river._rng.getstate()


def test_a_small_difference_of_many_values_is_no_alarm() -> None:
    """A p-value below alpha is not enough: the distributions must differ by more than LEAST."""
    rng = np.random.default_rng(0)
    options = {"alpha": 1.0, "window_size": 100, "stat_size": 50, "seed": 0}
    river, ours = KSWIN(**options), kswin.KSWIN(**options)
    for value in rng.normal(size=300).tolist():
        river.update(value)
        ours.update(value)
        assert ours.drift_detected == river.drift_detected
