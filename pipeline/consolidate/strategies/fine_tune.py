"""Naive fine-tuning: the new segment only. The baseline that forgets."""

from __future__ import annotations

from pipeline.consolidate.strategies.base import Task
from pipeline.consolidate.training import Trained, train


def fine_tune(task: Task) -> Trained:
    """Train on the new segment as if there had never been another."""
    return train(
        task.model,
        task.new,
        task.held_out,
        task.learn,
        replay=None,
        anchor=None,
        generator=task.generator,
        progress=task.progress,
    )
