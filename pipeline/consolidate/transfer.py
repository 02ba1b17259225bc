"""Rows of skills in, the error matrix and its summaries out: what was kept, lost, carried over.

R[i, j] is the skill after consolidation i on task j's held-out readings; NaN where it was not
measured. Average, backward and forward transfer are those of Lopez-Paz and Ranzato 2017 (GEM), with
the first version in the place of an untrained one; forgetting is that of Chaudhry et al. 2018
(Riemannian Walk), counted from where a task was learned. The learning curve is the average
incremental accuracy of Rebuffi et al. 2017 (iCaRL), with skills in its place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]
#: What tells tasks apart.
K = TypeVar("K")
#: A version's skills by task, and its parent's on the same readings.
Row = tuple[Mapping[K, float], Mapping[K, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """What a sequence of consolidations kept, lost and carried over; None where undefined."""

    average: float | None
    #: Below 0 if the tasks were never better than at the end.
    forgetting: float | None
    backward: float | None
    forward: float | None
    #: Under the learning curve, a consolidation as wide as any other.
    area: float | None


def error_matrix(
    tasks: Sequence[K], rows: Sequence[Row[K]], first: Mapping[K, float]
) -> tuple[Matrix, list[int]]:
    """R (T, K), and the row at which each task was learned first (K,).

    rows: of versions of which each is the parent of the next; one at least has measured each task.
    Before a task was learned, two of its rows are known: the one just before, from the parent of
    the version that learned it, and the first, from the first version as it is measured now.
    """
    r = np.array([[skills.get(task, np.nan) for task in tasks] for skills, _ in rows], dtype=float)
    learned = [int(np.flatnonzero(~np.isnan(r[:, j]))[0]) for j in range(len(tasks))]
    for j, (task, row) in enumerate(zip(tasks, learned, strict=True)):
        if row > 0:
            r[0, j] = first.get(task, np.nan)
            r[row - 1, j] = rows[row][1].get(task, np.nan)
    return r, learned


def learning_curve_area(before: float, curve: Sequence[float]) -> float:
    """Mean held-out loss from the first step to the last, by trapezoids over the epochs.

    Chaudhry et al. 2019 (A-GEM) take it of the accuracy: here less is quicker.
    """
    losses = np.array([before, *curve])
    return float((losses[1:] + losses[:-1]).mean() / 2) if len(curve) else before


def transfer(r: Matrix, learned_at: Sequence[int]) -> Transfer:
    """Summaries of R (T, K), with T the last row.

    average = mean_j R[T, j]
    forgetting = mean_j (max_{l_j <= i < T} R[i, j] - R[T, j]), over tasks learned before T;
    backward = mean_j (R[T, j] - R[l_j, j]), over the same;
    forward = mean_j (R[l_j - 1, j] - R[0, j]), over tasks learned after the second row;
    area = mean_i mean_j R[i, j], over the tasks with l_j <= i.

    learned_at: (K,) row l_j at which task j was learned first.
    """
    last = r[-1]
    tasks = range(r.shape[1])
    before = [j for j in tasks if learned_at[j] < len(r) - 1]
    return Transfer(
        average=_mean(list(last)),
        forgetting=_mean([_best(r[learned_at[j] : -1, j]) - last[j] for j in before]),
        backward=_mean([last[j] - r[learned_at[j], j] for j in before]),
        forward=_mean([r[learned_at[j] - 1, j] - r[0, j] for j in tasks if learned_at[j] > 1]),
        area=_mean([x for x in curve(r, learned_at) if x is not None]),
    )


def curve(r: Matrix, learned_at: Sequence[int]) -> list[float | None]:
    """(T,) the learning curve: mean skill over the tasks that were learned by each row of R."""
    known = np.asarray(learned_at) <= np.arange(len(r))[:, None]
    return [_mean(list(row[mine])) for row, mine in zip(r, known, strict=True)]


def _best(column: Matrix) -> float:
    known = column[~np.isnan(column)]
    return float(known.max()) if len(known) else float("nan")


def _mean(values: list[float]) -> float | None:
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else None
