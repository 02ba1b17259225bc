"""One step of AdamW or SGD on flat parameters, and the pull to an anchor that follows it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from pipeline.consolidate.flat import Flat

#: Of Adam (Kingma and Ba 2015): decay of the moments, and the least scale.
BETAS, EPS = (0.9, 0.999), 1e-8


@dataclass(frozen=True, slots=True)
class Pull:
    """A quadratic penalty: lambda F (P,) and where it is least, theta* (P,)."""

    strength: Tensor
    theta: Tensor


class Optimiser(Protocol):
    """Moves flat parameters against their gradient."""

    def step(self, lr: float) -> None:
        """One step at a rate."""

    def pull(self, pull: Pull, lr: float) -> None:
        """The penalty's proximal step, after `step` at the same rate.

        theta <- (theta + c theta*) / (1 + c): the minimiser of the penalty plus the distance to
        theta in the optimiser's metric. It never overshoots, whatever lambda, as an explicit
        penalty does.
        """


class Adam:
    """AdamW (Loshchilov and Hutter 2019), the moments of which begin anew.

    Parameters
    ----------
    decay
        Of the weights, times the rate, in each step; 0: plain Adam (Kingma and Ba 2015).
    """

    def __init__(self, flat: Flat, decay: float = 0.0) -> None:
        self.flat, self.decay = flat, decay
        self.steps = torch.zeros(())
        self.mean, self.square = torch.zeros_like(flat.theta), torch.zeros_like(flat.theta)
        self.scale, self.away = torch.empty_like(flat.theta), torch.empty_like(flat.theta)

    def step(self, lr: float) -> None:
        """At a rate; the kernel of torch.optim.AdamW, without the 70 us that lie before it."""
        self.steps += 1
        torch._fused_adamw_(
            [self.flat.theta],
            [self.flat.gradient],
            [self.mean],
            [self.square],
            [],
            [self.steps],
            lr=lr,
            beta1=BETAS[0],
            beta2=BETAS[1],
            weight_decay=self.decay,
            eps=EPS,
            amsgrad=False,
            maximize=False,
        )

    def pull(self, pull: Pull, lr: float) -> None:
        """c = lr lambda F / (sqrt(v_hat) + eps): in Adam's own metric."""
        corrected = 1 - BETAS[1] ** float(self.steps)
        # c / (1 + c) = lr lambda F / (sqrt(v_hat) + eps + lr lambda F)
        torch.sqrt(self.square, out=self.scale).mul_(corrected**-0.5).add_(EPS)
        self.scale.add_(pull.strength, alpha=lr)
        torch.sub(pull.theta, self.flat.theta, out=self.away).mul_(pull.strength)
        self.flat.theta.addcdiv_(self.away, self.scale, value=lr)


class Sgd:
    """Plain stochastic gradient descent.

    Parameters
    ----------
    clip
        The gradient's norm is at most this; None: it is as it is.
    """

    def __init__(self, flat: Flat, clip: float | None = None) -> None:
        self.flat = flat
        self.clip = clip

    def step(self, lr: float) -> None:
        """At a rate."""
        gradient = self.flat.gradient
        if self.clip is not None:
            lr *= min(1.0, self.clip / (float(gradient.norm()) + 1e-12))
        self.flat.theta.add_(gradient, alpha=-lr)

    def pull(self, pull: Pull, lr: float) -> None:
        """c = 2 lr lambda F."""
        c = pull.strength * (2 * lr)
        self.flat.theta.lerp_(pull.theta, c.div_(c + 1))
