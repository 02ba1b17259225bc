"""Rings and sums over stretches of them against plain lists and numpy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.detect.ring import FEW, UNIT, WHOLE, Ring, Stretch, whole

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
        stretch = Stretch.joined(held, done, new)
        low = np.array([data.draw(st.integers(max(d - reach, 0), d)) for d in done])
        high = np.array(
            [
                data.draw(st.integers(a, d + n))
                for a, d, n in zip(low.tolist(), done.tolist(), counts.tolist(), strict=True)
            ]
        )
        one, many = ([np.repeat(e[:, None], n, axis=1) for e in (low, high)] for n in (1, FEW + 1))
        (few,) = stretch.sums(stretch.edges(*one), [(0, 1)])
        (total,) = stretch.sums(stretch.edges(*many), [(0, 1)])
        (squares,) = stretch.sums(stretch.edges(*one), [(0, 1)], squares=True)
        (more,) = stretch.sums(stretch.edges(*many), [(0, 1)], squares=True)
        for i, own in enumerate(means):
            part = own[low[i] : high[i]] * UNIT
            for found in (few[i], total[i]):
                assert found.tolist() == [part.sum(axis=0).tolist()] * len(found)
            for found in (squares[i], more[i]):
                assert found.tolist() == [(part * part).sum(axis=0).tolist()] * len(found)
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
    both = Stretch.joined(held, first, new)
    part = both.of(np.array([2, 0]))
    for i, of in enumerate((2, 0)):
        low, high = int(first[of]) - 3, int(first[of]) + 4
        assert part.means(i, low, high).tolist() == both.means(of, low, high).tolist()
    low, high = first[[2, 0]][:, None] - 3, first[[2, 0]][:, None] + 4
    expected = [np.concatenate([held[i, 2:], new[i]]).sum(axis=0) * UNIT for i in (2, 0)]
    (total,) = part.sums(part.edges(low, high), [(0, 1)])
    assert total[:, 0].tolist() == np.array(expected).tolist()


def test_each_range_is_between_two_of_the_edges() -> None:
    """Three edges, and a reader that wants overlapping ranges of them at once."""
    means = np.arange(1, 11)[None, :, None]
    stretch = Stretch.joined(means[:, :6], np.array([6]), means[:, 6:])
    edges = stretch.edges(np.array([[1]]), np.array([[4]]), np.array([[9]]))
    found = stretch.sums(edges, [(0, 1), (1, 2), (0, 2)])
    assert [float(s[0, 0, 0]) / UNIT for s in found] == [2 + 3 + 4, 5 + 6 + 7 + 8 + 9, 44]


def test_an_edge_beyond_what_is_there_is_at_its_end() -> None:
    """What is not due is computed all the same, and not used: it must not fail."""
    stretch = Stretch.joined(np.ones((1, 3, 1), int), np.array([10]), np.ones((1, 2, 1), int))
    assert stretch.edges(np.array([[-5, 8, 99]])).tolist() == [[[0, 1, 5]]]
