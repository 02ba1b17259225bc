"""Versions in, their rows of R out: many of them on the same held-out readings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.consolidate.consolidation import one_thread, skill
from pipeline.consolidate.examples import examples, windows_of
from pipeline.consolidate.readings import Readings
from pipeline.consolidate.training import Examples
from pipeline.model.scaling import Scaling
from pipeline.model.weights import Weights
from pipeline.records import FloatArray


def held_out(segments: Iterable[bytes], window: int, share: float) -> FloatArray:
    """(N, W + 1, d) held-out windows of some segments' readings."""
    readings = [Readings.from_bytes(content) for content in segments]
    return windows_of(readings, window, share)[1].values


class Measure:
    """Skill of any version on fixed windows, which are scaled once for all versions of a scaling.

    Parameters
    ----------
    windows
        Task -> (N, W + 1, d) readings that no version was trained on.
    factory
        As `Weights.from_bytes` has it.
    """

    def __init__(self, windows: Mapping[int, FloatArray], factory: str = "") -> None:
        #: (K,) the columns of a row.
        self.tasks = tuple(sorted(windows))
        self._windows, self._factory = windows, factory
        self._scaling: Scaling | None = None
        self._parts: list[Examples] = []

    def row(self, weights: bytes) -> NDArray[np.float64]:
        """(K,) skill on each task, NaN where nothing was observed; ArtifactCorrupt if no weights.

        A skill is 1 - MSE / variance, as `consolidation.evaluate` has it.
        """
        version = Weights.from_bytes(weights, self._factory)
        with one_thread():
            if self._scaling is None or not _equal(self._scaling, version.scaling):
                self._scaling = version.scaling
                self._parts = [examples(self._windows[t], version) for t in self.tasks]
            found = [skill(version, part) for part in self._parts]
        return np.array([np.nan if x is None else x for x in found], dtype=np.float64)


def _equal(a: Scaling, b: Scaling) -> bool:
    return torch.equal(a.location, b.location) and torch.equal(a.scale, b.scale)
