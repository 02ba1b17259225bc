"""A model, new windows and replayed ones in; the same model trained out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.config import Learn
from pipeline.consolidate.ewc import Anchor, proximal_step
from pipeline.errors import TrainingFailed

#: Epochs without a better held-out loss after which training stops.
PATIENCE = 5
#: Weight of the match to the parent's outputs on replayed windows, and of the replayed targets.
MATCH, REPLAY = 1.0, 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Examples:
    """Scaled windows (N, W, d) without holes, and targets (N, d), NaN where nothing was seen."""

    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        return len(self.x)


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """Old windows, and what the parent answered on them."""

    examples: Examples
    outputs: Tensor  # (N, d)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """How a training went."""

    #: All that were taken, also those after the epoch whose weights were kept.
    steps: int
    loss_before: float
    loss_after: float
    #: Old windows that were replayed from, and the strength of the pull to the anchor.
    replayed: int = 0
    ewc_lambda: float = 0.0


def masked_mse(output: Tensor, target: Tensor) -> Tensor:
    """Mean squared error over the observed cells; 0 if there is none."""
    observed = ~target.isnan()
    error = torch.where(observed, output - target, 0.0)
    return error.square().sum() / observed.sum().clamp(min=1)


def train(
    model: nn.Module,
    new: Examples,
    held_out: Examples,
    learn: Learn,
    *,
    replay: Replay | None,
    anchor: Anchor | None,
    generator: torch.Generator,
    progress: Callable[[float], None] | None = None,
) -> Trained:
    """Adam over the new windows, each batch with as many replayed ones; the best epoch is kept.

    loss = MSE(new) + REPLAY MSE(replayed) + MATCH MSE(output, parent's output on replayed), and
    the EWC penalty as a proximal step after each of Adam's.

    Raises
    ------
    TrainingFailed
        The loss is not finite, or `max_seconds` are over: a time limit that cut training short
        would make the weights depend on the clock.
    """
    optimiser = torch.optim.Adam(model.parameters(), lr=learn.lr)
    best = _Best(model, held_out)
    before, deadline, steps = best.loss, time.monotonic() + learn.max_seconds, 0
    for epoch in range(1, learn.epochs + 1):
        for batch in _batches(len(new), learn, epoch, optimiser, generator):
            _step(model, optimiser, new, batch, replay, generator)
            if anchor is not None and learn.ewc_lambda:
                proximal_step(model, anchor, optimiser, learn.ewc_lambda)
            steps += 1
        best.take(epoch)
        if time.monotonic() > deadline:
            raise TrainingFailed(f"not done within learn.max_seconds = {learn.max_seconds:g}")
        if progress:
            progress(epoch / learn.epochs)
        if epoch - best.epoch >= PATIENCE:
            break
    model.load_state_dict(best.weights)
    return Trained(
        steps=steps,
        loss_before=before,
        loss_after=best.loss,
        replayed=len(replay.examples) if replay is not None else 0,
        ewc_lambda=learn.ewc_lambda if anchor is not None else 0.0,
    )


class _Best:
    """The weights with the lowest held-out loss so far, and the epoch that they are of."""

    def __init__(self, model: nn.Module, held_out: Examples) -> None:
        self.model = model
        self.held_out = held_out
        self.epoch = 0
        self.loss = _loss(model, held_out)
        self.weights = _copy(model)

    def take(self, epoch: int) -> None:
        """Look at the model after an epoch; TrainingFailed if its loss is not finite."""
        loss = _loss(self.model, self.held_out)
        if not loss < float("inf"):
            raise TrainingFailed(f"the loss is {loss} after epoch {epoch}")
        if loss < self.loss:
            self.loss, self.epoch, self.weights = loss, epoch, _copy(self.model)


def _batches(
    n: int, learn: Learn, epoch: int, optimiser: torch.optim.Optimizer, generator: torch.Generator
) -> Iterator[Tensor]:
    """Indices of one epoch's batches, in a new order; before each, the rate falls a step."""
    order = torch.randperm(n, generator=generator)
    per_epoch = -(-n // learn.batch)
    for number in range(per_epoch):
        step = (epoch - 1) * per_epoch + number
        optimiser.param_groups[0]["lr"] = learn.lr * (1 - step / (learn.epochs * per_epoch))
        yield order[number * learn.batch : (number + 1) * learn.batch]


def _step(
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    new: Examples,
    batch: Tensor,
    replay: Replay | None,
    generator: torch.Generator,
) -> None:
    """One forward and one backward pass of new and replayed windows together."""
    x = new.x[batch]
    if replay is not None:
        old = torch.randint(len(replay.examples), (len(batch),), generator=generator)
        x = torch.cat([x, replay.examples.x[old]])
    output = model(x)
    loss = masked_mse(output[: len(batch)], new.y[batch])
    if replay is not None:
        again = output[len(batch) :]
        loss = loss + REPLAY * masked_mse(again, replay.examples.y[old])
        loss = loss + MATCH * (again - replay.outputs[old]).square().mean()
    optimiser.zero_grad(set_to_none=True)
    torch.autograd.backward(loss)
    optimiser.step()


@torch.no_grad()
def _loss(model: nn.Module, examples: Examples) -> float:
    return float(masked_mse(model(examples.x), examples.y))


def _copy(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.state_dict().items()}
