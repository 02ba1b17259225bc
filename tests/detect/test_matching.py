"""Alarms against drifts, by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.detect.matching import Match, match, periodic


def met(alarms: list[int], drifts: list[int], rows: int = 1000, tolerance: int = 100) -> Match:
    return match(alarms, drifts, rows=rows, tolerance=tolerance)


def test_the_first_alarm_after_each_drift_is_its_hit() -> None:
    """Drifts at 100, 300, 600: hit after 0 and 99; 600 is missed; 250, 399 and 700 are false."""
    found = met([100, 250, 399, 700], [100, 300, 600])
    assert (found.hits, found.false_alarms, found.missed) == (2, 2, 1)
    assert found.delays == (0, 99)


@pytest.mark.parametrize(
    ("alarm", "hit"), [(299, False), (300, True), (399, True), (400, False), (350, True)]
)
def test_the_tolerance_begins_at_the_drift_and_ends_before_its_last_row(
    alarm: int, hit: bool
) -> None:
    """[k, k + tolerance): an alarm ahead of the drift is not early, it is false."""
    found = met([alarm], [300])
    assert found.hits == int(hit)
    assert found.false_alarms == int(not hit)


def test_an_alarm_after_the_next_drift_belongs_to_that_one() -> None:
    """Drifts 40 rows apart, tolerance 100: an alarm at the second hits it and not the first."""
    found = met([340], [300, 340])
    assert (found.hits, found.missed, found.delays) == (1, 1, (0,))


def test_the_end_of_the_series_ends_the_last_tolerance() -> None:
    """An alarm beyond the rows of the series cannot hit anything."""
    assert met([995], [990], rows=1000).hits == 1
    assert met([1000], [990], rows=1000).hits == 0


def test_further_alarms_of_one_drift_are_false() -> None:
    """Or a detector would do well by alarming all the time."""
    found = met(list(range(300, 400)), [300])
    assert (found.hits, found.false_alarms, found.missed) == (1, 99, 0)
    assert found.precision == pytest.approx(1 / 100)


def test_the_figures_are_those_of_their_definitions() -> None:
    """3 hits, 1 false, 2 missed: P = 3/4, R = 3/5, F1 = 2 P R / (P + R) = 2/3; delays 4, 10, 90."""
    found = Match(hits=3, false_alarms=1, missed=2, delays=(4, 90, 10))
    assert found.precision == pytest.approx(3 / 4)
    assert found.recall == pytest.approx(3 / 5)
    assert found.f1 == pytest.approx(2 * (3 / 4) * (3 / 5) / (3 / 4 + 3 / 5))
    assert found.median_delay == 10


@pytest.mark.parametrize(
    ("alarms", "drifts", "counts"),
    [([], [], (0, 0, 0)), ([5], [], (0, 1, 0)), ([], [5], (0, 0, 1))],
)
def test_without_alarms_or_drifts_every_figure_is_zero(
    alarms: list[int], drifts: list[int], counts: tuple[int, int, int]
) -> None:
    """A report of a quiet stream divides by nothing."""
    found = met(alarms, drifts)
    assert (found.hits, found.false_alarms, found.missed) == counts
    assert (found.precision, found.recall, found.f1) == (0, 0, 0)
    assert found.median_delay is None


rows_of = st.lists(st.integers(0, 999), unique=True, max_size=20).map(sorted)


@given(rows_of, rows_of, st.integers(1, 300))
def test_every_alarm_and_every_drift_is_counted_once(
    alarms: list[int], drifts: list[int], tolerance: int
) -> None:
    """Against a loop over the alarms: each belongs to the last drift at or before it."""
    hit: dict[int, int] = {}
    for alarm in alarms:
        before = [d for d in drifts if d <= alarm]
        if before and alarm - before[-1] < tolerance:
            hit.setdefault(before[-1], alarm - before[-1])
    found = met(alarms, drifts, tolerance=tolerance)
    assert found.delays == tuple(hit[d] for d in sorted(hit))
    assert found.hits + found.false_alarms == len(alarms)
    assert found.hits + found.missed == len(drifts)


def test_the_periodic_control_lies_in_the_middle_of_equal_parts() -> None:
    """4 alarms in 1000 rows: parts of 250, so 125, 375, 625, 875; none for none."""
    assert periodic(4, 1000) == [125, 375, 625, 875]
    assert periodic(0, 1000) == []
