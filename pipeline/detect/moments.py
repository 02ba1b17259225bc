"""Means of the residual's features in, spreads and correlations of the residuals out.

The features are those of partial residuals E = R Q (`Forecaster.partial`), cut at both ends; for
normal residuals their means say what the covariance of E is, and that what the one of R is.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.detect.reference import DIAGONAL
from pipeline.detect.signals import CLIP_PRODUCT

Array = NDArray[np.float64]

#: Correlations are within this.
CLOSE = 0.99
#: A partial residual whose mean moved by so many deviations says nothing of spreads.
CARRIED = 0.5
#: Deviations and correlations that the tables are made for, and points of a normal distribution.
DEVIATIONS = np.geomspace(1e-3, 30.0, 97)
CORRELATIONS = np.linspace(-CLOSE, CLOSE, 67)
POINTS = 48


def covariances(
    before: Array, after: Array, fit: Mapping[str, NDArray[Any]]
) -> tuple[Array, Array]:
    """Covariances (d, d) of the residuals by the means (F,) of their features.

    Where a partial residual's mean moved, a level did: its spread then counts as the one before.
    """
    d = len(fit["residual"])
    one, other = _partial(before, fit), _partial(after, fit)
    drift = np.abs(after[d : 2 * d] - before[d : 2 * d]) / np.sqrt(np.diag(one))
    carried = drift > CARRIED
    other[carried] = one[carried]
    other[:, carried] = one[:, carried]
    back = np.linalg.inv(fit["partial"])
    return back.T @ one @ back, back.T @ other @ back


def deviations(covariance: Array) -> Array:
    """(d,) roots of the variances."""
    return np.asarray(np.sqrt(np.maximum(np.diag(covariance), 1e-12)))


def correlations(covariance: Array) -> Array:
    """(d, d) covariances by the deviations."""
    deviation = deviations(covariance)
    correlation = covariance / (deviation[:, None] * deviation)
    return np.asarray(np.clip(correlation, -CLOSE, CLOSE))


def blur(covariance: Array, fit: Mapping[str, NDArray[Any]]) -> Array:
    """(d,) error of the logarithm of a deviation of R, by that of one of E.

    R = E B: a variance of E has the error 2 e s^2, a covariance e s_i s_j, and that of a sum of
    them, in which every covariance comes twice, is the root of the sum of their squares.
    """
    size = np.diag(fit["partial"].T @ covariance @ fit["partial"])
    back = np.linalg.inv(fit["partial"]) ** 2  # (E, R)
    square = (back.T @ size) ** 2 * 2 + (back.T**2 @ size**2) * 2
    return np.asarray(np.sqrt(square) / (2 * np.diag(covariance)))


def _partial(means: Array, fit: Mapping[str, NDArray[Any]]) -> Array:
    """Covariance (d, d) of the partial residuals by the means (F,) of their features.

    A pair that is not watched has the reference's correlation: Q' S Q = P_ij / sqrt(P_ii P_jj).
    """
    d, pairs = len(fit["residual"]), fit["pairs"]
    deviation = np.exp(np.interp(means[:d], _logarithms(), np.log(DEVIATIONS)))
    root = np.diag(fit["partial"])  # P_jj / sqrt(P_jj)
    correlation = fit["partial"] / root[:, None]
    size = deviation[pairs[0]] * deviation[pairs[1]]
    watched = _correlation(means[2 * d : 2 * d + pairs.shape[1]], size)
    correlation[pairs[0], pairs[1]] = correlation[pairs[1], pairs[0]] = watched
    np.fill_diagonal(correlation, 1.0)
    return np.asarray(correlation * deviation[:, None] * deviation)


def _correlation(products: Array, size: Array) -> Array:
    """Correlations (K,) behind means (K,) of products; `size` (K,) is that of the deviations."""
    table, at = _products(), np.log(size / DEVIATIONS[0]) / np.log(DEVIATIONS[1] / DEVIATIONS[0])
    at = np.clip(at, 0, len(DEVIATIONS) - 1.001)
    low, share = at.astype(np.int64), (at % 1)[:, None]
    rows = table[low] * (1 - share) + table[low + 1] * share
    found = [np.interp(p, row, CORRELATIONS) for p, row in zip(products, rows, strict=True)]
    return np.array(found, dtype=np.float64)


@cache
def _normal() -> Array:
    """(POINTS,) equally likely absolute values of a normal variable."""
    shares = 0.5 + (np.arange(POINTS) + 0.5) / (2 * POINTS)
    return np.array([NormalDist().inv_cdf(share) for share in shares])


@cache
def _logarithms() -> Array:
    """Means of log(DIAGONAL + |E|) for E of each of DEVIATIONS."""
    sizes = DEVIATIONS[:, None] * _normal()
    return np.asarray(np.log(DIAGONAL + sizes).mean(axis=1))


@cache
def _products() -> Array:
    """(DEVIATIONS, CORRELATIONS) means of s x y, cut at CLIP_PRODUCT, for x and y of deviation 1.

    x y = ((1 + r) a - (1 - r) b) / 2, a and b independent squares of normal variables.
    """
    square = _normal() ** 2
    r = CORRELATIONS[:, None, None]
    product = ((1 + r) * square[:, None] - (1 - r) * square) / 2
    table = [np.clip(s * product, -CLIP_PRODUCT, CLIP_PRODUCT).mean((1, 2)) for s in DEVIATIONS]
    return np.array(table)
