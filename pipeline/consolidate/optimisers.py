"""One step of AdamW or SGD on flat parameters, and the pull to an anchor that follows it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from pipeline.consolidate.flat import Flat


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
        self.flat = flat
        self.optimiser = torch.optim.AdamW([flat.theta], weight_decay=decay, fused=True)

    def step(self, lr: float) -> None:
        """At a rate."""
        self.optimiser.param_groups[0]["lr"] = lr
        self.optimiser.step()

    @torch.no_grad()
    def pull(self, pull: Pull, lr: float) -> None:
        """c = lr lambda F / (sqrt(v_hat) + eps): in Adam's own metric."""
        group, state = self.optimiser.param_groups[0], self.optimiser.state[self.flat.theta]
        corrected = 1 - float(group["betas"][1]) ** float(state["step"])
        c = pull.strength * lr
        scale = (state["exp_avg_sq"] / corrected).sqrt_().add_(float(group["eps"]))
        self.flat.theta.lerp_(pull.theta, c.div_(scale.add_(c)))  # c / (1 + c), c of the formula


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

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """At a rate."""
        gradient = self.flat.gradient
        if self.clip is not None:
            lr *= min(1.0, self.clip / (float(gradient.norm()) + 1e-12))
        self.flat.theta.add_(gradient, alpha=-lr)

    @torch.no_grad()
    def pull(self, pull: Pull, lr: float) -> None:
        """c = 2 lr lambda F."""
        c = pull.strength * (2 * lr)
        self.flat.theta.lerp_(pull.theta, c.div_(c + 1))
