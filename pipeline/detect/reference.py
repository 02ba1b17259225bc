"""A series' first readings in, what normal looks like out: closed form, independent of torch."""

from __future__ import annotations

from dataclasses import dataclass, fields
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
#: Pairs of sensors whose products are watched, at most: all of 8 sensors and a few more.
PAIRS = 32


def robust(readings: Array) -> tuple[Array, Array]:
    """Location and scale (d,) of readings (n, d): median, and the quartiles' distance.

    NaN is missing; a sensor without any reading has location 0 and scale 1. A sensor that mostly
    repeats one value has no such distance: then the standard deviation, and for one that never
    moves a thousandth of its value, so that any later move is a large one.
    """
    silent = np.isnan(readings).all(axis=0)
    x = np.where(silent, 0.0, readings)
    quantile, std = (np.nanquantile, np.nanstd) if np.isnan(x).any() else (np.quantile, np.std)
    low, median, high = quantile(x, (0.25, 0.5, 0.75), axis=0)
    scale = (high - low) / QUARTILES
    deviation = std(x, axis=0)
    tiny = np.maximum(np.abs(median) * 1e-9, 1e-30)
    scale = np.where(scale > tiny, scale, deviation)
    scale = np.where(scale > tiny, scale, np.maximum(np.abs(median) * 1e-3, 1e-9))
    return median, np.where(silent, 1.0, scale)


@dataclass(frozen=True, slots=True)
class Forecaster:
    """VAR(1): the next standardised reading from the last one, and what its residuals look like.

    Z = clip((X - location) / scale);  E[Z_t] = Z_{t-1} A + c;  R = (Z_t - E[Z_t]) / residual;
    S = cov(R) + DIAGONAL I, P = S^-1. U = R S^-1/2 is white, the same in any order of the sensors,
    and (R P)_j / sqrt(P_jj) is what the others do not explain of sensor j (its partial residual).
    """

    location: Array  # (d,)
    scale: Array  # (d,)
    coefficients: Array  # (d, d)
    intercept: Array  # (d,)
    residual: Array  # (d,)
    partial: Array  # (d, d)
    whitening: Array  # (d, d)
    #: (2, K) the sensors of each pair that is watched.
    pairs: NDArray[np.uint16]

    @classmethod
    def fit(cls, readings: Array) -> Forecaster:
        """Ridge regression of each reading (n, d) on the one before it; NaN is missing."""
        d = readings.shape[1]
        location, scale = robust(readings)
        z = np.clip((readings - location) / scale, -CLIP_READING, CLIP_READING)
        z = np.where(np.isnan(z), 0.0, z)
        before = np.concatenate([z[:-1], np.ones((len(z) - 1, 1))], axis=1)
        gram = before.T @ before + RIDGE * np.eye(d + 1)
        solved = np.linalg.solve(gram, before.T @ z[1:])
        errors = z[1:] - before @ solved
        residual = np.maximum(errors.std(axis=0), 1e-6)
        whitened = np.clip(errors / residual, -CLIP_RESIDUAL, CLIP_RESIDUAL)
        covariance = np.cov(whitened.T).reshape(d, d) + DIAGONAL * np.eye(d)
        precision = np.linalg.inv(covariance)
        return cls(
            location=location,
            scale=scale,
            coefficients=solved[:d],
            intercept=solved[d],
            residual=residual,
            partial=precision / np.sqrt(np.diag(precision)),
            whitening=root_of_inverse(covariance),
            pairs=most_correlated(covariance),
        )


def root_of_inverse(covariance: Array) -> Array:
    """The symmetric root of its inverse (d, d)."""
    values, vectors = np.linalg.eigh(covariance)
    return np.asarray((vectors / np.sqrt(values)) @ vectors.T)


def most_correlated(covariance: Array) -> NDArray[np.uint16]:
    """(2, K) the PAIRS pairs of sensors with the largest correlation, in order of the sensors."""
    first, second = np.triu_indices(len(covariance), 1)
    deviation = np.sqrt(np.diag(covariance))
    correlation = np.abs(covariance[first, second]) / (deviation[first] * deviation[second])
    kept = np.sort(np.argsort(-correlation, kind="stable")[:PAIRS])
    return np.stack([first[kept], second[kept]]).astype(np.uint16)


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
    square = {"coefficients", "partial", "whitening"}
    pairs = min(PAIRS, channels * (channels - 1) // 2)
    stacked: dict[str, NDArray[Any]] = {
        field.name: np.zeros(
            (slots, channels, channels) if field.name in square else (slots, channels)
        )
        for field in fields(Forecaster)
    }
    return stacked | {"pairs": np.zeros((slots, 2, pairs), dtype=np.uint16)}
