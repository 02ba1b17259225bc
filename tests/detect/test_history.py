"""Rings and scales against plain sums and plain loops over blocks."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.config import Detect
from pipeline.detect.boundary import BoundaryDetector, _statistic
from pipeline.detect.history import LARGEST, SAMPLES, TESTS, UNIT, Ring, Scale
from pipeline.detect.history import Test as Comparison
from pipeline.detect.signals import BLOCK
from tests.detect.logs import QUICK, interleave

Array = NDArray[np.float64]


def filled(blocks: Array, reach: int, *, parts: int, offset: int = 0) -> Ring:
    """A ring (2 slots) whose slot 1 holds these blocks, added a few at a time."""
    ring = Ring(blocks.shape[1], reach)
    ring.grow(2)
    ring.sums[1, 0] = offset
    for first in range(0, len(blocks), parts):
        part = blocks[first : first + parts]
        ring.add(np.array([1]), np.array([first]), np.array([len(part)]), part[None])
    return ring


def stepped(blocks: Array) -> Array:
    """Blocks in whole steps, as the ring keeps them."""
    return np.round(np.clip(blocks, -LARGEST, LARGEST) / UNIT) * UNIT


# Ring -----------------------------------------------------------------------------------------


@given(
    total=st.integers(1, 90),
    parts=st.integers(1, 20),
    offset=st.sampled_from([0, 2**63 - 5, -(2**63), 2**63 - 2**40]),
    seed=st.integers(0, 1000),
    data=st.data(),
)
@settings(max_examples=80, deadline=None)
def test_the_ring_gives_sums_of_any_blocks_it_still_looks_back_on(
    total: int, parts: int, offset: int, seed: int, data: st.DataObject
) -> None:
    """After wrapping around itself and around 64 bits: sums, squares and blocks are the plain ones.

    An offset next to the largest integer makes the prefix sums overflow on the way; what is between
    two of them does not notice. Means are kept in steps of 2^-20, so sums of them are exact.
    """
    blocks = np.random.default_rng(seed).normal(0, 100, size=(total, 2))
    ring = filled(blocks, reach=30, parts=parts, offset=offset)
    high = data.draw(st.integers(max(0, total - 30), total))
    low = data.draw(st.integers(max(0, total - 30), high))
    sums, squares = ring.between(np.array([1]), np.array([low]), np.array([high]))
    kept = stepped(blocks)[low:high]
    assert sums[0].tolist() == [math.fsum(column) for column in kept.T]
    rounding = (high - low + 1) * UNIT
    assert squares[0] == pytest.approx((kept**2).sum(axis=0), abs=rounding)
    assert ring.blocks(1, low, high).tolist() == kept.tolist()


def test_series_in_a_ring_do_not_touch_each_other() -> None:
    """Different counts of blocks come at once; those beyond a series' own are not taken in."""
    ring = Ring(1, 10)
    ring.grow(3)
    blocks = np.array([[[1.0], [2.0], [99.0]], [[5.0], [6.0], [7.0]]])
    ring.add(np.array([2, 0]), np.array([0, 0]), np.array([2, 3]), blocks)
    ring.add(np.array([2]), np.array([2]), np.array([1]), np.array([[[4.0]]]))
    assert ring.blocks(2, 0, 3).ravel().tolist() == [1, 2, 4]
    assert ring.blocks(0, 0, 3).ravel().tolist() == [5, 6, 7]
    assert not ring.sums[1].any()


def test_a_block_beyond_the_largest_is_cut() -> None:
    """Or its square, a window long, would not fit into 64 bits."""
    ring = filled(np.array([[1e300], [-1e300], [0.5]]), reach=4, parts=3)
    assert ring.blocks(1, 0, 3).ravel().tolist() == [LARGEST, -LARGEST, 0.5]
    longest = max(test.reach for test in TESTS) * (LARGEST / UNIT) * LARGEST
    assert longest < 2**63


# Scale ----------------------------------------------------------------------------------------

#: Small enough to be followed by hand: q = 4 blocks, a sample every 2.
SMALL = Comparison("level", m=20, g_min=30, g_max=60, armed_from=0, every=1, used=0.65)


def samples(
    test: Comparison, x: Array, segments: list[int]
) -> Iterator[tuple[int, Array, Array | None]]:
    """(block, local, as used) of each sample due, from the definition.

    segments: the first block of the segment that is open at each block.
    """
    q, m = test.m // BLOCK, test.m
    for t in range(1, len(x) + 1):
        if t % max(1, q // 2) or t < q:
            continue
        last = x[t - q : t].mean(axis=0)
        local = used = None
        if t >= 3 * q:
            before = x[t - 3 * q : t - q].mean(axis=0)
            local = abs(last - before) / math.sqrt(1 / m + 1 / (2 * m))
        length = t - q - segments[t]
        if length >= test.g_min // BLOCK:
            g = min(length, test.g_max // BLOCK)
            before = x[t - q - g : t - q].mean(axis=0)
            used = abs(last - before) / math.sqrt(1 / m + 1 / (g * BLOCK))
        yield t, local, used


def plain_sigma(test: Comparison, local: Array, used: Array, prior: Array) -> Array:
    """Scale of one series from its samples (n, F), oldest first: step 7 of the design."""

    def blend(all_: Array, shares: dict[float, float]) -> Array:
        kept, n = all_[-SAMPLES:], len(all_)
        e = np.zeros_like(prior)
        for share, normal in shares.items():
            for f in range(len(prior)):
                if n:
                    ordered = sorted(kept[:, f])
                    e[f] = max(e[f], ordered[int(len(ordered) * share)] / normal)
        w = n / (n + 5)
        return np.sqrt(w * e**2 + (1 - w) * prior**2)

    wide = blend(local, {0.5: 0.6745, 0.75: 1.1503})
    narrow = test.used * blend(used, {0.5: 0.6745})
    return np.maximum(wide, narrow) * (1 + 3 / (max(len(local), 1) + 5))


@pytest.mark.parametrize(("test", "total"), [(SMALL, 120), (SMALL, 700), (TESTS[0], 300)])
@pytest.mark.parametrize("parts", [1, 7, 50])
def test_samples_and_sigma_are_those_of_a_plain_loop(
    test: Comparison, total: int, parts: int
) -> None:
    """More samples than are kept, a segment that begins on the way, any number of blocks at once.

    Samples are kept in single precision, hence the tolerance.
    """
    rng = np.random.default_rng(total)
    x = np.cumsum(rng.normal(0, 0.2, size=(total, 2)), axis=0) + rng.normal(size=(total, 2))
    x = stepped(x)
    change = total // 3
    ring = Ring(2, test.reach + 50)
    ring.grow(2)
    scale = Scale(test, 2)
    scale.grow(2)
    prior, slot = np.array([0.7, 3.0]), np.array([1])
    scale.start(1, prior)
    first = plain_sigma(test, np.zeros((0, 2)), np.zeros((0, 2)), prior)
    assert scale.sigma[1] == pytest.approx(first)
    low = 0
    while low < total:
        high = min(low + parts, total)
        if low < change < high:
            high = change
        ring.add(slot, np.array([low]), np.array([high - low]), x[None, low:high])
        segment = np.array([change if low >= change else 0])
        scale.sample(ring, slot, np.array([low]), np.array([high]), segment)
        low = high
    scale.update(slot)

    segments = [change if t > change else 0 for t in range(total + 1)]
    due = list(samples(test, x, segments))
    local = np.array([s for _, s, _ in due if s is not None])
    used = np.array([s for _, _, s in due if s is not None])
    assert (scale.n_local[1], scale.n_used[1]) == (len(local), len(used))
    for kept, plain in ((scale.local[1], local), (scale.used[1], used)):
        held = np.sort(kept[: len(plain)], axis=0)
        assert held == pytest.approx(np.sort(plain[-SAMPLES:], axis=0), rel=1e-5, abs=1e-6)
    assert scale.sigma[1] == pytest.approx(plain_sigma(test, local, used, prior), rel=1e-5)
    assert not scale.local[0].any(), "the other series has taken nothing"


def test_sigma_is_the_deviation_of_independent_readings() -> None:
    """Samples are |N(0, s)|: median s .6745, upper quartile s 1.1503; so sigma comes out as s.

    1 000 draws of 256 samples would put the median's deviation at 8 %; the larger of the two
    estimates, and the few per cent for youth, are why the band is not centred on s.
    """
    rng = np.random.default_rng(0)
    scale = Scale(TESTS[0], 40)
    scale.grow(1)
    scale.start(0, np.full(40, 2.0))
    scale.n_local[:] = scale.n_used[:] = 5000
    scale.local[0] = np.abs(rng.normal(0, 2.0, size=(SAMPLES, 40)))
    scale.used[0] = np.abs(rng.normal(0, 2.0, size=(SAMPLES, 40)))
    scale.update(np.array([0]))
    assert 2.0 <= scale.sigma[0].mean() <= 2.2


def test_a_history_of_any_length_is_sampled_while_the_ring_still_has_it() -> None:
    """A fit window of more blocks than the ring: samples of overwritten blocks would be anything.

    White noise: the scale of every test stays near the prior, which is 1.1 of its deviation.
    """
    wide = Detect(warm_up=2000, fit_after=10_000)
    x = np.random.default_rng(6).normal(size=(10_000, 2)).astype(np.float32)
    detector = BoundaryDetector(2, wide)
    detector.update(interleave({"a": x}).batch(0, len(x)), np.array([0]))
    for scale in detector.scales:
        q, stride, blocks = scale.test.q, scale.test.stride, 2000
        assert scale.n_local[0] == sum(t >= 3 * q for t in range(stride, blocks + 1, stride))
        ratio = scale.sigma[0] / scale.prior[0]
        assert ((ratio > 0.6) & (ratio < 1.6)).all(), (scale.test, ratio)


# The statistic --------------------------------------------------------------------------------


@pytest.mark.parametrize("number", range(len(TESTS)))
def test_z_is_that_of_a_plain_loop(number: int) -> None:
    """|d| / sqrt(max(sigma^2, w v_post) / m + max(sigma^2, w v_pre) / g), w = 1.05^2 b.

    v is the variance of the block means; half of the features have a sigma below it.
    """
    test = TESTS[number]
    rng = np.random.default_rng(number)
    detector = BoundaryDetector(2, QUICK)
    detector._grow(2)
    scale, ring = detector.scales[number], detector.rings[test.signal]
    total, features = 650, scale.sigma.shape[1]
    x = stepped(rng.normal(size=(total, features)) + np.linspace(0, 1, total)[:, None])
    for first in range(0, total, 50):
        part = x[None, first : first + 50]
        ring.add(np.array([1]), np.array([first]), np.array([50]), part)
    scale.sigma[1] = [0.05, 4.0][:features]
    detector._fields["segment_start"][1] = segment = 40
    q, m = test.m // BLOCK, test.m
    times = [total - 60, total - 1, total]
    z = detector._z(scale, np.array([1]), np.array([times]), np.ones((1, 3), dtype=bool))
    for k, t in enumerate(times):
        g = min(t - q - segment, test.g_max // BLOCK)
        post, pre = x[t - q : t], x[t - q - g : t - q]
        for f in range(features):
            floor = scale.sigma[1, f] ** 2
            v_post = max(floor, 1.05**2 * BLOCK * float(np.var(post[:, f])))
            v_pre = max(floor, 1.05**2 * BLOCK * float(np.var(pre[:, f])))
            d = abs(float(post[:, f].mean()) - float(pre[:, f].mean()))
            expected = d / math.sqrt(v_post / m + v_pre / (g * BLOCK))
            assert z[0, k, f] == pytest.approx(expected, rel=1e-4)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=9))
def test_the_statistic_is_the_root_mean_square_of_the_three_largest(z: list[float]) -> None:
    """Of all there are when they are fewer."""
    top = sorted(z)[-3:]
    expected = math.sqrt(sum(v * v for v in top) / len(top))
    assert float(_statistic(np.array(z))) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("changes", "stands"),
    [
        ([20.0, 20.0, 20.0, 20.0, 20.0], True),  # all alike: 4 of 5 blocks still say 20
        ([0.0, 0.0, 100.0, 0.0, 0.0], False),  # one wild block: without it nothing is left
        ([-20.0, -20.0, -20.0, -20.0, -20.0], True),
        ([0.0, 0.0, -100.0, 0.0, 0.0], False),
    ],
)
def test_a_change_that_hangs_on_one_block_does_not_stand(
    changes: list[float], stands: bool
) -> None:
    """Same mean, same z: only how it is spread over the last window tells them apart."""
    detector = BoundaryDetector(1, QUICK)
    detector._grow(1)
    x = np.array([0.0] * 60 + changes)[:, None]
    detector.rings["level"].add(np.array([0]), np.array([0]), np.array([65]), x[None])
    assert detector._stands(0, 0, 65, np.array([6.0])) is stands


@pytest.mark.parametrize(("z", "stands"), [(4.1, True), (3.9, False)])
def test_without_the_largest_block_six_tenths_of_the_threshold_must_remain(
    z: float, stands: bool
) -> None:
    """Blocks 2, 1, 1, 1, 1 over a past of 0 have the mean 1.2, and 1 without the first.

    A mean of four is sqrt(5 / 4) times as uncertain: z / 1.2 sqrt(4 / 5) = .745 z remains. The
    threshold 5.0 asks for 3.0, so z = 4.03 is where it turns.
    """
    detector = BoundaryDetector(1, QUICK)
    detector._grow(1)
    x = np.array([0.0] * 60 + [2, 1, 1, 1, 1])[:, None]
    detector.rings["level"].add(np.array([0]), np.array([0]), np.array([65]), x[None])
    assert detector._stands(0, 0, 65, np.array([z])) is stands
