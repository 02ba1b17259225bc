"""What the forecaster left over before and after a boundary in, changes of other kinds than level.

A sensor that varies by another factor from reading to reading than from block to block follows its
own past in another way: its dynamics changed. A spread that grew by itself makes its correlations
smaller; what is beyond that is a change of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.detect import moments
from pipeline.detect.evidence import BLOCKS
from pipeline.detect.moments import CLOSE
from pipeline.detect.reference import inflation
from pipeline.detect.signals import BLOCK
from pipeline.records import Change

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

#: Error of the logarithm of a deviation taken from the mean of log |E|, for one reading.
ERROR = float(np.pi / np.sqrt(8))
#: Readings in a mean of the residual.
UNIT = BLOCK * BLOCKS["residual"]
#: Blocks that say how much a level varies, at least.
VARIED = 16
#: Two factors of a spread are not the same if they are so many of their errors apart.
APART = 3.5
#: Autocorrelations that a sensor may have.
PHI = np.linspace(-CLOSE, CLOSE, 199)
#: Pairs of sensors that are looked at, those whose correlation changed most.
PAIRS = 8

#: How sure a change is, in its own errors; and the change.
Likely = tuple[float, Change]


@dataclass(frozen=True)
class Around:
    """What is known of both sides of a boundary."""

    #: (n, F) means of the residual's features, before and after.
    residual: tuple[Array, Array]
    #: (n, d) means of the level over blocks, before and after.
    level: tuple[Array, Array]
    #: Fields of the series' Forecaster.
    fit: Mapping[str, NDArray[Any]]
    #: (d,) sensors whose level did not move.
    still: Mask

    @cached_property
    def error(self) -> float:
        """Of the logarithm of how a partial residual grew, or of the mean of a product."""
        before, after = map(len, self.residual)
        return ERROR * float(np.sqrt((1 / before + 1 / after) / UNIT))

    @cached_property
    def deviations(self) -> tuple[Array, Array]:
        """(d,) of what is left over, in the forecaster's deviations, before and after."""
        return moments.deviations(self._covariances[0]), moments.deviations(self._covariances[1])

    @cached_property
    def correlations(self) -> tuple[Array, Array]:
        """(d, d) of what is left over, before and after."""
        one, other = self._covariances
        return moments.correlations(one), moments.correlations(other)

    @cached_property
    def _covariances(self) -> tuple[Array, Array]:
        before, after = (means.mean(axis=0) for means in self.residual)
        return moments.covariances(before, after, self.fit)

    @cached_property
    def left(self) -> tuple[Array, Array]:
        """(d,) logarithm of the factor by which what is left over grew, and its error."""
        one, other = self.deviations
        return np.log(other / one), self.error * moments.blur(self._covariances[0], self.fit)

    @cached_property
    def phi(self) -> Array:
        """(d,) autocorrelation of each sensor, as the forecaster knows it."""
        explained = np.sqrt(np.clip(1 - self.fit["residual"] ** 2, 0.0, CLOSE**2))
        return np.asarray(np.where(np.diag(self.fit["coefficients"]) < 0, -explained, explained))

    @cached_property
    def blocks(self) -> tuple[Array, Array]:
        """(d,) logarithm of the factor by which the blocks' means grew, and its error."""
        before, after = self.level
        least = min(len(before), len(after))
        if least < VARIED:
            return np.zeros(len(self.phi)), np.full(len(self.phi), np.inf)
        one, other = (np.maximum(x.std(axis=0, ddof=1), 1e-9) for x in self.level)
        together = self.phi ** (2 * BLOCK)
        share = (1 + together) / (1 - together) / 2
        return np.log(other / one), np.sqrt(share * (1 / len(before) + 1 / len(after)))

    @cached_property
    def grown(self) -> tuple[Array, Array]:
        """(d,) logarithm of the factor by which a sensor's spread grew, by both, and its error."""
        (one, error), (other, by) = self.left, self.blocks
        weight = 1 / error**2 + 1 / by**2
        return (one / error**2 + other / by**2) / weight, 1 / np.sqrt(weight)


def likely(around: Around) -> Iterator[Likely]:
    """Spreads, dynamics and correlations of the sensors whose level did not move."""
    (left, error), (blocks, by) = around.left, around.blocks
    apart = np.abs(left - blocks) / np.sqrt(error**2 + by**2)
    other_way = around.still & (apart >= APART)
    for j in np.flatnonzero(other_way).tolist():
        yield float(apart[j]), dynamics(around, j)
    grown, error = around.grown
    for j in np.flatnonzero(around.still & ~other_way).tolist():
        yield float(abs(grown[j]) / error[j]), _spread(around, j)
    yield from _correlations(around, around.still & ~other_way)


def _spread(around: Around, j: int) -> Change:
    """Its deviations are those of what its past does not explain, in its unit."""
    factor = float(np.exp(around.grown[0][j]))
    before = float(around.deviations[0][j] * around.fit["scale"][j] * around.fit["residual"][j])
    return Change(kind="spread", channel=j, change=factor, before=before, after=factor * before)


def dynamics(around: Around, j: int) -> Change:
    """Its autocorrelation, from how much more it varies from reading to reading and by blocks.

    With phi before and p after, and s times as wide, what the forecaster leaves over has the
    variance s^2 (1 + phi^2 - 2 phi p) / (1 - phi^2), in its deviations, and the mean of a block
    that of s^2 g(p) / g(phi): the quotient falls with p.
    """
    phi, (blocks, error) = float(around.phi[j]), around.blocks
    after = phi
    if np.isfinite(error[j]):
        wider = (1 + phi**2 - 2 * phi * PHI) / (1 - phi**2)
        quotient = np.log(wider) / 2 - np.log(
            inflation(PHI, BLOCK) / inflation(np.array([phi]), BLOCK)
        )
        after = float(np.interp(-(around.left[0][j] - blocks[j]), -quotient, PHI))
    return Change(kind="dynamics", channel=j, change=after - phi, before=phi, after=after)


def _correlations(around: Around, still: Mask) -> Iterator[Likely]:
    """Those of pairs of sensors, as far as no spread explains them.

    A spread that grew alone leaves the covariance as it was; one that all grew by, the correlation.
    """
    before, after = around.correlations
    first, second = np.triu_indices(len(before), 1)
    first, second = (which[still[first] & still[second]] for which in (first, second))
    one, other = before[first, second], after[first, second]
    grown = around.grown[0]
    thinner = one * np.exp(-grown[first] - grown[second])
    thinner = np.clip(thinner, -CLOSE, CLOSE)
    low, high = np.minimum(one, thinner), np.maximum(one, thinner)
    beyond = np.arctanh(other) - np.arctanh(np.clip(other, low, high))
    z = np.abs(beyond) * (1 - one**2) / around.error
    for k in np.argsort(-z, kind="stable")[:PAIRS].tolist():
        yield (
            float(z[k]),
            Change(
                kind="correlation",
                channel=int(first[k]),
                other=int(second[k]),
                change=float(other[k] - one[k]),
                before=float(one[k]),
                after=float(other[k]),
            ),
        )
