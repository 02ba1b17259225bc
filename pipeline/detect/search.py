"""A view of new means in; out, where a test is above its threshold and stays there when doubted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from pipeline.config import Detect
from pipeline.detect import halves
from pipeline.detect.calibration import CHANNELS, FIRST, WINDOW, Calibration, first
from pipeline.detect.evidence import (
    ALONE,
    BLOCKS,
    TESTS,
    Test,
    hotelling,
    joint,
    statistic,
)
from pipeline.detect.fields import Fields
from pipeline.detect.piece import View
from pipeline.detect.scale import Path, Scale
from pipeline.detect.signals import BLOCK
from pipeline.records import IntArray

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

#: Number of the level test, and of the one by whose history whole segments are measured.
LEVEL, SEGMENT = 0, 1
#: Threshold of whole segments where that of the largest z is FIRST.
SEGMENTS = 4.65
#: Statistics of each signal's tests, of calibration.CHANNELS.
CHANNELS_OF = {"level": (0,), "residual": (1, 2)}


@dataclass(slots=True)
class Crossing:
    """A test that crossed its threshold."""

    #: Number of the test.
    test: int
    #: Means and blocks seen when it crossed.
    t: int
    block: int
    #: Means of the segment that it was compared with.
    g: int
    #: (F,) changes in sigmas, and the sigmas.
    z: Array
    sigma: Array
    statistic: float
    threshold: float
    #: Of which statistic of the calibration's.
    channel: int
    #: Whether the whole segment falls into two; else its last m readings are unlike those before.
    whole: bool = False
    #: What the levels (d,) are measured by, what they did in that, and whether it is a boundary or
    #: a transition that goes on.
    level_sigma: Array = field(default_factory=lambda: np.zeros(0))
    move: Array = field(default_factory=lambda: np.zeros(0))
    new: bool = True


@dataclass(frozen=True, slots=True)
class Tested:
    """What one test made of a view."""

    number: int
    #: (S,) which of the view's series; (S, K) the means and blocks at which it looked.
    rows: IntArray
    t: IntArray
    block: IntArray
    #: (S, K) means of the segment before; (S, K, F) its z, and (S, K or 1, F) their sigma.
    length: IntArray
    z: Array
    sigma: Array
    #: Numbers of its statistics, and themselves (S, K, C): 0 where it did not look.
    channels: tuple[int, ...]
    values: Array


@dataclass(frozen=True, slots=True)
class Track:
    """One test's scale over a view, of those series where it matters."""

    #: (S,) which of the view's series, ascending; and the view of them.
    rows: IntArray
    view: View
    path: Path


class Search:
    """The tests of every series, and the scales that they are measured by.

    Parameters
    ----------
    fields
        What is known of each series.
    settings
        Thresholds, and how long an alarm of river's keeps a watch open.
    """

    def __init__(self, fields: Fields, settings: Detect) -> None:
        self.fields = fields
        self.calibration = Calibration(fields, settings)
        #: Blocks after an alarm in which a test may confirm.
        self.watch = settings.watch // BLOCK
        self.scales = [Scale(test, fields.sizes[test.signal], light=fields.light) for test in TESTS]

    def scales_of(self, signal: str) -> list[Scale]:
        """Those of the tests of one signal."""
        return [scale for scale in self.scales if scale.test.signal == signal]

    def grow(self, slots: int) -> None:
        """Make room for more series."""
        for scale in self.scales:
            scale.grow(slots)

    # Scales -----------------------------------------------------------------------------------

    def follow(self, view: View, low: IntArray, high: IntArray) -> dict[int, Track]:
        """Each test's scale from block low to block high (S,), of the series where it matters."""
        tracks = {}
        for signal in view.means:
            unit = BLOCKS[signal]
            first, last = low // unit, high // unit
            rows = np.flatnonzero(last > first)
            if not rows.size:
                continue
            part = view.of(rows)
            for number, scale in enumerate(self.scales):
                if scale.test.signal == signal:
                    since = partial(self._since, part, scale.test)
                    stretch = part.stretch(signal)
                    path = scale.follow(stretch, part.slots, first[rows], last[rows], since)
                    tracks[number] = Track(rows, part, path)
        return tracks

    def keep(self, tracks: Mapping[int, Track], until: IntArray) -> None:
        """The scales are now as followed up to blocks `until` (S,)."""
        for number, track in tracks.items():
            scale = self.scales[number]
            means = until[track.rows] // BLOCKS[scale.test.signal]
            scale.keep(track.view.slots, track.path, means)

    def _since(self, view: View, test: Test, t: IntArray) -> IntArray:
        """First mean that a test's reference may begin with, as of means t (S, K)."""
        since = self.fields["segment_start"][view.slots][:, None]
        unit = BLOCKS[test.signal]
        if test.signal == "residual":
            since = np.maximum(since, view.as_of(view.moved, t * unit))
        return np.asarray(-(-since // unit))

    def sigma(self, number: int, tracks: Mapping[int, Track], view: View, i: int, t: int) -> Array:
        """What the features (F,) of a test are measured by, of series i at mean t."""
        if number in tracks:
            track = tracks[number]
            row = int(np.searchsorted(track.rows, i))
            if row < len(track.rows) and track.rows[row] == i:
                return np.asarray(track.path.of(np.array([row])).at(np.array([[t]]))[0, 0])
        return np.asarray(self.scales[number].sigma[view.slots[i]], dtype=np.float64)

    # Tests ------------------------------------------------------------------------------------

    def crossings(
        self, view: View, now: IntArray, tracks: Mapping[int, Track]
    ) -> tuple[dict[int, list[Crossing]], list[Tested]]:
        """Each series' crossings after block `now` (S,), the earliest first; and all statistics."""
        found: dict[int, list[Crossing]] = {}
        if self.fields.few and "residual" in view.means:
            for i, crossing in self._of_segments(view, now, tracks):
                found.setdefault(i, []).append(crossing)
        tested = [
            one for n, track in tracks.items() if (one := self._test(now, n, track)) is not None
        ]
        if tested:
            windows = int(((view.end - 1) // WINDOW - now // WINDOW).max()) + 1
            peaks = _peaks(tested, len(view), now, windows)
            thresholds = self.calibration.follow(view.slots, peaks)
            for one in tested:
                for i, crossing in self._above(view, now, one, thresholds):
                    found.setdefault(i, []).append(crossing)
        return {i: sorted(found[i], key=lambda c: (c.block, c.test)) for i in sorted(found)}, tested

    def learn(self, view: View, now: IntArray, tested: Sequence[Tested], until: IntArray) -> None:
        """The statistics from block `now` to `until` (S,) are what their series has seen."""
        ended = until // WINDOW - now // WINDOW
        peaks = _peaks(tested, len(view), now, int(ended.max()) + 1, until)
        self.calibration.keep(view.slots, peaks, ended)

    def _test(self, now: IntArray, number: int, track: Track) -> Tested | None:
        """What a test makes of what is new; None where it is not due."""
        test, view, unit = TESTS[number], track.view, BLOCKS[TESTS[number].signal]
        first, end = now[track.rows] // unit + 1, view.end // unit
        t = first[:, None] + np.arange(max(0, int((end - first).max()) + 1))
        due, length = self._due(view, test, t, end)
        rows, columns = np.flatnonzero(due.any(axis=1)), np.flatnonzero(due.any(axis=0))
        if not rows.size:
            return None
        at = (rows[:, None], columns)
        t, length, due = t[at], length[at], due[at]
        stretch, sigma = view.stretch(test.signal), track.path.of(rows).at(t)
        if len(rows) < len(view):
            stretch = stretch.of(rows)
        z = test.z(stretch, t, length, sigma)
        return Tested(
            number=number,
            rows=track.rows[rows],
            t=t,
            block=t * unit,
            length=length,
            z=z,
            sigma=sigma,
            channels=CHANNELS_OF[test.signal],
            values=np.where(due[..., None], self._statistics(test, view.slots[rows], z), 0.0),
        )

    def _above(
        self, view: View, now: IntArray, tested: Tested, thresholds: Array
    ) -> Iterator[tuple[int, Crossing]]:
        """Where a test is above its threshold (S, W, C) while a watch is open."""
        rows, channels, test = tested.rows, tested.channels, TESTS[tested.number]
        window = (tested.block - 1) // WINDOW - (now[rows] // WINDOW)[:, None]
        np.minimum(window, thresholds.shape[1] - 1, out=window)
        threshold = thresholds[..., channels][rows[:, None], window]
        above: Mask = tested.values > threshold
        if not above.any():
            return
        above &= self._watched(view.of(rows), tested.block)[..., None]
        for i, k in zip(*np.nonzero(above.any(axis=2)), strict=True):
            c = int(above[i, k].argmax())
            yield (
                int(rows[i]),
                Crossing(
                    test=tested.number,
                    t=int(tested.t[i, k]),
                    block=int(tested.block[i, k]),
                    g=min(int(tested.length[i, k]), test.most),
                    z=tested.z[i, k],
                    sigma=tested.sigma[i, min(k, tested.sigma.shape[1] - 1)],
                    statistic=float(tested.values[i, k, c]),
                    threshold=float(threshold[i, k, c]),
                    channel=channels[c],
                ),
            )

    def _due(self, view: View, test: Test, t: IntArray, end: IntArray) -> tuple[Mask, IntArray]:
        """At which means t (S, K) a test may confirm, and the means of the segment before."""
        block = t * BLOCKS[test.signal]
        length = t - test.q - self._since(view, test, t)
        due = (t <= end[:, None]) & (length >= test.least)
        due &= block * BLOCK >= test.armed_from
        return due, length

    def _of_segments(
        self, view: View, now: IntArray, tracks: Mapping[int, Track]
    ) -> Iterator[tuple[int, Crossing]]:
        """Where a segment falls into two. Needs no proposal: river does not compare segments."""
        unit = BLOCKS["residual"]
        for i in range(len(view)):
            low, high = int(now[i]) // unit, int(view.end[i]) // unit
            looks = np.arange((low // halves.EVERY + 1) * halves.EVERY, high + 1, halves.EVERY)
            if not looks.size:
                continue
            since = self._since(view.of(np.array([i])), TESTS[SEGMENT], looks[None])[0]
            begins = np.maximum(since, looks - halves.REACH)
            for begin, t in zip(begins.tolist(), looks.tolist(), strict=True):
                if t - begin >= 2 * halves.LEAST:
                    sigma = self.sigma(SEGMENT, tracks, view, i, t)
                    crossing = self._halves(view, i, begin, t, sigma)
                    if crossing is not None:
                        yield i, crossing

    def _halves(self, view: View, i: int, begin: int, t: int, sigma: Array) -> Crossing | None:
        """Of means begin ... t of series i, if they fall into two by themselves and by history."""
        test, largest = TESTS[SEGMENT], CHANNELS.index("largest")
        threshold = SEGMENTS * float(first(self.calibration.rate)[largest] / FIRST[largest])
        told = len(sigma) - self.fields.white
        most = threshold * np.log(told)
        x = view.stretch("residual").means(i, begin, t)[:, :told]
        places, by_itself = halves.splits(x)
        value = statistic(by_itself)
        best = int(value.argmax())
        if value[best] <= halves.BY_ITSELF * most:
            return None
        k = int(places[best])
        z = halves.by_history(x, k, sigma[:told], test.unit)
        if float(statistic(z)) <= halves.BY_HISTORY * most:
            return None
        return Crossing(
            test=SEGMENT,
            t=t,
            block=t * BLOCKS["residual"],
            g=t - begin - test.q,
            z=np.concatenate([z, np.zeros(self.fields.white)]),
            sigma=sigma,
            statistic=float(value[best]) / (halves.BY_ITSELF * np.log(told)),
            threshold=threshold,
            channel=largest,
            whole=True,
        )

    def _watched(self, view: View, block: IntArray) -> Mask:
        """Whether a watch is open at blocks (S, K), or (S, 1)."""
        return np.asarray(block - view.as_of(view.alarmed, block) <= self.watch)

    def _statistics(self, test: Test, slots: IntArray, z: Array) -> Array:
        """Of the largest z, and of all white residuals together: (S, K, F) -> (S, K, C).

        The white residual of a sensor that the forecaster does not know counts for nothing.
        """
        white = self.fields.white
        if test.signal == "level":
            return statistic(z)[..., None]
        if not white:
            largest = ALONE * statistic(z)
            return np.stack([largest, np.zeros_like(largest)], axis=-1)
        live = self.fields["live"][slots][:, None]
        together = joint(z[..., -white:] * live, np.maximum(live.sum(axis=2), 1))
        return np.stack([statistic(z[..., :-white]), together], axis=-1)

    def stands(self, view: View, i: int, crossing: Crossing) -> bool:
        """Whether the joint statistic, if it alone crossed, does so by the segment's covariance."""
        test, white = TESTS[crossing.test], self.fields.white
        if crossing.whole or CHANNELS[crossing.channel] != "joint":
            return True
        which = np.flatnonzero(self.fields["live"][view.slots[i]]) - white
        stretch, sigma = view.stretch(test.signal), crossing.sigma[which]
        again = hotelling(test, stretch, i, crossing.t, crossing.g, sigma, which)
        return again >= crossing.threshold


def _peaks(
    tested: Sequence[Tested],
    series: int,
    now: IntArray,
    windows: int,
    until: IntArray | None = None,
) -> Array:
    """(S, W, C) the largest statistics in each window, the first the one that is open at block
    `now` (S,); of those up to block `until` (S,), if it is given."""
    peaks = np.zeros((series, windows, len(CHANNELS)))
    for one in tested:
        window = (one.block - 1) // WINDOW - (now[one.rows] // WINDOW)[:, None]
        if until is not None:
            window[one.block > until[one.rows][:, None]] = -1
        for k in range(windows):
            largest = np.where((window == k)[..., None], one.values, 0.0).max(axis=1)
            at = one.rows[:, None], k, np.array(one.channels)
            peaks[at] = np.maximum(peaks[at], largest)
    return peaks
