"""What is held and what is frozen, against a loop over readings."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.detect.cleaning import FINE, GONE, LEAST, NEVER, OFTEN, SILENT, STUCK, Cleaner

Array = NDArray[np.float64]

#: Few values, so that they repeat; and cells that are missing.
cells = st.sampled_from([0.0, 0.0, 1.0, 2.0, math.nan, math.inf])


def cleaner(slots: int, channels: int) -> Cleaner:
    made = Cleaner(channels)
    made.grow(slots)
    return made


def by_hand(
    values: list[list[float]], limit: list[int]
) -> tuple[list[list[float]], list[list[bool]]]:
    """One series: held readings, and what is missing of them, cell by cell."""
    d = len(limit)
    held, run = [math.nan] * d, [0] * d
    readings, missing = [], []
    for row in values:
        now = [v if math.isfinite(v) else h for v, h in zip(row, held, strict=True)]
        run = [r + 1 if a == b else 0 for r, a, b in zip(run, now, held, strict=True)]
        held = now
        readings.append(now)
        missing.append(
            [not math.isfinite(v) or r >= m for v, r, m in zip(row, run, limit, strict=True)]
        )
    return readings, missing


@given(
    series=st.lists(
        st.lists(st.lists(cells, min_size=2, max_size=2), min_size=1, max_size=25),
        min_size=1, max_size=3,
    ),
    limits=st.lists(st.sampled_from([1, 2, 3, 5, NEVER]), min_size=6, max_size=6),
    cut=st.lists(st.integers(1, 9), max_size=20),
)  # fmt: skip
@settings(max_examples=150, deadline=None)
def test_any_cut_holds_and_freezes_what_a_loop_over_readings_does(
    series: list[list[list[float]]], limits: list[int], cut: list[int]
) -> None:
    """Several series share a poll, some with nothing in it: each goes on from its own last value.

    A run counts the readings before it that were the same, across polls and held ones included.
    """
    made = cleaner(4, 2)
    slots = {i: 3 - i for i in range(len(series))}
    limit = np.array(limits).reshape(3, 2)
    for i, slot in slots.items():
        made.limit[slot] = limit[i]
    found: dict[int, tuple[list[Array], list[NDArray[np.bool_]]]] = {i: ([], []) for i in slots}
    done = 0
    for size in [*cut, 100]:
        here = [i for i in slots if done < len(series[i])]
        if not here:
            break
        parts = [np.array(series[i][done : done + size], dtype=np.float32) for i in here]
        starts = np.cumsum([0, *map(len, parts)])
        cleaned = made.clean(np.array([slots[i] for i in here]), starts, np.concatenate(parts))
        readings, missing = cleaned.readings, cleaned.missing
        for i, low, high in zip(here, starts, starts[1:], strict=False):
            found[i][0].extend(readings[low:high])
            found[i][1].extend(missing[low:high])
        done += size
    for i in slots:
        readings_, missing_ = by_hand(series[i], limit[i].tolist())
        assert np.array_equal(found[i][0], readings_, equal_nan=True)
        assert np.array_equal(found[i][1], missing_)


@pytest.mark.parametrize(
    ("repeats", "limit"), [(1, LEAST), (2, LEAST), (3, 12), (5, 20), (40, 160)]
)
def test_what_a_sensor_has_repeated_before_is_the_measure_of_its_freezing(
    repeats: int, limit: int
) -> None:
    """OFTEN times the longest run of the first readings; LEAST at the earliest."""
    assert (OFTEN, LEAST) == (4, 12)
    readings = np.arange(200.0)[:, None] * [1.0, 1.0]
    readings[100 : 100 + repeats + 1, 1] = -1.0
    made = cleaner(2, 2)
    made.learn(1, readings)
    assert made.limit[1].tolist() == [LEAST, limit]
    assert made.limit[0].tolist() == [NEVER, NEVER], "of no other series"


def test_a_coarse_sensor_is_not_frozen_and_a_stuck_one_is() -> None:
    """Rounded to whole degrees at deviation .3, a sensor repeats a value nine times of ten.

    p = P(|x| < .5) = .904 of the same value: the longest run of 1 000 readings is about
    log(1000 (1 - p)) / -log p = 45, and a run of four times that has a chance of 20 000 (1 - p)
    p^180 = 3e-5 in the 20 000 readings to come. A sensor that gets stuck is missing from its
    limit on, and not before.
    """
    rng = np.random.default_rng(3)
    x = np.column_stack([np.rint(0.3 * rng.normal(size=21_000)), rng.normal(size=21_000)])
    made = cleaner(1, 2)
    slots, values = np.array([0]), x.astype(np.float32)
    made.clean(slots, np.array([0, 1000]), values[:1000])
    made.learn(0, values[:1000].astype(np.float64))
    limit = made.limit[0].tolist()
    assert limit[1] == LEAST
    assert not made.clean(slots, np.array([0, 20_000]), values[1000:]).missing.any()
    stuck = np.repeat(values[-1:], 400, axis=0)
    run = made.run[0].copy()
    missing = made.clean(slots, np.array([0, 400]), stuck).missing
    for j in range(2):
        first = limit[j] - int(run[j]) - 1
        assert not missing[:first, j].any()
        assert missing[first:, j].all()


def test_before_anything_is_learnt_nothing_is_frozen() -> None:
    """A series in its warm-up, however constant."""
    made = cleaner(1, 1)
    missing = made.clean(np.array([0]), np.array([0, 5000]), np.ones((5000, 1), np.float32)).missing
    assert not missing.any()


def test_a_cleaner_goes_on_from_its_state() -> None:
    """Runs, limits and held values: a restart in the middle of a freeze changes nothing."""
    made = cleaner(3, 2)
    made.limit[1] = [4, 2]
    slots, values = np.array([1]), np.array([[5, 1], [5, math.nan], [5, 1]], np.float32)
    starts = np.array([0, 3])
    made.clean(slots, starts, values)
    again = Cleaner(2)
    again.restore(made.state(np.arange(2)))
    one, other = made.clean(slots, starts, values), again.clean(slots, starts, values)
    assert one.readings.tolist() == other.readings.tolist()
    assert one.missing.tolist() == other.missing.tolist()
    assert one.missing.tolist() == [[False, True], [True, True], [True, True]]


def told_by_hand(values: list[float], limit: int) -> list[tuple[int, int]]:
    """(row, state) of each change, reading by reading."""
    told, state, gone, run, held = [], FINE, 0, 0, math.nan
    for row, value in enumerate(values):
        gone = 0 if math.isfinite(value) else gone + 1
        now = value if math.isfinite(value) else held
        run, held = (run + 1 if now == held else 0), now
        new = GONE if gone >= SILENT else STUCK if run >= limit else FINE
        if gone and new != GONE:
            new = state  # a short gap says nothing
        if new != state:
            told.append((row, new))
        state = new
    return told


#: A gap too short to tell, a long one, a frozen stretch, both at once, and recovery from each.
EVENTFUL = (
    [1.0, 2.0]
    + [math.nan] * (SILENT - 1)
    + [3.0]
    + [math.nan] * (SILENT + 5)
    + [4.0, 5.0]
    + [6.0] * 20
    + [math.nan] * 5
    + [6.0] * 3
    + [math.nan] * (SILENT + 1)
    + [6.0, 7.0, 8.0]
)


@given(st.lists(st.integers(1, 40), max_size=30))
def test_sensors_that_stop_and_come_back_are_told_once(cuts: list[int]) -> None:
    """At the same rows however the stream is cut, and beside a sensor that is always fine."""
    values = np.column_stack([EVENTFUL, np.arange(len(EVENTFUL))]).astype(np.float32)
    made, told, low = cleaner(2, 2), [], 0
    made.limit[1] = [12, 12]
    for size in [*cuts, len(values)]:
        part = values[low : low + size]
        if not len(part):
            break
        rows, channels, states = made.clean(np.array([1]), np.array([0, len(part)]), part).changes
        assert not channels.any()
        told += [(low + int(r), int(s)) for r, s in zip(rows, states, strict=True)]
        low += size
    expected = told_by_hand(EVENTFUL, 12)
    assert told == expected
    assert [state for _, state in expected] == [GONE, FINE, STUCK, GONE, STUCK, FINE]
