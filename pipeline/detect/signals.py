"""Readings in, level and residual signals out: row by row, for many series at once.

No matrix product here: its bits would depend on how many rows come together. Sums over sensors run
in a fixed order, so any cut of a stream into polls gives the same bits.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from pipeline.detect.reference import CLIP_READING, CLIP_RESIDUAL, DIAGONAL
from pipeline.records import FloatArray, IntArray

Array = NDArray[np.float64]

#: Readings in a block: everything after the signals works on means of blocks.
BLOCK = 5
#: A level is itself up to here, in scales, and grows with the logarithm beyond.
LINEAR = 8.0


def hold(values: FloatArray, starts: IntArray, last: Array) -> Array:
    """Readings (N, d) with every cell that is not finite replaced by the sensor's last value.

    last: (S, d) of each series before; NaN where there was none yet, and then 0 is held.
    """
    cleaned = values.astype(np.float64)
    if np.isfinite(cleaned).all():
        return cleaned
    lead = np.repeat(np.arange(1, len(last) + 1), np.diff(starts))
    rows = np.arange(len(values)) + lead  # each series' cells follow its last one
    padded = np.full((len(values) + len(last), values.shape[1]), np.nan)
    padded[rows] = cleaned
    padded[starts[:-1] + np.arange(len(last))] = np.where(np.isfinite(last), last, 0.0)
    index = np.where(np.isfinite(padded), np.arange(len(padded))[:, None], 0)
    np.maximum.accumulate(index, axis=0, out=index)
    held: Array = np.take_along_axis(padded, index, axis=0)[rows]
    return held


def level(readings: Array, location: Array, scale: Array) -> Array:
    """Robustly standardised readings; beyond LINEAR scales compressed, so that one outlier counts
    for little and a sensor that leaves a frozen value is still seen.

    All (N, d), or (d,) for one series.
    """
    y: Array = (readings - location) / scale
    far = np.abs(y) > LINEAR
    if far.any():
        y[far] = np.sign(y[far]) * LINEAR * (1 + np.log(np.abs(y[far]) / LINEAR))
    return y


def joint_residual(
    readings: Array, before: Array, fit: Mapping[str, Array], rows: IntArray | None
) -> Array:
    """log T^2 (N,) of the VAR(1) residuals: log(.05 d + |U|^2), U white.

    before: (N, d) the reading before each. fit: stacked fields of Forecaster; `rows` (N,) picks
    each reading's series, None means that `fit` is of one series.
    """

    def of(name: str, *index: int) -> Array:
        """One field, or one row of a matrix, for every reading."""
        return np.asarray(fit[name][index if rows is None else (rows, *index)])

    z, z_before = (
        np.clip((x - of("location")) / of("scale"), -CLIP_READING, CLIP_READING)
        for x in (readings, before)
    )
    d = readings.shape[1]
    z -= of("intercept")
    for j in range(d):
        z -= z_before[:, j : j + 1] * of("coefficients", j)
    residual = np.clip(z / of("residual"), -CLIP_RESIDUAL, CLIP_RESIDUAL)
    white = np.zeros_like(residual)
    for j in range(d):
        white += residual[:, j : j + 1] * of("whitening", j)
    total = np.full(len(white), DIAGONAL * d)
    for j in range(d):
        total += white[:, j] * white[:, j]
    return np.asarray(np.log(total))


def block_means(rows: Array) -> Array:
    """Means (N / BLOCK, F) of consecutive rows (N, F), added in a fixed order."""
    blocks = rows.reshape(-1, BLOCK, rows.shape[1])
    total = blocks[:, 0].copy()
    for k in range(1, BLOCK):
        total += blocks[:, k]
    return total / BLOCK
