"""Rings and sums over stretches of them against plain lists and numpy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.detect.ring import UNIT, WHOLE, Ring, Stretch, whole

SIGNALS = ("level", "residual")


@pytest.mark.parametrize("signal", SIGNALS)
def test_a_mean_is_kept_to_half_a_step(signal: str) -> None:
    """The nearest multiple of UNIT, and as a number that a sum of is exact."""
    means = np.random.default_rng(0).uniform(-15, 15, size=(500, 3))
    kept = whole(means, signal)
    assert kept.dtype == WHOLE[signal]
    assert np.abs(kept * UNIT - means).max() <= UNIT / 2


@pytest.mark.parametrize(
    ("signal", "most"), [("level", 4000.0), ("residual", np.iinfo(np.int16).max * UNIT)]
)
@pytest.mark.parametrize("size", [1.0, 0.99, 1.001, 10.0, 1e15, np.inf])
def test_what_does_not_fit_is_cut_on_both_sides(signal: str, most: float, size: float) -> None:
    """It must not come round on the other side, as a cast of what is too large would."""
    for sign in (1, -1):
        kept = whole(np.array([sign * size * most]), signal) * UNIT
        assert kept[0] == pytest.approx(sign * min(size, 1.0) * most, abs=UNIT / 2)


@given(
    lengths=st.lists(st.integers(0, 60), min_size=1, max_size=3),
    sizes=st.lists(st.lists(st.integers(0, 25), min_size=3, max_size=3), max_size=10),
    data=st.data(),
)
@settings(max_examples=100, deadline=None)
def test_sums_over_what_was_held_and_what_is_new_are_those_of_the_means(
    lengths: list[int], sizes: list[list[int]], data: st.DataObject
) -> None:
    """After wrapping around several times, in parts longer than the ring and shorter.

    Sums of whole numbers are exact: nothing but equality will do.
    """
    reach, slots = 13, np.array([3, 1, 2])[: len(lengths)]
    rng = np.random.default_rng(sum(lengths))
    means = [rng.integers(-(2**15), 2**15, size=(n, 2)) for n in lengths]
    ring = Ring("level", 2, reach)
    ring.grow(4)
    done = np.zeros(len(lengths), dtype=np.int64)
    for size in [*sizes, [60] * 3]:
        counts = np.minimum(size[: len(lengths)], np.array(lengths) - done)
        if not counts.max():
            continue
        new = np.zeros((len(lengths), int(counts.max()), 2), dtype=np.int64)
        for i, n in enumerate(counts):
            new[i, :n] = means[i][done[i] : done[i] + n]
        held = ring.last(slots, done)
        stretch = Stretch(held, done, new)
        low = np.array([data.draw(st.integers(max(d - reach, 0), d)) for d in done])
        high = np.array(
            [
                data.draw(st.integers(a, d + n))
                for a, d, n in zip(low.tolist(), done.tolist(), counts.tolist(), strict=True)
            ]
        )
        total, _ = stretch.halves(low[:, None], high[:, None], high[:, None])
        squares, _ = stretch.halves(low[:, None], high[:, None], high[:, None], squares=True)
        only = stretch.total(low[:, None], high[:, None])
        for i, own in enumerate(means):
            part = own[low[i] : high[i]] * UNIT
            assert total[i, 0].tolist() == only[i, 0].tolist() == part.sum(axis=0).tolist()
            assert squares[i, 0].tolist() == (part * part).sum(axis=0).tolist()
            assert stretch.means(i, int(low[i]), int(high[i])).tolist() == part.tolist()
        ring.add(slots, done, counts, new)
        done = done + counts
    assert not ring.means[0].any(), "another series' slot"


def test_before_the_first_mean_of_a_series_there_is_nothing() -> None:
    """Whatever a slot held: a ring that is not full yet answers 0 there."""
    ring = Ring("residual", 1, 8)
    ring.grow(1)
    ring.means[:] = 7
    slots, first = np.array([0]), np.array([0])
    ring.add(slots, first, np.array([3]), np.array([[[1], [2], [3]]]))
    assert ring.last(slots, np.array([3]))[0, :, 0].tolist() == [0, 0, 0, 0, 0, 1, 2, 3]


def test_a_part_of_a_stretch_is_of_those_series() -> None:
    """Series that have no crossing drop out of a search; the others' sums stay theirs."""
    rng = np.random.default_rng(1)
    held, new = rng.integers(-99, 99, (3, 5, 2)), rng.integers(-99, 99, (3, 4, 2))
    first = np.array([10, 20, 30])
    both = Stretch(held, first, new)
    part = both.of(np.array([2, 0]))
    for i, of in enumerate((2, 0)):
        low, high = int(first[of]) - 3, int(first[of]) + 4
        assert part.means(i, low, high).tolist() == both.means(of, low, high).tolist()
    low, high = first[[2, 0]][:, None] - 3, first[[2, 0]][:, None] + 4
    expected = [np.concatenate([held[i, 2:], new[i]]).sum(axis=0) * UNIT for i in (2, 0)]
    assert part.total(low, high)[:, 0].tolist() == np.array(expected).tolist()
