"""Scales against a plain loop over the samples of their definition, and against theory."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.detect.evidence import TESTS
from pipeline.detect.evidence import Test as Comparison
from pipeline.detect.ring import UNIT, Ring, Stretch
from pipeline.detect.scale import EDGE_SAMPLES, SAMPLES, STEPS, Path, Scale
from pipeline.records import IntArray

Array = NDArray[np.float64]

#: A sample is kept to half a step of an octave: as a factor.
CODING = 2 ** (0.5 / STEPS)

each_test = pytest.mark.parametrize("test", TESTS, ids=lambda t: f"{t.signal}-{t.m}")


def noise(
    test: Comparison, means: int, features: int, seed: int = 0, wide: float = 1.0
) -> IntArray:
    """Means of independent readings of deviation `wide`, in whole steps."""
    x = np.random.default_rng(seed).normal(size=(means, features)) * wide / math.sqrt(test.unit)
    return np.rint(x / UNIT).astype(np.int64)


class Series:
    """One series' scale, followed and kept over its means piece by piece, as a detector does."""

    def __init__(self, test: Comparison, prior: Array, slot: int = 1) -> None:
        self.scale = Scale(test, len(prior))
        self.scale.grow(3)
        self.scale.start(slot, prior)
        self.ring = Ring(test.signal, len(prior), test.q + test.most)
        self.ring.grow(3)
        self.slots = np.array([slot])

    def go(self, means: IntArray, ends: Iterable[int], since: int = 0) -> list[Path]:
        """Means up to each of `ends`; one path a piece."""
        paths = []
        for low, high in pairwise([0, *ends]):
            first, new = np.array([low]), means[None, low:high]
            stretch = Stretch.joined(self.ring.last(self.slots, first), first, new)
            path = self.scale.follow(
                stretch, self.slots, first, np.array([high]), lambda t: np.full_like(t, since)
            )
            self.scale.keep(self.slots, path, np.array([high]))
            self.ring.add(self.slots, first, np.array([high - low]), new)
            paths.append(path)
        return paths

    @property
    def sigma(self) -> Array:
        return self.scale.sigma[self.slots[0]].astype(np.float64)


def by_hand(test: Comparison, x: Array, prior: Array, since: int, upto: int) -> Array:
    """sigma (F,) as of the last edge at or before mean `upto`, from the definition.

    Samples every `stride` means: *local*, the last q against the 2 q before; *as used*, against the
    segment since mean `since` if that is long enough, at most g_max of it; per reading. Of the last
    SAMPLES of each the quantiles as they stand in order, blended with the prior of five samples.
    """
    q, stride, m = test.q, test.stride, test.m
    edge = EDGE_SAMPLES[test.signal] * stride
    local, used = [], []
    for t in range(stride, upto // edge * edge + 1, stride):
        last = x[t - q : t].mean(axis=0) if t >= q else None
        if t >= 3 * q:
            change = last - x[t - 3 * q : t - q].mean(axis=0)
            local.append(np.abs(change) / math.sqrt(1 / m + 1 / (2 * m)))
        g = min(t - q - since, test.most)
        if g >= test.least:
            change = last - x[t - q - g : t - q].mean(axis=0)
            used.append(np.abs(change) / math.sqrt(1 / m + 1 / (g * test.unit)))

    def blended(samples: list[Array], quantiles: dict[float, float]) -> Array:
        kept = np.sort(np.array(samples[-SAMPLES[test.signal] :]), axis=0)
        n = len(kept)
        if not n:
            return prior
        e = np.max([kept[int(len(kept) * p)] / by for p, by in quantiles.items()], axis=0)
        w = n / (n + 5)
        return np.sqrt(w * e**2 + (1 - w) * prior**2)

    sigma = np.maximum(
        blended(local, {0.5: 0.6745, 0.75: 1.1503}), test.used * blended(used, {0.5: 0.6745})
    )
    return sigma * (1 + 3 / (min(len(local), SAMPLES[test.signal]) + 5))


@each_test
@pytest.mark.parametrize("edges", [2.0, 2.5, 7.0, 60.0])
@pytest.mark.parametrize("since", [0, 130])
def test_sigma_is_that_of_a_loop_over_the_samples(
    test: Comparison, edges: float, since: int
) -> None:
    """Young, between two edges, and older than the samples that are kept.

    A series that becomes three times as wide, so that old samples and new ones differ; the prior is
    off. Within half a coding step: quantiles of rounded samples are rounded quantiles.
    """
    upto = int(edges * EDGE_SAMPLES[test.signal] * test.stride)
    means = noise(test, upto, 6, seed=int(edges))
    means[upto // 2 :] *= 3
    prior = np.array([0.2, 1.0, 1.0, 3.0, 1.0, 0.5])
    series = Series(test, prior)
    series.go(means, [upto], since)
    expected = by_hand(test, means * UNIT, prior, since, upto)
    assert series.scale.counts[1, 0] > 0
    ratio = series.sigma / expected
    assert ratio.max() < CODING * 1.0001
    assert ratio.min() > 1 / CODING / 1.0001
    assert series.scale.sigma[0].tolist() == [0.0] * 6, "no other series"


@each_test
def test_a_new_scale_is_its_prior_and_wider(test: Comparison) -> None:
    """No sample yet: the prior, times at most 1 + 3 / 5 for standing on nothing."""
    prior = np.array([0.5, 2.0])
    series = Series(test, prior)
    assert (series.sigma >= 1.3 * prior).all()
    assert (series.sigma <= 1.6001 * prior).all()


def path_over(paths: list[Path], ends: list[int]) -> list[list[float]]:
    """sigma as of every mean, whichever piece it came in."""
    found = []
    for path, (low, high) in zip(paths, pairwise([0, *ends]), strict=True):
        t = np.arange(low + 1, high + 1)[None]
        sigma = path.at(t)[0]
        found += np.broadcast_to(sigma, (t.size, sigma.shape[1])).tolist()
    return found


cuts = st.lists(st.integers(1, 70), max_size=25)


def ends_of(cut: list[int], total: int) -> list[int]:
    ends = [end for end in itertools.accumulate(cut) if end < total]
    return [*ends, total]


@given(cut=cuts, number=st.integers(0, len(TESTS) - 1))
@settings(max_examples=60, deadline=None)
def test_any_cut_keeps_the_same_samples_and_the_same_sigma(cut: list[int], number: int) -> None:
    """What is kept is part of a checkpoint: equal in every bit."""
    test = TESTS[number]
    means = noise(test, 650, 3)
    one, other = (Series(test, np.ones(3)) for _ in range(2))
    one.go(means, [650], since=40)
    other.go(means, ends_of(cut, 650), since=40)
    for name, array in one.scale.state(np.arange(3)).items():
        assert array.tobytes() == other.scale.state(np.arange(3))[name].tobytes(), name


@given(cut=cuts, number=st.integers(0, len(TESTS) - 1))
@settings(max_examples=30, deadline=None)
def test_any_cut_follows_nearly_the_same_sigma(cut: list[int], number: int) -> None:
    """As of every mean on the way, to the precision in which it is kept: float32's 2^-24."""
    test = TESTS[number]
    means, ends = noise(test, 650, 3), ends_of(cut, 650)
    one = path_over(Series(test, np.ones(3)).go(means, [650]), [650])
    other = path_over(Series(test, np.ones(3)).go(means, ends), ends)
    assert np.array(other) == pytest.approx(np.array(one), rel=2**-23)


def test_any_cut_follows_the_same_sigma_bit_for_bit() -> None:
    """Or a statistic, and with it a boundary's record, depends on how the log was cut."""
    test = TESTS[0]
    means, ends = noise(test, 220, 3), [100, 220]
    one = path_over(Series(test, np.ones(3)).go(means, [220]), [220])
    other = path_over(Series(test, np.ones(3)).go(means, ends), ends)
    assert other == one


@each_test
@pytest.mark.parametrize("until", [301, 360, 420, 599])
def test_a_path_is_kept_as_far_as_it_was_gone(test: Comparison, until: int) -> None:
    """A crossing ends it: what was followed beyond is of a reference that does not hold."""
    means = noise(test, 600, 3)
    one, other = (Series(test, np.ones(3)) for _ in range(2))
    one.go(means, [300, until])
    other.go(means, [300])
    first, high = np.array([300]), np.array([600])
    stretch = Stretch.joined(other.ring.last(other.slots, first), first, means[None, 300:])
    path = other.scale.follow(stretch, other.slots, first, high, np.zeros_like)
    other.scale.keep(other.slots, path, np.array([until]))
    for name, array in one.scale.state(np.arange(3)).items():
        assert array.tobytes() == other.scale.state(np.arange(3))[name].tobytes(), name


@each_test
def test_two_series_together_are_each_as_if_alone(test: Comparison) -> None:
    """At different places of their lives, so that one crosses edges that the other does not."""
    means = [noise(test, 400, 2, seed=i, wide=1.0 + i) for i in range(2)]
    alone = [Series(test, np.ones(2), slot=i) for i in range(2)]
    both = Series(test, np.ones(2), slot=0)
    both.scale.start(1, np.ones(2))
    starts = [130, 310]
    for i, series in enumerate(alone):
        series.go(means[i], [starts[i], 400 if i else 250])
        both.slots = np.array([i])
        both.go(means[i], [starts[i]])
    slots, low, high = np.array([0, 1]), np.array(starts), np.array([250, 400])
    new = np.zeros((2, 120, 2), dtype=np.int64)
    new[0], new[1, :90] = means[0][130:250], means[1][310:400]
    stretch = Stretch.joined(both.ring.last(slots, low), low, new)
    path = both.scale.follow(stretch, slots, low, high, np.zeros_like)
    both.scale.keep(slots, path, high)
    for i in range(2):
        for name, array in alone[i].scale.state(np.arange(2)).items():
            assert array[i].tobytes() == both.scale.state(np.arange(2))[name][i].tobytes(), name


# Theory ---------------------------------------------------------------------------------------


@each_test
def test_the_sigma_of_white_noise_is_its_deviation(test: Comparison) -> None:
    """Mean over many features, old enough that all samples are there.

    Each estimate is of n correlated samples. The median of n independent ones has a relative
    deviation of sqrt(.25 / n) / (2 phi(.6745)) / .6745 = 1.17 / sqrt(n), the upper quartile's is
    .92 / sqrt(n), the larger of three such is at most .85 deviations above; samples overlap by half
    or more, so n counts for a third. And 1 + 3 / (n + 5) is on top.
    """
    n = SAMPLES[test.signal]
    upto = (
        -(-n // EDGE_SAMPLES[test.signal]) * EDGE_SAMPLES[test.signal] * test.stride + 20 * test.q
    )
    series = Series(test, np.ones(150))
    series.go(noise(test, upto, 150, wide=1.0), [upto])
    above = 0.85 * 1.17 / math.sqrt(n / 3)
    young = 1 + 3 / (n + 5)
    error = 4 * 1.17 / math.sqrt(n / 3) / math.sqrt(150)
    assert 1 - error < series.sigma.mean() < young * (1 + above) + error


@pytest.mark.parametrize("phi", [0.5, 0.9])
def test_the_sigma_of_a_wandering_series_is_that_of_its_own_means(phi: float) -> None:
    """d is a weighted sum w of readings: its deviation is sqrt(w' G w), G_ij = phi^|i - j|.

    Divided by what it would be without the correlation, sqrt(1 / m + 1 / 2 m). 2.2 for phi = .9:
    more than twice that of white noise.
    """
    test, rows, features = TESTS[0], 6000, 60
    rng = np.random.default_rng(4)
    x = np.zeros((rows, features))
    x[0] = rng.normal(size=features)
    for t in range(1, rows):
        x[t] = phi * x[t - 1] + math.sqrt(1 - phi**2) * rng.normal(size=features)
    means = np.rint(x.reshape(-1, test.unit, features).mean(axis=1) / UNIT).astype(np.int64)
    series = Series(test, np.ones(features))
    series.go(means, [len(means)])
    m = test.m
    w = np.concatenate([np.full(2 * m, -1 / (2 * m)), np.full(m, 1 / m)])
    lag = np.abs(np.subtract.outer(np.arange(3 * m), np.arange(3 * m)))
    expected = math.sqrt(w @ phi**lag @ w / (1.5 / m))
    assert expected > math.sqrt(2)
    above = 0.85 * 1.17 / math.sqrt(200 / 3) + 3 / 205
    error = 4 * 1.17 / math.sqrt(200 / 3) / math.sqrt(features)
    assert 1 - error < series.sigma.mean() / expected < 1 + above + error
