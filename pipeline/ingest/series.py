"""Readings in, grouped by series; the batch without the series that are too many, out.

Which names stay depends on the order of the log alone: a partition's first names are its series.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.records import Batch, DeadLetter, FloatArray, IntArray, Records


def group(
    *,
    topic: str,
    partition: int,
    ids: IntArray,
    names: Sequence[str],
    offsets: IntArray,
    times: IntArray,
    values: FloatArray,
    next_offset: int,
    labels: FloatArray | None = None,
) -> Batch:
    """One batch of readings (N,) in the order of the log, which stays their order inside a series.

    ids: (N,) number of each reading's series in `names`.
    """
    order = np.argsort(ids, kind="stable")
    sorted_ids = ids[order]
    starts = np.concatenate([[0], np.flatnonzero(np.diff(sorted_ids)) + 1, [len(ids)]])
    return Batch(
        topic=topic,
        partition=partition,
        series=tuple(names[i] for i in sorted_ids[starts[:-1]].tolist()),
        starts=starts.astype(np.int64),
        offsets=offsets[order],
        order=order.astype(np.int64),
        times=times[order],
        values=values[order],
        next_offset=next_offset,
        labels=None if labels is None else labels[order],
    )


def admit(
    batch: Batch, records: Records, known: Collection[str], most: int
) -> tuple[Batch | None, list[DeadLetter]]:
    """The batch without new series beyond the first `most` (None if nothing is left), and those.

    records: what the batch was decoded from. known: series of earlier batches; they stay.
    """
    new = [i for i, name in enumerate(batch.series) if name not in known]
    if len(known) + len(new) <= most:
        return batch, []
    in_order = sorted(new, key=lambda i: batch.order[batch.starts[i]])
    refused = in_order[max(0, most - len(known)) :]
    if not refused:
        return batch, []
    keep = np.ones(len(batch.series), dtype=np.bool_)
    keep[refused] = False
    rows = np.repeat(keep, np.diff(batch.starts))
    letters = _letters(records, set(batch.offsets[~rows].tolist()), most)
    return (_only(batch, keep, rows) if rows.any() else None), letters


def _only(batch: Batch, keep: NDArray[np.bool_], rows: NDArray[np.bool_]) -> Batch:
    """The batch with these series and their rows; ranks of the log keep their order."""
    sizes = np.diff(batch.starts)[keep]
    return Batch(
        topic=batch.topic,
        partition=batch.partition,
        series=tuple(batch.series[i] for i in np.flatnonzero(keep)),
        starts=np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        offsets=batch.offsets[rows],
        order=batch.order[rows],
        times=batch.times[rows],
        values=batch.values[rows],
        next_offset=batch.next_offset,
        labels=None if batch.labels is None else batch.labels[rows],
    )


def _letters(records: Records, offsets: set[int], most: int) -> list[DeadLetter]:
    return [
        DeadLetter(
            topic=records.topic,
            partition=records.partition,
            offset=offset,
            kind="too_many_series",
            reason=f"a new series, and the partition has {most} (stream.max_series)",
            key=key,
            value=value,
        )
        for offset, key, value in zip(records.offsets, records.keys, records.values, strict=True)
        if offset in offsets
    ]
