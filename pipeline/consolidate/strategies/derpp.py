"""DER++ (Buzzega et al. 2020): old outputs on one draw, old targets on another."""

from __future__ import annotations

from pipeline.consolidate.strategies.base import Keeps, Merge
from pipeline.consolidate.training import Rehearsal, Task, Trained, train

#: Weights of the stored outputs and of the targets.
ALPHA, BETA = 0.5, 0.5


class Derpp:
    """L(new) + ALPHA |output - stored output|^2 on one replayed batch + BETA L on another."""

    keeps: Keeps = "reservoir"
    merge: Merge | None = None

    def __call__(self, task: Task) -> Trained:
        """Adam over all three."""
        if task.kept is None:
            return train(task)
        kept = task.kept
        old = [Rehearsal(kept=kept, outputs=ALPHA), Rehearsal(kept=kept, targets=BETA)]
        return train(task, rehearsals=old)
