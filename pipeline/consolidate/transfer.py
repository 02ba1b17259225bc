"""Error matrix in; average, forgetting, backward and forward transfer out.

R[i, j] is the skill after consolidation i on task j's held-out readings (Lopez-Paz and Ranzato
2017, GEM); NaN where it was not measured.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """What a sequence of consolidations kept, lost and carried over; None where undefined."""

    average: float | None
    forgetting: float | None
    backward: float | None
    forward: float | None


def transfer(r: Matrix, learned_at: list[int]) -> Transfer:
    """Summaries of R (T, K).

    average = mean_j R[T, j];  forgetting = mean_j (max_i R[i, j] - R[T, j]);
    backward = mean_j (R[T, j] - R[l_j, j]) over tasks learned before the last consolidation;
    forward = mean_j (R[l_j - 1, j] - R[0, j]) over tasks learned after the second.

    learned_at: (K,) row l_j at which task j was learned first.
    """
    last = r[-1]
    tasks = range(r.shape[1])
    best = np.array([_best(r[learned_at[j] :, j]) for j in tasks])
    backward = [last[j] - r[learned_at[j], j] for j in tasks if learned_at[j] < len(r) - 1]
    forward = [r[learned_at[j] - 1, j] - r[0, j] for j in tasks if learned_at[j] > 1]
    return Transfer(
        average=_mean(last),
        forgetting=_mean(best - last),
        backward=_mean(np.array(backward)),
        forward=_mean(np.array(forward)),
    )


def _best(column: Matrix) -> float:
    known = column[~np.isnan(column)]
    return float(known.max()) if len(known) else float("nan")


def _mean(values: Matrix) -> float | None:
    known = values[~np.isnan(values)] if len(values) else values
    return float(known.mean()) if len(known) else None
