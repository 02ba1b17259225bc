"""Boundaries on streams whose changes are known."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.config import Detect
from pipeline.detect.boundary import LOOK_BACK, BoundaryDetector
from pipeline.detect.signals import BLOCK
from pipeline.records import Boundary
from tests.detect.logs import QUICK, Log, feed, find, interleave

Array = NDArray[np.float64]

#: "A few blocks": how near a clear shift is located.
NEAR = 3 * BLOCK


def noise(rows: int, channels: int = 4, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=(rows, channels))


def shifted(at: int, by: float | list[float], rows: int, channels: int = 4, seed: int = 0) -> Array:
    """Noise of deviation 1 with a step of the level."""
    values = noise(rows, channels, seed)
    values[at:] += by
    return values


def split(values: Array) -> int:
    """The row that best tells two means apart: argmax k (n - k) / n |difference|^2, every row."""
    n = len(values)
    gains = [
        k * (n - k) / n * float(((values[:k].mean(axis=0) - values[k:].mean(axis=0)) ** 2).sum())
        for k in range(1, n)
    ]
    return 1 + int(np.argmax(gains))


def rows_of(found: list[Boundary]) -> list[tuple[int, int]]:
    return [(b.boundary_row, b.detected_row) for b in found]


# What is found --------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [431, 1503, 2750])
@pytest.mark.parametrize("by", [2.0, -5.0])
def test_a_level_shift_is_found_soon_and_where_it_was(at: int, by: float) -> None:
    """Between the references' fits, soon after, and late; near the best split of all rows."""
    values = shifted(at, by, at + 400, seed=at)
    (boundary,) = find(values)
    assert boundary.signal == "level"
    assert at < boundary.detected_row < at + 50
    assert abs(boundary.boundary_row - split(values[at - 300 : at + 100]) - (at - 300)) <= NEAR
    assert boundary.statistic > boundary.threshold == Detect().level_threshold


def test_a_boundary_carries_the_offsets_and_times_of_its_rows() -> None:
    """Reading i of the series is not record i of the log: other series lie between.

    What is published must lead back to the very records, over holes and polls.
    """
    log = interleave({"a": shifted(700, 4.0, 1500, 2), "b": noise(900, 2)}, seed=3)
    detector = BoundaryDetector(2, Detect())
    found = feed(detector, log.polls([173] * 20), {"a": 0, "b": 1})
    (boundary,) = found
    of = log.of(boundary.series)
    assert boundary.series == "a"
    assert abs(boundary.boundary_row - 700) <= NEAR
    assert boundary.boundary_offset == log.offsets[of[boundary.boundary_row]]
    assert boundary.boundary_time == log.times[of[boundary.boundary_row]]
    assert boundary.detected_offset == log.offsets[of[boundary.detected_row]]
    assert boundary.detected_time == log.times[of[boundary.detected_row]]


def test_segments_count_on_and_boundaries_do_not_go_back() -> None:
    """Four shifts, four segments 1 ... 4, each located in order and before its detection."""
    values = noise(5000)
    for at in (1000, 1800, 2600, 3400):
        values[at:] += 3.0
    found = find(values)
    assert [b.segment for b in found] == [1, 2, 3, 4]
    assert [b.boundary_row for b in found] == pytest.approx([1000, 1800, 2600, 3400], abs=NEAR)
    assert all(0 < b.detected_row - b.boundary_row <= LOOK_BACK for b in found)


@pytest.mark.parametrize("sensor", range(4))
def test_the_sensor_that_shifts_is_named_first(sensor: int) -> None:
    """With its change in its own robust deviations, in sign and size; the others follow, smaller.

    Deviation 1, shift -6: means of up to 12 blocks of 5 put the change within .5 of -6.
    """
    values = noise(1600, seed=sensor)
    values[1000:, sensor] -= 6.0
    values *= [1, 100, 0.01, 7]
    (boundary,) = find(values)
    channels, changes = zip(*boundary.sensors, strict=True)
    assert channels[0] == sensor
    assert changes[0] == pytest.approx(-6, abs=1.0)
    assert len(set(channels)) == 3
    assert max(map(abs, changes[1:])) < 1.0
    assert list(map(abs, changes)) == sorted(map(abs, changes), reverse=True)


def test_a_change_of_variance_is_found_by_the_residual() -> None:
    """Means stay: only the joint residual sees it."""
    values = noise(5000)
    values[3000:] *= 2.0
    (boundary,) = find(values)
    assert boundary.signal == "residual"
    assert boundary.threshold == Detect().residual_threshold
    assert 3000 < boundary.detected_row < 3240
    assert abs(boundary.boundary_row - 3000) <= 2 * NEAR


def test_a_change_of_correlation_is_found_by_the_residual() -> None:
    """Each sensor by itself looks as before; together they do not."""
    rng = np.random.default_rng(1)
    common = rng.normal(size=(5000, 1))
    values = common + 0.4 * rng.normal(size=(5000, 2))
    values[3000:, 1] = -values[3000:, 1]
    (boundary,) = find(values)
    assert boundary.signal == "residual"
    assert abs(boundary.boundary_row - 3000) <= 2 * NEAR


# What is not ----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("channels", [1, 8])
def test_independent_noise_has_no_boundary(seed: int, channels: int) -> None:
    """20 000 rows: any alarm here would be one too many."""
    assert find(noise(20_000, channels, seed), poll=5000) == []


@pytest.mark.parametrize("seed", range(3))
def test_a_series_that_always_wanders_has_taught_its_own_threshold(seed: int) -> None:
    """AR(1), phi = .9: bare ADWINs alarm hundreds of times here; a history-scaled test does not."""
    rng = np.random.default_rng(seed)
    values = np.zeros((20_000, 2))
    for t in range(1, len(values)):
        values[t] = 0.9 * values[t - 1] + rng.normal(size=2)
    assert len(find(values, poll=5000)) <= 1


def test_one_wild_reading_is_no_boundary() -> None:
    """However wild: it is one block, and without it nothing is left."""
    for size in (50.0, 1e6, 1e30):
        values = noise(3000)
        values[1500] = size
        values[2200, 1] = -size
        assert find(values) == []


def test_a_long_ramp_is_one_boundary() -> None:
    """A transition lasts until no test has crossed for `settle_after` readings.

    Without settling every further piece of the ramp is a boundary of its own.
    """
    values = noise(4000, 2)
    values += np.clip((np.arange(4000) - 1500) / 1000, 0, 1)[:, None] * 60
    found = find(values)
    assert len(found) == 1
    assert 1450 <= found[0].boundary_row <= 1600
    assert len(find(values, Detect(settle_after=0))) > 5


def test_a_change_after_the_transition_has_settled_is_a_boundary_again() -> None:
    """Two steps `settle_after` and more apart are two; closer, they are one transition."""
    for gap, count in ((150, 1), (400, 2)):
        values = noise(3000)
        values[1500:] += 5.0
        values[1500 + gap :] += 5.0
        assert len(find(values)) == count


# River proposes -------------------------------------------------------------------------------


def test_without_an_alarm_of_river_there_is_no_boundary() -> None:
    """PageHinkley sees the joint residual, which is fitted at row 2000; the shift is at 1000.

    The same stream with ADWIN, which sees the levels, has its boundary.
    """
    values = shifted(1000, 5.0, 1500)
    for detectors, count in ((("PageHinkley",), 0), (("ADWIN",), 1)):
        found = find(values, Detect(detectors=detectors, fit_after=2000))
        assert len(found) == count
        assert all(b.detectors == detectors for b in found)


def test_a_watch_ends() -> None:
    """A test that crosses later than `watch` readings after the last alarm confirms nothing.

    A doubled variance takes the residual test longer than it takes river: a watch that lasts finds
    it, one of a single block has ended by the time.
    """
    values = noise(4500)
    values[3000:] *= 1.5
    (boundary,) = find(values)
    assert boundary.signal == "residual"
    brief = find(values, Detect(watch=BLOCK))
    assert rows_of(brief) != rows_of([boundary])
    assert all(b.detected_row >= boundary.detected_row for b in brief)


def test_the_detectors_that_had_alarmed_are_named_in_order() -> None:
    """Sorted by name, whatever the settings' order: the record is compared and hashed."""
    values = shifted(2000, 6.0, 2600)
    (boundary,) = find(values, Detect(detectors=("PageHinkley", "KSWIN", "ADWIN")))
    assert "ADWIN" in boundary.detectors
    assert list(boundary.detectors) == sorted(boundary.detectors)
    assert set(boundary.detectors) <= {"ADWIN", "KSWIN", "PageHinkley"}


# Units and orders -----------------------------------------------------------------------------


def stream_with_both() -> Array:
    """A level shift, and later wider noise; correlated sensors."""
    values = noise(5200, 3, seed=4) @ np.array([[1, 0.5, 0], [0, 1, 0.3], [0, 0, 1]])
    values[1200:] += [3.0, 0.0, -1.0]
    values[3500:] *= 1.4
    return values.astype(np.float32)


@pytest.mark.parametrize("unit", [1e-3, 1e3])
def test_a_change_of_unit_leaves_the_boundaries_where_they_are(unit: float) -> None:
    """ADWIN and PageHinkley do depend on the unit: everything is standardised before them.

    The products are rounded to float32, hence "up to": rows are the same, statistics nearly.
    """
    values = stream_with_both()
    plain, scaled = find(values), find(values * np.float32(unit))
    assert {b.signal for b in plain} == {"level", "residual"}
    assert rows_of(scaled) == rows_of(plain)
    assert [b.statistic for b in scaled] == pytest.approx([b.statistic for b in plain], rel=1e-3)


@pytest.mark.parametrize("power", [-20, 3, 40])
def test_a_power_of_two_leaves_every_bit(power: int) -> None:
    """Such a product is exact, so nothing at all may differ."""
    values = stream_with_both()
    assert find(values * np.float32(2.0**power)) == find(values)


@pytest.mark.parametrize("order", [(1, 2, 0), (2, 1, 0)])
def test_another_order_of_the_sensors_permutes_the_named_sensors_only(
    order: tuple[int, ...],
) -> None:
    """Which sensor is called first is chance; sums in another order round otherwise, no more."""
    values = stream_with_both()
    plain, permuted = find(values), find(values[:, list(order)])
    assert len(plain) >= 2
    for one, other in zip(plain, permuted, strict=True):
        named = {order[channel]: change for channel, change in other.sensors}
        assert named == pytest.approx(dict(one.sensors), abs=2e-3)
        assert other.statistic == pytest.approx(one.statistic, rel=1e-9)
        rest = {"sensors": (), "statistic": 0.0}
        assert dataclasses.replace(other, **rest) == dataclasses.replace(one, **rest)


# Awkward readings: warnings are errors in these tests ----------------------------------------


def test_a_sensor_that_never_speaks_changes_nothing_for_the_others() -> None:
    """All NaN: the others' level shift is found at the same row."""
    values = shifted(1000, 5.0, 1500, 3)
    silent = np.column_stack([values, np.full(1500, np.nan)])
    (with_silent,), (without,) = find(silent), find(values)
    assert with_silent.boundary_row == without.boundary_row
    assert 3 not in [channel for channel, change in with_silent.sensors if change]


@pytest.mark.parametrize("value", [np.nan, 0.0, 5.0, -1e30, 1e-42, np.inf])
def test_a_dead_stream_has_no_boundary(value: float) -> None:
    """Constant, silent, huge, denormal: nothing changes, so nothing is found."""
    assert find(np.full((4500, 2), value)) == []


def test_a_sensor_that_leaves_a_constant_value_is_found() -> None:
    """A valve that was shut since ever, and opens."""
    values = np.full((1500, 3), 7.0)
    values[1000:, 1] += 1 + 0.1 * noise(500, 1)[:, 0]
    (boundary,) = find(values)
    assert abs(boundary.boundary_row - 1000) <= NEAR
    assert boundary.sensors[0][0] == 1
    assert [change for _, change in boundary.sensors[1:]] == [0.0, 0.0]


def test_one_sensor_is_enough() -> None:
    """d = 1: covariances are scalars, and the three largest z are one."""
    (boundary,) = find(shifted(1000, 4.0, 1500, 1))
    assert abs(boundary.boundary_row - 1000) <= NEAR
    assert len(boundary.sensors) == 1


@pytest.mark.parametrize("rows", [1, 4, 30, 299, 300, 301])
def test_a_series_in_its_warm_up_has_no_boundary_but_a_state(rows: int) -> None:
    """Shorter than any reference: it goes on from its state like any other."""
    values = shifted(rows // 2, 9.0, rows).astype(np.float32)
    log = Log(np.array(["a"] * rows), np.arange(rows), np.arange(rows), values)
    detector = BoundaryDetector(4, Detect())
    assert feed(detector, log.polls([]), {"a": 0}) == []
    again = BoundaryDetector.restore(detector.state(), 4, Detect())
    for name, array in detector.state().items():
        assert np.array_equal(array, again.state()[name], equal_nan=True), name


def test_no_series_at_all_has_a_state_too() -> None:
    """A partition that has been assigned and not read yet is checkpointed like any other."""
    again = BoundaryDetector.restore(BoundaryDetector(2, QUICK).state(), 2, QUICK)
    (boundary,) = feed(
        again, interleave({"a": shifted(400, 6.0, 700, 2)}).polls([50] * 20), {"a": 0}
    )
    assert abs(boundary.boundary_row - 400) <= NEAR


@pytest.mark.parametrize("wild", [1e30, -3e38, 1e-42, 1e-30])
def test_extreme_values_have_a_defined_answer(wild: float) -> None:
    """A shift to the end of float32's range is found; one at its other end is nothing.

    Sums of squares of 3e38 overflow float32 many times over, and 1e-42 is a denormal.
    """
    values = noise(3500, 2).astype(np.float32)
    values[1500:, 0] = wild
    values[::50, 1] = wild
    found = find(values)
    if abs(wild) > 1:
        assert abs(found[0].boundary_row - 1500) <= NEAR
    assert all(np.isfinite(b.statistic) for b in found)
    assert all(np.isfinite(change) for b in found for _, change in b.sensors)


@pytest.mark.parametrize("scale", [1e30, 1e-25])
def test_streams_of_extreme_unit_are_like_any_other(scale: float) -> None:
    """Whole streams near the ends of the range: the same shift, the same place."""
    values = shifted(1000, 5.0, 1500, 2)
    assert rows_of(find(values * scale)) == rows_of(find(values))


def test_readings_too_small_to_tell_apart_are_constant() -> None:
    """Denormals: a scale of 1e-42 is none, and a shift within them is not a change."""
    assert find(shifted(1000, 5.0, 3000, 2) * 1e-42) == []


def test_holes_do_not_hide_a_shift_nor_make_one() -> None:
    """A fifth of the cells missing, one sensor out for 200 rows: one boundary, in its place."""
    values = shifted(1500, 4.0, 2500, seed=2)
    values[np.random.default_rng(3).random(values.shape) < 0.2] = np.nan
    values[900:1100, 2] = np.nan
    found = find(values)
    assert [b.boundary_row for b in found if b.boundary_row > 1200] == pytest.approx(
        [1500], abs=NEAR
    )
