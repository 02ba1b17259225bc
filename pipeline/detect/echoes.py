"""Partial residuals in, what each is times its own earlier values out: how a sensor swings.

With few sensors there are few pairs that could tell of a change. A sensor's echoes tell of one in
its own dynamics: another frequency, another shape of its cycle.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.detect.signals import BLOCK, CLIP_PRODUCT
from pipeline.records import IntArray

Single = NDArray[np.float32]

#: A partial residual is multiplied with those so many readings before, as many of these as there
#: is room for: up to MOST products of a reading, those of pairs of sensors included.
LAGS, MOST = (1, 2, 4, 8, 16), 16
#: Readings that have to be known before one.
LONGEST = max(LAGS)


def lags(channels: int) -> tuple[int, ...]:
    """Those of d sensors: all of one or two, none of six or more.

    >>> [len(lags(d)) for d in (1, 2, 3, 4, 5, 6, 8)]
    [5, 5, 4, 2, 1, 0, 0]
    """
    pairs = channels * (channels - 1) // 2
    return LAGS[: max(MOST - pairs, 0) // channels]


def few(channels: int) -> bool:
    """Whether d sensors are few: they have echoes, and whole segments of them are compared."""
    return bool(lags(channels))


def products(residuals: Single, past: Single, size: IntArray) -> tuple[Single, Single]:
    """E_t E_{t - lag} of every lag and sensor (NB, BLOCK, L d), clipped; and the last residuals.

    residuals: (NB, BLOCK, d) blocks of several series, one series after the other. past:
    (S, LONGEST, d) those before each series' first block. size: (S,) blocks of each series.
    """
    count, d = len(past), residuals.shape[2]
    rows = size * BLOCK
    begin = np.cumsum(rows + LONGEST) - rows - LONGEST
    at = np.arange(rows.sum()) + np.repeat(np.arange(1, count + 1) * LONGEST, rows)
    every = np.empty((int(rows.sum()) + count * LONGEST, d), dtype=np.float32)
    every[begin[:, None] + np.arange(LONGEST)] = past
    every[at] = residuals.reshape(-1, d)
    made = [every[at] * every[at - lag] for lag in lags(d)]
    clipped = np.clip(np.concatenate(made, axis=1), -CLIP_PRODUCT, CLIP_PRODUCT)
    last = every[(begin + rows)[:, None] + np.arange(LONGEST)]
    return clipped.reshape(*residuals.shape[:2], -1), last


def between(features: NDArray[Any], echoes: NDArray[Any], channels: int) -> NDArray[Any]:
    """Echoes among the features of the residual, all (NB, BLOCK, ...): behind the pairs."""
    head, tail = features[..., : -channels - 1], features[..., -channels - 1 :]
    return np.concatenate([head, echoes, tail], axis=2)
