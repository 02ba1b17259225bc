"""Blocks of open segments in, the segments' fingerprints out, at fixed readings after the boundary.

The residual's is read from its ring; what the level ring does not reach back to is summed, in whole
numbers: any cut of the stream into polls gives the same bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.detect import echoes, signals
from pipeline.detect.evidence import BLOCKS
from pipeline.detect.fields import Fields
from pipeline.detect.piece import View
from pipeline.detect.ring import UNIT
from pipeline.detect.signals import BLOCK
from pipeline.detect.tasks import WORTH, Fingerprint
from pipeline.records import Boundary, IntArray

Array = NDArray[np.float64]

#: Blocks after a boundary, and before the next, that are left out.
SKIP = 12
#: A segment's fingerprint is taken so many blocks after its boundary, for the last time at LAST;
#: one that ends earlier than the first of them has none.
STAGES = (51, 96, 240)
LAST = STAGES[-1]
#: A sensor of which more than this share is missing says nothing.
MANY = 0.5
#: Means of the residual that a fingerprint needs at least.
LEAST = 5
#: Readings in a mean of the residual, and blocks.
MEAN = BLOCK * BLOCKS["residual"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Print:
    """A segment's fingerprint, for the registry to name its task by."""

    series: str
    segment: int
    #: Readings from its boundary on that were seen.
    rows: int
    #: Whether it is the segment's last.
    final: bool
    fingerprint: Fingerprint


#: Rank in the poll of the reading that completed it, and the print.
Made = tuple[int, Print]


@dataclass(slots=True)
class Open:
    """Sums over the open segment of one series, up to block `at`."""

    number: int
    #: Its boundary's block, and the one from which on `untold` counts.
    start: int
    since: int
    at: int
    #: (2, d) of the levels' means and of their squares, in UNITs; (d,) readings that are missing.
    sums: IntArray
    untold: IntArray


class Prints:
    """Fingerprints of every series' segments.

    Parameters
    ----------
    fields
        What is known of each series.
    """

    def __init__(self, fields: Fields) -> None:
        self.fields = fields

    def start(self, slot: int, readings: int) -> None:
        """A series begins with a fit window of `readings`: its first segment's last fingerprint
        comes after it, and counts no more blocks than any other's."""
        self.fields["print_start"][slot] = max(0, readings // BLOCK - LAST + 1)

    def take(
        self,
        view: View,
        centre: Array | None,
        found: Sequence[Boundary],
        names: Mapping[int, str],
    ) -> Iterator[Made]:
        """What new blocks complete; `found` are the boundaries in them.

        centre: (NB, d) the forecaster's at each block, or (1, d); None before it is fitted.
        """
        starts = self.fields["print_start"][view.slots]
        marks: dict[str, list[Boundary]] = {}
        for boundary in found:
            marks.setdefault(boundary.series, []).append(boundary)
        busy = np.zeros(len(view), dtype=np.bool_)
        for stage in STAGES if names else ():
            busy |= (view.now < starts + stage) & (starts + stage <= view.end)
        if marks:
            busy |= np.array([names[slot] in marks for slot in view.slots.tolist()])
        self._sum(view, (~busy & (view.now < starts + LAST)).nonzero()[0])
        for i in busy.nonzero()[0].tolist():
            name = names[int(view.slots[i])]
            yield from Walk(self.fields, view, i, centre).go(name, marks.get(name, []))

    def _sum(self, view: View, which: IntArray) -> None:
        """Add all blocks of the series `which` to their sums."""
        if not which.size:
            return
        slots, means = view.slots[which], view.means["level"].of(which)
        rank = np.arange(means.values.shape[1])
        first = self.fields["print_start"][slots] + SKIP
        counts = (rank < means.counts[:, None]) & (rank + means.first[:, None] >= first[:, None])
        values = np.where(counts[..., None], means.values, 0).astype(np.int64)
        self.fields["print_sums"][slots] += np.stack(
            [values.sum(axis=1), (values * values).sum(axis=1)], axis=1
        )
        if view.piece.blocks.missing.any():
            missing = view.piece.blocks.missing.sum(axis=1, dtype=np.int64)
            total = np.add.reduceat(missing, view.piece.row, axis=0)
            self.fields["print_untold"][slots] += total[which]


class Walk:
    """One series' new blocks, from print to boundary to print.

    Parameters
    ----------
    i
        Which of the view's series.
    centre
        As `Prints.take` has it.
    """

    def __init__(self, fields: Fields, view: View, i: int, centre: Array | None) -> None:
        self.fields = fields
        self.view = view.of(np.array([i]))
        self.slot = int(view.slots[i])
        self.centre = centre
        self.now, self.end = int(self.view.now[0]), int(self.view.end[0])

    def go(self, name: str, marks: Sequence[Boundary]) -> Iterator[Made]:
        """The prints of its open segment and of those that begin here."""
        fields, slot = self.fields, self.slot
        segment = Open(
            number=int(fields["segment"][slot]) - len(marks),
            start=int(fields["print_start"][slot]),
            since=int(fields["print_since"][slot]),
            at=self.now,
            sums=fields["print_sums"][slot].copy(),
            untold=fields["print_untold"][slot].copy(),
        )
        for mark in marks:
            t = (mark.detected_row + 1) // BLOCK
            yield from self._stages(name, segment, t)
            where = mark.boundary_row // BLOCK
            if STAGES[0] <= where - segment.start and t < segment.start + LAST:
                self._advance(segment, t)
                yield self._print(name, segment, where - SKIP, t, where, final=True)
            segment = self._begin(mark, where, t)
            if t >= where + STAGES[0]:
                yield self._print(name, segment, t, t, t, final=False)
        yield from self._stages(name, segment, self.end)
        self._advance(segment, self.end)
        fields["print_start"][slot], fields["print_since"][slot] = segment.start, segment.since
        fields["print_sums"][slot], fields["print_untold"][slot] = segment.sums, segment.untold

    def _stages(self, name: str, segment: Open, until: int) -> Iterator[Made]:
        """Those of the open segment's stages that the blocks up to `until` reach."""
        for stage in STAGES:
            end = segment.start + stage
            if segment.at < end <= until:
                self._advance(segment, end)
                yield self._print(name, segment, end, end, end, final=stage == LAST)

    def _begin(self, mark: Boundary, where: int, t: int) -> Open:
        """The segment that a boundary begins; what the ring has of it is summed."""
        values = self._levels(where + SKIP, t)
        missing = self._missing(t - 1, t)
        return Open(
            number=mark.segment,
            start=where,
            since=t - 1,
            at=t,
            sums=np.stack([values.sum(axis=0), (values * values).sum(axis=0)]),
            untold=missing,
        )

    def _advance(self, segment: Open, to: int) -> None:
        """Up to block `to`; what comes after LAST counts for nothing."""
        to = min(to, segment.start + LAST)
        if to <= segment.at:
            return
        values = self._levels(max(segment.at, segment.start + SKIP), to)
        segment.sums += np.stack([values.sum(axis=0), (values * values).sum(axis=0)])
        segment.untold += self._missing(segment.at, to)
        segment.at = to

    def _levels(self, low: int, high: int) -> IntArray:
        """(K, d) the levels' means, in UNITs."""
        means = self.view.stretch("level").means(0, low, max(low, high))
        return np.rint(means / UNIT).astype(np.int64)

    def _missing(self, low: int, high: int) -> IntArray:
        """(d,) how many readings of each sensor are missing in blocks of these."""
        first = self.view.row_of(0, low)
        rows = self.view.piece.blocks.missing[first : first + high - low]
        return np.asarray(rows.sum(axis=(0, 1), dtype=np.int64))

    # One fingerprint --------------------------------------------------------------------------

    def _print(
        self, name: str, segment: Open, end: int, seen: int, until: int, *, final: bool
    ) -> Made:
        """Of the blocks before `end`, as known when `seen`; the segment reaches `until`."""
        made = Print(
            series=name,
            segment=segment.number,
            rows=(until - segment.start) * BLOCK,
            final=final,
            fingerprint=self._fingerprint(segment, end, seen),
        )
        return int(self.view.piece.blocks.last[self.view.row_of(0, seen - 1), 2]), made

    def _fingerprint(self, segment: Open, end: int, seen: int) -> Fingerprint:
        fields, slot, first = self.fields, self.slot, segment.start + SKIP
        later = self._levels(end, seen)
        count = max(end - first, 1)
        total = segment.sums - np.stack([later.sum(axis=0), (later * later).sum(axis=0)])
        level = total[0] * UNIT / count
        variance = np.maximum(total[1] * UNIT**2 / count - level * level, 0.0)
        untold = segment.untold > MANY * (seen - segment.since) * BLOCK
        scale = fields["scale"][slot]
        units = np.stack([fields["location"][slot] + scale * level, scale * np.sqrt(variance)])
        rows, mean, spread = self._residual(first, end, seen, untold)
        return Fingerprint(
            rows=rows,
            level_rows=count * BLOCK,
            mean=mean,
            variance=spread,
            centre=self._centre(seen),
            level=np.where(untold, np.nan, level),
            level_variance=np.where(untold, np.nan, variance * WORTH),
            units=np.where(untold, np.nan, units),
        )

    def _residual(
        self, first: int, end: int, seen: int, untold: NDArray[np.bool_]
    ) -> tuple[int, Array, Array]:
        """(readings, mean (F,), variance (F,)) with the centre of the end; 0 readings and NaN if
        there are too few."""
        silent = self._silent(untold)
        nothing = np.full(len(silent), np.nan)
        if self.centre is None:
            return 0, nothing, nothing
        moved = int(self.view.as_of(self.view.moved, np.array([[seen]]))[0, 0])
        unit = BLOCKS["residual"]
        low, high = -(-max(first, moved) // unit), end // unit
        if high - low < LEAST:
            return 0, nothing, nothing
        x = self.view.stretch("residual").means(0, low, high)
        mean = x.sum(axis=0) / len(x)
        variance = np.maximum((x * x).sum(axis=0) / len(x) - mean * mean, 0.0) * MEAN
        return (
            MEAN * len(x),
            np.where(silent, np.nan, mean),
            np.where(silent, np.nan, variance),
        )

    def _silent(self, untold: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """(F,) residual features that touch a sensor that says nothing."""
        fields, at, d = self.fields, [self.slot], len(untold)
        pairs = np.zeros((1, 2, 0), dtype=np.int64) if fields.light else fields["fit_pairs"][at]
        silent = signals.features_of(untold[None, None], fields["live"][at], pairs)
        if fields.light:
            return np.asarray(silent[0, 0, -d - 1 : -d])
        if fields.few:
            again = np.tile(untold, len(echoes.lags(d)))[None, None]
            silent = echoes.between(silent, again, d)
        return np.asarray(silent[0, 0])

    def _centre(self, seen: int) -> Array:
        """(d,) the forecaster's, as of a block."""
        if self.centre is None:
            return np.zeros(len(self.fields["centre"][self.slot]))
        row = self.view.row_of(0, seen - 1) if len(self.centre) > 1 else 0
        return np.array(self.centre[row], dtype=np.float64)
