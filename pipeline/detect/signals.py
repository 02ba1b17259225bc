"""Readings in, level and residual signals out: block by block, for many series at once.

A matrix product is of one block's five readings at a time, so its bits do not depend on how many
blocks come together: any cut of a stream into polls gives the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.detect.reference import CLIP_READING, CLIP_RESIDUAL, DIAGONAL
from pipeline.records import IntArray

Array = NDArray[np.float64]
Single = NDArray[np.float32]

#: Readings in a block: everything after the signals works on means of blocks.
BLOCK = 5
#: Products of two partial residuals are clipped here.
CLIP_PRODUCT = 4.0
#: The joint residual says nothing if more than this share of the sensors is missing.
MANY = 0.25


def hold(values: NDArray[np.floating[Any]], starts: IntArray, last: Array) -> Array:
    """Readings (N, d) with every cell that is not finite replaced by the sensor's last value.

    last: (S, d) of each series before; NaN where there was none yet, and NaN is held then.
    """
    cleaned = values.astype(np.float64)
    if np.isfinite(cleaned).all():
        return cleaned
    lead = np.repeat(np.arange(1, len(last) + 1), np.diff(starts))
    rows = np.arange(len(values)) + lead  # each series' cells follow its last one
    padded = np.full((len(values) + len(last), values.shape[1]), np.nan)
    padded[rows] = np.where(np.isfinite(cleaned), cleaned, np.nan)
    padded[starts[:-1] + np.arange(len(last))] = last
    index = np.where(np.isfinite(padded), np.arange(len(padded))[:, None], 0)
    first = np.zeros(len(padded), dtype=np.int64)  # nothing is held across series
    first[starts[:-1] + np.arange(len(last))] = starts[:-1] + np.arange(len(last))
    np.maximum.accumulate(first, out=first)
    index = np.maximum(index, first[:, None])
    np.maximum.accumulate(index, axis=0, out=index)
    held: Array = np.take_along_axis(padded, index, axis=0)[rows]
    return held


def level(readings: Array, location: Array, scale: Array) -> Array:
    """Robustly standardised readings, all (..., d)."""
    return np.asarray((readings - location) / scale)


def size(channels: int, pairs: int) -> int:
    """Features of the residual signal."""
    return 3 * channels + pairs + 1


def residual(
    readings: Array,
    before: Array,
    fit: Mapping[str, NDArray[Any]],
    blocks: IntArray | None,
    offset: Array | None = None,
    *,
    light: bool = False,
) -> Single:
    """Features (NB, BLOCK, F) of the VAR(1) residuals of blocks of readings (NB, BLOCK, d).

    E partial residuals, U white ones: log(.05 + |E|), E, E_i E_j of the watched pairs,
    log(.05 d + |U|^2), U. before: (NB, d) the reading before each block. fit: stacked fields of
    Forecaster; `blocks` (NB,) picks each block's series, None means that `fit` is of one series.
    offset: (NB, d) how far each block's level is from the fit's location, in its scales.
    light: log(.05 d + |U|^2) alone.
    """

    def of(name: str) -> NDArray[Any]:
        """A field for every block, to go with (NB, BLOCK, d)."""
        if blocks is None:
            return np.asarray(fit[name])
        field = np.asarray(fit[name][blocks])
        return field[:, None] if field.ndim == 2 else field

    location, scale = of("location"), of("scale")
    joined = np.concatenate([before[:, None], readings], axis=1)
    z = (joined - location) / scale
    if offset is not None:
        z -= offset[:, None]
    _clip(z, CLIP_READING)
    r = z[:, 1:] - np.matmul(z[:, :-1], of("coefficients")) - of("intercept")
    r /= of("residual")
    _clip(r, CLIP_RESIDUAL)
    u = np.matmul(r, of("whitening")).astype(np.float32)
    d = readings.shape[2]
    power = u[..., 0] * u[..., 0]
    for j in range(1, d):
        power = power + u[..., j] * u[..., j]
    joint = np.log(power + np.float32(DIAGONAL * d))
    if light:
        return np.asarray(joint[..., None])
    e = _clip(np.matmul(r, of("partial")), CLIP_RESIDUAL).astype(np.float32)
    pairs = fit["pairs"].shape[-1]
    out = np.empty((*r.shape[:2], size(d, pairs)), dtype=np.float32)
    out[..., :d] = np.log(np.abs(e) + np.float32(DIAGONAL))
    out[..., d : 2 * d] = e
    out[..., 2 * d : 2 * d + pairs] = _products(e, fit["pairs"], blocks)
    out[..., -d - 1] = joint
    out[..., -d:] = u
    return out


def _products(e: Single, pairs: NDArray[np.integer[Any]], blocks: IntArray | None) -> Single:
    if blocks is None:
        first, second = e.take(pairs[0], axis=2), e.take(pairs[1], axis=2)
    elif pairs.shape[-1] == e.shape[2] * (e.shape[2] - 1) // 2:  # all, so every series' are equal
        first, second = (e.take(sensors, axis=2) for sensors in pairs[blocks[0]])
    else:
        which = pairs[blocks][:, :, None]  # (NB, 2, 1, K)
        first = np.take_along_axis(e, which[:, 0], axis=2)
        second = np.take_along_axis(e, which[:, 1], axis=2)
    return _clip(first * second, CLIP_PRODUCT)


def _clip(x: NDArray[Any], most: float) -> NDArray[Any]:
    """x itself, cut at +-most; np.clip is slow for few values."""
    np.minimum(x, most, out=x)
    np.maximum(x, -most, out=x)
    return x


def touched(missing: NDArray[np.bool_], before: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Sensors (NB, BLOCK, d) that are missing in a row or were in the row before."""
    late = np.concatenate([before[:, None], missing[:, :-1]], axis=1)
    return np.asarray(missing | late)


def features_of(
    sensors: NDArray[np.bool_], live: NDArray[np.bool_], pairs: NDArray[np.integer[Any]]
) -> NDArray[np.bool_]:
    """Features (NB, BLOCK, F) of `residual` that say nothing where these sensors do not.

    A sensor's own, its products, and its white residual, which is mostly its own; |U| only if more
    than MANY of the sensors that the reference knows are missing. sensors: (NB, BLOCK, d) missing.
    live: (NB, d) known to the reference. pairs: (NB, 2, K).
    """
    missing = (sensors & live[:, None]).sum(axis=2, keepdims=True)
    many = missing > MANY * live.sum(axis=1)[:, None, None]
    which = pairs[:, :, None]
    either = np.take_along_axis(sensors, which[:, 0], axis=2) | np.take_along_axis(
        sensors, which[:, 1], axis=2
    )
    return np.concatenate([sensors, sensors, either, many, sensors], axis=2)


def block_means(rows: NDArray[Any]) -> NDArray[Any]:
    """Means (NB, F) over each block of rows (NB, BLOCK, F), added in a fixed order."""
    total = rows[:, 0].copy()
    for k in range(1, BLOCK):
        total += rows[:, k]
    return np.asarray(total / BLOCK)


def known_means(
    rows: NDArray[Any], missing: NDArray[np.bool_], instead: NDArray[Any]
) -> NDArray[Any]:
    """Block means of the rows that are not missing; where all are, what stands `instead`.

    rows, missing: (NB, BLOCK, F). instead: (NB, F).
    """
    counts = (~missing).sum(axis=1)
    total = np.where(missing, 0, rows).sum(axis=1, dtype=rows.dtype)
    return np.asarray(np.where(counts > 0, total / np.maximum(counts, 1), instead))
