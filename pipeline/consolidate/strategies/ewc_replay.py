"""The default: online EWC by proximal steps, and replay from the reservoir with stored outputs."""

from __future__ import annotations

import torch

from pipeline.consolidate.strategies.base import Task
from pipeline.consolidate.training import Replay, Trained, train


def ewc_replay(task: Task) -> Trained:
    """Train under the anchor's pull, each batch with as many old windows."""
    return train(
        task.model,
        task.new,
        task.held_out,
        task.learn,
        replay=_replay(task),
        anchor=task.anchor,
        generator=task.generator,
        progress=task.progress,
    )


@torch.no_grad()
def _replay(task: Task) -> Replay | None:
    """Old windows with what the parent answers on them, before a step is taken."""
    if task.old is None or task.anchor is None:
        return None
    return Replay(examples=task.old, outputs=task.model(task.old.x))
