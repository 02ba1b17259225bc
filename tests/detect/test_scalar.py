from __future__ import annotations

import copy
import math

import numpy as np
import pytest
from numpy.typing import NDArray
from river import drift

from pipeline.detect.scalar import HistoryScaled

Array = NDArray[np.float64]


def drifts(values: Array, detector: HistoryScaled | None = None) -> list[tuple[int, int | None]]:
    """(told at, began at) of each drift."""
    detector = detector or HistoryScaled()
    found = []
    for i, value in enumerate(values.tolist()):
        detector.update(value)
        if detector.drift_detected:
            found.append((i, detector.drift_at))
    return found


def ar1(phi: float, n: int, seed: int) -> Array:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n) * math.sqrt(1 - phi * phi)
    for i in range(1, n):
        x[i] += phi * x[i - 1]
    return x


def test_it_is_one_of_river_s_detectors() -> None:
    """Whoever takes a DriftDetector takes this one."""
    assert isinstance(HistoryScaled(), drift.ADWIN.__mro__[1])
    assert isinstance(HistoryScaled().clone(), HistoryScaled)


@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e6])
def test_a_shift_is_found_in_any_unit_and_placed(unit: float) -> None:
    """Three deviations at value 3000: told within one window of 25 values, placed to two blocks."""
    values = np.random.default_rng(1).normal(size=5000)
    values[3000:] += 3.0
    ((told, began),) = drifts(values * unit)
    assert 3000 <= told < 3025
    assert began is not None
    assert abs(began - 3000) <= 10


@pytest.mark.parametrize("seed", range(3))
def test_autocorrelation_is_no_drift(seed: int) -> None:
    """ADWIN on the same values tells of many: that is what the history is for."""
    values = ar1(0.9, 20_000, seed)
    adwin, alarms = drift.ADWIN(), 0
    for value in values.tolist():
        adwin.update(value)
        alarms += adwin.drift_detected
    assert alarms > 20
    assert drifts(values) == []


def test_what_is_not_finite_is_as_if_it_had_not_come() -> None:
    """NaN and infinity silence river's own detectors for ever."""
    values = np.random.default_rng(2).normal(size=3000)
    values[2000:] += 4.0
    holes = np.insert(values, [10, 400, 1999], [np.nan, np.inf, -np.inf])
    clean, holed = HistoryScaled(), HistoryScaled()
    assert [b for _, b in drifts(holes, holed)] == [b for _, b in drifts(values, clean)] != []


def test_nothing_is_told_in_the_warm_up() -> None:
    """There is no scale yet to tell it in."""
    values = np.random.default_rng(3).normal(size=600)
    values[100:] += 50.0
    assert drifts(values, HistoryScaled(warm_up=300)) == []


def test_a_copy_goes_on_where_it_was_made() -> None:
    """As river's own detectors do."""
    values = np.random.default_rng(4).normal(size=4000)
    values[2500:] -= 3.0
    whole = drifts(values)
    detector = HistoryScaled()
    first = drifts(values[:2503], detector)
    rest = drifts(values[2503:], copy.deepcopy(detector))
    assert first + [(i + 2503, began) for i, began in rest] == whole != []
