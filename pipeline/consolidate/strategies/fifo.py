"""Replay of the latest examples only: what a queue keeps."""

from __future__ import annotations

from pipeline.consolidate.strategies.base import Keeps, Merge
from pipeline.consolidate.training import Rehearsal, Task, Trained, train


class Fifo:
    """L(new) + L(replayed), of the examples that were seen last: the oldest tasks leave first."""

    keeps: Keeps = "latest"
    merge: Merge | None = None

    def __call__(self, task: Task) -> Trained:
        """Adam over both."""
        old = [Rehearsal(kept=task.kept, targets=1.0)] if task.kept else []
        return train(task, rehearsals=old)
