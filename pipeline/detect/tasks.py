"""Fingerprints: is this regime new, or task k again? Pure: the registry decides in which order."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from pipeline.records import FloatArray

Array = NDArray[np.float64]

#: The first and the last decile of a normal distribution are so many deviations apart.
DECILES = 2.563
#: A regime further from every known one is new.
NEW_FROM = 1.0


def fingerprint(values: FloatArray) -> Array:
    """Location and scale (2, d) of a segment's readings (n, d): medians, the deciles' distance.

    A missing cell counts for nothing; a sensor without any cell has NaN. The scale of a sensor that
    repeats one value is its standard deviation.
    """
    x = np.where(np.isfinite(values), values, np.nan).astype(np.float64)
    silent = np.isnan(x).all(axis=0)
    x[:, silent] = 0.0
    low, median, high = np.nanquantile(x, (0.1, 0.5, 0.9), axis=0)
    scale = (high - low) / DECILES
    scale = np.where(scale > 0, scale, np.nanstd(x, axis=0))
    return np.where(silent, np.nan, np.stack([median, scale]))


def nearest(
    new: Array, known: Mapping[int, Array], *, new_from: float = NEW_FROM
) -> tuple[int | None, float]:
    """The known task that a fingerprint is, or None for a new one; and the distance to the nearest.

    >>> import numpy as np
    >>> cold, hot = np.array([[20.0], [1.0]]), np.array([[80.0], [1.0]])
    >>> nearest(np.array([[20.3], [1.1]]), {1: cold, 2: hot})[0]
    1
    >>> nearest(np.array([[50.0], [1.0]]), {1: cold, 2: hot})[0] is None
    True
    """
    distances = {task: distance(new, print_) for task, print_ in known.items()}
    best = min(distances, key=lambda task: distances[task], default=None)
    if best is None:
        return None, float("inf")
    return (best if distances[best] < new_from else None), distances[best]


def distance(a: Array, b: Array) -> float:
    """Root mean square over sensors of a change of location and of scale.

    location: |a - b| by the larger scale; scale: the logarithm of their ratio. A change of one
    scale in location, or of the factor e in scale, on every sensor is 1. A sensor that is silent in
    one of them only counts as 1.
    """
    silent = np.isnan(a[0]) != np.isnan(b[0])
    both = ~(np.isnan(a[0]) | np.isnan(b[0]))
    tiny = np.maximum(np.maximum(np.abs(a[0]), np.abs(b[0])) * 1e-6, 1e-12)
    scale_a, scale_b = np.maximum(a[1], tiny), np.maximum(b[1], tiny)
    shift = np.abs(a[0] - b[0]) / np.maximum(scale_a, scale_b)
    spread = np.log(scale_a / scale_b)
    square = np.where(both, shift**2 + spread**2, 0.0) + silent
    counted = both | silent
    return float(np.sqrt(square[counted].mean())) if counted.any() else 0.0
