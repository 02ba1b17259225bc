"""Boundaries on streams whose changes are known."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace as replace_of
from numpy.typing import NDArray

from pipeline.config import Detect
from pipeline.detect import detectors
from pipeline.detect.boundary import LOOK_BACK, BoundaryDetector
from pipeline.detect.signals import BLOCK
from pipeline.records import Batch, Boundary, Change
from tests.detect.logs import QUICK, Log, feed, find, interleave, restarted, same

Array = NDArray[np.float64]

#: "A few blocks": how near a clear shift is located.
NEAR = 3 * BLOCK


def noise(rows: int, channels: int = 4, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=(rows, channels))


def wandering(rows: int, channels: int, phi: float | Array, seed: int = 0) -> Array:
    """AR(1) of variance 1 at every row; phi is one number, or one a row."""
    normal, phis = noise(rows, channels, seed), np.broadcast_to(phi, rows)
    values = normal.copy()
    for t in range(1, rows):
        values[t] = phis[t] * values[t - 1] + np.sqrt(1 - phis[t] ** 2) * normal[t]
    return values


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


def ramp(rows: int, at: int, length: int, by: float) -> Array:
    """0, then `by` from row at + length on, and a straight line between."""
    return by * np.clip((np.arange(rows) - at) / length, 0, 1)[:, None]


def approach(rows: int, at: int, time: float, by: float) -> Array:
    """0, and from row `at` on by (1 - exp(-t / time))."""
    return by * -np.expm1(-np.maximum(np.arange(rows) - at, 0) / time)[:, None]


def rows_of(found: list[Boundary]) -> list[tuple[int, int]]:
    return [(b.boundary_row, b.detected_row) for b in found]


def test_alarms_are_counted_by_the_detector_that_fired(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as river's detectors told, however the log was cut."""
    told: list[int] = []
    update = detectors.Proposers.update

    def told_of(self: detectors.Proposers, *given: Any) -> list[tuple[int, int]]:
        fired = update(self, *given)
        told.extend(kind for _, kind in fired)
        return fired

    monkeypatch.setattr(detectors.Proposers, "update", told_of)
    settings = replace_of(QUICK, detectors=("ADWIN", "PageHinkley"))
    log = interleave({"a": shifted(500, 4.0, 900, 2), "b": noise(600, 2)})
    for size in (1500, 70):
        told.clear()
        detector, found = BoundaryDetector(2, settings), Counter[str]()
        for batch in log.polls([size] * 30):
            feed(detector, [batch], {"a": 0, "b": 1})
            found += detector.alarms
        assert found == Counter(settings.detectors[kind] for kind in told)
        assert min(found[name] for name in settings.detectors) >= 1


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
    assert boundary.statistic > boundary.threshold


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
def test_the_sensor_that_shifts_is_named(sensor: int) -> None:
    """With its change in its own robust deviations, in sign and size, and its values; no other is.

    Deviation 1, shift -6: means of up to 12 blocks of 5 put the change within .5 of -6.
    """
    values = noise(1600, seed=sensor)
    values[1000:, sensor] -= 6.0
    values *= [1, 100, 0.01, 7]
    (boundary,) = find(values)
    (change,) = boundary.sensors
    assert (change.kind, change.channel) == ("level", sensor)
    assert change.change == pytest.approx(-6, abs=1.0)
    unit = [1, 100, 0.01, 7][sensor]
    assert change.before == pytest.approx(0, abs=unit)
    assert change.after == pytest.approx(-6 * unit, abs=unit)


@pytest.mark.parametrize("seed", range(3))
def test_a_change_of_variance_is_found(seed: int) -> None:
    """Means stay; those of few readings spread, too, so that the level may see it first."""
    values = noise(5000, seed=seed)
    values[3000:] *= 2.0
    (boundary,) = find(values)
    assert boundary.statistic > boundary.threshold
    assert 3000 - 2 * NEAR <= boundary.boundary_row < boundary.detected_row < 3240


def swinging(phi: float, rows: int, rng: np.random.Generator) -> Array:
    """AR(2) of one sensor whose lag-1 autocorrelation is phi and whose deviation is 1."""
    x, e = np.zeros(rows), rng.normal(size=rows)
    for t in range(2, rows):
        x[t] = 1.5 * phi * x[t - 1] - 0.5 * x[t - 2] + e[t]
    return (x / x.std())[:, None]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("at", [1200, 2400])
def test_other_dynamics_of_one_sensor_are_found(seed: int, at: int) -> None:
    """Mean and deviation stay, and there is no other sensor: only its echoes tell."""
    rng = np.random.default_rng(seed)
    values = np.concatenate([swinging(0.7, at, rng), swinging(0.1, 2000, rng)])
    (boundary,) = find(values)
    assert boundary.signal == "residual"
    assert abs(boundary.boundary_row - at) <= 4 * BLOCK * 4
    assert boundary.detected_row < at + 1000


def test_a_small_shift_of_one_slow_sensor_is_found_far_back() -> None:
    """AR(1) .9 and one deviation: no window of 400 rows tells it, the whole segment does.

    The boundary may lie further back than those of many sensors; its offset and time are known.
    """
    rng = np.random.default_rng(4)
    values = np.zeros((8000, 1))
    for t in range(1, 8000):
        values[t] = 0.9 * values[t - 1] + np.sqrt(1 - 0.9**2) * rng.normal(size=1)
    values[5000:] += 1.0
    (boundary,) = find(values)
    assert boundary.detected_row - boundary.boundary_row > LOOK_BACK
    assert abs(boundary.boundary_row - 5000) <= 200
    assert boundary.boundary_offset == 10 * boundary.boundary_row


@pytest.mark.parametrize("seed", range(3))
def test_a_change_of_correlation_is_found_by_the_residual(seed: int) -> None:
    """Each sensor by itself looks as before; together they do not."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=(5000, 1))
    values = common + 0.4 * rng.normal(size=(5000, 2))
    values[3000:, 1] = -values[3000:, 1]
    (boundary,) = find(values)
    assert boundary.signal == "residual"
    assert 3000 < boundary.detected_row < 3240
    assert abs(boundary.boundary_row - 3000) <= 2 * NEAR


@pytest.mark.parametrize("seed", range(3))
def test_a_change_of_the_dynamics_is_found_by_the_residual(seed: int) -> None:
    """Mean 0 and variance 1 throughout; only how a reading follows from the last one changes."""
    phi = np.where(np.arange(5000) < 3000, 0.9, 0.2)
    (boundary,) = find(wandering(5000, 3, phi, seed))
    assert boundary.signal == "residual"
    assert 3000 < boundary.detected_row < 3240
    assert abs(boundary.boundary_row - 3000) <= 2 * NEAR


# What is not ----------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 8])
def test_independent_noise_has_no_more_boundaries_than_the_budget(channels: int) -> None:
    """100 000 rows at 10 in a million expect one; five are as rare as .004 (Poisson)."""
    found = [b for seed in range(5) for b in find(noise(20_000, channels, seed), poll=5000)]
    assert len(found) < 5


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("channels", [1, 8])
def test_a_series_that_always_wanders_has_taught_its_own_threshold(
    seed: int, channels: int
) -> None:
    """AR(1), phi = .9: bare ADWINs alarm hundreds of times here; a history-scaled test does not."""
    assert find(wandering(20_000, channels, 0.9, seed), poll=5000) == []


def test_one_odd_reading_is_no_boundary() -> None:
    """Fifty deviations, of all sensors or of one: without its block nothing is left."""
    values = noise(3000)
    values[1500] = 50.0
    values[2200, 1] = -50.0
    assert find(values) == []


@pytest.mark.parametrize("size", [1e3, 1e6, 1e30])
def test_one_wild_reading_is_no_boundary(size: float) -> None:
    """However wild: it is one block."""
    values = noise(3000)
    values[1500, 1] = size
    assert find(values) == []


# Transitions ----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("size", [10.0, 20.0, 40.0])
def test_a_long_ramp_is_one_boundary(size: float, seed: int) -> None:
    """A transition lasts until no test has crossed for `settle_after` readings.

    Without settling every further piece of the ramp is a boundary of its own.
    """
    values = noise(6000, seed=seed) + ramp(6000, 2500, 1500, size)
    (boundary,) = find(values)
    assert 2450 <= boundary.boundary_row <= 2800
    assert len(find(values, Detect(settle_after=0))) > 5


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("size", [10.0, 20.0])
def test_a_slow_approach_is_one_boundary(size: float, seed: int) -> None:
    """Most of it comes first: its end, within the noise, is far from its start."""
    values = noise(6000, seed=seed) + approach(6000, 2500, 400, size)
    (boundary,) = find(values)
    assert 2450 <= boundary.boundary_row <= 2600
    assert len(find(values, Detect(settle_after=0))) > 2


@pytest.mark.xfail(
    strict=True,
    reason="every crossing of 2 thresholds is a boundary, also in the transition's own direction",
)
@pytest.mark.parametrize("change", [ramp(6000, 2500, 1500, 10), approach(6000, 2500, 400, 10)])
def test_a_slow_change_over_small_noise_is_one_boundary(change: Array) -> None:
    """Two hundred deviations in 1 500 rows: .13 a row, 25 rows of which cross twice over.

    A plant that warms up is measured well, and it still warms up once.
    """
    assert len(find(0.05 * noise(6000) + change)) == 1


def test_two_steps_far_apart_are_two_and_close_together_are_one() -> None:
    """Closer than .15 of the readings so far (225 at row 1500) the transition is still on."""
    for gap, count in ((150, 1), (400, 2), (2000, 2)):
        values = noise(4500)
        values[1500:] += 5.0
        values[1500 + gap :] += 5.0
        found = find(values)
        assert len(found) == count
        assert abs(found[0].boundary_row - 1500) <= NEAR
        assert abs(found[-1].boundary_row - 1500 - gap * (count - 1)) <= NEAR


#: The forecaster is not fitted within the stream: the level test is the only one.
LEVEL_ONLY = Detect(fit_after=50_000)


def bounce(size: float, width: int, seed: int) -> Array:
    """Noise of deviation 1 that is `size` higher for `width` rows from row 7000 on."""
    values = noise(10_000, seed=seed)
    values[7000 : 7000 + width] += size
    return values


@pytest.mark.parametrize("seed", range(3))
def test_a_bounce_back_is_no_boundary(seed: int) -> None:
    """Up by 1.5 deviations, and back within `settle_after`: the transition is still on.

    z = 1.5 / sqrt(1/25 + 1/480) = 7.3 sigma at most: 1.5 thresholds, which is not strong. When the
    transition is over, 900 rows after it began, the reference of 480 rows is of what came back.
    """
    (boundary,) = find(bounce(1.5, 300, seed), LEVEL_ONLY)
    assert abs(boundary.boundary_row - 7000) <= NEAR
    assert len(find(bounce(1.5, 300, seed), Detect(fit_after=50_000, settle_after=0))) == 2


@pytest.mark.parametrize("seed", range(3))
def test_a_strong_bounce_back_is_a_boundary_at_once(seed: int) -> None:
    """Back by 4 deviations: 4 / sqrt(1/25 + 1/300) = 19 sigma, more than two thresholds."""
    up, down = find(bounce(4.0, 300, seed), LEVEL_ONLY)
    assert abs(up.boundary_row - 7000) <= NEAR
    assert abs(down.boundary_row - 7300) <= NEAR
    assert down.detected_row < 7300 + 25
    assert down.statistic >= 2 * down.threshold


@pytest.mark.parametrize("seed", range(3))
def test_a_bounce_back_that_lasts_is_a_boundary_when_the_transition_is_over(seed: int) -> None:
    """Back at 7850 by 1.5, and the transition that began at 7000 is over at 7900 and some.

    Then 400 of the 480 rows before still are of what was: that crosses, late, and is located.
    """
    up, down = find(bounce(1.5, 850, seed), LEVEL_ONLY)
    assert abs(down.boundary_row - 7850) <= 2 * NEAR
    assert 900 < down.detected_row - up.detected_row < 930
    assert down.statistic < 2 * down.threshold


# River proposes -------------------------------------------------------------------------------


def test_without_an_alarm_of_river_there_is_no_boundary() -> None:
    """PageHinkley sees the joint residual, which is fitted at row 2000; the shift is at 1000.

    The same stream with ADWIN, which sees the levels, has its boundary.
    """
    values = shifted(1000, 5.0, 1500)
    for names, count in ((("PageHinkley",), 0), (("ADWIN",), 1)):
        found = find(values, Detect(detectors=names, fit_after=2000))
        assert len(found) == count
        assert all(b.detectors == names for b in found)


class Alarm:
    """Stands in for a detector of river: alarms at its n-th value only."""

    def __init__(self, at: int) -> None:
        self.at, self.seen, self.drift_detected = at, 0, False

    def update(self, _: float) -> None:
        self.seen += 1
        self.drift_detected = self.seen == self.at


def test_a_detector_that_never_alarms_opens_no_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step, then wider noise: both tests cross, and nothing confirms what nobody proposed.

    The sensors are six: whole segments of fewer are compared without a proposal.
    """
    values = np.random.default_rng(0).normal(size=(7500, 6))
    values[4500:] *= 2.0
    values[2500:] += 6.0
    assert {b.signal for b in find(values)} == {"level", "residual"}
    monkeypatch.setattr(detectors, "make", lambda *_: Alarm(at=-1))
    assert find(values) == []


@pytest.mark.parametrize("poll", [500, 37])
@pytest.mark.parametrize(
    ("alarm", "watch", "detected"),
    [
        (390, 480, 402),
        (440, 480, 440),
        (440, 5, 440),
        (300, 480, None),
        (300, 600, 402),
        (304, 480, None),  # open up to block 400, the last before the step
        (306, 480, 402),  # and up to 402
        (600, 480, None),
    ],
)
def test_a_watch_is_open_from_an_alarm_on_for_so_many_readings(
    monkeypatch: pytest.MonkeyPatch,
    alarm: int,
    watch: int,
    detected: int | None,
    poll: int,
) -> None:
    """A step of 20 after block 400 crosses at once and until it fills the reference, 96 blocks on.

    After j blocks the mean of the last five is 4 j and their variance 16 j (5 - j). By Welch's
    floor (.1 of it for a reading) z is at most 4 j / sqrt(.1 * 16 j (5 - j) / 5): 3.5, then 5.8.
    So it crosses 5 at block 402, and is detected while the alarm is at most `watch` readings old.
    """
    monkeypatch.setattr(detectors, "make", lambda *_: Alarm(at=alarm))
    settings = Detect(detectors=("ADWIN",), watch=watch, fit_after=50_000)
    found = find(shifted(400 * BLOCK, 20.0, 3500), settings, poll=poll)
    if detected is None:
        assert found == []
    else:
        (boundary,) = found
        assert boundary.boundary_row == 400 * BLOCK
        assert (boundary.detected_row + 1) // BLOCK == detected
        assert boundary.detectors == ("ADWIN",)


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
    """Such a product is exact, so nothing may differ but what is told in the sensors' unit."""
    values = stream_with_both()
    plain, scaled = find(values), find(values * np.float32(2.0**power))
    for one, other in zip(plain, scaled, strict=True):
        for change, again in zip(one.sensors, other.sensors, strict=True):
            unit = 2.0**power if change.kind in ("level", "spread") else 1.0
            assert again.before == pytest.approx(change.before * unit, rel=1e-4)
            assert again.after == pytest.approx(change.after * unit, rel=1e-4)
            assert replace(again, before=0, after=0) == replace(change, before=0, after=0)
        assert replace(other, sensors=()) == replace(one, sensors=())


@pytest.mark.parametrize("order", [(1, 2, 0), (2, 1, 0)])
def test_another_order_of_the_sensors_permutes_the_named_sensors_only(
    order: tuple[int, ...],
) -> None:
    """Which sensor is called first is chance; sums in another order round otherwise, no more.

    Residuals are rounded to float32 and their means to 2^-11, hence "nearly" for the statistic.
    """
    values = stream_with_both()
    plain, permuted = find(values), find(values[:, list(order)])
    assert len(plain) >= 2
    for one, other in zip(plain, permuted, strict=True):
        named = {_whose(c, order): (c.change, c.before, c.after) for c in other.sensors}
        known = {_whose(c, (0, 1, 2)): (c.change, c.before, c.after) for c in one.sensors}
        assert named.keys() == known.keys()
        for whose, values in known.items():
            assert named[whose] == pytest.approx(values, abs=2e-3, rel=2e-3)
        assert other.statistic == pytest.approx(one.statistic, rel=1e-3)
        rest = {"sensors": (), "statistic": 0.0}
        assert replace(other, **rest) == replace(one, **rest)


def _whose(change: Change, order: tuple[int, ...]) -> tuple[str, frozenset[int]]:
    """Kind and sensors of a change, in the plain order."""
    sensors = (s for s in (change.channel, change.other) if s is not None)
    return change.kind, frozenset(order[s] for s in sensors)


def test_another_order_of_the_sensors_finds_the_same_by_the_joint_test() -> None:
    """All sensors a little wider: the joint statistic is near its threshold."""
    values = noise(6000, 6, 2) @ (np.eye(6) + 0.6 * noise(6, 6, 2))
    values[3500:] *= 1.15
    assert rows_of(find(values[:, ::-1])) == rows_of(find(values))


# Awkward readings: warnings are errors in these tests ----------------------------------------


def one_missing(values: Array) -> None:
    values[2000, 1] = np.nan


def dead(values: Array) -> None:
    values[2000:, 1] = np.nan


def dead_for_a_while(values: Array) -> None:
    values[2000:2600, 1] = np.nan


def frozen(values: Array) -> None:
    values[2000:, 1] = values[1999, 1]


def frozen_for_a_while(values: Array) -> None:
    values[2000:2600, 1] = values[1999, 1]


def infinite(values: Array) -> None:
    values[2000:2100, 1] = np.inf
    values[2100:2200, 1] = -np.inf


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(
    "spoil", [one_missing, dead, dead_for_a_while, frozen, frozen_for_a_while, infinite]
)
def test_a_faulty_sensor_is_no_boundary_and_hides_none(
    spoil: Callable[[Array], None], seed: int
) -> None:
    """A dropout or a freeze is an event of its own; the step of another sensor is found as ever."""
    values = noise(4500, seed=seed)
    values[3500:, 0] += 4.0
    (expected,) = find(values)
    spoil(values)
    (boundary,) = find(values)
    assert abs(boundary.boundary_row - 3500) <= NEAR
    assert boundary.sensors[0].channel == 0
    assert abs(boundary.detected_row - expected.detected_row) <= 2 * BLOCK


@pytest.mark.parametrize("seed", range(2))
def test_a_dropout_in_the_warm_up_does_not_hide_a_freeze(seed: int) -> None:
    """A sensor that never repeats a value, silent for 150 readings at first, stuck much later."""
    values = noise(6000, 3, seed)
    values[100:250, 1] = np.nan
    values[3000:, 1] = values[2999, 1]
    assert find(values) == []


@pytest.mark.parametrize("seed", range(2))
def test_a_coarse_sensor_is_as_good_as_any(seed: int) -> None:
    """Whole steps of 3 deviations: no false alarm, and its own step and another's are found."""
    values = noise(5500, 3, seed)
    values[:, 0] = np.rint(values[:, 0] / 3)
    assert find(values) == []
    for sensor, step in ((0, 2.0), (1, 4.0)):
        moved = values.copy()
        moved[4000:, sensor] += step
        (boundary,) = find(moved)
        assert abs(boundary.boundary_row - 4000) <= NEAR
        assert boundary.sensors[0].channel == sensor


@pytest.mark.parametrize("lead", [30, 100])
@pytest.mark.parametrize("seed", range(3))
def test_a_sensor_that_begins_late_in_the_warm_up_is_not_deaf(lead: int, seed: int) -> None:
    """Its first readings missing, its scale is of those that there are."""
    values = noise(3000, seed=seed) * [1, 1, 0.01, 1] + [0, 0, 5, 0]
    values[2000:, 2] += 0.04
    values[:lead, 2] = np.nan
    (boundary,) = find(values)
    assert abs(boundary.boundary_row - 2000) <= NEAR
    assert boundary.sensors[0].channel == 2
    assert boundary.sensors[0].change == pytest.approx(4, abs=1.0)


def begins_at(row: int) -> Array:
    values = noise(3000, 3) + 100
    values[:row, 1] = np.nan
    return values


def leaves_a_constant() -> Array:
    values = noise(3000, 3) * 0.1 + 8
    values[:1000, 1] = 7.0
    return values


@pytest.mark.parametrize(
    "values",
    [begins_at(299), begins_at(400), begins_at(1200), leaves_a_constant()],
    ids=["one-reading", "after-the-warm-up", "after-the-fit", "constant-at-first"],
)
def test_a_sensor_that_comes_alive_is_no_row_of_boundaries(values: Array) -> None:
    """It becomes what it will be once; after that it is as stationary as the others.

    One more is allowed: how it varies is not known before it has varied for a while.
    """
    assert len(find(values)) <= 2


def test_a_sensor_that_never_speaks_changes_nothing_for_the_others() -> None:
    """All NaN: the others' level shift is found at the same row."""
    values = shifted(1000, 5.0, 1500, 3)
    silent = np.column_stack([values, np.full(1500, np.nan)])
    (with_silent,), (without,) = find(silent), find(values)
    assert with_silent.boundary_row == without.boundary_row
    assert with_silent.sensors == without.sensors


@pytest.mark.parametrize("value", [np.nan, 7.0])
def test_a_ninth_sensor_that_was_never_alive_counts_in_no_statistic(value: float) -> None:
    """Of all together, too: a small shift of eight sensors is as surprising with it as without.

    All 28 pairs of the eight are watched beside it, and the sum of eight squares is one of eight.
    """
    values = noise(5000, 8)
    values[4000:] += 0.4
    dead = np.column_stack([values, np.full(5000, value)])
    (with_dead,), (without,) = find(dead), find(values)
    assert without.signal == "residual"
    assert with_dead.detected_row == without.detected_row
    assert with_dead.boundary_row == without.boundary_row
    assert with_dead.statistic == pytest.approx(without.statistic, rel=1e-6)


@pytest.mark.parametrize("value", [np.nan, 0.0, 5.0, -1e30, 1e-42, np.inf])
def test_a_dead_stream_has_no_boundary(value: float) -> None:
    """Constant, silent, huge, denormal: nothing changes, so nothing is found."""
    assert find(np.full((4500, 2), value)) == []


def test_a_sensor_that_leaves_a_constant_value_is_found() -> None:
    """A valve that was shut since ever, and opens."""
    values = np.full((1500, 3), 7.0)
    values[1000:, 1] += 1 + 0.1 * noise(500, 1)[:, 0]
    boundary = find(values)[0]
    assert abs(boundary.boundary_row - 1000) <= NEAR
    assert boundary.sensors[0].channel == 1
    assert len(boundary.sensors) == 1


def test_one_sensor_is_enough() -> None:
    """d = 1: covariances are scalars, and the three largest z are one."""
    (boundary,) = find(shifted(1000, 4.0, 1500, 1))
    assert abs(boundary.boundary_row - 1000) <= NEAR
    assert len(boundary.sensors) == 1


def test_two_hundred_sensors_are_not_too_many() -> None:
    """Pairs are limited, covariances are not singular: one sensor's step among 200 is found."""
    values = noise(3500, 200)
    values[2500:, 137] += 6.0
    (boundary,) = find(values)
    assert abs(boundary.boundary_row - 2500) <= NEAR
    assert boundary.sensors[0].channel == 137


def test_ten_thousand_series_of_ten_readings_each() -> None:
    """A fleet at its start, in two polls: a state each, no boundary; and it goes on from it."""
    series, d = 10_000, 3
    detector = BoundaryDetector(d, Detect())
    rng = np.random.default_rng(0)
    names, slots = tuple(f"s{i}" for i in range(series)), np.arange(series)
    for poll in range(2):
        rows = np.arange(series * 5)
        batch = Batch(
            topic="readings",
            partition=0,
            series=names,
            starts=np.arange(series + 1) * 5,
            offsets=rows + poll * len(rows),
            order=rows,
            times=rows,
            values=rng.normal(size=(len(rows), d)).astype(np.float32),
            next_offset=len(rows) * (poll + 1),
        )
        assert detector.update(batch, slots) == []
    assert same(restarted(detector, Detect()), detector)


def test_a_million_readings_without_a_change_grow_nothing() -> None:
    """A budget of 10 in a million: more than 20 are as rare as .002 (Poisson)."""
    rng, slot = np.random.default_rng(0), np.array([0])
    detector = BoundaryDetector(2, Detect())
    found, sizes, rows = 0, [], np.arange(10_000)
    for poll in range(100):
        batch = Batch(
            topic="readings",
            partition=0,
            series=("a",),
            starts=np.array([0, len(rows)]),
            offsets=rows + poll * len(rows),
            order=rows,
            times=rows + poll * len(rows),
            values=rng.normal(size=(len(rows), 2)).astype(np.float32),
            next_offset=(poll + 1) * len(rows),
        )
        found += len(detector.update(batch, slot))
        sizes.append({name: a.nbytes for name, a in detector.state(slot).items()})
    assert found <= 20
    assert sizes[-1] == sizes[0]
    assert len(detector.watch.state(slot)[0]) < 50_000


@pytest.mark.parametrize("rows", [1, 4, 30, 299, 300, 301])
def test_a_series_in_its_warm_up_has_no_boundary_but_a_state(rows: int) -> None:
    """Shorter than any reference: it goes on from its state like any other."""
    values = shifted(rows // 2, 9.0, rows).astype(np.float32)
    log = Log(np.array(["a"] * rows), np.arange(rows), np.arange(rows), values)
    detector = BoundaryDetector(4, Detect())
    assert feed(detector, log.polls([]), {"a": 0}) == []
    assert same(restarted(detector, Detect()), detector)


def test_no_series_at_all_has_a_state_too() -> None:
    """A partition that has been assigned and not read yet is checkpointed like any other."""
    again = restarted(BoundaryDetector(2, QUICK), QUICK)
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
    assert all(np.isfinite(c.effect) for b in found for c in b.sensors)


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


def test_a_sensor_that_stops_is_an_event_and_no_boundary() -> None:
    """Silent from reading 2000 to 2200 and stuck from 3000 on: each told once, in any cut."""
    values = noise(4000, 3).astype(np.float32)
    values[2000:2200, 1] = np.nan
    values[3000:, 2] = values[2999, 2]
    rows = np.arange(4000)
    log = Log(np.array(["a"] * 4000), rows * 10, rows * 1000, values)
    for poll in (7, 500, 4000):
        detector, told = BoundaryDetector(3, Detect()), []
        for batch in log.polls([poll] * (4000 // poll)):
            assert detector.update(batch, np.array([0])) == []
            told += detector.events
        assert [(e.kind, e.channel, e.row, e.offset, e.time) for e in told] == [
            ("sensor_silent", 1, 2029, 20290, 2029000),
            ("sensor_back", 1, 2200, 22000, 2200000),
            ("sensor_frozen", 2, 3011, 30110, 3011000),
        ]
