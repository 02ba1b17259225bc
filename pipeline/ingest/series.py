"""A batch in; out the batch without the series that are too many, whose records are dead letters.

Which names stay depends on the order of the log alone: a partition's first names are its series.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from pipeline.records import Batch, DeadLetter, Records


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
