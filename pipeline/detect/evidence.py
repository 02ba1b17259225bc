"""Sums over stretches of a signal in, how surprising the last of them is out.

Every change is divided by how much the same statistic has varied over the whole life of the series:
a stream that wanders teaches its own threshold.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from pipeline.detect.ring import Stretch
from pipeline.detect.signals import BLOCK
from pipeline.records import IntArray

Array = NDArray[np.float64]

#: Blocks in a mean of each signal.
BLOCKS = {"level": 1, "residual": 4}
#: The statistic is the root mean square of so many largest z.
LARGEST = 3
#: A feature alone counts so many times: the largest of many are larger by chance.
ALONE = 1.2
#: The joint statistic is of this size where a rms of the largest z is 1.
JOINT = 1.15


@dataclass(frozen=True)
class Test:
    """One comparison: the mean of the last m readings against the segment before them."""

    signal: str
    m: int
    g_min: int
    g_max: int
    armed_from: int
    #: Readings between two samples of its scale.
    every: int
    #: Weight of the as-used scale.
    used: float
    #: The variance of the means that a mean is of, times this and the readings in one of them, is
    #: the least that it is divided by.
    welch: float

    @cached_property
    def unit(self) -> int:
        """Readings in a mean."""
        return BLOCK * BLOCKS[self.signal]

    @cached_property
    def q(self) -> int:
        """Means in m readings."""
        return self.m // self.unit

    @cached_property
    def least(self) -> int:
        """Means in g_min readings."""
        return self.g_min // self.unit

    @cached_property
    def most(self) -> int:
        """Means in g_max readings."""
        return self.g_max // self.unit

    @cached_property
    def stride(self) -> int:
        """Means between two samples of its scale."""
        return self.every // self.unit

    def samples(self, stretch: Stretch, t: IntArray, length: IntArray) -> Array:
        """What its scale is made of at t (S, K), for one reading: (S, K, 2, F).

        *local*, |mean of the last m - mean of the 2m before|, boundaries ignored; and *as used*,
        |mean of the last m - mean of the segment before|. Where one is not due, anything.
        """
        q, g = self.q, np.minimum(np.maximum(length, 1), self.most)
        edges = stretch.edges(t - q - g, t - 3 * q, t - q, t)
        used, local, after = stretch.sums(edges, ((0, 2), (1, 2), (2, 3)))
        after /= q
        local /= 2 * q
        used /= g[..., None]
        out = np.empty((*t.shape, 2, after.shape[2]))
        np.subtract(after, local, out=out[:, :, 0])
        np.subtract(after, used, out=out[:, :, 1])
        np.abs(out, out=out)
        out[:, :, 0] /= np.sqrt(1.5 / self.m)
        out[:, :, 1] /= np.sqrt(1 / self.m + 1 / (g * self.unit))[..., None]
        return out

    def z(self, stretch: Stretch, t: IntArray, length: IntArray, sigma: Array) -> Array:
        """The change in sigmas (S, K, F): at t (S, K), against `length` means before.

        z = |d| / sqrt(max(sigma^2, w v_post) / m + max(sigma^2, w v_pre) / g), v the variance of
        the means, w = `welch` times the readings in one (Welch's denominator, sigma its floor).
        Where it is not due, anything.
        """
        q, g = self.q, np.minimum(np.maximum(length, 1), self.most)
        n, floor, w = g[..., None], sigma * sigma, self.welch * self.unit
        edges = stretch.edges(t - q - g, t - q, t)
        pre, post = stretch.sums(edges, ((0, 1), (1, 2)))
        v_pre, v_post = stretch.sums(edges, ((0, 1), (1, 2)), squares=True)
        for mean, variance, count in ((pre, v_pre, n), (post, v_post, q)):
            mean /= count
            variance /= count
            variance -= mean * mean
            variance *= w
            np.maximum(variance, floor, out=variance)
        v_post /= self.m
        v_pre /= n * self.unit
        v_post += v_pre
        post -= pre
        np.abs(post, out=post)
        post /= np.sqrt(v_post, out=v_post)
        return post


TESTS = (
    Test("level", 25, g_min=60, g_max=480, armed_from=300, every=25, used=0.65, welch=0.1),
    Test("residual", 240, g_min=240, g_max=1440, armed_from=1920, every=120, used=1.0, welch=1.1),
    Test("residual", 400, g_min=480, g_max=2400, armed_from=3840, every=200, used=1.0, welch=1.1),
)


def statistic(z: Array) -> Array:
    """Root mean square of the LARGEST largest z: (..., F) -> (...)."""
    k = min(LARGEST, z.shape[-1])
    top = np.sort(z, axis=-1)[..., -k:]
    return np.asarray(np.sqrt((top * top).sum(axis=-1) / k))


def joint(z: Array, p: int | IntArray) -> Array:
    """All white residuals together: mean square of z (..., d) as a normal variable (...).

    Wilson and Hilferty's cube root of a chi-square with p degrees of freedom (1931): so many of
    the z, at least one, are not 0 anyway.
    """
    return cube_root(np.einsum("...p,...p->...", z, z) / p, p)


def cube_root(q: Array, p: int | IntArray) -> Array:
    """Chi-square by its p degrees of freedom, as a normal variable times JOINT."""
    spread = 2 / (9 * p)
    return np.asarray(JOINT * (np.cbrt(q) - 1 + spread) / np.sqrt(spread))


def hotelling(
    test: Test, stretch: Stretch, i: int, t: int, g: int, sigma: Array, which: IntArray
) -> float:
    """The joint statistic of series i again, by the covariance of the segment before.

    q = d' C^-1 d / (1/m + 1/g) / p, C the covariance of the means before times the readings in
    one, its diagonal raised to sigma^2, plus 2 % of itself. sigma: (p,) of the features `which`.
    """
    p, q = len(sigma), test.q
    before = stretch.means(i, t - q - g, t - q)[:, which]
    after = stretch.means(i, t - q, t)[:, which]
    covariance = np.cov(before.T).reshape(p, p) * test.unit
    diagonal = np.diag(covariance)
    covariance = covariance + np.diag(np.maximum(sigma**2 - diagonal, 0.0) + 0.02 * diagonal)
    d = after.mean(axis=0) - before.mean(axis=0)
    total = float(d @ np.linalg.solve(covariance, d)) / (1 / test.m + 1 / (g * test.unit))
    return float(cube_root(np.array(total / p), p))


def split(x: Array) -> int:
    """Where means x (n, F) are best told apart: argmax_k k (n - k) / n sum (difference)^2."""
    n = len(x)
    k = np.arange(2, n - 1)
    sums = np.cumsum(x, axis=0)
    left = sums[k - 1] / k[:, None]
    right = (sums[-1] - sums[k - 1]) / (n - k)[:, None]
    gain = k * (n - k) / n * ((left - right) ** 2).sum(axis=1)
    return int(k[gain.argmax()])
