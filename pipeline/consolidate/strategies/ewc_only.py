"""Nothing kept: online EWC, and the parent's outputs on the new examples. For data that may not be
stored."""

from __future__ import annotations

from functools import partial

import torch

from pipeline.consolidate.ewc import running
from pipeline.consolidate.search import trained_at
from pipeline.consolidate.strategies.base import Keeps, Merge
from pipeline.consolidate.training import Distillation, Recipe, Task, Trained, train
from pipeline.model.networks import evaluating
from pipeline.model.objectives import CrossEntropy

#: lambda where targets are classes, and where they are numbers.
CLASSES, NUMBERS = 100.0, 1000.0
#: Weight and temperature of the parent's logits; weight of its forecasts.
LOGITS, TEMPERATURE, FORECASTS = 0.8, 4.0, 1.0
#: Times `learn.lr`: Adam's rate for numbers, SGD's for classes; its warm-up, and the norm where it
#: is clipped. Times `learn.batch`: SGD's batch, as nothing is replayed in a step; many short ones
#: forget less than few long ones.
ADAM_RATE, SGD_RATE, WARM_UP, CLIP, SGD_BATCH = 1 / 6, 500 / 3, 0.3, 1.0, 1 / 2


class EwcOnly:
    """L(new) + distillation from the parent (Li and Hoiem 2016) under the pull of `online_ewc`."""

    keeps: Keeps = "nothing"
    merge: Merge | None = staticmethod(running)

    def __call__(self, task: Task) -> Trained:
        """SGD with clipped gradients for classes, Adam for numbers, under the pull."""
        classes = isinstance(task.objective, CrossEntropy)
        train_ = partial(
            train,
            recipe=_recipe(task, classes),
            distillation=_parent(task, classes) if task.anchor else None,
        )
        return trained_at(task, CLASSES if classes else NUMBERS, train_)


def _recipe(task: Task, classes: bool) -> Recipe:
    lr, epochs, batch = task.learn.lr, task.learn.epochs, task.learn.batch
    if not classes:
        return Recipe(lr=ADAM_RATE * lr, epochs=epochs, batch=batch)
    return Recipe(
        optimiser="sgd",
        lr=SGD_RATE * lr,
        warm_up=WARM_UP,
        clip=CLIP,
        epochs=epochs,
        batch=max(1, int(SGD_BATCH * batch)),
    )


@torch.no_grad()
def _parent(task: Task, classes: bool) -> Distillation:
    """What the parent answers on the new examples, before a step is taken."""
    with evaluating(task.model):
        outputs: torch.Tensor = task.model(task.new.x)
    if classes:
        return Distillation(outputs=outputs, weight=LOGITS, temperature=TEMPERATURE)
    return Distillation(outputs=outputs, weight=FORECASTS)
