"""New means in, river fed, the block of each kind's last alarm out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.config import Detect
from pipeline.detect import detectors
from pipeline.detect.evidence import BLOCKS
from pipeline.detect.fields import NEVER, Fields, sizes
from pipeline.detect.piece import Means, Piece
from pipeline.detect.ring import UNIT
from pipeline.records import IntArray

#: River sees means in units of the fit window's deviation, cut here, and in steps of so many: sums
#: of those are short numbers, which a checkpoint packs into half.
CUT, STEP = 50.0, 2.0**-4


class Watch:
    """The river detectors of every series.

    Parameters
    ----------
    settings
        Names of the detectors, what they see of the residual, and how readily they propose.
    channels
        d, sensors in a reading.
    """

    def __init__(self, settings: Detect, channels: int) -> None:
        kinds, light = settings.detectors, settings.profile == "light"
        self.kinds = kinds
        self.error_channel = settings.error_channel
        self._new = partial(
            detectors.Proposers,
            kinds,
            channels,
            light=light,
            budget=settings.false_boundaries_per_million,
        )
        #: (slots,) None before a series' level is known; bytes until it is fed after a restart.
        self.proposers: list[detectors.Proposers | bytes | None] = []
        #: How often each detector fired, by its name; whoever reads it begins it anew.
        self.alarms: Counter[str] = Counter()
        d, joint = channels, sizes(channels)["residual"] - channels - 1
        residuals = np.zeros(1, np.int64) if light else np.append(np.arange(d, 2 * d), joint)
        features = {"level": np.arange(d), "residual": residuals, "error": np.zeros(1, np.int64)}
        #: The feature of each of a signal's detectors.
        self.columns = {
            signal: features[signal][[feature for _, feature in each]]
            for signal, each in detectors.watched(kinds, channels, light=light).items()
        }

    def grow(self, slots: int) -> None:
        """Make room for more series."""
        self.proposers += [None] * (slots - len(self.proposers))

    def start(self, slot: int) -> None:
        """New detectors for a series."""
        self.proposers[slot] = self._new()

    def feed(self, fields: Fields, piece: Piece, means: Mapping[str, Means]) -> IntArray:
        """(S, T, kinds) block of each kind's last alarm, as of each block; T = 1 if none is new."""
        alarms = fields["alarms"][piece.slots][:, None]
        fired = [
            (i, kind, block)
            for signal, new in means.items()
            for i, kind, block in self._fired(fields, signal, piece.slots, new)
        ]
        if "level" in means and len(self.columns["error"]):
            fired += self._erred(piece)
        if not fired:
            return alarms
        self.alarms.update(self.kinds[kind] for _, kind, _ in fired)
        late = np.full((len(piece.slots), piece.most, len(self.kinds)), NEVER)
        late[:, 0] = alarms[:, 0]
        for i, kind, block in fired:
            at = block - int(piece.now[i]) - 1
            late[i, at, kind] = max(late[i, at, kind], block)
        np.maximum.accumulate(late, axis=1, out=late)
        fields["alarms"][piece.slots] = late[np.arange(len(piece.slots)), piece.size - 1]
        return late

    def _fired(
        self, fields: Fields, signal: str, slots: IntArray, new: Means
    ) -> Iterator[tuple[int, int, int]]:
        """Feed a signal's means: (series, kind, block) of each alarm."""
        most, unit, width = new.values.shape[1], BLOCKS[signal], len(self.columns[signal])
        if not (most and width):
            return
        # one flat list: thousands of small ones would keep the garbage collector busy
        flat = self._values(fields, signal, slots, new).ravel().tolist()
        for i, (slot, count) in enumerate(zip(slots.tolist(), new.counts.tolist(), strict=True)):
            proposers = self._of(slot)
            if proposers is None:
                continue
            begins = range(i * most * width, (i * most + count) * width, width)
            rows = [flat[begin : begin + width] for begin in begins]
            for row, kind in proposers.update(signal, rows):
                yield i, kind, (int(new.first[i]) + row + 1) * unit

    def _erred(self, piece: Piece) -> Iterator[tuple[int, int, int]]:
        """Feed whether predictions were wrong, reading by reading where it is known."""
        width = len(self.columns["error"])
        wrong = piece.blocks.readings[..., self.error_channel] > 0.5
        known = ~piece.blocks.missing[..., self.error_channel]
        for i, slot in enumerate(piece.slots.tolist()):
            blocks = slice(int(piece.row[i]), int(piece.row[i] + piece.size[i]))
            block, _ = known[blocks].nonzero()
            rows = [[value] * width for value in wrong[blocks][known[blocks]].tolist()]
            proposers = self._of(slot)
            if proposers is not None:
                for row, kind in proposers.update("error", rows):
                    yield i, kind, int(piece.now[i]) + int(block[row]) + 1

    def _values(
        self, fields: Fields, signal: str, slots: IntArray, new: Means
    ) -> NDArray[np.floating[Any]]:
        """What river sees of new means: (S, K, detectors)."""
        columns = self.columns[signal]
        values = new.values.take(columns, axis=2) * UNIT
        values -= fields[f"{signal}_centre"][slots].take(columns, axis=1)[:, None]
        values /= fields[f"{signal}_deviation"][slots].take(columns, axis=1)[:, None]
        np.minimum(values, CUT, out=values)
        np.maximum(values, -CUT, out=values)
        values /= STEP
        np.rint(values, out=values)
        values *= STEP
        return np.asarray(values)

    def _of(self, slot: int) -> detectors.Proposers | None:
        """A series' detectors; DetectorStateError if its bytes are not river's."""
        proposers = self.proposers[slot]
        if isinstance(proposers, bytes):
            proposers = self.proposers[slot] = detectors.load(proposers, self._new())
        return proposers

    def state(self, slots: IntArray) -> list[bytes]:
        """The detectors of some series, as bytes; none before a series' level is known."""
        held = [self.proposers[slot] for slot in slots.tolist()]
        return [detectors.dump(p) if isinstance(p, detectors.Proposers) else p or b"" for p in held]

    def restore(self, state: Sequence[bytes]) -> None:
        """Go on from `state` of every series; those of a series are made when it is next fed."""
        self.proposers = [content or None for content in state]
