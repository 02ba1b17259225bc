"""Joint training on everything there ever was: what the others are measured by."""

from __future__ import annotations

from dataclasses import replace

import torch

from pipeline.consolidate.strategies.base import Keeps, Merge
from pipeline.consolidate.training import Examples, Kept, Task, Trained, train


class Joint:
    """Trains on the new segment and all old ones together, each example as often as any other.

    An upper bound: it keeps every reading for ever."""

    keeps: Keeps = "everything"
    merge: Merge | None = None

    def __call__(self, task: Task) -> Trained:
        """Adam over all examples, shuffled."""
        if task.kept is None:
            return train(task)
        trained = train(replace(task, new=_joined(task.new, task.kept)))
        return replace(trained, replayed=len(task.kept.examples))


def _joined(new: Examples, kept: Kept) -> Examples:
    return Examples(x=torch.cat([new.x, kept.examples.x]), y=torch.cat([new.y, kept.examples.y]))
