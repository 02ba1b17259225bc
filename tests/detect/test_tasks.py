"""Fingerprints and their distances, by hand."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.detect.evidence import JOINT
from pipeline.detect.tasks import (
    LARGEST,
    LARGEST_LEVELS,
    NEW_FROM,
    NEW_FROM_ELSEWHERE,
    OTHER_DEVIATION,
    SAME_LEVEL,
    WORTH,
    Fingerprint,
    Known,
    apart,
    distance,
    in_units,
    merge,
    nearest,
)

NAN = math.nan


def units(*sensors: tuple[float, float]) -> np.ndarray:
    """(location, deviation) of each sensor."""
    return np.array(sensors).T


def print_of(**parts: Any) -> Fingerprint:
    """Two sensors: 5 features and their 2 white ones, 400 readings; all 0 with variance 1."""
    plain = {
        "rows": 400,
        "level_rows": 400,
        "mean": np.zeros(7),
        "variance": np.ones(7),
        "centre": np.zeros(2),
        "level": np.zeros(2),
        "level_variance": np.ones(2),
        "units": np.array([[0.0, 0.0], [1.0, 1.0]]),
    }
    return Fingerprint(**plain | parts)


def at(*values: float) -> np.ndarray:
    return np.array(values, dtype=float)


# In the sensors' units ------------------------------------------------------------------------


def test_units_are_those_of_means_of_five_readings() -> None:
    """Means 2, 7, 12: mean 7, deviation 5 sqrt(2/3); the two readings after count for nothing."""
    x = np.concatenate([np.arange(15), [99, 99]]).astype(np.float32)[:, None]
    assert in_units(x) == pytest.approx(units((7, 5 * math.sqrt(2 / 3))))


def test_missing_cells_count_for_nothing_in_units() -> None:
    """The first five: mean of 1 and 3; the second: nothing; a sensor without a cell is NaN."""
    x = np.full((15, 2), NAN, np.float32)
    x[:, 0] = [1, NAN, 3, NAN, math.inf, *[NAN] * 5, 6, 6, 6, 6, 6]
    found = in_units(x)
    assert found[:, 0] == pytest.approx([4, 2])
    assert np.isnan(found[:, 1]).all()


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (units((20, 1)), units((20, 1)), 0.0),
        (units((20, 1)), units((23, 1)), 3.0),
        (units((20, 1)), units((23, 2)), math.hypot(1.5, math.log(2))),
        (units((20, 1)), units((20, math.e)), 1.0),
        (units((0, 1), (0, 1)), units((2, 1), (0, 1)), math.sqrt(4 / 2)),
        (units((0, 1), (NAN, NAN)), units((2, 1), (0, 1)), 2.0),
        (units((NAN, NAN)), units((0, 1)), 0.0),
        (units((5, 0)), units((5, 0)), 0.0),
    ],
)
def test_apart_is_the_mean_square_of_shift_and_log_ratio(
    a: np.ndarray, b: np.ndarray, expected: float
) -> None:
    """Shift by the larger deviation; a sensor that is silent in one counts for nothing."""
    assert apart(a, b) == pytest.approx(expected)
    assert apart(b, a) == pytest.approx(expected), "symmetric"


@pytest.mark.parametrize("unit", [1e-3, 2.0**20])
def test_apart_does_not_depend_on_the_unit(unit: float) -> None:
    """Millimetres or metres: the same regime."""
    a, b = units((20, 1), (-3, 0.5)), units((21, 1.5), (-3.2, 0.7))
    assert apart(a * unit, b * unit) == pytest.approx(apart(a, b))


def test_a_frozen_sensor_that_changes_its_value_is_far_away() -> None:
    """Deviation 0 on both sides: a millionth of the value stands in, and any move is large."""
    assert apart(units((5, 0)), units((5.1, 0))) > 1000


# In the series' own coordinates ---------------------------------------------------------------


def test_one_feature_that_moved() -> None:
    """z = .5 / sqrt(4 (1/400 + 1/100)), alone among the five largest: z / sqrt(5)."""
    a = print_of()
    b = print_of(mean=at(0.5, 0, 0, 0, 0, 0, 0), variance=at(4, 1, 1, 1, 1, 1, 1), rows=100)
    z = 0.5 / math.sqrt(4 * (1 / 400 + 1 / 100))
    assert distance(a, b) == pytest.approx(z / math.sqrt(5))
    assert distance(b, a) == pytest.approx(z / math.sqrt(5))


def test_white_features_count_together() -> None:
    """q = mean z^2 over both as chi-square of 2 degrees of freedom: Wilson and Hilferty's root."""
    z = np.array([1.0, 0.5]) / math.sqrt(2 / 400)
    q, spread = np.square(z).mean(), 2 / 18
    expected = JOINT * (q ** (1 / 3) - 1 + spread) / math.sqrt(spread)
    assert distance(print_of(), print_of(mean=at(0, 0, 0, 0, 0, 1, 0.5))) == pytest.approx(expected)


def test_levels_count_from_a_quarter_of_a_scale_on() -> None:
    """z = 2 / sqrt(v (2/400) + SAME_LEVEL^2), over the two levels that there are."""
    b = print_of(level=at(2, 0), level_variance=at(9, 1))
    z = 2 / math.sqrt(9 * 2 / 400 + SAME_LEVEL**2)
    assert distance(print_of(), b) == pytest.approx(z / math.sqrt(2))


def test_residuals_of_two_centres_do_not_compare() -> None:
    """Where the forecaster's centre has moved, its residuals say nothing of the regime."""
    far = print_of(mean=np.full(7, 9.0))
    assert distance(print_of(), far) > 100
    assert distance(print_of(), replace(far, centre=at(0, 4))) == 0.0
    assert distance(print_of(), replace(far, rows=0)) == 0.0


def test_with_another_centre_deviations_of_levels_stand_in() -> None:
    """log of the ratio of deviations, log 3 being the border; the root mean square of both."""
    b = print_of(level_variance=at(4000, 1), centre=at(0, 4))
    least = SAME_LEVEL**2 * WORTH
    ratio = math.log((4000 + least) / (1 + least)) / 2
    expected = ratio / math.log(OTHER_DEVIATION) * NEW_FROM / math.sqrt(2)
    assert distance(print_of(), b) == pytest.approx(expected)
    assert distance(print_of(), replace(b, centre=at(0, 0))) == 0.0, "the residual sees more"


def test_a_sensor_that_is_dead_in_either_counts_in_neither() -> None:
    """NaN features fall away: what is left is compared as if there was nothing else."""
    silent = at(NAN, 0, NAN, 0, 0, NAN, 0)
    moved = print_of(mean=at(9, 0.5, 9, 0, 0, 9, 0), level=at(99, 0))
    dead = print_of(mean=silent, variance=silent + 1, level=at(NAN, 0), level_variance=at(NAN, 1))
    z = 0.5 / math.sqrt(2 / 400)
    assert distance(moved, dead) == pytest.approx(z / math.sqrt(3))
    assert distance(dead, moved) == pytest.approx(z / math.sqrt(3))


def oracle(a: Fingerprint, b: Fingerprint) -> float:
    """The distance, feature by feature in plain loops."""

    def z(of: str, j: int, same: float) -> float | None:
        rows = "level_rows" if of == "level" else "rows"
        variance = "level_variance" if of == "level" else "variance"
        v = max(getattr(a, variance)[j], getattr(b, variance)[j])
        n = 1 / getattr(a, rows) + 1 / getattr(b, rows)
        delta = abs(getattr(a, of)[j] - getattr(b, of)[j])
        return None if math.isnan(delta) else delta / math.sqrt(v * n + same**2)

    def rms(values: list[float | None], largest: int) -> float:
        top = sorted(v for v in values if v is not None)[-largest:]
        return math.sqrt(sum(v * v for v in top) / len(top)) if top else 0.0

    d = len(a.level)
    features = [z("mean", j, 0.0) for j in range(len(a.mean))]
    found = [rms([z("level", j, SAME_LEVEL) for j in range(d)], LARGEST_LEVELS)]
    if list(a.centre) == list(b.centre):
        found.append(rms(features[:-d], LARGEST))
        white = [v for v in features[-d:] if v is not None]
        if white:
            q = sum(v * v for v in white) / len(white)
            spread = 2 / (9 * len(white))
            found.append(JOINT * (q ** (1 / 3) - 1 + spread) / math.sqrt(spread))
    else:
        least = SAME_LEVEL**2 * WORTH
        ratios = [
            abs(math.log((v + least) / (w + least))) / 2 / math.log(OTHER_DEVIATION) * NEW_FROM
            for v, w in zip(a.level_variance, b.level_variance, strict=True)
        ]
        found.append(rms(ratios, LARGEST_LEVELS))  # type: ignore[arg-type]
    return max(found)


@given(st.integers(0, 2**32 - 1), st.integers(2, 6), st.floats(0, 0.5))
def test_the_distance_is_the_oracles(seed: int, d: int, dead: float) -> None:
    """More features than count, sensors dead in one or both, centres equal or not."""
    rng = np.random.default_rng(seed)

    def some() -> Fingerprint:
        mean, level = rng.normal(size=4 * d), rng.normal(size=d)
        mean[rng.random(4 * d) < dead] = NAN
        level[rng.random(d) < dead] = NAN
        return Fingerprint(
            rows=int(rng.integers(100, 2000)),
            level_rows=int(rng.integers(100, 2000)),
            mean=mean,
            variance=rng.exponential(size=4 * d) + 0.01,
            centre=rng.integers(0, 2, 1) * np.ones(d),
            level=level,
            level_variance=rng.exponential(size=d),
            units=np.zeros((2, d)),
        )

    a, b = some(), some()
    assert distance(a, b) == pytest.approx(oracle(a, b), rel=1e-6)
    assert distance(a, b) == pytest.approx(distance(b, a))


# Together -------------------------------------------------------------------------------------


def test_two_segments_of_a_task_are_one_by_their_rows() -> None:
    """100 readings at 0 and 300 at 4: 3; where only one says something, what that says."""
    a = print_of(rows=100, level_rows=300, mean=at(0, NAN, 0, 0, 0, 0, 0), level=at(0, 8))
    b = print_of(rows=300, level_rows=100, mean=at(4, 4, NAN, 0, 0, 0, 0), level=at(4, NAN))
    both = merge(a, b)
    assert (both.rows, both.level_rows) == (400, 400)
    assert both.mean.tolist() == [3, 4, 0, 0, 0, 0, 0]
    assert both.level.tolist() == [1, 8]


def test_of_another_centre_the_later_residual_stays() -> None:
    """They do not mix; a later one that has none leaves what there was."""
    a, b = print_of(), print_of(rows=50, mean=np.full(7, 2.0), centre=at(4, 0), level=at(4, 0))
    both = merge(a, b)
    assert both.rows == 50
    assert both.mean.tolist() == [2.0] * 7
    assert both.centre.tolist() == [4, 0]
    assert both.level[0] == pytest.approx(2)
    kept = merge(a, replace(b, rows=0, mean=np.full(7, NAN)))
    assert (kept.rows, kept.mean.tolist(), kept.centre.tolist()) == (400, [0.0] * 7, [0, 0])


def test_a_fingerprint_comes_back_from_text_bit_for_bit() -> None:
    """It is kept in SQL; NaN is no word of JSON."""
    a = print_of(mean=np.random.default_rng(0).normal(size=7), level=at(NAN, 1e-300))
    b = Fingerprint.from_json(a.to_json())
    for part in fields(a):
        one, two = getattr(a, part.name), getattr(b, part.name)
        assert np.array_equal(one, two, equal_nan=True), part.name
    assert "NaN" not in a.to_json()


# Which task -----------------------------------------------------------------------------------


def known(own: Fingerprint | None = None, where: float = 0.0) -> Known:
    return Known(own=own, units=units((where, 1), (0, 1)))


def test_the_nearest_known_task_is_the_answer_if_it_is_near() -> None:
    """Levels .3, 1 and 30 away from three tasks: the first is it; from all far away, a new one."""
    tasks = {n: known(print_of(level=at(x, x))) for n, x in ((3, 0.7), (7, 1.3), (9, 31.0))}
    one = print_of(level=at(1.0, 1.0))
    task, away = nearest(one.units, tasks, one)
    assert task == 3
    assert away == pytest.approx(distance(one, tasks[3].own) / NEW_FROM)  # type: ignore[arg-type]
    far = print_of(level=at(15, 15))
    task, away = nearest(far.units, tasks, far)
    assert task is None
    assert away == pytest.approx(distance(far, tasks[7].own) / NEW_FROM)  # type: ignore[arg-type]


@pytest.mark.parametrize(("away", "task"), [(0.999, 4), (1.001, None)])
def test_at_the_border_a_regime_is_new(away: float, task: int | None) -> None:
    """Among two sensors, sqrt(2) borders on one of them are one border."""
    there = units((away * NEW_FROM_ELSEWHERE * math.sqrt(2), 1), (0, 1))
    assert nearest(there, {4: known()})[0] == task


def test_what_the_series_has_shown_itself_comes_first() -> None:
    """Task 2, of another series, is nearer in units; task 1 is this series' own."""
    tasks = {1: known(print_of(level=at(0.2, 0)), where=0.3), 2: known()}
    one = print_of()
    assert nearest(one.units, tasks, one)[0] == 1
    far = replace(one, level=at(50, 0))
    assert nearest(far.units, tasks, far)[0] == 2, "none of its own: another series' then"
    assert nearest(one.units, tasks)[0] == 2, "without a fingerprint, by units alone"


def test_the_first_regime_is_new() -> None:
    """Nothing is known yet: no task, and infinitely far from one."""
    assert nearest(print_of().units, {}) == (None, math.inf)
