"""What a model's output is worth: the loss, its gradient, and draws of what the model believes.

Gradients with respect to the output are in closed form: a training step needs no graph of losses.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

#: The class of a row without a label.
UNKNOWN = -1
#: Share of a label's probability that training spreads over all classes (Szegedy et al. 2016): a
#: model that is sure has no slope left, and moves far from what it knew to be surer.
SMOOTHING = 0.1
#: A column's variance in a task, of targets in scales, is taken for no less.
STILL = 1e-4


class Objective(Protocol):
    """The negative log-likelihood of targets, given outputs."""

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """The mean over all that was observed; 0 if nothing was."""

    def gradient(self, output: Tensor, target: Tensor) -> Tensor:
        """Of the loss that is trained on, by the output (N, K)."""

    def distil(self, output: Tensor, other: Tensor, temperature: float) -> Tensor:
        """Gradient of the mean divergence from another model's output, by the output (N, K)."""

    def score(self, output: Tensor, generator: torch.Generator) -> Tensor:
        """(N, K) gradient of -log p(y | output) of each row, with y drawn from p itself."""

    def observed(self, target: Tensor) -> Tensor:
        """What of a target there is to compare with."""

    def oddness(self, output: Tensor, target: Tensor) -> Tensor:
        """(N, C) how far each column of the target is from what was said, without a unit; NaN where
        nothing was observed.
        """

    def losses(self, output: Tensor, target: Tensor) -> Tensor:
        """(N,) each row's part, in double precision, in 1 - skill, which is their mean.

        The skill is what the outputs are worth on a task: at most 1, and comparable between tasks.
        A row of which nothing was observed has no part.
        """


class Squared:
    """Squared error: a normal target of unit variance. A cell of NaN was not observed."""

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Mean squared error over the observed cells."""
        observed = ~target.isnan()
        error = torch.where(observed, output - target, 0.0)
        return error.square().sum() / observed.sum().clamp(min=1)

    def gradient(self, output: Tensor, target: Tensor) -> Tensor:
        """2 (output - target) / observed cells; 0 where nothing was observed."""
        error = output - target
        total = float(error.sum())
        if total == total:
            return error.mul_(2 / error.numel())
        holes = target.isnan()
        error.masked_fill_(holes, 0.0)
        return error.mul_(2 / max(1, holes.numel() - int(holes.sum())))

    def distil(self, output: Tensor, other: Tensor, temperature: float) -> Tensor:
        """Of the mean squared difference; a temperature means nothing here."""
        return (output - other).mul_(2 / output.numel())

    def score(self, output: Tensor, generator: torch.Generator) -> Tensor:
        """The noise of a draw: y - output is standard normal."""
        return torch.randn(output.shape, generator=generator)

    def observed(self, target: Tensor) -> Tensor:
        """The cells that are not NaN."""
        return ~target.isnan()

    def oddness(self, output: Tensor, target: Tensor) -> Tensor:
        """(N, K) errors."""
        return output - target

    def losses(self, output: Tensor, target: Tensor) -> Tensor:
        """1 - skill = MSE / variance over observed cells, each column by its own variance."""
        variance = (target - target.nanmean(dim=0)).square().nanmean(dim=0).clamp(min=STILL)
        ratio, observed = (output - target).square() / variance, ~target.isnan()
        cells = torch.where(observed, ratio, 0.0).double().sum(dim=1)
        return cells * (len(target) / observed.sum())


class CrossEntropy:
    """Logits (N, K) of K classes; a target (N,) of UNKNOWN was not observed."""

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Mean of -log softmax(output) of the target."""
        total = functional.cross_entropy(output, target, ignore_index=UNKNOWN, reduction="sum")
        return total / (target != UNKNOWN).sum().clamp(min=1)

    def gradient(self, output: Tensor, target: Tensor) -> Tensor:
        """(softmax(output) - target) / observed rows, with the one-hot target smoothed."""
        p = output.softmax(dim=1).sub_(SMOOTHING / output.shape[1])
        known = target != UNKNOWN
        p[torch.arange(len(p)), target.clamp(min=0)] -= 1 - SMOOTHING
        count = int(known.sum())
        if count < len(p):
            p.mul_(known[:, None])
        return p.div_(max(1, count))

    def distil(self, output: Tensor, other: Tensor, temperature: float) -> Tensor:
        """Of T^2 KL(softmax(other / T) || softmax(output / T)) (Hinton et al. 2015)."""
        p = (output / temperature).softmax(dim=1)
        return p.sub_((other / temperature).softmax(dim=1)).mul_(temperature / len(p))

    def score(self, output: Tensor, generator: torch.Generator) -> Tensor:
        """softmax(output) - one-hot draw."""
        p = output.softmax(dim=1)
        drawn = torch.multinomial(p, 1, generator=generator)
        return p.scatter_add(1, drawn, torch.full_like(p[:, :1], -1.0))

    def observed(self, target: Tensor) -> Tensor:
        """The rows with a label."""
        return target != UNKNOWN

    def oddness(self, output: Tensor, target: Tensor) -> Tensor:
        """(N, 1) 1 - p of the likeliest class (Hendrycks and Gimpel 2017); it needs no label."""
        return 1 - output.softmax(dim=1).amax(dim=1, keepdim=True)

    def losses(self, output: Tensor, target: Tensor) -> Tensor:
        """1 - skill = the share of labelled rows whose likeliest class is another: accuracy."""
        known = target != UNKNOWN
        wrong = (output.argmax(dim=1) != target) & known
        return wrong.double() * (len(target) / known.sum())


def matched(output: Tensor, other: Tensor) -> Tensor:
    """Gradient of the mean squared difference of two outputs (N, K), by the first."""
    return (output - other).mul_(2 / output.numel())
