"""Fingerprints and their distances, by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pipeline.detect.tasks import DECILES, NEW_FROM, distance, fingerprint, nearest


def print_of(*sensors: tuple[float, float]) -> np.ndarray:
    """A fingerprint of (location, scale) pairs."""
    return np.array(sensors).T


def test_a_fingerprint_is_the_median_and_the_deciles_distance() -> None:
    """0 ... 100: median 50, deciles 10 and 90; a wild value at the end moves neither."""
    x = np.arange(101, dtype=np.float32)
    wild = x.copy()
    wild[100] = 1e30
    found = fingerprint(np.stack([x, wild], axis=1))
    assert found == pytest.approx(np.array([[50, 50], [80 / DECILES, 80 / DECILES]]))


def test_the_scale_of_normal_readings_is_their_deviation() -> None:
    """Deciles of N(0, 1) are at -1.2816 and 1.2816."""
    x = np.random.default_rng(0).normal(7, 3, size=(40_000, 1)).astype(np.float32)
    assert fingerprint(x) == pytest.approx(np.array([[7], [3]]), rel=0.02)


def test_missing_cells_count_for_nothing() -> None:
    """NaN and infinities fall away; a sensor without a cell is NaN, without a warning."""
    nan, inf = math.nan, math.inf
    x = np.array([[1, nan, nan], [nan, 4, inf], [3, inf, nan], [5, 4, -inf]], np.float32)
    found = fingerprint(x)
    assert found[:, 0] == pytest.approx([3, (4.6 - 1.4) / DECILES])
    assert found[:, 1].tolist() == [4, 0]
    assert np.isnan(found[:, 2]).all()


def test_a_sensor_that_mostly_repeats_itself_has_its_standard_deviation() -> None:
    """One reading in 100 is 10: both deciles are 0, the deviation is 10 sqrt(.01 .99)."""
    x = np.zeros((100, 1), np.float32)
    x[3] = 10
    assert fingerprint(x) == pytest.approx(np.array([[0], [10 * math.sqrt(0.01 * 0.99)]]))


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (print_of((20, 1)), print_of((20, 1)), 0.0),
        (print_of((20, 1)), print_of((23, 1)), 3.0),
        (print_of((20, 1)), print_of((23, 2)), math.hypot(1.5, math.log(2))),
        (print_of((20, 1)), print_of((20, math.e)), 1.0),
        (print_of((0, 1), (0, 1)), print_of((2, 1), (0, 1)), math.sqrt(4 / 2)),
        (print_of((0, 1), (math.nan, math.nan)), print_of((2, 1), (0, 1)), math.sqrt(5 / 2)),
        (print_of((0, 1), (math.nan, math.nan)), print_of((2, 1), (math.nan, math.nan)), 2.0),
        (print_of((math.nan, math.nan)), print_of((math.nan, math.nan)), 0.0),
        (print_of((5, 0)), print_of((5, 0)), 0.0),
    ],
)
def test_the_distance_is_the_mean_square_of_shift_and_log_ratio(
    a: np.ndarray, b: np.ndarray, expected: float
) -> None:
    """shift by the larger scale; silent in one only: 1; silent in both: not counted."""
    assert distance(a, b) == pytest.approx(expected)
    assert distance(b, a) == pytest.approx(expected), "symmetric"


@pytest.mark.parametrize("unit", [1e-3, 2.0**20])
def test_the_distance_does_not_depend_on_the_unit(unit: float) -> None:
    """Millimetres or metres: the same regime."""
    a, b = print_of((20, 1), (-3, 0.5)), print_of((21, 1.5), (-3.2, 0.7))
    assert distance(a * unit, b * unit) == pytest.approx(distance(a, b))


def test_a_frozen_sensor_that_changes_its_value_is_far_away() -> None:
    """Scale 0 on both sides: a millionth of the value stands in, and any move is large."""
    assert distance(print_of((5, 0)), print_of((5.1, 0))) > 1000


def test_the_nearest_known_task_is_the_answer_if_it_is_near() -> None:
    """Distances 3, .4 and 30: the second; further than NEW_FROM from all: a new one."""
    known = {3: print_of((20, 1)), 7: print_of((22.6, 1)), 9: print_of((53, 1))}
    task, away = nearest(print_of((23, 1)), known)
    assert task == 7
    assert away == pytest.approx(0.4)
    task, away = nearest(print_of((30, 1)), known)
    assert task is None
    assert away == pytest.approx(7.4)


@pytest.mark.parametrize(("away", "known_again"), [(0.999, True), (1.0, False)])
def test_at_the_border_a_regime_is_new(away: float, known_again: bool) -> None:
    """`A regime further is new`: from exactly NEW_FROM on."""
    task, _ = nearest(print_of((away * NEW_FROM, 1)), {4: print_of((0, 1))})
    assert task == (4 if known_again else None)


def test_the_first_regime_is_new() -> None:
    """Nothing is known yet: no task, and infinitely far from one."""
    assert nearest(print_of((0, 1)), {}) == (None, math.inf)
