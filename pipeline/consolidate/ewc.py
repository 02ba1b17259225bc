"""Online EWC (Schwarz et al. 2018): one running anchor, merged at boundaries, pulling each step."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from pipeline.errors import ArtifactCorrupt

Params = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Anchor:
    """Where the weights were (theta*), and how much each matters (F)."""

    theta: Params
    fisher: Params

    @property
    def trace(self) -> float:
        """Sum of the Fisher diagonal."""
        return float(sum(f.sum() for f in self.fisher.values()))

    def to_bytes(self) -> bytes:
        """safetensors; equal anchors, equal bytes."""
        tensors = {f"fisher.{n}": f for n, f in self.fisher.items()}
        tensors |= {f"theta.{n}": p for n, p in self.theta.items()}
        return save({name: tensors[name].contiguous() for name in sorted(tensors)})

    @classmethod
    def from_bytes(cls, content: bytes) -> Anchor:
        """What `to_bytes` made; ArtifactCorrupt for anything else."""
        parts: dict[str, Params] = {"theta": {}, "fisher": {}}
        try:
            for name, tensor in load(content).items():
                part, _, parameter = name.partition(".")
                parts[part][parameter] = tensor
        except (SafetensorError, KeyError) as exc:
            raise ArtifactCorrupt(f"not an EWC state: {exc}") from None
        if parts["theta"].keys() != parts["fisher"].keys():
            raise ArtifactCorrupt("not an EWC state: weights and Fisher diagonal do not match")
        return cls(theta=parts["theta"], fisher=parts["fisher"])


def merge(old: Anchor | None, new: Anchor, gamma: float) -> Anchor:
    """Fold the past into the present: F = gamma F_old + F_new, theta* = theta_new."""
    if old is None:
        return new
    fisher = {name: gamma * old.fisher[name] + f for name, f in new.fisher.items()}
    return Anchor(theta=new.theta, fisher=fisher)


@torch.no_grad()
def proximal_step(
    model: nn.Module, anchor: Anchor, optimiser: torch.optim.Adam, ewc_lambda: float
) -> None:
    """Pull the weights to the anchor after Adam's own step, in Adam's metric.

    theta <- (theta + c theta*) / (1 + c),  c = lr lambda F / (sqrt(v_hat) + eps)

    The minimiser of lambda/2 F (theta - theta*)^2 + |theta - theta_adam|^2 / (2 lr'), lr' Adam's
    step size for the weight: it never overshoots, whatever lambda, as the explicit penalty does.
    """
    group = optimiser.param_groups[0]
    lr, eps, beta = float(group["lr"]), float(group["eps"]), float(group["betas"][1])
    for name, p in model.named_parameters():
        state = optimiser.state[p]
        corrected = state["exp_avg_sq"] / (1 - beta ** float(state["step"]))
        c = lr * ewc_lambda * anchor.fisher[name] / (corrected.sqrt() + eps)
        p.add_(c * anchor.theta[name]).div_(1 + c)
