"""Dark experience replay (Buzzega et al. 2020): old examples with their outputs."""

from __future__ import annotations

from pipeline.consolidate.strategies.base import Keeps, Merge
from pipeline.consolidate.training import Rehearsal, Task, Trained, train

#: Weight of the stored outputs.
ALPHA = 0.5


class Der:
    """L(new) + ALPHA |output - stored output|^2 of replayed examples, their targets forgotten."""

    keeps: Keeps = "reservoir"
    merge: Merge | None = None

    def __call__(self, task: Task) -> Trained:
        """Adam over both."""
        old = [Rehearsal(kept=task.kept, outputs=ALPHA)] if task.kept else []
        return train(task, rehearsals=old)
