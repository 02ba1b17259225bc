"""Naive fine-tuning: the new segment only. The baseline that forgets."""

from __future__ import annotations

from pipeline.consolidate.strategies.base import Keeps, Merge
from pipeline.consolidate.training import Task, Trained, train


class FineTune:
    """Trains on the new segment as if there had never been another."""

    keeps: Keeps = "nothing"
    merge: Merge | None = None

    def __call__(self, task: Task) -> Trained:
        """Adam over the new examples."""
        return train(task)
