"""Readings and their scores in, what a checkpoint adds to the timelines out."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pipeline.records import Batch, FloatArray, IntArray
from pipeline.register.timeline import Buckets, Summary, in_buckets, merged


class Timeline:
    """A partition's first series, summarised between two checkpoints.

    Parameters
    ----------
    begun
        Series -> readings that SQL has of each, in the order of their slots.
    most
        Series, at most; those of `begun` beyond them go on no longer.
    """

    def __init__(self, begun: Mapping[str, int], most: int) -> None:
        self.most = most
        self._slots = {name: slot for slot, name in enumerate(begun)}
        self._before = np.array(list(begun.values()), dtype=np.int64)
        self._rows = self._before.copy()
        self._parts: list[Buckets] = []

    def add(self, batch: Batch, scores: FloatArray | None) -> None:
        """Take a batch in; scores: (N,), None without a champion."""
        slots, counts = self._slots_of(batch), np.diff(batch.starts)
        tracked = slots < self.most
        if not tracked.any():
            return
        kept = np.repeat(tracked, counts)
        # rows of a series go on from those before: its first row less its place in the batch
        begin = self._rows[np.minimum(slots, len(self._rows) - 1)] - batch.starts[:-1]
        rows = np.repeat(begin, counts) + np.arange(len(batch))
        score = np.full(len(batch), np.nan, np.float32) if scores is None else scores
        self._parts.append(
            in_buckets(
                np.repeat(slots, counts)[kept],
                rows[kept],
                batch.times[kept],
                batch.offsets[kept],
                np.column_stack([batch.values, score])[kept],
            )
        )
        self._rows[slots[tracked]] += counts[tracked]

    def _slots_of(self, batch: Batch) -> IntArray:
        """(S,) slots, numbered in the order of the log; `most` of those that are too many."""
        for i in np.argsort(batch.order[batch.starts[:-1]]):
            if len(self._slots) < self.most:
                self._slots.setdefault(batch.series[i], len(self._slots))
        if more := len(self._slots) - len(self._rows):
            self._rows = np.pad(self._rows, (0, more))
            self._before = np.pad(self._before, (0, more))
        return np.array([self._slots.get(name, self.most) for name in batch.series])

    def summary(self) -> Summary | None:
        """What has come since it was last `written`; None: nothing."""
        if not self._parts:
            return None
        self._parts = [merged(self._parts)]
        return Summary(
            series=list(self._slots),
            before=self._before,
            rows=self._rows,
            buckets=self._parts[0],
        )

    def written(self) -> None:
        """What `summary` gave is in SQL."""
        self._before, self._parts = self._rows.copy(), []
