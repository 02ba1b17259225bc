"""A series' own peaks in, the thresholds that meet a budget of false boundaries out.

The largest value of a statistic over WINDOW blocks is a peak. Peaks to the power of POWER are
nearly Gumbel distributed: the mean and the variance of a series' peaks, blended with a prior, say
how often the statistic exceeds any threshold. A series that changes all the time has high peaks;
its thresholds stay at those of a new series, so that changes do not hide each other.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from pipeline.config import Detect
from pipeline.detect.fields import Fields
from pipeline.detect.signals import BLOCK
from pipeline.records import IntArray

Array = NDArray[np.float64]
#: Count, mean and variance of the peaks' power (S, C).
Known = tuple[Array, Array, Array]

#: What has a threshold of its own: the level's largest z, the residual's, and the joint statistic.
CHANNELS = ("level", "largest", "joint")
#: Often two of them cross together: boundaries are as many as of so many that never do.
SEPARATE = 2.0
#: Blocks behind a peak.
WINDOW = 192
#: Between 1, for statistics with the tail of an exponential variable, and 2, for normal ones.
POWER = 1.5
#: Thresholds of a new series where NOMINAL boundaries in a million readings are allowed, and how
#: far they fall when e times as many are.
FIRST, SLOPE, NOMINAL = np.array([5.0, 4.25, 4.5]), 0.2, 10.0
#: The prior counts as so many peaks, and all that came before the last one as so many at most.
PRIOR, MEMORY = 3.0, 300.0
#: A peak is cut at so many FIRST.
MOST = 1.3
#: Thresholds stay within these shares of a new series'.
LOWEST, HIGHEST = 0.75, 1.0
#: The share of its readings in which a series is at least taken to be free for a boundary.
LEAST_FREE = 0.1
#: What is known of a series' peaks: how many, and of their power the mean and the variance.
KNOWN = ("peaks", "peak_mean", "peak_variance")
#: Mean of a Gumbel variable of scale 1, and its deviation.
MEAN, DEVIATION = 0.5772156649, np.pi / np.sqrt(6)


class Calibration:
    """The thresholds of every series.

    Parameters
    ----------
    fields
        What is known of each series: its peaks among it.
    settings
        The budget, and for how long no boundary follows another.
    """

    def __init__(self, fields: Fields, settings: Detect) -> None:
        self.fields = fields
        self.settle_after = settings.settle_after
        self.rate = rate_of(settings.false_boundaries_per_million, settings.settle_after)

    def follow(self, slots: IntArray, peaks: Array) -> Array:
        """(S, W, C) thresholds in the open window and in those after it; nothing is kept yet.

        peaks: (S, W, C) the largest of each statistic that is new, by window.
        """
        known, before = self._known(slots), self.fields["peak"][slots]
        path = [self._thresholds(known)]
        for k in range(peaks.shape[1] - 1):
            known = _closed(known, np.maximum(before, peaks[:, k]))
            before = np.zeros_like(before)
            path.append(self._thresholds(known))
        return np.stack(path, axis=1)

    def keep(self, slots: IntArray, peaks: Array, ended: IntArray) -> None:
        """The peaks of `follow` are what these series have seen; `ended` (S,) windows are over."""
        known, peak = self._known(slots), np.zeros((len(slots), len(CHANNELS)))
        peak += self.fields["peak"][slots]
        for k in range(peaks.shape[1]):
            np.maximum(peak, peaks[:, k], out=peak)
            over = (k < ended)[:, None]
            if over.any():
                known = _closed(known, np.where(over, peak, 0.0))
                peak[over[:, 0]] = 0.0
        for name, array in zip(KNOWN, known, strict=True):
            self.fields[name][slots] = array
        self.fields["peak"][slots] = peak

    def expected(self, slots: IntArray) -> Array:
        """(S,) false boundaries in a million readings that the thresholds let through.

        More than the budget where a threshold would have to be higher than a new series'.
        """
        known = self._known(slots)
        rate = expected(*blend(*known), self._thresholds(known)).sum(axis=1)
        return budget_of(rate / len(CHANNELS), self.settle_after)

    def _thresholds(self, known: Known) -> Array:
        return thresholds(*blend(*known), self.rate)

    def _known(self, slots: IntArray) -> Known:
        count, mean, variance = (self.fields[name][slots] for name in KNOWN)
        return count, mean, variance


def rate_of(budget: float, settle_after: int) -> float:
    """Crossings of one channel in a window that make `budget` boundaries in a million readings.

    After each boundary there is no other for `settle_after` readings: the rest must make up for it.
    """
    free = max(1 - budget / 1e6 * settle_after, LEAST_FREE)
    return budget / 1e6 / free * WINDOW * BLOCK / SEPARATE


def budget_of(rate: Array, settle_after: int) -> Array:
    """Boundaries in a million readings that `rate` crossings of each channel in a window make."""
    per_reading = rate * SEPARATE / (WINDOW * BLOCK)
    return np.asarray(1e6 * per_reading / (1 + per_reading * settle_after))


#: Scale, mean and variance of the peaks' power before there are any.
_SCALE = POWER * FIRST ** (POWER - 1) * SLOPE
PRIOR_MEAN = FIRST**POWER + _SCALE * (np.log(rate_of(NOMINAL, 0)) + MEAN)
PRIOR_VARIANCE = (_SCALE * DEVIATION) ** 2


def _closed(known: Known, peak: Array) -> Known:
    """With one more window's peak; a statistic that was not looked at has none."""
    count, mean, variance = learn(*known, peak)
    seen = peak > 0
    return (
        np.where(seen, count, known[0]),
        np.where(seen, mean, known[1]),
        np.where(seen, variance, known[2]),
    )


def learn(count: Array, mean: Array, variance: Array, peak: Array) -> Known:
    """Count, mean and variance of the peaks' power (S, C) with one more peak each."""
    count = np.minimum(count + 1, MEMORY)
    off = np.minimum(peak, MOST * FIRST) ** POWER - mean
    return count, mean + off / count, (1 - 1 / count) * (variance + off**2 / count)


def blend(count: Array, mean: Array, variance: Array) -> tuple[Array, Array]:
    """Mean and variance (S, C) with the prior's."""
    own = count / (count + PRIOR)
    rest = 1 - own
    return own * mean + rest * PRIOR_MEAN, own * variance + rest * PRIOR_VARIANCE


def thresholds(mean: Array, variance: Array, rate: float) -> Array:
    """(S, C) what is exceeded `rate` times in a window, within bounds."""
    own = exceeded(mean, variance, rate)
    return np.asarray(np.clip(own, LOWEST * first(rate), HIGHEST * first(rate)))


@cache
def first(rate: float) -> Array:
    """(C,) thresholds of a new series."""
    return exceeded(PRIOR_MEAN, PRIOR_VARIANCE, rate)


def exceeded(mean: Array, variance: Array, rate: float) -> Array:
    """What a statistic exceeds `rate` times in a window (..., C)."""
    scale = np.sqrt(variance) / DEVIATION
    power = mean - scale * (MEAN + np.log(rate))
    return np.asarray(np.maximum(power, 0.0) ** (1 / POWER))


def expected(mean: Array, variance: Array, threshold: Array) -> Array:
    """How often a statistic exceeds a threshold in a window (..., C)."""
    scale = np.sqrt(variance) / DEVIATION
    return np.asarray(np.exp((mean - threshold**POWER) / scale - MEAN))
