"""What is known of each series beside its rings and scales: arrays stacked over the series."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.detect import echoes, halves, reference, signals
from pipeline.detect.evidence import BLOCKS
from pipeline.detect.signals import BLOCK
from pipeline.records import IntArray

#: A boundary lies at most so many readings before its detection; with few sensors, FAR_BACK.
LOOK_BACK, FAR_BACK = 500, halves.REACH * BLOCKS["residual"] * BLOCK
#: Sums that the levels since a boundary are kept in, of each profile.
CELLS, LIGHT_CELLS = 64, 32
#: Mean residuals in which a season is sought, and how many there are before it is first.
SEASON_MEANS, SEASON_FROM = 340, 50
#: What is not kept: it follows from the rest.
DERIVED = "season_response"
#: The block of what has not happened.
NEVER = -(1 << 40)


def sizes(channels: int, *, light: bool = False) -> dict[str, int]:
    """F, features of each signal of d sensors."""
    if light:
        return {"level": channels, "residual": 1}
    pairs = reference.empty(0, channels)["pairs"].shape[-1]
    more = channels * len(echoes.lags(channels))
    return {"level": channels, "residual": signals.size(channels, pairs) + more}


class Fields:
    """Arrays by name, one row a series.

    Parameters
    ----------
    channels
        d, sensors in a reading.
    kinds
        Kinds of river detectors.
    light
        Of the residual only the joint one, |U|.
    """

    def __init__(self, channels: int, kinds: int, *, light: bool = False) -> None:
        self.channels = channels
        self.kinds = kinds
        self.light = light
        self.sizes = sizes(channels, light=light)
        #: Fields of the forecaster: light does without those of the partial residuals.
        self.fit = [
            f"fit_{name}"
            for name in reference.empty(0, channels)
            if not (light and name in ("partial", "pairs"))
        ]
        #: The residual's last features that are tested together, too: the white ones.
        self.white = 0 if light else channels
        #: Whether there are echoes, and whole segments are compared.
        self.few = echoes.few(channels) and not light
        #: Readings before its detection that a boundary lies at most.
        self.look_back = FAR_BACK if self.few else LOOK_BACK
        self.arrays = self._empty(0)

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self.arrays[name]

    def __len__(self) -> int:
        return len(self.arrays["rows"])

    def grow(self, slots: int) -> None:
        """Make room for more series."""
        more = self._empty(slots - len(self))
        self.arrays = {name: np.concatenate([a, more[name]]) for name, a in self.arrays.items()}

    def _empty(self, slots: int) -> dict[str, NDArray[Any]]:
        d, cells = self.channels, LIGHT_CELLS if self.light else CELLS
        made: dict[str, NDArray[Any]] = {
            # readings seen
            "rows": np.zeros(slots, dtype=np.int64),
            # number of the open segment, and the block that it is compared from
            "segment": np.zeros(slots, dtype=np.int64),
            "segment_start": np.zeros(slots, dtype=np.int64),
            # block of the last crossing, and what the levels did then, in sigmas
            "crossed": np.full(slots, NEVER, dtype=np.int64),
            "direction": np.zeros((slots, d), dtype=np.float32),
            # block at which a transition that is not over began, at which it may be, up to which
            # it is kept, whether its levels tell; blocks in a sum; sums in STEPs, offset and time
            # of their first readings; level before; what the levels are measured by
            "opened": np.full(slots, NEVER, dtype=np.int64),
            "due": np.zeros(slots, dtype=np.int64),
            "told": np.zeros(slots, dtype=np.int64),
            "by_level": np.zeros(slots, dtype=np.bool_),
            "cell_width": np.ones(slots, dtype=np.int64),
            "cells": np.zeros((slots, cells, d), dtype=np.int32),
            "cell_places": np.zeros((slots, cells, 2), dtype=np.int64),
            "cell_before": np.zeros((slots, d)),
            "cell_sigma": np.ones((slots, d)),
            # block of each kind's last alarm
            "alarms": np.full((slots, self.kinds), NEVER, dtype=np.int64),
            # largest statistics in the open window; of those before: how many, their squares
            "peak": np.zeros((slots, 3)),
            "peaks": np.zeros((slots, 3)),
            "peak_mean": np.zeros((slots, 3)),
            "peak_variance": np.zeros((slots, 3)),
            # of the level, in the sensors' units
            "location": np.zeros((slots, d)),
            "scale": np.ones((slots, d)),
            # sensors that the forecaster knows: they moved while it was fitted
            "live": np.ones((slots, d), dtype=np.bool_),
            # the forecaster's centre, in its scales; block at which it moved; sum since, in UNITs
            "centre": np.zeros((slots, d)),
            "moved": np.zeros(slots, dtype=np.int64),
            "centre_part": np.zeros((slots, d), dtype=np.int64),
            # last partial residuals, if the sensors are few
            "past": np.zeros((slots, echoes.LONGEST * self.few, d), dtype=np.float32),
            # of the open segment's fingerprint: its block, where its holes are counted from, sums
            # of the levels' means and of their squares in UNITs, readings that are missing
            "print_start": np.zeros(slots, dtype=np.int64),
            "print_since": np.zeros(slots, dtype=np.int64),
            "print_sums": np.zeros((slots, 2, d), dtype=np.int64),
            "print_untold": np.zeros((slots, d), dtype=np.int64),
            # offset and time of the last blocks' first readings
            "places": np.zeros((slots, self.look_back // BLOCK + 1, 2), dtype=np.int64),
        }
        if not self.light:
            made |= {
                # mean residuals, the sum since the last, and the readings that it began after
                "season_means": np.zeros((slots, SEASON_MEANS, d), dtype=np.int8),
                "season_part": np.zeros((slots, d), dtype=np.int64),
                "season_from": np.zeros((slots, d)),
                # cycles a reading (0: no season), its harmonic in the residuals, and what one of
                # those makes of the readings; the number of means at which it is sought next
                "season_cycle": np.zeros(slots),
                "season_wave": np.zeros((slots, d), dtype=np.complex128),
                "season_response": np.zeros((slots, d, d), dtype=np.complex64),
                "season_due": np.full(slots, SEASON_FROM, dtype=np.int64),
            }
        for signal, f in self.sizes.items():
            made |= {
                f"{signal}_blocks": np.zeros(slots, dtype=np.int64),
                # sum of the blocks since the last whole mean, in UNITs
                f"{signal}_part": np.zeros((slots, f), dtype=np.int32),
                # what stands in for missing sensors
                f"{signal}_fill": np.zeros((slots, f), dtype=np.float32),
                # river's units
                f"{signal}_centre": np.zeros((slots, f), dtype=np.float32),
                f"{signal}_deviation": np.ones((slots, f), dtype=np.float32),
            }
        forecaster = reference.empty(slots, d)
        return made | {name: forecaster[name.removeprefix("fit_")] for name in self.fit}

    def state(self, slots: IntArray) -> dict[str, NDArray[Any]]:
        """Arrays (S, ...) of some series; complex ones as pairs of real numbers."""
        taken = {name: a[slots] for name, a in self.arrays.items() if name != DERIVED}
        return {n: a.view(a.real.dtype) if np.iscomplexobj(a) else a for n, a in taken.items()}

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go on from `state`, but for what is DERIVED."""
        self.arrays = self._empty(len(state["rows"])) | {
            name: np.array(state[name]).view(array.dtype)
            for name, array in self.arrays.items()
            if name != DERIVED
        }
