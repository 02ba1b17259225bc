"""Some blocks of several series, and what every later step wants to know of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.detect.blocks import Blocks
from pipeline.detect.ring import Ring, Stretch, Whole
from pipeline.records import IntArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Piece:
    """Some blocks of several series, one series after the other."""

    slots: IntArray
    #: (S,) blocks of each series before these, and how many these are.
    now: IntArray
    size: IntArray
    blocks: Blocks

    @cached_property
    def end(self) -> IntArray:
        """(S,) blocks of each series with these."""
        return self.now + self.size

    @cached_property
    def most(self) -> int:
        """T, blocks of the series with most of them."""
        return int(self.size.max())

    @cached_property
    def row(self) -> IntArray:
        """(S,) row of each series' first block."""
        return np.asarray(np.cumsum(self.size) - self.size)

    @cached_property
    def of(self) -> IntArray:
        """(NB,) which of the series each block is of."""
        return np.repeat(np.arange(len(self.slots)), self.size)

    @cached_property
    def each(self) -> IntArray:
        """(NB,) slot of each block's series."""
        return self.slots[self.of]

    @cached_property
    def rank(self) -> IntArray:
        """(NB,) each block's place among its series'."""
        return np.asarray(np.arange(len(self.of)) - self.row[self.of])

    def sums(
        self, blocks: NDArray[np.signedinteger[Any]], unit: int, part: NDArray[Any]
    ) -> tuple[NDArray[Any], IntArray, NDArray[Any]]:
        """Of `unit` blocks each, at multiples of `unit`: (S, G, F), how many (S,), what is left.

        blocks: (NB, F) whole numbers. part: (S, F) sum of those since the last multiple.
        """
        carried = self.now % unit
        reached = carried + self.size
        count = reached // unit
        groups = -(-int(reached.max()) // unit)
        padded = np.zeros((len(self.now), groups * unit, blocks.shape[1]), dtype=part.dtype)
        if len(self.now) == 1:
            padded[0, int(carried[0]) : int(reached[0])] = blocks
        else:
            padded[self.of, carried[self.of] + self.rank] = blocks
        total = padded.reshape(len(self.now), groups, unit, -1).sum(axis=2, dtype=part.dtype)
        total[:, 0] += part
        left = total[np.arange(len(self.now)), np.minimum(count, groups - 1)]
        return total, count, np.where((reached % unit == 0)[:, None], 0, left)


@dataclass(frozen=True, slots=True)
class Means:
    """New means of one signal, of several series."""

    #: (S,) number of each series' first, and how many there are.
    first: IntArray
    counts: IntArray
    #: (S, K, F) in UNITs; beyond a series' count, anything.
    values: Whole

    def of(self, which: IntArray) -> Means:
        """The same for some of the series."""
        return Means(self.first[which], self.counts[which], self.values[which])


class View:
    """What the tests see of some series of a piece.

    Parameters
    ----------
    piece
        Its blocks.
    rings, means
        What came before, and what is new: by signal.
    alarms
        (S, T, kinds) block of each kind's last alarm, as of each block; T is 1 if none is new.
    moved
        (S, T) block at which the forecaster's centre moved last, as of each block; T is 1 if it
        does not move.
    which
        (S,) the series, of those of the piece that all these are of; None: all.
    """

    def __init__(
        self,
        piece: Piece,
        rings: Mapping[str, Ring],
        means: Mapping[str, Means],
        alarms: IntArray,
        moved: IntArray,
        which: IntArray | None = None,
    ) -> None:
        every: Any = slice(None) if which is None else which
        self.piece, self.rings, self.which = piece, rings, which
        self.slots, self.now = piece.slots[every], piece.now[every]
        self.end, self.row = piece.end[every], piece.row[every]
        self.means, self.alarms, self.moved = means, alarms, moved
        self._stretch: dict[str, Stretch] = {}

    def __len__(self) -> int:
        return len(self.slots)

    def of(self, which: IntArray) -> View:
        """The same for some of the series."""
        if len(which) == len(self):
            return self
        return View(
            self.piece,
            self.rings,
            {signal: means.of(which) for signal, means in self.means.items()},
            self.alarms[which],
            self.moved[which],
            which if self.which is None else self.which[which],
        )

    def stretch(self, signal: str) -> Stretch:
        """Sums over any part of a signal's means."""
        if signal not in self._stretch:
            new = self.means[signal]
            held = self.rings[signal].last(self.slots, new.first)
            self._stretch[signal] = Stretch.joined(held, new.first, new.values)
        return self._stretch[signal]

    @cached_property
    def alarmed(self) -> IntArray:
        """(S, T) block of the last alarm, as of each block."""
        return np.asarray(self.alarms.max(axis=2))

    def as_of(self, values: IntArray, block: IntArray) -> IntArray:
        """Values (S, T), of `alarmed` or `moved`, as of blocks (S, K): (S, K), or (S, 1)."""
        if values.shape[1] == 1:
            return values
        column = block - self.now[:, None] - 1
        np.minimum(column, values.shape[1] - 1, out=column)
        np.maximum(column, 0, out=column)
        return np.asarray(values[np.arange(len(self))[:, None], column])

    def rank_of(self, i: int, block: int) -> int:
        """Rank in the poll of the last reading before a block number of series i."""
        return int(self.piece.blocks.last[self.row_of(i, block - 1), 2])

    def row_of(self, i: int, block: int) -> int:
        """Row in the piece's blocks of a block number of series i."""
        return int(self.row[i]) + block - int(self.now[i])
