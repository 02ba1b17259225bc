"""Tasks one after the other through the parts that the trainer is made of: R out."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.config import Learn
from pipeline.consolidate.ewc import Anchor
from pipeline.consolidate.fisher import fisher_diagonal
from pipeline.consolidate.readings import Windows
from pipeline.consolidate.reservoir import Reservoir
from pipeline.consolidate.state import Answers
from pipeline.consolidate.strategies import STRATEGIES
from pipeline.consolidate.training import Examples, Kept, Task
from pipeline.model.networks import evaluating
from pipeline.model.objectives import Objective

#: A model in, its figure on each task's held-out rows out.
Measure = Callable[[nn.Module], list[float]]


class Learner:
    """A model that meets task after task, and what its strategy keeps of them.

    Parameters
    ----------
    learn
        Its strategy, recipe, and how many rows the reservoir keeps.
    seed
        Of batches, Fisher draws and the reservoir, which is the shipped one, over rows' numbers.
    """

    def __init__(self, model: nn.Module, objective: Objective, learn: Learn, seed: int) -> None:
        self.model, self.objective, self.settings, self.seed = model, objective, learn, seed
        self.strategy = STRATEGIES[learn.strategy]
        self.reservoir = Reservoir(learn.reservoir_capacity, 0, 1, seed=(seed,))
        self.anchor: Anchor | None = None
        self.answers: Answers | None = None
        self.seen: list[Examples] = []
        #: In training, Fisher diagonal and reservoir included.
        self.seconds = 0.0

    def learn(self, new: Examples) -> None:
        """One task more: what the trainer does at a boundary."""
        started = time.perf_counter()
        generator = torch.Generator().manual_seed(1000 * self.seed + len(self.seen))
        if self.seen:
            self._close(self.seen[-1], generator)
        self.model.train()
        self.strategy(
            Task(
                model=self.model,
                objective=self.objective,
                new=new,
                held_out=None,
                kept=self._kept(),
                anchor=self.anchor,
                learn=self.settings,
                generator=generator,
            )
        )
        self.seen.append(new)
        self.seconds += time.perf_counter() - started

    def _close(self, ended: Examples, generator: torch.Generator) -> None:
        """The ended task enters anchor and reservoir."""
        if self.strategy.merge is not None:
            rows = torch.randperm(len(ended), generator=generator)[: self.settings.fisher_rows]
            fisher = fisher_diagonal(self.model, self.objective, ended.x[rows], generator)
            theta = {name: p.detach().clone() for name, p in self.model.named_parameters()}
            new = Anchor(theta=theta, fisher=fisher)
            self.anchor = self.strategy.merge(self.anchor, new, self.settings.gamma)
        first = sum(len(part) for part in self.seen[:-1])
        rows_ = np.arange(first, first + len(ended))
        self.reservoir.offer(
            Windows(
                values=rows_[:, None, None].astype(np.float32),
                offsets=np.stack([rows_, rows_], axis=1),
            )
        )

    @torch.no_grad()
    def _kept(self) -> Kept | None:
        """What the strategy replays, with what was answered on it when it entered."""
        if not self.seen or self.strategy.keeps == "nothing":
            return None
        rows = self._rows(sum(len(part) for part in self.seen))
        old = self._of(rows)
        keys = torch.stack([rows, rows], dim=1).numpy()
        with evaluating(self.model):
            now = self.model(old.x)
        self.answers = self.answers.of(keys, now) if self.answers else Answers(keys, now)
        return Kept(examples=old, outputs=self.answers.outputs)

    def _of(self, rows: Tensor) -> Examples:
        """The rows with such numbers, without a copy of all others."""
        ends = torch.tensor([len(part) for part in self.seen]).cumsum(0)
        part_of = torch.bucketize(rows, ends, right=True)
        x, y = (getattr(self.seen[0], n) for n in ("x", "y"))
        kept = Examples(
            x=x.new_empty(len(rows), *x.shape[1:]), y=y.new_empty(len(rows), *y.shape[1:])
        )
        for k, part in enumerate(self.seen):
            here = part_of == k
            places = rows[here] - (ends[k] - len(part))
            kept.x[here], kept.y[here] = part.x[places], part.y[places]
        return kept

    def _rows(self, count: int) -> Tensor:
        """Numbers of the rows that are kept, of `count`."""
        if self.strategy.keeps == "reservoir":
            return torch.from_numpy(self.reservoir.state()["offsets"][:, 0].copy())
        if self.strategy.keeps == "latest":
            return torch.arange(max(0, count - self.settings.reservoir_capacity), count)
        return torch.arange(count)


def run(
    model: nn.Module,
    objective: Objective,
    learn: Learn,
    seed: int,
    tasks: Sequence[Examples],
    measure: Measure,
) -> tuple[np.ndarray, float]:
    """R (T, K) after each of the tasks, and the seconds of training; `joint` learns all at once."""
    learner = Learner(model, objective, learn, seed)
    if learn.strategy == "joint":
        parts = [torch.cat([getattr(t, name) for t in tasks]) for name in ("x", "y")]
        tasks = [Examples(x=parts[0], y=parts[1])]
    matrix = []
    for task in tasks:
        learner.learn(task)
        with evaluating(model), torch.no_grad():
            matrix.append(measure(model))
    return np.array(matrix), learner.seconds


def summary(matrix: np.ndarray) -> tuple[float, float]:
    """Average at the end; forgetting, the best before the end minus the end, over the old tasks."""
    last = matrix[-1]
    if len(matrix) == 1:
        return float(last.mean()), 0.0
    lost = matrix[:-1, : len(last) - 1].max(axis=0) - last[:-1]
    return float(last.mean()), float(lost.mean())
