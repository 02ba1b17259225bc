"""EWC (Kirkpatrick et al. 2017): a quadratic penalty for each task that was."""

from __future__ import annotations

from pipeline.consolidate.ewc import BARE, separate, strength
from pipeline.consolidate.strategies.base import Keeps, Merge
from pipeline.consolidate.training import Task, Trained, train


class Ewc:
    """L(new), pulled to where the weights were after each task, as much as each mattered."""

    keeps: Keeps = "nothing"
    merge: Merge | None = staticmethod(separate)

    def __call__(self, task: Task) -> Trained:
        """Adam over the new examples, under the pull."""
        return train(task, ewc_lambda=strength(task.learn.ewc_lambda, BARE))
