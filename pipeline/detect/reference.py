"""A series' first readings in, what normal looks like out: closed form, independent of torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

#: Quartiles of a normal distribution are this many standard deviations apart.
QUARTILES = 1.349
#: Ridge of the VAR(1) forecaster, and what is added to the diagonal of its residuals' covariance.
RIDGE, DIAGONAL = 1.0, 0.05
#: Standardised readings and residuals of the forecaster are clipped here.
CLIP_READING, CLIP_RESIDUAL = 10.0, 5.0


def robust(readings: Array) -> tuple[Array, Array]:
    """Location and scale (d,) of readings (n, d): median, and the quartiles' distance.

    A sensor that mostly repeats one value has no such distance: then the standard deviation, and
    for one that never moves a thousandth of its value, so that any later move is a large one.
    """
    low, median, high = np.quantile(readings, (0.25, 0.5, 0.75), axis=0)
    scale = (high - low) / QUARTILES
    deviation = readings.std(axis=0)
    tiny = np.maximum(np.abs(median) * 1e-9, 1e-30)
    scale = np.where(scale > tiny, scale, deviation)
    return median, np.where(scale > tiny, scale, np.maximum(np.abs(median) * 1e-3, 1e-9))


@dataclass(frozen=True, slots=True)
class Forecaster:
    """VAR(1): the next standardised reading from the last one, and what its residuals look like.

    Z = clip((X - location) / scale);  E[Z_t] = Z_{t-1} A + c;  R = (Z_t - E[Z_t]) / residual;
    U = R W is white: cov(R) + DIAGONAL I = L L', W = L^-T.
    """

    location: Array  # (d,)
    scale: Array  # (d,)
    coefficients: Array  # (d, d)
    intercept: Array  # (d,)
    residual: Array  # (d,)
    whitening: Array  # (d, d)

    @classmethod
    def fit(cls, readings: Array) -> Forecaster:
        """Ridge regression of each reading (n, d) on the one before it."""
        d = readings.shape[1]
        location, scale = robust(readings)
        z = np.clip((readings - location) / scale, -CLIP_READING, CLIP_READING)
        before = np.concatenate([z[:-1], np.ones((len(z) - 1, 1))], axis=1)
        gram = before.T @ before + RIDGE * np.eye(d + 1)
        solved = np.linalg.solve(gram, before.T @ z[1:])
        errors = z[1:] - before @ solved
        residual = np.maximum(errors.std(axis=0), 1e-6)
        whitened = np.clip(errors / residual, -CLIP_RESIDUAL, CLIP_RESIDUAL)
        covariance = np.cov(whitened.T).reshape(d, d) + DIAGONAL * np.eye(d)
        return cls(
            location=location,
            scale=scale,
            coefficients=solved[:d],
            intercept=solved[d],
            residual=residual,
            whitening=np.linalg.inv(np.linalg.cholesky(covariance)).T,
        )


def lag_one(signal: Array) -> Array:
    """Lag-1 autocorrelation (d,) of a signal (n, d), within [0, .98]."""
    centred = signal - signal.mean(axis=0)
    power = np.maximum((centred * centred).mean(axis=0), 1e-300)
    return np.asarray(np.clip((centred[1:] * centred[:-1]).mean(axis=0) / power, 0.0, 0.98))


def inflation(phi: Array, m: int) -> Array:
    """How much wider the mean of m readings is than if they were independent (AR(1), phi).

    sqrt(1 + 2 sum_{k<m} (1 - k/m) phi^k)
    """
    k = np.arange(1, m)[:, None]
    return np.asarray(np.sqrt(1 + 2 * ((1 - k / m) * phi[None] ** k).sum(axis=0)), dtype=float)


def empty(slots: int, channels: int) -> dict[str, NDArray[Any]]:
    """Stacked fields of `Forecaster`, for `slots` series."""
    square = {"coefficients", "whitening"}
    return {
        name: np.zeros((slots, channels, channels) if name in square else (slots, channels))
        for name in Forecaster.__dataclass_fields__
    }
