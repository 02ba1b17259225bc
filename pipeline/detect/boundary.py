"""Readings in, boundaries out: river proposes, a history-scaled test confirms and locates.

State is stacked over the series of one partition and advances in blocks of five readings at fixed
block numbers, so the same log gives the same bits however it is cut into polls.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.config import Detect
from pipeline.detect import centre, detectors, features, fitting, season, signals
from pipeline.detect.blocks import Blocker, Blocks, Rows
from pipeline.detect.changes import AROUND
from pipeline.detect.cleaning import KINDS, Cleaned, Cleaner
from pipeline.detect.evidence import BLOCKS, TESTS
from pipeline.detect.features import STRIDE
from pipeline.detect.fields import LOOK_BACK, Fields
from pipeline.detect.piece import Piece, View
from pipeline.detect.prints import Print, Prints
from pipeline.detect.ring import Ring
from pipeline.detect.search import LEVEL, Crossing, Search, Tested, Track
from pipeline.detect.signals import BLOCK
from pipeline.detect.transitions import Transitions
from pipeline.detect.warmup import WarmUp
from pipeline.detect.watch import Watch
from pipeline.errors import SettingsError
from pipeline.records import Batch, Boundary, IntArray, SensorEvent, Settled

__all__ = ["BLOCK", "LOOK_BACK", "STRIDE", "BoundaryDetector"]

#: Blocks that are looked at together: after each boundary in them, what follows is once more.
LONGEST = 960

#: Rank in the poll of the reading at which it was known, and what happened.
Found = tuple[int, Boundary | Settled | Print]


class BoundaryDetector:
    """Marks the task boundaries of every series of one partition.

    Parameters
    ----------
    channels
        d, sensors in a reading.
    settings
        `warm_up` and `fit_after` are rounded up to whole means of both signals.

    Raises
    ------
    SettingsError
        `detectors` names one that river does not have, or `error_channel` none of the channels.
    """

    def __init__(self, channels: int, settings: Detect) -> None:
        detectors.check(settings.detectors, settings.error_channel)
        if settings.error_channel >= channels:
            raise SettingsError(
                f"detect.error_channel = {settings.error_channel}: there are {channels} channels"
            )
        self.channels = channels
        self.settings = settings
        step = BLOCK * max(BLOCKS.values())
        self.warm_up = -(-settings.warm_up // step) * step
        self.fit_after = max(-(-settings.fit_after // step) * step, self.warm_up + step)
        self.cleaner = Cleaner(channels, settings.error_channel)
        self.blocker = Blocker(channels)
        self.warm = WarmUp(channels, self.fit_after)
        light = settings.profile == "light"
        self.fields = Fields(channels, len(settings.detectors), light=light)
        back = self.fields.look_back
        self.rings = {signal: _ring(signal, f, back) for signal, f in self.fields.sizes.items()}
        self.watch = Watch(settings, channels)
        self.search = Search(self.fields, settings)
        self.transitions = Transitions(self.fields, settings)
        self.printing = Prints(self.fields)
        #: What happened to sensors in the last update, and which transitions were over, in the
        #: log's order.
        self.events: list[SensorEvent] = []
        self.settled: list[Settled] = []
        #: The segments' fingerprints that it completed, likewise.
        self.prints: list[Print] = []
        #: Alarms of river's detectors in it, by their names.
        self.alarms: Counter[str] = Counter()

    # One poll ---------------------------------------------------------------------------------

    def update(self, batch: Batch, slots: IntArray) -> list[Boundary]:
        """Boundaries of a batch, in the log's order of their detection.

        slots: (S,) row of each of the batch's series in the stacked state.
        """
        self._grow(int(slots.max(initial=-1)) + 1)
        names = dict(zip(slots.tolist(), batch.series, strict=True))
        places = np.stack([batch.offsets, batch.times, batch.order], axis=1)
        found: list[Found] = []
        events: list[tuple[int, SensorEvent]] = []
        self.alarms = self.watch.alarms = Counter()
        for which, starts, here in self._phases(slots, batch.starts):
            cleaned = self.cleaner.clean(here, starts, batch.values[which])
            rows = Rows(readings=cleaned.readings, missing=cleaned.missing, places=places[which])
            events += self._events(here, starts, cleaned, rows, names)
            found += self._advance(here, starts, rows, names)
        self.events = [event for _, event in sorted(events, key=lambda pair: pair[0])]
        known = [happened for _, happened in sorted(found, key=lambda pair: pair[0])]
        self.settled = [happened for happened in known if isinstance(happened, Settled)]
        self.prints = [happened for happened in known if isinstance(happened, Print)]
        return [happened for happened in known if isinstance(happened, Boundary)]

    def _events(
        self,
        slots: IntArray,
        starts: IntArray,
        cleaned: Cleaned,
        rows: Rows,
        names: Mapping[int, str],
    ) -> Iterator[tuple[int, SensorEvent]]:
        """Sensors that stopped or are back, each with its rank in the poll."""
        for row, channel, state in zip(*(a.tolist() for a in cleaned.changes), strict=True):
            i = int(np.searchsorted(starts, row, side="right")) - 1
            offset, time, order = rows.places[row].tolist()
            yield (
                order,
                SensorEvent(
                    series=names[int(slots[i])],
                    channel=channel,
                    kind=KINDS[state],
                    row=int(self.fields["rows"][slots[i]]) + row - int(starts[i]),
                    offset=offset,
                    time=time,
                ),
            )

    def _phases(
        self, slots: IntArray, starts: IntArray
    ) -> Iterator[tuple[Any, IntArray, IntArray]]:
        """Cut a batch where a series' reference is fitted: (rows, starts, slots) of each part."""
        seen = self.fields["rows"][slots]
        if (seen >= self.fit_after).all():
            yield slice(None), starts, slots
            return
        counts = np.diff(starts)
        edges = [0, self.warm_up, self.fit_after, np.iinfo(np.int64).max]
        for low, high in pairwise(edges):
            first = np.clip(low - seen, 0, counts)
            last = np.clip(high - seen, 0, counts) if high < edges[-1] else counts
            taken = last - first
            if not taken.any():
                continue
            if (taken == counts).all():
                yield slice(None), starts, slots
                continue
            here = taken > 0
            rows = _ranges(starts[:-1][here] + first[here], taken[here])
            yield rows, np.concatenate([[0], np.cumsum(taken[here])]), slots[here]

    def _advance(
        self, slots: IntArray, starts: IntArray, rows: Rows, names: Mapping[int, str]
    ) -> list[Found]:
        """Readings of series that are all in one phase, none beyond its end."""
        seen, counts = self.fields["rows"][slots], np.diff(starts)
        if seen[0] < self.fit_after:
            of = np.repeat(np.arange(len(slots)), counts)
            row = np.arange(len(rows)) - starts[of] + seen[of]
            known = np.where(rows.missing, np.nan, rows.readings)
            self.warm.add(slots[of], row, known, rows.places[:, :2])
        self.fields["rows"][slots] = seen + counts
        found: list[Found] = []
        if seen[0] >= self.warm_up:
            blocks = self.blocker.cut(slots, starts, rows)
            which = ("level", "residual") if seen[0] >= self.fit_after else ("level",)
            found = self._take(slots, blocks, which, names)
        for slot in slots[seen + counts == self.warm_up].tolist():
            self._start_level(slot)
        for slot in slots[seen + counts == self.fit_after].tolist():
            self._start_residual(slot)
        return found

    # References -------------------------------------------------------------------------------

    def _start_level(self, slot: int) -> None:
        """Fit location and scale on the first readings, and take those in as the first blocks."""
        readings, places = self.warm.first(slot, self.warm_up)
        fitting.fit_level(self.fields, self.search.scales_of("level"), slot, readings)
        self.watch.start(slot)
        self.printing.start(slot, self.warm_up)
        self._fill_in(slot, self._first_rows(slot, readings, places), "level")

    def _start_residual(self, slot: int) -> None:
        """Fit the VAR(1) forecaster, and take the residuals of all readings so far in."""
        readings, places = self.warm.first(slot, self.fit_after)
        rows = self._first_rows(slot, readings, places)
        scales = self.search.scales_of("residual")
        fitting.fit_residual(self.fields, scales, slot, readings, rows.readings)
        self.cleaner.learn(slot, np.where(rows.missing, np.nan, rows.readings))
        self._fill_in(slot, rows, "residual")
        self.warm.release(slot)

    def _first_rows(self, slot: int, readings: NDArray[np.float64], places: IntArray) -> Rows:
        """The first readings with every hole filled: by the last value, before it the location."""
        location = self.fields["location"][[slot]]
        return Rows(
            readings=signals.hold(readings, np.array([0, len(readings)]), location),
            missing=np.isnan(readings),
            places=np.concatenate([places, np.zeros((len(places), 1), dtype=np.int64)], axis=1),
        )

    def _fill_in(self, slot: int, rows: Rows, signal: str) -> None:
        """Take in the readings that a reference was fitted on; nothing is tested on them."""
        blocker = Blocker(self.channels)
        blocker.grow(1)
        blocker.start(0, rows.readings[0], rows.missing[0])
        blocks = blocker.cut(np.array([0]), np.array([0, len(rows)]), rows)
        self._take(np.array([slot]), blocks, (signal,), {})
        self.blocker.start(slot, rows.readings[-1], rows.missing[-1])

    # Blocks -----------------------------------------------------------------------------------

    def _take(
        self, slots: IntArray, blocks: Blocks, which: tuple[str, ...], names: Mapping[int, str]
    ) -> list[Found]:
        """Whole blocks of series, for the signals whose reference is there.

        Without `names` nothing is tested: the blocks are those of a fit window.
        """
        here = blocks.counts > 0
        if not here.any():
            return []
        slots, counts = slots[here], blocks.counts[here]
        first = np.cumsum(counts) - counts
        found: list[Found] = []
        done = np.zeros(len(slots), dtype=np.int64)
        while (left := np.flatnonzero(done < counts)).size:
            now = self.fields[f"{which[0]}_blocks"][slots[left]]
            size = np.minimum((counts - done)[left], LONGEST)
            if blocks.blanks.size:
                size = _until_refreshed(blocks.blanks, (first + done)[left], now, size)
            all_ = len(left) == len(slots) and (size == counts).all()
            part = blocks if all_ else blocks.part(first[left] + done[left], size)
            found += self._piece(Piece(slots[left], now, size, part), which, names)
            done[left] += size
        return found

    def _piece(self, piece: Piece, which: tuple[str, ...], names: Mapping[int, str]) -> list[Found]:
        """Some blocks; with blanks, none beyond the next multiple of STRIDE."""
        moved, offset, calm = centre.unmoved(self.fields, piece), None, piece
        if "residual" in which:
            levels = centre.levels(self.fields, piece)
            moved, offset = centre.follow(self.fields, piece, levels)
            if not self.fields.light:
                calm = season.remove(self.fields, piece, levels, offset)
        new = {signal: features.means(self.fields, signal, calm, offset) for signal in which}
        alarms = self.watch.feed(self.fields, piece, new)
        view = View(piece, self.rings, new, alarms, moved)
        found: list[Found] = [*self._search(view, names)]
        if "level" in which:
            marks = [mark for _, mark in found if isinstance(mark, Boundary)]
            found += self.printing.take(view, offset, marks, names)
        for signal, means in new.items():
            features.refresh(self.fields, signal, piece, means, self.rings[signal])
            self.rings[signal].add(piece.slots, means.first, means.counts, means.values)
            self.fields[f"{signal}_blocks"][piece.slots] = piece.end
        if "level" in which:
            self.transitions.remember(piece)
        return found

    def _search(self, view: View, names: Mapping[int, str]) -> Iterator[Found]:
        """Boundaries and ends of transitions in a view, each with its reading's rank in the poll.

        A series' scales are followed up to its first crossing that counts; that moves its
        reference, and what comes after is searched again.
        """
        now, pending = view.now.copy(), np.arange(len(view))
        while pending.size:
            part = view.of(pending)
            tracks = self.search.follow(part, now[pending], part.end)
            crossings, tested = self._first(part, now[pending], tracks) if names else ({}, [])
            until = part.end.copy()
            until[list(crossings)] = [crossing.block for _, crossing in crossings.values()]
            self.search.keep(tracks, until)
            if names:
                self.search.learn(part, now[pending], tested, until)
            now[pending] = until
            for k, (one, crossing) in crossings.items():
                name = names[int(one.slots[0])]
                for block, happened in self.transitions.mark(one, crossing, name):
                    yield view.rank_of(int(pending[k]), block), happened
            pending = pending[until < part.end]
        if names:
            for i, (block, happened) in self.transitions.settle(view, names) if names else ():
                yield view.rank_of(i, block), happened

    def _first(
        self, view: View, now: IntArray, tracks: Mapping[int, Track]
    ) -> tuple[dict[int, tuple[View, Crossing]], list[Tested]]:
        """The earliest crossing after block `now` (S,) that counts, of series that have one, and
        the view of that series alone; and all statistics."""
        found = {}
        every, tested = self.search.crossings(view, now, tracks)
        for i, crossings in every.items():
            one = view.of(np.array([i]))
            for crossing in crossings:
                sigma = self.search.sigma(LEVEL, tracks, view, i, crossing.block)
                if self.search.stands(one, 0, crossing) and self.transitions.judge(
                    one, crossing, sigma
                ):
                    found[i] = (one, crossing)
                    break
        return found, tested

    def expected_false_per_million(self, slots: IntArray) -> NDArray[np.float64]:
        """(S,) boundaries in a million readings that each series would have if nothing changed.

        By its own history; the budget that is set, unless its thresholds are at their bounds.
        """
        return self.search.calibration.expected(slots)

    # State ------------------------------------------------------------------------------------

    def _grow(self, slots: int) -> None:
        have = len(self.fields)
        if slots > have:
            room = max(slots, 2 * have)
            for ring in self.rings.values():
                ring.grow(room)
            self.fields.grow(room)
            self.cleaner.grow(room)
            self.blocker.grow(room)
            self.search.grow(room)
            self.watch.grow(room)

    def state(self, slots: IntArray) -> dict[str, NDArray[Any]]:
        """Arrays (S, ...) of some series; equal states, equal arrays.

        Not among them are `watch`'s river detectors and the readings of the log `warm`.
        """
        state = {f"field.{n}": a for n, a in self.fields.state(slots).items()}
        state |= {f"ring.{s}": ring.means[slots] for s, ring in self.rings.items()}
        for k, scale in enumerate(self.search.scales):
            state |= {f"scale.{k}.{n}": a for n, a in scale.state(slots).items()}
        state |= {f"clean.{n}": a for n, a in self.cleaner.state(slots).items()}
        state |= {f"carry.{n}": a for n, a in self.blocker.state(slots).items()}
        return state | {f"warm.{n}": a for n, a in self.warm.state(slots).items()}

    def restore(self, state: Mapping[str, NDArray[Any]], river: Sequence[bytes]) -> None:
        """Go on from `state` and `watch.state` of every series, having seen nothing."""
        self.fields.restore(_under(state, "field."))
        if not self.fields.light:
            for slot in np.flatnonzero(self.fields["season_cycle"]).tolist():
                season.respond(self.fields, slot)
        for signal, ring in self.rings.items():
            ring.means = np.array(state[f"ring.{signal}"])
        for k, scale in enumerate(self.search.scales):
            scale.restore(_under(state, f"scale.{k}."))
        self.cleaner.restore(_under(state, "clean."))
        self.blocker.restore(_under(state, "carry."))
        self.warm.restore(_under(state, "warm."))
        self.watch.restore(river)


def _until_refreshed(blanks: IntArray, row: IntArray, now: IntArray, size: IntArray) -> IntArray:
    """Blocks (S,) until what stands in for blanks is refreshed, where one of them comes after that.

    blanks: their rows. row, now: (S,) row and number of each series' next block, `size` of which
    come.
    """
    further = STRIDE - now % STRIDE
    later = np.searchsorted(blanks, row + further)
    first = np.append(blanks, np.iinfo(np.int64).max)[later] - row
    return np.where(first < size, first - (first - further) % STRIDE, size)


def _ring(signal: str, features: int, back: int) -> Ring:
    """As long as the signal's tests look back; a level's says which sensors moved, too."""
    reach = max(test.q + test.most for test in TESTS if test.signal == signal)
    if signal == "level":
        reach = max(reach, back // BLOCK + AROUND)
    return Ring(signal, features, reach)


def _ranges(first: IntArray, counts: IntArray) -> IntArray:
    """first[0], first[0] + 1, ... (counts[0] of them), first[1], ..."""
    rank = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.asarray(np.repeat(first, counts) + rank)


def _under(state: Mapping[str, NDArray[Any]], prefix: str) -> dict[str, NDArray[Any]]:
    return {n[len(prefix) :]: a for n, a in state.items() if n.startswith(prefix)}
