"""The history-scaled test for river's users: one value at a time in, a drift or none out."""

from __future__ import annotations

import numpy as np

from pipeline.detect.detectors import DriftDetector
from pipeline.detect.evidence import TESTS, split
from pipeline.detect.reference import inflation, lag_one, robust
from pipeline.detect.ring import Ring, Stretch, whole
from pipeline.detect.scale import Scale
from pipeline.detect.signals import BLOCK

#: The prior scale is the deviation in the warm-up times this.
PRIOR = 1.1


class HistoryScaled(DriftDetector):
    """Drift of the mean, by how much the same statistic has varied over the life of the stream.

    The mean of the last 25 values against the values since the last drift (60 to 480 of them),
    divided by the scale that this difference has had so far. Autocorrelation and units do not
    matter: a stream that wanders teaches its own threshold. It decides every five values.

    Parameters
    ----------
    threshold
        In historical sigmas.
    warm_up
        Values behind the first location and scale; no drift is told before.

    Attributes
    ----------
    drift_at
        Number of the value (0, 1, ...) at which the last drift began; None before the first.

    Examples
    --------
    >>> import random
    >>> rng = random.Random(0)
    >>> detector = HistoryScaled()
    >>> for i in range(2000):
    ...     detector.update(rng.gauss(0 if i < 1000 else 3, 1) * 1e-6)
    ...     if detector.drift_detected:
    ...         print(f"drift at {detector.drift_at}, told at {i}")
    drift at 1000, told at 1009
    """

    _slot = np.array([0])

    def __init__(self, threshold: float = 5.0, warm_up: int = 300) -> None:
        super().__init__()
        self.threshold = threshold
        self.warm_up = -(-warm_up // BLOCK) * BLOCK
        self.drift_at: int | None = None
        self._test = TESTS[0]
        self._ring = Ring("level", 1, max(self._test.q + self._test.most, 3 * self._test.q))
        self._scale = Scale(self._test, 1)
        self._ring.grow(1)
        self._scale.grow(1)
        self._values: list[float] = []
        self._blocks = 0
        self._since = np.array([[0]])
        self._location, self._spread = 0.0, 1.0

    def update(self, x: float) -> None:
        """Take one value; what is not finite is left out."""
        self._drift_detected = False
        if not np.isfinite(x):
            return
        self._values.append(float(x))
        if self._blocks == 0:
            if len(self._values) == self.warm_up:
                self._begin()
        elif len(self._values) == BLOCK:
            self._take(np.array(self._values), tested=True)
            self._values.clear()

    def _begin(self) -> None:
        """Location and scale of the first values, which become the first of the history."""
        values = np.array(self._values)[:, None]
        location, spread = robust(values)
        self._location, self._spread = float(location[0]), float(spread[0])
        y = (values - location) / spread
        self._scale.start(0, y.std(axis=0) * PRIOR * inflation(lag_one(y), self._test.m))
        for block in values.reshape(-1, BLOCK):
            self._take(block, tested=False)
        self._values.clear()

    def _take(self, values: np.ndarray, *, tested: bool) -> None:
        mean = np.array([[[(values.sum() / BLOCK - self._location) / self._spread]]])
        now = np.array([self._blocks])
        new = whole(mean, "level")
        stretch = Stretch.joined(self._ring.last(self._slot, now), now, new)
        self._blocks += 1
        path = self._scale.follow(stretch, self._slot, now, now + 1, lambda t: self._since + 0 * t)
        if tested:
            self._decide(stretch, path.sigma[:, :1])
        self._scale.keep(self._slot, path, now + 1)
        self._ring.add(self._slot, now, np.array([1]), new)

    def _decide(self, stretch: Stretch, sigma: np.ndarray) -> None:
        test, t = self._test, np.array([[self._blocks]])
        length = t - test.q - self._since
        if length[0, 0] < test.least:
            return
        z = test.z(stretch, t, length, sigma)[0, 0]
        if z[0] <= self.threshold:
            return
        g = min(int(length[0, 0]), test.most)
        low = self._blocks - test.q - g
        begin = low + split(stretch.means(0, low, self._blocks) / sigma[0, 0])
        self._since = np.array([[max(begin, self._blocks - test.q - 2)]])
        self.drift_at = begin * BLOCK
        self._drift_detected = True
