"""What every method of consolidation says of itself, and does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol

from pipeline.consolidate.ewc import Anchor
from pipeline.consolidate.training import Task, Trained

#: Which old examples a method replays: a uniform sample, the latest, all, or none.
Keeps = Literal["reservoir", "latest", "everything", "nothing"]
#: What was wanted of the weights before, what the ended task wants, and gamma; the two together.
Merge = Callable[[Anchor | None, Anchor, float], Anchor]


class Strategy(Protocol):
    """Trains a model on a new segment, and loses the old ones or not."""

    @property
    def keeps(self) -> Keeps:
        """The old examples that it wants in `task.kept`."""

    @property
    def merge(self) -> Merge | None:
        """How an ended task enters the anchor; None: the method has no anchor."""

    def __call__(self, task: Task) -> Trained:
        """Train `task.model`; deterministic given the task and its generator.

        Raises
        ------
        TrainingFailed
            The loss is not finite, or time is up.
        """
