"""Signals against plain loops over rows, from the formulas."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from pipeline.detect.reference import CLIP_READING, CLIP_RESIDUAL, DIAGONAL, Forecaster
from pipeline.detect.signals import (
    BLOCK,
    CLIP_PRODUCT,
    block_means,
    features_of,
    hold,
    known_means,
    level,
    residual,
    size,
    touched,
)

Array = NDArray[np.float64]

cells = st.one_of(
    st.floats(-100, 100, width=32), st.sampled_from([math.nan, math.inf, -math.inf, 3e38, 1e-42])
)


def correlated(rows: int, channels: int, seed: int = 0) -> Array:
    """A VAR(1) whose sensors have units of their own, with a few wild readings."""
    rng = np.random.default_rng(seed)
    mixing = 0.4 * np.eye(channels) + 0.3 * rng.normal(size=(channels, channels)) / channels
    x = np.zeros((rows, channels))
    for t in range(1, rows):
        x[t] = x[t - 1] @ mixing + rng.normal(size=channels)
    x[rng.integers(0, rows, 5)] += 60
    return x * 10.0 ** rng.integers(-3, 4, channels) + rng.normal(size=channels) * 50


def fields_of(fit: Forecaster) -> dict[str, NDArray[Any]]:
    return {field.name: getattr(fit, field.name) for field in fields(Forecaster)}


def stacked(fits: list[Forecaster]) -> dict[str, NDArray[Any]]:
    return {name: np.stack([getattr(fit, name) for fit in fits]) for name in fields_of(fits[0])}


# hold -----------------------------------------------------------------------------------------


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_a_missing_cell_holds_the_sensors_last_value(data: st.DataObject) -> None:
    """Reading by reading: finite cells stay, others repeat; each series has its own past.

    A sensor that has not spoken yet is NaN, and stays NaN until it does, whatever the series
    before it in the batch has said.
    """
    counts = data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=4))
    values = data.draw(arrays.arrays(np.float32, (sum(counts), 2), elements=cells))
    last = data.draw(
        arrays.arrays(np.float64, (len(counts), 2), elements=st.sampled_from([math.nan, -7.0, 0.5]))
    )
    expected = []
    rows = iter(values.tolist())
    for series, count in enumerate(counts):
        held = last[series].tolist()
        for _ in range(count):
            held = [v if math.isfinite(v) else h for v, h in zip(next(rows), held, strict=True)]
            expected.append(held)
    given_ = values.copy()
    found = hold(values, np.cumsum([0, *counts]), last)
    assert np.array_equal(found, expected, equal_nan=True)
    assert np.array_equal(values, given_, equal_nan=True), "the batch is not this stage's to change"


# level and block means ------------------------------------------------------------------------


@given(st.floats(-1e6, 1e6), st.floats(-10, 10), st.sampled_from([1e-9, 1e-5, 1.0, 1e3]))
def test_the_level_is_the_robust_z(x: float, location: float, scale: float) -> None:
    """However far: what is too far for a mean is cut there."""
    one = level(np.array([[x]]), np.array([location]), np.array([scale]))[0, 0]
    assert one == pytest.approx((x - location) / scale, rel=1e-12)


def test_the_level_of_many_series_is_that_of_each() -> None:
    """Stacked references (N, d) pick each reading's own, bit for bit."""
    rng = np.random.default_rng(0)
    x, location = rng.normal(size=(40, 3)) * 30, rng.normal(size=(2, 3))
    scale, which = rng.random((2, 3)) + 0.1, rng.integers(0, 2, 40)
    both = level(x, location[which], scale[which])
    for row in range(40):
        one = level(x[row : row + 1], location[which[row]], scale[which[row]])
        assert one.tobytes() == both[row : row + 1].tobytes()


@given(arrays.arrays(np.float64, (4, BLOCK, 2), elements=st.floats(-1e3, 1e3)))
def test_a_block_is_the_mean_of_its_rows_added_from_the_first(rows: Array) -> None:
    """The order of the additions is part of the answer's bits."""
    expected = []
    for block in rows:
        total = block[0].copy()
        for row in block[1:]:
            total = total + row
        expected.append(total / BLOCK)
    assert block_means(rows).tobytes() == np.array(expected).tobytes()


@given(
    rows=arrays.arrays(np.float64, (3, BLOCK, 2), elements=st.floats(-1e3, 1e3)),
    missing=arrays.arrays(np.bool_, (3, BLOCK, 2)),
    instead=arrays.arrays(np.float64, (3, 2), elements=st.floats(-1e3, 1e3)),
)
def test_a_known_mean_is_of_what_is_known(
    rows: Array, missing: NDArray[np.bool_], instead: Array
) -> None:
    """Cell by cell; a block of which nothing is known has what stands instead."""
    found = known_means(rows, missing, instead)
    for block in range(3):
        for f in range(2):
            known = [rows[block, k, f] for k in range(BLOCK) if not missing[block, k, f]]
            expected = math.fsum(known) / len(known) if known else instead[block, f]
            assert found[block, f] == pytest.approx(expected, rel=1e-12, abs=1e-10)


# Features of the residual ---------------------------------------------------------------------


def by_hand(reading: Array, before: Array, fit: Forecaster, offset: Array) -> Iterator[float]:
    """One row's features from the formulas, one number after the other."""

    def standard(x: Array) -> list[float]:
        z = ((x - fit.location) / fit.scale - offset).tolist()
        return [min(max(v, -CLIP_READING), CLIP_READING) for v in z]

    def clip(value: float, most: float) -> float:
        return min(max(value, -most), most)

    d = len(reading)
    z, z_before = standard(reading), standard(before)
    r = []
    for j in range(d):
        forecast = fit.intercept[j] + sum(z_before[i] * fit.coefficients[i, j] for i in range(d))
        r.append(clip((z[j] - forecast) / fit.residual[j], CLIP_RESIDUAL))
    e = [clip(sum(r[i] * fit.partial[i, j] for i in range(d)), CLIP_RESIDUAL) for j in range(d)]
    u = [sum(r[i] * fit.whitening[i, j] for i in range(d)) for j in range(d)]
    yield from (math.log(abs(v) + DIAGONAL) for v in e)
    yield from e
    yield from (clip(e[i] * e[j], CLIP_PRODUCT) for i, j in fit.pairs.T)
    yield math.log(sum(v * v for v in u) + DIAGONAL * d)
    yield from u


@pytest.mark.parametrize("channels", [1, 2, 3, 9])
@pytest.mark.parametrize("with_offset", [False, True])
def test_the_features_are_those_of_the_formulas(channels: int, with_offset: bool) -> None:
    """Reading by reading, of three series mixed; wild readings and clips included.

    E and U are rounded to float32 (2^-24 of at most 5 sqrt(20 d) < 70): 1e-5 is what
    log(.05 + |E|) makes of that at its steepest, 1 / .05.
    """
    series = [correlated(200, channels, seed) for seed in range(3)]
    fits = [Forecaster.fit(x[:150]) for x in series]
    rng = np.random.default_rng(7)
    blocks = rng.integers(0, 3, 60)
    first = rng.integers(1, 200 - BLOCK, 60)
    readings = np.stack([series[s][f : f + BLOCK] for s, f in zip(blocks, first, strict=True)])
    before = np.stack([series[s][f - 1] for s, f in zip(blocks, first, strict=True)])
    offset = rng.normal(size=(60, channels)) * 3 if with_offset else np.zeros((60, channels))
    found = residual(readings, before, stacked(fits), blocks, offset if with_offset else None)
    pairs = channels * (channels - 1) // 2
    assert found.shape == (60, BLOCK, size(channels, min(pairs, 32)))
    assert found.shape[2] == 3 * channels + min(pairs, 32) + 1
    for b, s in enumerate(blocks):
        rows = [before[b], *readings[b]]
        for k in range(BLOCK):
            expected = list(by_hand(rows[k + 1], rows[k], fits[s], offset[b]))
            assert found[b, k] == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_the_features_of_many_series_are_those_of_each_bit_for_bit() -> None:
    """Series are stacked for speed only: which blocks come together must not reach the bits."""
    x = correlated(120, 3, seed=3)
    fits = [Forecaster.fit(x[:60]), Forecaster.fit(x[60:])]
    readings = x.reshape(-1, BLOCK, 3)
    before = np.concatenate([x[:1], x[BLOCK - 1 : -1 : BLOCK]])
    offset = np.random.default_rng(5).normal(size=before.shape)
    which = np.random.default_rng(4).integers(0, 2, len(readings))
    together = residual(readings, before, stacked(fits), which, offset)
    for b in range(len(readings)):
        one = slice(b, b + 1)
        alone = residual(readings[one], before[one], fields_of(fits[which[b]]), None, offset[one])
        assert alone.tobytes() == together[one].tobytes()


# What is missing ------------------------------------------------------------------------------


@given(
    arrays.arrays(np.bool_, (3, BLOCK, 2)),
    arrays.arrays(np.bool_, (3, 2)),
)
def test_a_row_is_touched_by_what_is_missing_in_it_or_before(
    missing: NDArray[np.bool_], before: NDArray[np.bool_]
) -> None:
    """A forecast needs the row before: blocks of any series have their own."""
    found = touched(missing, before)
    for b in range(3):
        for k in range(BLOCK):
            for j in range(2):
                late = missing[b, k - 1, j] if k else before[b, j]
                assert found[b, k, j] == (missing[b, k, j] or late)


@given(
    sensors=arrays.arrays(np.bool_, (2, BLOCK, 4)),
    live=arrays.arrays(np.bool_, (2, 4)),
    chosen=st.lists(
        st.sampled_from([(i, j) for i in range(4) for j in range(i + 1, 4)]),
        min_size=3, max_size=3, unique=True,
    ),
)  # fmt: skip
def test_a_feature_says_nothing_where_one_of_its_sensors_does_not(
    sensors: NDArray[np.bool_], live: NDArray[np.bool_], chosen: list[tuple[int, int]]
) -> None:
    """Its own sensor; either of a pair; |U| when more than a quarter of the known ones are gone."""
    pairs = np.array([chosen, chosen[::-1]]).transpose(0, 2, 1)
    found = features_of(sensors, live, pairs)
    assert found.shape == (2, BLOCK, size(4, 3))
    for b in range(2):
        for k in range(BLOCK):
            row = sensors[b, k].tolist()
            gone = sum(s and known for s, known in zip(row, live[b], strict=True))
            many = bool(gone > live[b].sum() / 4)
            either = [row[i] or row[j] for i, j in pairs[b].T]
            assert found[b, k].tolist() == [*row, *row, *either, many, *row]
