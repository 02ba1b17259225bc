from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline.model.scaling import KNEE, Scaling


def fit(*columns: object) -> Scaling:
    """The scaling of readings given channel by channel."""
    return Scaling.fit(np.array(columns, dtype=np.float32).T)


def test_location_is_the_median_and_scale_the_quartiles_distance() -> None:
    """0, 1, ..., 100: median 50, quartiles 25 and 75, so scale 50 / 1.349 (1 sigma of a normal)."""
    scaling = fit(range(101))
    assert scaling.location.tolist() == [50.0]
    assert scaling.scale.tolist() == pytest.approx([50 / 1.349])


def test_channels_are_scaled_each_by_itself() -> None:
    """Sensors have their own units: shifting and stretching one leaves the other alone."""
    x = np.random.default_rng(0).normal(size=200)
    both, one = fit(x, 1000 + 50 * x), fit(x)
    assert both.location[0] == one.location[0]
    assert both.scale[0] == one.scale[0]
    assert both.location[1] == pytest.approx(1000 + 50 * float(one.location[0]), rel=1e-5)
    assert both.scale[1] == pytest.approx(50 * float(one.scale[0]), rel=1e-5)


def test_normal_readings_get_unit_scale() -> None:
    """For N(mu, sigma) scale estimates sigma; its standard error is about 1.17 sigma / sqrt(n)."""
    n = 20_000
    x = np.random.default_rng(1).normal(7, 3, n)
    scaling = fit(x)
    assert abs(float(scaling.scale[0]) / 3 - 1) < 5 * 1.17 / n**0.5
    assert abs(float(scaling.location[0]) - 7) < 5 * 3 * 1.2533 / n**0.5


@pytest.mark.parametrize("value", [5.0, -5.0, 2e7, 1e-3])
def test_a_sensor_that_never_moves_is_scaled_by_a_thousandth_of_its_value(value: float) -> None:
    """Then a change by 1 % is 10 scales: seen, and still finite."""
    scaling = fit([value] * 64)
    assert scaling.location.tolist() == pytest.approx([value])
    assert scaling.scale.tolist() == pytest.approx([abs(value) / 1000])


def test_a_sensor_that_is_always_zero_has_a_tiny_scale() -> None:
    """A thousandth of nothing would divide by zero: 1e-9, and the sensor itself stays at 0."""
    scaling = fit([0.0] * 64)
    assert scaling.scale.tolist() == pytest.approx([1e-9])
    assert scaling.apply(torch.zeros(1, 1)).tolist() == [[0.0]]
    assert scaling.apply(torch.ones(1, 1)).item() == pytest.approx(KNEE + math.log(1e9 - 9))


def test_a_silent_sensor_is_left_as_it_comes() -> None:
    """Nothing is known of it: location 0 and scale 1, beside a sensor that speaks."""
    scaling = fit([np.nan] * 5, [1.0, 2.0, 3.0, 4.0, 5.0], [np.inf, -np.inf] * 2 + [np.nan])
    assert scaling.location.tolist() == [0.0, 3.0, 0.0]
    assert scaling.scale.tolist() == pytest.approx([1.0, 2 / 1.349, 1.0])


def test_missing_cells_do_not_count() -> None:
    """With holes and infinities among them the readings give what they give without."""
    x = np.random.default_rng(2).normal(size=50)
    holes = np.insert(x, [0, 10, 20, 50], [np.nan, np.inf, -np.inf, np.nan])
    one, other = fit(x), fit(holes)
    assert torch.equal(one.location, other.location)
    assert torch.equal(one.scale, other.scale)


def test_heavy_tails_do_not_stretch_the_scale() -> None:
    """Cauchy: no deviation to speak of, quartiles at +-1; one wild reading moves next to nothing.

    scale = max(2 / 1.349, deviation / 10), and the quartiles' distance is what it was before.
    """
    q = (np.arange(1000) + 0.5) / 1000
    x = np.tan(np.pi * (q - 0.5))
    scaling = fit(x)
    low, high = np.quantile(x.astype(np.float32), [0.25, 0.75])
    assert scaling.scale.tolist() == pytest.approx([max((high - low) / 1.349, x.std() / 10)])
    assert float(scaling.scale[0]) < x.std() / 2


def test_a_sensor_that_moves_seldom_is_scaled_by_its_deviation() -> None:
    """An on-off sensor, on one time in ten: its quartiles agree, so a tenth of the deviation."""
    x = [0.0] * 90 + [1.0] * 10
    assert fit(x).scale.tolist() == pytest.approx([(0.1 * 0.9) ** 0.5 / 10])


def test_scaled_readings_grow_slowly_beyond_the_knee_and_holes_stay() -> None:
    """An outlier must not own the loss; a missing cell is not a reading of anything.

    z = 1; 10; 20, so 10 + log 11; 5e29, so 10 + log 5e29; infinite: as float32's largest number.
    """
    scaling = Scaling(torch.tensor([1.0]), torch.tensor([2.0]))
    nan, inf = float("nan"), float("inf")
    x = torch.tensor([3.0, 21.0, 41.0, -39.0, 1e30, -1e30, nan, inf, -inf])[:, None]
    far, most = 10 + math.log(5e29), 10 + math.log(float(np.finfo(np.float32).max))
    eleven = 10 + math.log(11)
    expected = [1.0, 10.0, eleven, -eleven, far, -far, nan, most, -most]
    assert scaling.apply(x)[:, 0].tolist() == pytest.approx(expected, nan_ok=True)


def test_a_regime_far_beyond_the_first_still_moves() -> None:
    """At 20 to 60 scales: every reading keeps its place, where a clip would make all one number."""
    scaling = Scaling(torch.zeros(1), torch.ones(1))
    x = torch.linspace(20, 60, 41)[:, None]
    assert bool((scaling.apply(x).diff(dim=0) > 0).all())
    assert bool((scaling.apply(-x) == -scaling.apply(x)).all())


def test_scaling_leaves_what_it_is_given() -> None:
    """What is in place is so on the scaled copy."""
    x = torch.tensor([[100.0]])
    Scaling(torch.zeros(1), torch.ones(1)).apply(x)
    assert x.item() == 100.0


@settings(deadline=None)
@given(
    hnp.arrays(
        np.float32,
        st.tuples(st.integers(1, 30), st.integers(1, 3)),
        elements=st.floats(-(2.0**99), 2.0**99, width=32) | st.just(float("nan")),
    )
)
def test_whatever_the_readings_the_scaled_ones_are_finite(readings: np.ndarray) -> None:
    """No division by zero, no overflow: float32's largest is below 10 + 89; holes stay holes."""
    scaling = Scaling.fit(readings)
    assert bool((scaling.scale > 0).all())
    assert bool(scaling.scale.isfinite().all())
    scaled = scaling.apply(torch.from_numpy(readings)).numpy()
    observed = np.isfinite(readings)
    assert np.array_equal(np.isnan(scaled), ~observed)
    assert (np.abs(scaled[observed]) < KNEE + 89).all()
