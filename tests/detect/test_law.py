"""The law: the same log gives the same bits, however it is cut, mixed, stopped and numbered."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.config import Detect
from pipeline.detect.boundary import BoundaryDetector
from pipeline.detect.fields import FAR_BACK
from pipeline.detect.signals import BLOCK
from pipeline.records import Boundary, Settled
from tests.detect.logs import (
    QUICK,
    Log,
    by_series,
    feed,
    find,
    find_all,
    hear,
    interleave,
    of_series,
    restarted,
)

CHANNELS = 2
#: Blocks between the edges at which any poll is cut.
STRIDE = 128


def shifting(seed: int, lengths: tuple[int, ...], steps: tuple[float, ...]) -> NDArray[np.float32]:
    """Noise around a level that steps, with holes and one dead stretch."""
    rng = np.random.default_rng(seed)
    level = np.repeat(np.array(steps), lengths)[:, None]
    values = level + rng.normal(size=(sum(lengths), CHANNELS))
    values[rng.random(values.shape) < 0.03] = np.nan
    values[len(values) // 2 : len(values) // 2 + 9, 0] = np.nan
    return values.astype(np.float32)


#: Three series of which two shift, one of them twice; one is still in its warm-up at the end.
SERIES = {
    "press": shifting(1, (330, 400, 97), (0, 6, -4)),
    "oven": shifting(2, (410, 203), (0, 8)),
    "saw": shifting(3, (57,), (0,)),
}
SLOTS = {name: slot for slot, name in enumerate(SERIES)}
LOG = interleave(SERIES)

sizes = st.lists(st.sampled_from([1, 2, 3, 4, 5, 7, 16, 59, 60, 61, 80, 199, 640]), max_size=60)


def at_once(log: Log) -> tuple[list[Boundary], dict[str, dict[str, bytes]]]:
    detector = BoundaryDetector(CHANNELS, QUICK)
    return feed(detector, log.polls([]), SLOTS), of_series(detector, SLOTS)


FOUND, STATE = at_once(LOG)
SETTLED = hear(BoundaryDetector(CHANNELS, QUICK), LOG.polls([]), SLOTS)[1]


def test_the_log_of_the_law_has_boundaries_of_two_series() -> None:
    """Without any, the tests below would say nothing: the shifts at 330, 730 and 410 are there."""
    rows = {name: [b.boundary_row for b in found] for name, found in by_series(FOUND).items()}
    assert rows.keys() == {"press", "oven"}
    assert np.allclose(rows["press"], [330, 730], atol=3 * BLOCK)
    assert np.allclose(rows["oven"], [410], atol=3 * BLOCK)
    assert {(e.series, e.segment) for e in SETTLED} >= {("press", 1), ("oven", 1)}


@given(sizes)
@settings(max_examples=60, deadline=None)
def test_any_cut_into_polls_gives_the_same_boundaries_and_the_same_state(cut: list[int]) -> None:
    """What a broker hands out at once is chance: it must not reach a result or a checkpoint."""
    detector = BoundaryDetector(CHANNELS, QUICK)
    assert feed(detector, LOG.polls(cut), SLOTS) == FOUND
    assert of_series(detector, SLOTS) == STATE


@pytest.mark.parametrize("size", [1, BLOCK, 64])
def test_polls_of_one_size_give_the_same_boundaries_and_the_same_state(size: int) -> None:
    """One reading at a time is the plainest cut of all, and blocks must not depend on it."""
    detector = BoundaryDetector(CHANNELS, QUICK)
    assert feed(detector, LOG.polls([size] * (len(LOG) // size)), SLOTS) == FOUND
    assert of_series(detector, SLOTS) == STATE


@given(cut=sizes, seed=st.integers(0, 2**20), numbers=st.permutations(range(5)))
@settings(max_examples=40, deadline=None)
def test_a_series_is_the_same_in_any_company_and_at_any_slot(
    cut: list[int], seed: int, numbers: list[int]
) -> None:
    """Series share arrays, not results: mixed otherwise and numbered otherwise, rows stay.

    Offsets and times are the log's own, so they are compared through the rows that they stand for.
    """
    log, slots = interleave(SERIES, seed), dict(zip(SERIES, numbers, strict=False))
    detector = BoundaryDetector(CHANNELS, QUICK)
    found = by_series(feed(detector, log.polls(cut), slots))
    for name, boundaries in found.items():
        of = log.of(name)
        for mine, theirs in zip(boundaries, by_series(FOUND)[name], strict=True):
            for field in ("segment", "boundary_row", "detected_row", "statistic", "sensors"):
                assert getattr(mine, field) == getattr(theirs, field)
            assert mine.boundary_offset == log.offsets[of[mine.boundary_row]]
            assert mine.detected_offset == log.offsets[of[mine.detected_row]]
            assert mine.boundary_time == log.times[of[mine.boundary_row]]
            assert mine.detected_time == log.times[of[mine.detected_row]]
    assert found.keys() == by_series(FOUND).keys()
    state = of_series(detector, slots)
    # these are the log's
    placed = {"field.places", "field.cell_places", "carry.rest_places", "warm.places"}
    for name, part in STATE.items():
        assert {k: v for k, v in state[name].items() if k not in placed} == {
            k: v for k, v in part.items() if k not in placed
        }


@given(
    cut=sizes,
    stops=st.lists(st.integers(1, len(LOG) - 1), min_size=1, max_size=4, unique=True).map(sorted),
)
@settings(max_examples=40, deadline=None)
def test_a_restart_at_any_reading_goes_on_bit_for_bit(cut: list[int], stops: list[int]) -> None:
    """A crash costs nothing: state and restore, anywhere, leave no trace."""
    detector = BoundaryDetector(CHANNELS, QUICK)
    found: list[Boundary] = []
    for low, high in pairwise([0, *stops, len(LOG)]):
        part = Log(LOG.series[:high], LOG.offsets[:high], LOG.times[:high], LOG.values[:high])
        found += feed(detector, part.polls(cut, start=low), SLOTS)
        detector = restarted(detector, QUICK)
    assert found == FOUND
    assert of_series(detector, SLOTS) == STATE


def test_boundaries_of_one_poll_come_in_the_order_of_the_log() -> None:
    """Across series, the one whose detecting record is earlier in the log comes first."""
    assert len(FOUND) >= 3
    assert [b.detected_offset for b in FOUND] == sorted(b.detected_offset for b in FOUND)


#: Noise of deviation 1 that becomes so wide at row 4000, and its seed: the change is small, so the
#: residual tests cross late.
SLOW = {
    name: np.random.default_rng(seed).normal(size=(5500, CHANNELS))
    * np.where(np.arange(5500) < 4000, 1.0, wide)[:, None]
    for name, seed, wide in (("press", 2, 1.15), ("oven", 10, 1.3), ("saw", 42, 1.2))
}


def test_the_law_holds_for_the_slow_tests_too() -> None:
    """A change of variance only the residual tests see, and late.

    Where it began is then hundreds of readings ago, on the other side of an edge, 128 blocks apart,
    at which any poll is cut: what the boundary says of that place (offset, time, sensors) must be
    remembered, and be what one reading at a time gives.
    """
    log = interleave({name: values.astype(np.float32) for name, values in SLOW.items()})
    found, state = at_once(log)
    assert {b.signal for b in found} == {"residual"}
    assert {b.series for b in found} == set(SLOW)
    piece = STRIDE * BLOCK
    assert any(b.detected_row // piece == b.boundary_row // piece + 1 for b in found)
    assert any(b.detected_row - b.boundary_row > 300 for b in found)
    for boundary in found:
        assert boundary.detected_row - boundary.boundary_row <= FAR_BACK
        of = log.of(boundary.series)
        assert boundary.boundary_offset == log.offsets[of[boundary.boundary_row]]
        assert boundary.boundary_time == log.times[of[boundary.boundary_row]]
    for cut in ([53] * 400, [2000, 333] * 8):
        detector = BoundaryDetector(CHANNELS, QUICK)
        assert feed(detector, log.polls(cut), SLOTS) == found
        assert of_series(detector, SLOTS) == state


def restless(seed: int) -> NDArray[np.float64]:
    """Four small changes of level and width, hundreds of readings apart: transitions that go on."""
    rng = np.random.default_rng(seed)
    values, at = np.random.default_rng(seed).normal(size=(7000, 3)), 4000
    for _ in range(4):
        at += int(rng.integers(150, 700))
        values[at:] += rng.normal(size=3) * 0.45
        values[at:] *= rng.uniform(0.85, 1.2)
    return values


@pytest.mark.parametrize("seed", [1007, 1072, 1078])
def test_whether_a_transition_goes_on_does_not_depend_on_the_cut(seed: int) -> None:
    """A crossing in the transition's direction moves its end, another is dropped.

    What the levels did is compared with what they did before; the window before must be as long
    in polls of 370 readings as in one of 7 000, or boundaries come and go with the cut.
    """
    whole, parts = find(restless(seed), poll=7000), find(restless(seed), poll=370)
    assert [b.detected_row for b in parts] == [b.detected_row for b in whole] != []


@given(
    cut=sizes,
    stops=st.lists(st.integers(1, len(LOG) - 1), max_size=3, unique=True).map(sorted),
)
@settings(max_examples=30, deadline=None)
def test_any_cut_and_any_restart_ends_transitions_where_they_end(
    cut: list[int], stops: list[int]
) -> None:
    """One at a time, all at once, with a crash in between: the same ends, to the bit."""
    detector = BoundaryDetector(CHANNELS, QUICK)
    settled: list[Settled] = []
    for low, high in pairwise([0, *stops, len(LOG)]):
        part = Log(LOG.series[:high], LOG.offsets[:high], LOG.times[:high], LOG.values[:high])
        settled += hear(detector, part.polls(cut, start=low), SLOTS)[1]
        detector = restarted(detector, QUICK)
    assert settled == SETTLED


@pytest.mark.parametrize("seed", [1007, 1072, 1078])
def test_long_transitions_end_where_they_end_in_any_cut(seed: int) -> None:
    """Longer than the rings, with crossings on the way, and an exponential that is waited for."""
    values = restless(seed)
    values[:, 1] -= 9 * np.exp(-np.maximum(np.arange(7000) - 2000, 0) / 400)
    expected = find_all(values, poll=7000)
    assert expected[1]
    for poll in (13, 370, 1111):
        assert find_all(values, poll=poll) == expected


def test_a_long_warm_up_obeys_the_law() -> None:
    """A reference of more readings than the rings hold: its scales come from all of them."""
    wide = Detect(warm_up=2000, fit_after=5000)
    rng = np.random.default_rng(6)
    values = rng.normal(size=(6000, CHANNELS))
    values[5500:] += 3
    found = find(values, wide, poll=6000)
    assert [abs(b.boundary_row - 5500) <= 3 * BLOCK for b in found] == [True]
    assert find(values, wide, poll=13) == found


@pytest.mark.parametrize("at", [520, 2050, 2070])
def test_a_statistic_does_not_depend_on_the_cut(at: int) -> None:
    """To the last bit: it is part of the record that a replay is compared with.

    A level's sigma moves every 100 blocks, a piece ends at 128 blocks: between the two, here at
    blocks 104 to 420, the scale of one go has not been through the checkpoint's precision.
    """
    values = np.random.default_rng(at).normal(size=(at + 100, CHANNELS))
    values[at:] += 4
    assert find(values, poll=13) == find(values, poll=5000) != []


def test_many_series_that_come_and_go_are_each_as_if_alone() -> None:
    """Thirty series begin one after the other: room is made, let go and used again.

    The fleet's arrays grow on the way, and references are fitted while others are still warming up.
    """
    rng = np.random.default_rng(7)
    names, lengths = [f"s{i:02}" for i in range(30)], rng.integers(20, 700, 30)
    series = {
        name: shifting(i, (length // 2, length - length // 2), (0, 7))
        for i, (name, length) in enumerate(zip(names, lengths.tolist(), strict=True))
    }
    begins = np.repeat(np.arange(30) * 100, lengths)
    rank = np.argsort(begins + np.concatenate([np.arange(n) for n in lengths]), kind="stable")
    rows = np.arange(len(rank))
    log = Log(
        np.repeat(names, lengths)[rank], rows, rows, np.concatenate(list(series.values()))[rank]
    )
    slots = {name: slot for slot, name in enumerate(dict.fromkeys(log.series.tolist()))}
    detector = BoundaryDetector(CHANNELS, QUICK)
    found = feed(detector, log.polls([90] * len(log)), slots)
    state = of_series(detector, slots)
    assert [b.detected_offset for b in found] == sorted(b.detected_offset for b in found)
    assert len(by_series(found)) > 10
    for name in names:
        own = log.of(name)
        alone = BoundaryDetector(CHANNELS, QUICK)
        part = Log(log.series[own], log.offsets[own], log.times[own], log.values[own])
        assert feed(alone, part.polls([]), {name: 0}) == by_series(found).get(name, [])
        assert of_series(alone, {name: 0}) == {name: state[name]}
