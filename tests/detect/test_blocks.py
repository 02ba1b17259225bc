"""Blocks against slices of the whole series, however the readings come."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.detect.blocks import Blocker, Blocks, Rows
from pipeline.detect.signals import BLOCK

CHANNELS = 2


def rows(count: int, seed: int) -> Rows:
    """A series whose readings, masks and places can all be told apart."""
    rng = np.random.default_rng(seed)
    places = np.cumsum(rng.integers(1, 9, size=(count, 3)), axis=0)
    return Rows(
        readings=rng.normal(size=(count, CHANNELS)),
        missing=rng.random((count, CHANNELS)) < 0.3,
        places=places,
    )


def joined(parts: list[Rows]) -> Rows:
    return Rows(
        readings=np.concatenate([p.readings for p in parts]),
        missing=np.concatenate([p.missing for p in parts]),
        places=np.concatenate([p.places for p in parts]),
    )


def test_a_blank_is_a_block_of_which_every_row_is_touched() -> None:
    """A row whose sensor is missing, and the row behind it, say nothing of it and its products."""
    for silent, blank in [((1, 3), None), ((0, 2, 3), 0), ((5, 7), None), ((4, 6, 8), 1)]:
        blocker = Blocker(CHANNELS)
        blocker.grow(1)
        given_ = rows(10, 0)
        given_.missing[:] = False
        given_.missing[list(silent), 0] = True
        blocks = blocker.cut(np.array([0]), np.array([0, 10]), given_)
        assert blocks.holed.size
        assert blocks.blanks.tolist() == ([] if blank is None else [blank]), silent


NAMES = ("readings", "missing", "before", "before_missing", "first", "last")


@given(
    lengths=st.lists(st.integers(0, 40), min_size=1, max_size=3),
    sizes=st.lists(st.lists(st.integers(0, 12), min_size=3, max_size=3), max_size=12),
    seed=st.integers(0, 100),
    stop=st.integers(0, 12),
)
@settings(max_examples=150, deadline=None)
def test_any_cut_gives_the_blocks_of_the_whole_series(
    lengths: list[int], sizes: list[list[int]], seed: int, stop: int
) -> None:
    """Block k is readings 5 k ... 5 k + 4, with the reading before it, whoever else is in a poll.

    A restart after any poll changes nothing. Ranks hold within one poll: that of a block's last
    reading is of the poll that completed it.
    """
    series = [rows(n, seed + i) for i, n in enumerate(lengths)]
    slots = [4, 0, 2]
    blocker = Blocker(CHANNELS)
    blocker.grow(5)
    start = rows(5, 99)
    for i, slot in enumerate(slots):
        blocker.start(slot, start.readings[i], start.missing[i])
    found: list[dict[str, list[np.ndarray]]] = [{n: [] for n in NAMES} for _ in series]
    done = [0] * len(series)
    for poll, size in enumerate([*sizes, [100, 100, 100]]):
        here = [i for i in range(len(series)) if size[i] and done[i] < lengths[i]]
        if not here:
            continue
        parts = [series[i][done[i] : done[i] + size[i]] for i in here]
        starts = np.cumsum([0, *map(len, parts)])
        blocks = blocker.cut(np.array([slots[i] for i in here]), starts, joined(parts))
        first = np.cumsum([0, *blocks.counts])
        for i, low, high in zip(here, first, first[1:], strict=False):
            for name in NAMES:
                found[i][name].extend(getattr(blocks, name)[low:high])
            done[i] = min(done[i] + size[i], lengths[i])
        if poll == stop:
            again = Blocker(CHANNELS)
            again.restore(blocker.state(np.arange(5)))
            blocker = again
    for i, whole in enumerate(series):
        count = lengths[i] // BLOCK
        for name in NAMES:
            assert len(found[i][name]) == count, name
        for k in range(count):
            low, high = k * BLOCK, (k + 1) * BLOCK
            before = (start, i) if k == 0 else (whole, low - 1)
            assert np.array_equal(found[i]["readings"][k], whole.readings[low:high])
            assert np.array_equal(found[i]["missing"][k], whole.missing[low:high])
            assert np.array_equal(found[i]["before"][k], before[0].readings[before[1]])
            assert np.array_equal(found[i]["before_missing"][k], before[0].missing[before[1]])
            assert np.array_equal(found[i]["first"][k], whole.places[low, :2])
            assert np.array_equal(found[i]["last"][k], whole.places[high - 1])


@given(counts=st.lists(st.integers(1, 5), min_size=1, max_size=4), data=st.data())
def test_a_part_of_some_blocks_is_those_blocks(counts: list[int], data: st.DataObject) -> None:
    """Some blocks of each series, from a row of its own on."""
    total = sum(counts)
    blocks = Blocks(
        counts=np.array(counts),
        readings=np.arange(total * BLOCK * CHANNELS, dtype=float).reshape(total, BLOCK, CHANNELS),
        missing=np.zeros((total, BLOCK, CHANNELS), dtype=bool),
        before=np.arange(total * CHANNELS, dtype=float).reshape(total, CHANNELS),
        before_missing=np.zeros((total, CHANNELS), dtype=bool),
        first=np.arange(total * 2).reshape(total, 2),
        last=np.arange(total * 3).reshape(total, 3),
    )
    begin = np.cumsum([0, *counts[:-1]])
    skipped = [data.draw(st.integers(0, n - 1)) for n in counts]
    taken = [data.draw(st.integers(1, n - s)) for n, s in zip(counts, skipped, strict=True)]
    part = blocks.part(begin + skipped, np.array(taken))
    wanted = [b + s + k for b, s, n in zip(begin, skipped, taken, strict=True) for k in range(n)]
    assert part.counts.tolist() == taken
    assert part.first[:, 0].tolist() == [2 * row for row in wanted]
    assert part.last[:, 0].tolist() == [3 * row for row in wanted]
    assert part.before[:, 0].tolist() == [CHANNELS * row for row in wanted]
    assert part.readings[:, 0, 0].tolist() == [BLOCK * CHANNELS * row for row in wanted]
