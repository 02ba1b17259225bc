"""EWC (Kirkpatrick et al. 2017): a quadratic penalty for each task that was."""

from __future__ import annotations

from pipeline.consolidate.ewc import BARE, separate
from pipeline.consolidate.search import trained_at
from pipeline.consolidate.strategies.base import Keeps, Merge
from pipeline.consolidate.training import Task, Trained, train


class Ewc:
    """L(new), pulled to where the weights were after each task, as much as each mattered."""

    keeps: Keeps = "nothing"
    merge: Merge | None = staticmethod(separate)

    def __call__(self, task: Task) -> Trained:
        """Adam over the new examples, under the pull."""
        return trained_at(task, BARE, train)
