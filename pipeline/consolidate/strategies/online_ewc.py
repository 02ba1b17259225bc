"""Online EWC (Schwarz et al. 2018): one quadratic penalty, whose past decays."""

from __future__ import annotations

from pipeline.consolidate.ewc import BARE, running
from pipeline.consolidate.search import trained_at
from pipeline.consolidate.strategies.base import Keeps, Merge
from pipeline.consolidate.training import Task, Trained, train


class OnlineEwc:
    """L(new), pulled to where the weights were last, as much as each has mattered of late."""

    keeps: Keeps = "nothing"
    merge: Merge | None = staticmethod(running)

    def __call__(self, task: Task) -> Trained:
        """Adam over the new examples, under the pull."""
        return trained_at(task, BARE, train)
