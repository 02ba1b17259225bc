"""How much a statistic has varied of late: quantiles of its own history."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.detect.evidence import Test
from pipeline.detect.ring import Stretch
from pipeline.records import IntArray

Array = NDArray[np.float64]
Codes = NDArray[np.uint8]
Mask = NDArray[np.bool_]

#: |x| of a standard normal variable is below these in 50 % and 75 % of the cases.
MEDIAN, UPPER = 0.6745, 1.1503
#: Samples of a statistic that are kept, and samples between two estimates of its scale.
SAMPLES = {"level": 200, "residual": 96}
LIGHT_SAMPLES = {"level": 96, "residual": 96}
EDGE_SAMPLES = {"level": 20, "residual": 4}
#: The prior counts as so many samples.
PRIOR = 5
#: A sample is kept in steps of an octave by so many, from 2^-13 to 2^12.5.
STEPS, ZERO = 10, 130
#: The samples that are kept, in priors.
VALUES = np.exp2((np.arange(256) - ZERO) / STEPS)
#: A difference that is as good as none.
TINY = 1e-9


@dataclass(frozen=True, slots=True)
class Path:
    """How a scale moves over some means, of several series."""

    #: sigma (S, E, F) from each edge to the next, edge number `first` (S,) the first.
    sigma: Array
    first: IntArray
    edge: int
    #: The new samples (S, K, 2, F) at means (S, K), and which of them there are (S, K, 2).
    codes: Codes
    t: IntArray
    due: Mask

    def at(self, t: IntArray) -> Array:
        """(S, K, F) at means t (S, K), or (S, 1, F): that of the last edge before."""
        if self.sigma.shape[1] == 1:
            return self.sigma
        index = (t - 1) // self.edge - self.first[:, None]
        np.minimum(index, self.sigma.shape[1] - 1, out=index)
        np.maximum(index, 0, out=index)
        return np.asarray(self.sigma[np.arange(len(t))[:, None], index])

    def of(self, which: IntArray) -> Path:
        """The same for some of the series."""
        if len(which) == len(self.first):
            return self
        part = (self.sigma[which], self.first[which], self.edge)
        return Path(*part, self.codes[which], self.t[which], self.due[which])


class Scale:
    """sigma of one test's statistic per feature, in units of one reading's deviation.

    Two histories of it, each blended with a prior of PRIOR samples: *local* (against the 2m
    readings before, boundaries ignored) and *as used* (against the segment so far).
    """

    _names = ("samples", "counts", "prior", "sigma")

    def __init__(self, test: Test, features: int, *, light: bool = False) -> None:
        self.test = test
        self.edge = EDGE_SAMPLES[test.signal] * test.stride
        self.size = (LIGHT_SAMPLES if light else SAMPLES)[test.signal]
        #: (slots, 2, F, size) logarithms of the samples, local and as used.
        self.samples: Codes = np.zeros((0, 2, features, self.size), dtype=np.uint8)
        #: (slots, 2) how many there have been.
        self.counts = np.zeros((0, 2), dtype=np.int64)
        self.prior = np.zeros((0, features), dtype=np.float32)
        self.sigma = np.zeros((0, features), dtype=np.float32)

    def grow(self, slots: int) -> None:
        """Make room for more series."""
        for name in self._names:
            array = getattr(self, name)
            more = np.zeros((slots - len(array), *array.shape[1:]), dtype=array.dtype)
            setattr(self, name, np.concatenate([array, more]))

    def start(self, slot: int, prior: Array) -> None:
        """The first scale of a series, from the readings that its reference was fitted on."""
        self.prior[slot] = np.maximum(prior, TINY)
        at = np.array([slot])
        self.sigma[slot] = self._estimate(self.samples[at], self.counts[at], self.prior[at])[0]

    def follow(
        self,
        stretch: Stretch,
        slots: IntArray,
        low: IntArray,
        high: IntArray,
        since: Callable[[IntArray], IntArray],
    ) -> Path:
        """What means low < t <= high (S,) make of sigma; nothing is kept yet.

        since: the first mean that the reference may begin with, as of means t (S, K).
        """
        test, edge = self.test, self.edge
        first, begin = low // edge, low // test.stride
        most = int((high // test.stride - begin).max(initial=0))
        t = (begin[:, None] + np.arange(1, most + 1)) * test.stride
        length = t - test.q - since(t)
        due = np.empty((*t.shape, 2), dtype=np.bool_)
        np.greater_equal(t, 3 * test.q, out=due[..., 0])
        np.greater_equal(length, test.least, out=due[..., 1])
        due &= (t <= high[:, None])[..., None]
        codes = self._codes(stretch, t, length, due)
        sigma = self._path(
            slots, high // edge - first, (t - 1) // edge - first[:, None], codes, due
        )
        return Path(sigma, first, edge, codes, t, due)

    def _path(
        self, slots: IntArray, edges: IntArray, group: IntArray, codes: Codes, due: Mask
    ) -> Array:
        """sigma (S, E, F) after each of `edges` (S,); group (S, K): the edges before a sample."""
        path = [self.sigma[slots].astype(np.float64)]
        moving = edges.nonzero()[0]
        if not moving.size:
            return path[0][:, None]
        at = np.arange(len(moving))
        samples, counts = self.samples[slots[moving]], self.counts[slots[moving]]
        prior = self.prior[slots[moving]]
        for e in range(int(edges.max())):
            _push(samples, counts, at, codes[moving], due[moving] & (group[moving] == e)[..., None])
            path.append(path[-1].copy())
            reached = e < edges[moving]
            path[-1][moving[reached]] = self._estimate(
                samples[reached], counts[reached], prior[reached]
            )
        return np.stack(path, axis=1)

    def keep(self, slots: IntArray, path: Path, until: IntArray) -> None:
        """The series of a path, in these slots, have gone it up to means `until` (S,)."""
        due = path.due & (path.t <= until[:, None])[..., None]
        if due.any():
            _push(self.samples, self.counts, slots, path.codes, due)
        edge = until // self.edge - path.first
        self.sigma[slots] = path.sigma[np.arange(len(slots)), edge]

    def _codes(self, stretch: Stretch, t: IntArray, length: IntArray, due: Mask) -> Codes:
        """The samples at t (S, K), as they are kept: (S, K, 2, F)."""
        if not due.any():
            return np.zeros((*t.shape, 2, self.prior.shape[1]), dtype=np.uint8)
        values = self.test.samples(stretch, t, length)
        values += TINY
        np.log2(values, out=values)
        values *= STEPS
        np.rint(values, out=values)
        values += ZERO
        np.maximum(values, 0, out=values)
        np.minimum(values, 255, out=values)
        return values.astype(np.uint8)

    def _estimate(
        self, samples: Codes, counts: IntArray, prior: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """sigma (S, F), as it is kept; wider while it stands on few samples.

        A statistic of nothing at all is of a sensor that stands still: it says nothing of what it
        does when it moves.
        """
        held = np.minimum(counts, self.size)
        ordered = samples.astype(np.int32)  # numpy sorts these fastest
        if (held < self.size).any():
            late = np.arange(self.size) >= held[..., None, None]
            ordered[np.broadcast_to(late, ordered.shape)] = 255
        ordered.sort(axis=-1)
        still = (ordered == 0).sum(axis=-1)
        moving = held[..., None] - still
        half, most = _at(ordered, still, moving, 0.5), _at(ordered, still, moving, 0.75)
        local = np.maximum(half[:, 0] / MEDIAN, most[:, 0] / UPPER)
        used = half[:, 1] / MEDIAN
        w = moving / (moving + PRIOR)
        square = prior.astype(np.float64) ** 2
        local = np.sqrt(w[:, 0] * local**2 + (1 - w[:, 0]) * square)
        used = np.sqrt(w[:, 1] * used**2 + (1 - w[:, 1]) * square)
        young = 1 + 3.0 / (np.maximum(moving[:, 0], 1) + 5)
        sigma = np.maximum(local, self.test.used * used) * young + TINY
        return np.asarray(sigma, dtype=np.float32)

    def state(self, slots: IntArray) -> dict[str, NDArray[Any]]:
        """Arrays (S, ...) of some series."""
        return {name: getattr(self, name)[slots] for name in self._names}

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go on from `state`."""
        for name, array in state.items():
            setattr(self, name, np.array(array))


def _push(samples: Codes, counts: IntArray, at: IntArray, codes: Codes, due: Mask) -> None:
    """Put what is due of codes (S, K, 2, F) in rows `at` (S,) of the samples (slots, 2, F, size),
    behind those of which there have been `counts` (slots, 2)."""
    if due.all():
        number = (counts[at][:, None] + np.arange(due.shape[1])[:, None]) % samples.shape[-1]
        samples[at[:, None, None], np.arange(2), :, number] = codes
        counts[at] += due.shape[1]
        return
    s, k, kind = due.nonzero()
    if s.size:
        rank = due.cumsum(axis=1)
        row = at[s]
        number = (counts[row, kind] + rank[s, k, kind] - 1) % samples.shape[-1]
        samples[row, kind, :, number] = codes[s, k, kind]
        counts[at] += rank[:, -1]


def _at(ordered: NDArray[np.int32], first: IntArray, held: IntArray, share: float) -> Array:
    """The sample at `share` of the `held` ones (S, 2, F) from number `first` on; 0 without any."""
    index = first + np.minimum((held * share).astype(np.int64), np.maximum(held - 1, 0))
    np.minimum(index, ordered.shape[-1] - 1, out=index)
    index += np.arange(0, ordered.size, ordered.shape[-1]).reshape(index.shape)
    return np.where(held > 0, VALUES.take(ordered.take(index)), 0.0)
