"""The default: online EWC by proximal steps, and replay with outputs and targets."""

from __future__ import annotations

from functools import partial

from pipeline.consolidate.ewc import by_rule, running
from pipeline.consolidate.search import trained_at
from pipeline.consolidate.strategies.base import Keeps, Merge
from pipeline.consolidate.strategies.replay_only import rehearsals
from pipeline.consolidate.training import Task, Trained, train
from pipeline.model.objectives import CrossEntropy

#: The least lambda, where targets are classes and where they are numbers.
CLASSES, NUMBERS = 20.0, 1.0


class EwcReplay:
    """The loss of `replay_only` under the pull of `online_ewc`: the less is kept, the stronger."""

    keeps: Keeps = "reservoir"
    merge: Merge | None = staticmethod(running)

    def __call__(self, task: Task) -> Trained:
        """Adam over both, under the pull."""
        least = CLASSES if isinstance(task.objective, CrossEntropy) else NUMBERS
        rule = by_rule(len(task.kept.examples) if task.kept else 0, least)
        return trained_at(task, rule, partial(train, rehearsals=rehearsals(task)))
