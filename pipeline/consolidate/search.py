"""How strongly EWC is to pull: as the settings say, or as a short search finds best."""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from typing import Protocol

from torch import nn

from pipeline.consolidate.ewc import strength
from pipeline.consolidate.training import Task, Trained, mean_loss

#: Strengths that are compared, with the rule's own.
STRENGTHS = (0.0, 3.0, 10.0, 30.0, 100.0)


class Training(Protocol):
    """Trains a task's model in place at a strength of the penalty."""

    def __call__(self, task: Task, *, ewc_lambda: float) -> Trained:
        """How it went."""


def trained_at(task: Task, rule: float, train: Training) -> Trained:
    """Train the task's model at the strength that `learn.ewc_lambda` wants.

    A search trains a copy of the parent at each of STRENGTHS and the rule's own, all on the same
    draws, and keeps the one with the least mean loss over all tasks' `compared_on`, the weakest if
    several have it. Without an anchor or something to compare on it is the rule's. `max_seconds`
    are for all of them together.

    rule: lambda as the rule of the method has it.

    Raises
    ------
    TrainingFailed
        One of them failed, or time is up.
    """
    if task.learn.ewc_lambda != "search" or task.anchor is None or not task.compared_on:
        return train(task, ewc_lambda=strength(task.learn.ewc_lambda, rule))
    strengths = sorted({*STRENGTHS, rule})
    draws = task.generator.get_state()
    made: dict[float, tuple[nn.Module, Trained]] = {}
    compared: dict[float, float] = {}
    for done, each in enumerate(strengths):
        task.generator.set_state(draws)
        progress = _share(task.progress, done, len(strengths))
        one = replace(task, model=deepcopy(task.model), progress=progress)
        made[each] = one.model, train(one, ewc_lambda=each)
        compared[each] = _loss(one)
    model, trained = made[min(strengths, key=lambda each: compared[each])]
    task.model.load_state_dict(model.state_dict())
    return replace(trained, compared=compared)


def _loss(task: Task) -> float:
    """Mean over tasks of their mean losses; infinite if it is no number."""
    losses = [mean_loss(task.model, task.objective, part) for part in task.compared_on]
    mean = sum(losses) / len(losses)
    return math.inf if math.isnan(mean) else mean


def _share(
    progress: Callable[[float], None] | None, done: int, of: int
) -> Callable[[float], None] | None:
    """The progress of one training as that of all."""
    if progress is None:
        return None
    return lambda share: progress((done + share) / of)
