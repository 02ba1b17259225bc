"""A whole segment in, where it falls into two, and how surely, out: measured by nothing but itself.

The difference of the two means is divided by how far the sums of each half stray from a straight
line, which autocorrelation and cycles enlarge alike: it needs no estimate of the noise, and so no
long history (self-normalisation; Shao and Zhang, "Testing for change points in time series", 2010).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.records import IntArray

Array = NDArray[np.float64]

#: Means of the residual in a half at least, in both together at most, and between two looks.
LEAST, REACH, EVERY = 12, 140, 10
#: Residual thresholds that a split must be above, by itself and by history, for every unit of the
#: natural logarithm of the number of features: among more, the largest are larger.
BY_ITSELF, BY_HISTORY = 0.855, 0.278


def splits(x: Array) -> tuple[IntArray, Array]:
    """Each place k where means x (n, F) can be split, and |difference| there by itself (K, F).

    With S the sums of x less its mean, T(k) = |S_k| / sqrt(n), and
    V(k) = (sum_{i<=k} (S_i - i/k S_k)^2 + the same from the right) / n^2: T / sqrt(V).
    """
    n = len(x)
    k = np.arange(LEAST, n - LEAST + 1)
    x = x - x.mean(axis=0)
    sums, back = np.add.accumulate(x, axis=0), np.add.accumulate(x[::-1], axis=0)
    stray = _stray(sums)[k - 1] + _stray(back)[n - k - 1]
    return k, np.asarray(np.abs(sums[k - 1]) * np.sqrt(n / np.maximum(stray, 1e-9)))


def _stray(sums: Array) -> Array:
    """sum_{i<=k} (S_i - i/k S_k)^2 of every k: (n, F)."""
    i = np.arange(1.0, len(sums) + 1)[:, None]
    slope = sums / i
    crossed = np.add.accumulate(i * sums, axis=0)
    total: Array = np.add.accumulate(sums * sums, axis=0)
    total -= 2 * slope * crossed
    total += slope * slope * np.add.accumulate(i * i, axis=0)
    return total


def by_history(x: Array, k: int, sigma: Array, unit: int) -> Array:
    """|difference of the means x (n, F) before and from k on| in sigmas (F,) of one reading.

    unit: readings in a mean.
    """
    before, after = x[:k].mean(axis=0), x[k:].mean(axis=0)
    return np.asarray(np.abs(after - before) / (sigma * np.sqrt((1 / k + 1 / (len(x) - k)) / unit)))
