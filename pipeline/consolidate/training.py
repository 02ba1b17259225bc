"""A model, new examples and kept ones in; the same model trained out.

A lean loop: flat parameters, batches drawn before it, one forward and one backward pass a step with
the output's gradient in closed form, in memory that is taken once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from pipeline.config import Learn
from pipeline.consolidate.ewc import Anchor
from pipeline.consolidate.flat import Flat
from pipeline.consolidate.optimisers import Adam, Optimiser, Pull, Sgd
from pipeline.consolidate.precision import passes_in
from pipeline.errors import TrainingFailed
from pipeline.model.networks import evaluating
from pipeline.model.objectives import Objective, matched

#: Epochs without a better held-out loss after which training stops.
PATIENCE = 5
#: Share of a training in which the rate rises, and decay of the weights.
WARM_UP, DECAY = 0.3, 0.05
#: New examples that are looked at where none are held out.
SOME = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Examples:
    """Inputs (N, ...) without holes, and targets (N, ...), of which some may be unobserved."""

    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        return len(self.x)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """Old examples, and what the parent answered on them (N, K)."""

    examples: Examples
    outputs: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Rehearsal:
    """Old examples of which each step takes as many as of the new ones.

    targets: weight of the loss on their targets. outputs: weight of the mean squared difference to
    what was answered on them.
    """

    kept: Kept
    targets: float = 0.0
    outputs: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Distillation:
    """What the parent answers on the new examples (N, K), and the weight of being like it."""

    outputs: Tensor
    weight: float
    temperature: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a model is trained."""

    optimiser: Literal["adam", "sgd"] = "adam"
    lr: float
    #: Share of the steps in which the rate rises to `lr`; from there it falls linearly to 0.
    warm_up: float = 0.0
    #: Decay of the weights, of Adam; and the gradient's largest norm, of SGD.
    decay: float = 0.0
    clip: float | None = None
    epochs: int
    batch: int

    @classmethod
    def of(cls, learn: Learn) -> Recipe:
        """As the settings say."""
        return cls(
            lr=learn.lr, warm_up=WARM_UP, decay=DECAY, epochs=learn.epochs, batch=learn.batch
        )

    def rate(self, share: float) -> float:
        """The learning rate after a share of the steps."""
        if share < self.warm_up:
            return self.lr * share / self.warm_up
        return self.lr * (1 - share) / (1 - self.warm_up)

    def make(self, flat: Flat) -> Optimiser:
        """The optimiser, at rest."""
        return Adam(flat, self.decay) if self.optimiser == "adam" else Sgd(flat, self.clip)


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A model to train, and everything it may be trained on."""

    #: The parent's weights, or fresh ones; trained in place.
    model: nn.Module
    objective: Objective
    new: Examples
    #: Readings apart from those trained on, for early stopping; None: the last epoch counts.
    held_out: Examples | None
    #: Of ended segments, as many as the strategy keeps; None if there are none.
    kept: Kept | None
    #: What ended segments want of the weights; None for a first version.
    anchor: Anchor | None
    learn: Learn
    generator: torch.Generator
    #: Held-out examples of every task, on which strengths of the penalty are compared; (): they
    #: are not.
    compared_on: tuple[Examples, ...] = ()
    progress: Callable[[float], None] | None = None
    #: Monotonic seconds; `max_seconds` count from here.
    started: float = field(default_factory=time.monotonic)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """How a training went."""

    #: All that were taken, also those after the epoch whose weights were kept.
    steps: int
    loss_before: float
    loss_after: float
    #: Held-out loss after each epoch.
    curve: tuple[float, ...] = ()
    #: Old examples that were replayed from, and the strength of the pull to the anchor.
    replayed: int = 0
    ewc_lambda: float = 0.0
    #: Strengths that were compared, and the loss that each came to.
    compared: Mapping[float, float] = field(default_factory=dict)


def train(
    task: Task,
    *,
    recipe: Recipe | None = None,
    rehearsals: Sequence[Rehearsal] = (),
    distillation: Distillation | None = None,
    ewc_lambda: float = 0.0,
) -> Trained:
    """Train the task's model in place; the weights of the epoch with the least held-out loss stay.

    Each step's loss is that of a batch of new examples, plus, for each rehearsal, `targets` times
    the loss of as many old ones and `outputs` times the mean squared difference to their outputs,
    plus the distillation's; then follows the anchor's proximal step at `ewc_lambda`.

    Raises
    ------
    TrainingFailed
        The loss is not finite, or `max_seconds` are over: a time limit that cut training short
        would make the weights depend on the clock. `max_steps` cuts it short.
    """
    recipe = recipe or Recipe.of(task.learn)
    best = _Best(task)
    flat = Flat(task.model)
    loop = _Loop(task, recipe, flat, rehearsals, distillation)
    pull = _pull(flat, task.anchor, ewc_lambda)
    deadline = task.started + task.learn.max_seconds
    for step, lr in loop.steps():
        with _flushed():
            loop.gradient(step)
            loop.optimiser.step(lr)
            if pull is not None:
                loop.optimiser.pull(pull, lr)
        if task.progress:
            task.progress((step + 1) / loop.total)
        if loop.ends_epoch(step):
            done = best.take(task.model)
            if time.monotonic() > deadline:
                raise TrainingFailed(
                    f"not done within learn.max_seconds = {task.learn.max_seconds:g}"
                )
            if done:
                break
    flat.release()
    best.restore(task.model)
    return Trained(
        steps=step + 1,
        loss_before=best.before,
        loss_after=best.loss,
        curve=tuple(best.curve),
        replayed=sum(len(r.kept.examples) for r in rehearsals),
        ewc_lambda=ewc_lambda if pull is not None else 0.0,
    )


@contextmanager
def _flushed() -> Iterator[None]:
    """Numbers below the normal ones are 0: squares of small gradients, on which a CPU is slow."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def _pull(flat: Flat, anchor: Anchor | None, ewc_lambda: float) -> Pull | None:
    if anchor is None or not ewc_lambda:
        return None
    return Pull(flat.of(anchor.fisher) * ewc_lambda, flat.of(anchor.theta))


class _Loop:
    """The batches of a training, drawn beforehand, and the gradient of each."""

    def __init__(
        self,
        task: Task,
        recipe: Recipe,
        flat: Flat,
        rehearsals: Sequence[Rehearsal],
        distillation: Distillation | None,
    ) -> None:
        self.task, self.recipe = task, recipe
        self.rehearsals, self.distillation = rehearsals, distillation
        self.optimiser = recipe.make(flat)
        n, generator = len(task.new), task.generator
        self.per_epoch = -(-n // recipe.batch)
        self.total = recipe.epochs * self.per_epoch
        most = task.learn.max_steps
        self.last = min(self.total, most) if most else self.total
        orders = [torch.randperm(n, generator=generator) for _ in range(recipe.epochs)]
        self.batches = [batch for order in orders for batch in torch.split(order, recipe.batch)]
        self.drawn = [
            torch.randint(len(r.kept.examples), (self.total, recipe.batch), generator=generator)
            for r in rehearsals
        ]
        rows = min(n, recipe.batch) * (1 + len(rehearsals))
        #: Inputs of a step.
        self.x = task.new.x.new_empty(rows, *task.new.x.shape[1:])
        self.passes = passes_in(task.learn.precision, task.model, flat, rows)

    def steps(self) -> Iterator[tuple[int, float]]:
        """Number and learning rate of each step."""
        for step in range(self.last):
            yield step, self.recipe.rate(step / self.total)

    def ends_epoch(self, step: int) -> bool:
        """Whether a step is the last of an epoch, or of all."""
        return (step + 1) % self.per_epoch == 0 or step + 1 == self.last

    def gradient(self, step: int) -> None:
        """Leave the gradient of a step's loss in the flat parameters'."""
        batch = self.batches[step]
        n = len(batch)
        drawn = [each[step, :n] for each in self.drawn]
        x = self.x[: n * (1 + len(drawn))]
        torch.index_select(self.task.new.x, 0, batch, out=x[:n])
        for k, (rehearsal, at) in enumerate(zip(self.rehearsals, drawn, strict=True), 1):
            torch.index_select(rehearsal.kept.examples.x, 0, at, out=x[n * k : n * (k + 1)])
        output = self.passes.forward(x)
        parts = [self._new(output[:n], batch)]
        parts += [
            self._old(output[n * k : n * (k + 1)], rehearsal, at)
            for k, (rehearsal, at) in enumerate(zip(self.rehearsals, drawn, strict=True), 1)
        ]
        self.passes.backward(parts[0] if len(parts) == 1 else torch.cat(parts))

    def _new(self, output: Tensor, batch: Tensor) -> Tensor:
        """Of the new examples' loss, by their outputs."""
        objective, more = self.task.objective, self.distillation
        found = objective.gradient(output, self.task.new.y.index_select(0, batch))
        if more is not None:
            like = objective.distil(output, more.outputs.index_select(0, batch), more.temperature)
            found.add_(like, alpha=more.weight)
        return found

    def _old(self, output: Tensor, rehearsal: Rehearsal, drawn: Tensor) -> Tensor:
        """Of a rehearsal's loss, by the old examples' outputs."""
        kept, found = rehearsal.kept, torch.zeros_like(output)
        if rehearsal.targets:
            targets = kept.examples.y.index_select(0, drawn)
            found.add_(self.task.objective.gradient(output, targets), alpha=rehearsal.targets)
        if rehearsal.outputs:
            other = kept.outputs.index_select(0, drawn)
            found.add_(matched(output, other), alpha=rehearsal.outputs)
        return found


@dataclass(slots=True)
class _Best:
    """The weights with the lowest held-out loss so far, and the epoch that they are of."""

    task: Task
    before: float = 0.0
    loss: float = 0.0
    epoch: int = 0
    curve: list[float] = field(default_factory=list)
    weights: dict[str, Tensor] | None = None

    def __post_init__(self) -> None:
        self.before = self.loss = self._measure()
        if self.task.held_out is not None:
            self.weights = _copy(self.task.model)

    def take(self, model: nn.Module) -> bool:
        """Look at the model after an epoch; whether it has not got better for a while.

        TrainingFailed if its loss is not finite.
        """
        loss = self._measure()
        self.curve.append(loss)
        epoch = len(self.curve)
        if not loss < float("inf"):
            raise TrainingFailed(f"the loss is {loss} after epoch {epoch}")
        if self.task.held_out is None:
            self.loss = loss
            return False
        if loss < self.loss:
            self.loss, self.epoch, self.weights = loss, epoch, _copy(model)
        return epoch - self.epoch >= PATIENCE

    def restore(self, model: nn.Module) -> None:
        """Give the model its best weights."""
        if self.weights is not None:
            model.load_state_dict(self.weights)

    def _measure(self) -> float:
        """The held-out loss; without held-out examples, that of some of the new ones."""
        task = self.task
        part = task.held_out or Examples(x=task.new.x[:SOME], y=task.new.y[:SOME])
        return mean_loss(task.model, task.objective, part)


@torch.no_grad()
def mean_loss(model: nn.Module, objective: Objective, examples: Examples) -> float:
    """Over all that was observed, with the model in eval mode."""
    with evaluating(model):
        return float(objective.loss(model(examples.x), examples.y))


def _copy(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.state_dict().items()}
