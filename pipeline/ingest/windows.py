"""Per-series history in, forecast windows out, vectorised over the batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.records import FloatArray, IntArray


class History:
    """The last W readings of each series, stacked over the series of one partition.

    Parameters
    ----------
    window
        W, readings before the one that is forecast.
    channels
        d, sensors in a reading.
    """

    def __init__(self, window: int, channels: int) -> None:
        self.window = window
        self.channels = channels
        #: (slots, W, d), the newest last; NaN before a series' first reading.
        self._last = np.empty((0, window, channels), dtype=np.float32)
        #: (slots,) readings seen, counted up to W.
        self._seen = np.empty(0, dtype=np.int64)

    def update(
        self, slots: IntArray, starts: IntArray, values: FloatArray
    ) -> tuple[FloatArray, NDArray[np.bool_]]:
        """Windows (N, W, d) of the readings before each of `values` (N, d), and which are full.

        slots: (S,) rows of the series in the state, each once. starts: (S + 1,) their rows in
        `values`. The windows are views into one copy: do not write to them.
        """
        self._grow(int(slots.max(initial=-1)) + 1)
        counts = np.diff(starts)
        before = np.repeat(np.arange(len(slots)) * self.window, counts)
        here = np.arange(len(values)) + before  # row of each window's first reading
        joined = np.empty((len(values) + len(slots) * self.window, self.channels), dtype=np.float32)
        first = starts[:-1] + np.arange(len(slots)) * self.window
        joined[(first[:, None] + np.arange(self.window)).ravel()] = self._last[slots].reshape(
            -1, self.channels
        )
        joined[here + self.window] = values
        contexts = np.lib.stride_tricks.sliding_window_view(joined, self.window, axis=0)
        rank = np.arange(len(values)) - np.repeat(starts[:-1], counts)
        ready = np.repeat(self._seen[slots], counts) + rank >= self.window
        ends = starts[1:] + np.arange(len(slots)) * self.window
        self._last[slots] = joined[ends[:, None] + np.arange(self.window)]
        self._seen[slots] = np.minimum(self._seen[slots] + counts, self.window)
        if len(slots) == 1:
            return contexts[: len(values)].transpose(0, 2, 1), ready
        return contexts[here].transpose(0, 2, 1), ready

    def state(self, slots: IntArray) -> dict[str, NDArray[Any]]:
        """Arrays (S, ...) of some series."""
        return {"last": self._last[slots], "seen": self._seen[slots]}

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go on from `state` of every series, having seen nothing."""
        self._last, self._seen = np.array(state["last"]), np.array(state["seen"])

    def _grow(self, slots: int) -> None:
        room = len(self._seen)
        if slots <= room:
            return
        more = max(slots, 2 * room) - room
        empty = np.full((more, self.window, self.channels), np.nan, dtype=np.float32)
        self._last = np.concatenate([self._last, empty])
        self._seen = np.concatenate([self._seen, np.zeros(more, dtype=np.int64)])
