"""What every method of consolidation is given, and what it answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn

from pipeline.config import Learn
from pipeline.consolidate.ewc import Anchor
from pipeline.consolidate.training import Examples, Trained


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A model to train, and everything it may be trained on."""

    #: The parent's weights, or fresh ones; trained in place.
    model: nn.Module
    new: Examples
    #: Readings apart from those trained on, for early stopping.
    held_out: Examples
    #: Windows of ended segments; None if there are none.
    old: Examples | None
    #: The running anchor, the parent's Fisher folded in; None for a first version.
    anchor: Anchor | None
    learn: Learn
    generator: torch.Generator
    progress: Callable[[float], None] | None = None


class Strategy(Protocol):
    """Trains `task.model` on the new segment without losing the old ones."""

    def __call__(self, task: Task) -> Trained:
        """How it went; deterministic given the task and its generator."""
