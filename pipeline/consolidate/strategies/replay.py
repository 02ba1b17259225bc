"""Experience replay (Chaudhry et al. 2019): old examples with their targets, from a reservoir."""

from __future__ import annotations

from pipeline.consolidate.strategies.base import Keeps, Merge
from pipeline.consolidate.training import Rehearsal, Task, Trained, train


class Replay:
    """L(new) + L(replayed): as many old examples as new ones in each step."""

    keeps: Keeps = "reservoir"
    merge: Merge | None = None

    def __call__(self, task: Task) -> Trained:
        """Adam over both."""
        old = [Rehearsal(kept=task.kept, targets=1.0)] if task.kept else []
        return train(task, rehearsals=old)
