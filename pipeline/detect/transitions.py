"""Crossings in, boundaries out: is it a new one, or the last transition that still goes on?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from pipeline.config import Detect
from pipeline.detect import approach
from pipeline.detect.changes import AROUND, Scene, changes
from pipeline.detect.evidence import BLOCKS, TESTS, split
from pipeline.detect.fields import NEVER, Fields
from pipeline.detect.piece import Piece, View
from pipeline.detect.search import Crossing
from pipeline.detect.signals import BLOCK
from pipeline.records import Boundary, Settled

Array = NDArray[np.float64]

#: The block at whose end it was known, and what happened.
Happened = tuple[int, Boundary | Settled]

#: Features that locate a boundary, those with the largest z.
LOCATORS = 8
#: A transition may go on for so long, but no longer than this share of the series so far.
SETTLE_SHARE = 0.15
#: Within it, a crossing of such a statistic is a boundary of its own.
STRONG = 10.0
#: A weaker one moves the transition's end if it goes in the same direction: this cosine at least.
SAME = 0.7
#: A move of one sensor counts up to so many sigmas towards the direction.
MOST_MOVE = 20.0


class Transitions:
    """What each series' crossings mean for its segments.

    Parameters
    ----------
    fields
        What is known of each series.
    settings
        Names of the detectors, and how long a transition may go on.
    """

    def __init__(self, fields: Fields, settings: Detect) -> None:
        self.fields = fields
        self.settings = settings

    def judge(self, view: View, crossing: Crossing, sigma: Array) -> bool:
        """Whether a crossing of the one series counts: as a boundary, or as the running
        transition's going on. Says so in the crossing; sigma: what the levels (d,) are measured by.
        """
        slot, block = int(view.slots[0]), crossing.block
        if crossing.whole and self.fields["opened"][slot] != NEVER:
            return False  # a slow change falls into halves anywhere
        crossing.level_sigma = sigma
        crossing.move = _move(view, crossing, sigma)
        over = block >= self._over(int(self.fields["crossed"][slot]))
        crossing.new = over or crossing.statistic >= STRONG
        if crossing.new:
            return True
        before = self.fields["direction"][slot].astype(np.float64)
        sizes = np.sqrt((crossing.move @ crossing.move) * (before @ before))
        return bool(crossing.move @ before >= SAME * sizes)

    def _over(self, crossed: int) -> int:
        """Block at which a transition is over, if nothing crosses after block `crossed`.

        The first that is more than settle_after readings after it, or than SETTLE_SHARE of all.
        """
        long = crossed + self.settings.settle_after // BLOCK
        return min(long, int(crossed / (1 - SETTLE_SHARE))) + 1

    def mark(self, view: View, crossing: Crossing, name: str) -> Iterator[Happened]:
        """Move the one series' reference; a boundary, unless the last has not settled yet."""
        fields, test, slot = self.fields, TESTS[crossing.test], int(view.slots[0])
        block = crossing.block
        where = self._locate(view, crossing)
        before = int(fields["segment_start"][slot])
        limited = max(where, block - fields.look_back // BLOCK, before + 1)
        yield from self._until(view, block, name)
        if crossing.new and fields["opened"][slot] != NEVER:
            self._follow(view, block)
            yield block, self._close(view, approach.end(fields, view, limited), limited, name)
        fields["crossed"][slot], fields["direction"][slot] = block, crossing.move
        fields["due"][slot] = self._over(block)
        start = max(where, block - test.q * BLOCKS[test.signal] - 2)
        fields["segment_start"][slot] = where if crossing.whole else start
        if crossing.new:
            yield block, self._boundary(view, crossing, before, limited, name)

    def _boundary(
        self, view: View, crossing: Crossing, before: int, where: int, name: str
    ) -> Boundary:
        """The boundary at block `where`; `before` is where the segment before it began."""
        fields, test, slot = self.fields, TESTS[crossing.test], int(view.slots[0])
        block = crossing.block
        fields["segment"][slot] += 1
        first = self._place(view, where)
        last = view.piece.blocks.last[view.row_of(0, block - 1)]
        changed = changes(Scene(fields, view, crossing, before, where, crossing.level_sigma))
        self._open(view, where, crossing.level_sigma, levels=changed[0].kind == "level")
        return Boundary(
            series=name,
            segment=int(fields["segment"][slot]),
            boundary_row=where * BLOCK,
            detected_row=block * BLOCK - 1,
            boundary_offset=int(first[0]),
            detected_offset=int(last[0]),
            boundary_time=int(first[1]),
            detected_time=int(last[1]),
            signal=test.signal,
            statistic=crossing.statistic,
            threshold=crossing.threshold,
            detectors=self._fired(view, block),
            sensors=changed,
        )

    # Ends -------------------------------------------------------------------------------------

    def _open(self, view: View, where: int, sigma: Array, *, levels: bool) -> None:
        """A transition of the one series begins; `levels`: whether its levels tell of it."""
        slot = int(view.slots[0])
        before = view.stretch("level").means(0, max(where - AROUND, 0), where).mean(axis=0)
        approach.begin(self.fields, slot, where, before, sigma)
        self.fields["by_level"][slot] = levels

    def settle(self, view: View, names: Mapping[int, str]) -> Iterator[tuple[int, Happened]]:
        """What ends in a view after its last crossing, each with its series' number there."""
        for i in np.flatnonzero(self.fields["opened"][view.slots] != NEVER).tolist():
            one, upto = view.of(np.array([i])), int(view.end[i])
            for happened in self._until(one, upto, names[int(view.slots[i])]):
                yield i, happened
            if self.fields["opened"][view.slots[i]] != NEVER:
                self._follow(one, upto)

    def _until(self, view: View, upto: int, name: str) -> Iterator[Happened]:
        """The end of the one series' transition, if it is known by block `upto`.

        It is over when nothing crossed for a while and it has arrived, as far as can be seen; if it
        has not, that is looked at again when it should have, or there is a quarter more to see.
        """
        fields, slot = self.fields, int(view.slots[0])
        while (opened := int(fields["opened"][slot])) != NEVER and fields["due"][slot] <= upto:
            due = int(fields["due"][slot])
            self._follow(view, due)
            arrived = approach.end(fields, view, due)
            if arrived <= due - opened:
                yield due, self._close(view, arrived, due, name)
            else:
                fields["due"][slot] = min(opened + int(arrived), due + (due - opened) // 4) + 1

    def _follow(self, view: View, upto: int) -> None:
        """Keep what the levels of the one series did until block `upto`."""
        slot = int(view.slots[0])
        told = int(self.fields["told"][slot])
        levels = view.stretch("level").means(0, told, upto)
        places = np.array([self._place(view, block) for block in range(told, upto)])
        approach.add(self.fields, slot, upto, levels, places.reshape(-1, 2))

    def _close(self, view: View, arrived: float, limit: int, name: str) -> Settled:
        """The transition of the one series is over: so many blocks after it began it had arrived,
        before block `limit`."""
        fields, slot = self.fields, int(view.slots[0])
        opened, width = int(fields["opened"][slot]), int(fields["cell_width"][slot])
        cell = min(round(arrived / width), max(limit - 1 - opened, 0) // width)
        offset, time = fields["cell_places"][slot, cell].tolist()
        approach.begin(fields, slot, NEVER, np.zeros(fields.channels), np.ones(fields.channels))
        return Settled(
            series=name,
            segment=int(fields["segment"][slot]),
            end_row=(opened + cell * width) * BLOCK,
            end_offset=offset,
            end_time=time,
        )

    def _locate(self, view: View, crossing: Crossing) -> int:
        """Block at which the segment before is best told from what follows."""
        test, t = TESTS[crossing.test], crossing.t
        told = len(crossing.z) - (self.fields.white if test.signal == "residual" else 0)
        z = crossing.z[:told]
        top = np.argsort(-z, kind="stable")[:LOCATORS]
        low = t - test.q - crossing.g
        x = view.stretch(test.signal).means(0, low, t)[:, top]
        return (low + split(x / crossing.sigma[top])) * BLOCKS[test.signal]

    def _fired(self, view: View, block: int) -> tuple[str, ...]:
        """Names of the detectors whose watch of the one series is open."""
        alarms = view.alarms[0, min(block - int(view.now[0]), view.alarms.shape[1]) - 1]
        fired = block - alarms <= self.settings.watch // BLOCK
        return tuple(sorted(n for n, f in zip(self.settings.detectors, fired, strict=True) if f))

    def _place(self, view: View, where: int) -> NDArray[np.int64]:
        """Offset and time of the first reading of a block of the one series."""
        if where >= view.now[0]:
            return np.asarray(view.piece.blocks.first[view.row_of(0, where)])
        places = self.fields["places"]
        return np.asarray(places[int(view.slots[0]), where % places.shape[1]])

    def remember(self, piece: Piece) -> None:
        """Keep where each of the last blocks began."""
        places = self.fields["places"]
        last = piece.rank >= piece.size[piece.of] - places.shape[1]
        number = (piece.now[piece.of] + piece.rank)[last] % places.shape[1]
        places[piece.each[last], number] = piece.blocks.first[last]


def _move(view: View, crossing: Crossing, sigma: Array) -> Array:
    """What the levels (d,) did over the test's windows, in sigmas; as far as the ring reaches."""
    test, level, block = TESTS[crossing.test], view.stretch("level"), crossing.block
    m = test.m // BLOCK
    g = min(crossing.g * BLOCKS[test.signal], view.rings["level"].size - m)
    after = level.means(0, block - m, block).mean(axis=0)
    before = level.means(0, block - m - g, block - m).mean(axis=0)
    return np.asarray(np.clip((after - before) / sigma, -MOST_MOVE, MOST_MOVE))
