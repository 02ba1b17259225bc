"""A model's parameters as one vector, its gradients as another: one operation moves them all."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

Params = Mapping[str, Tensor]


class Flat:
    """The parameters of a model, which become views into one vector until they are released."""

    def __init__(self, model: nn.Module) -> None:
        self.named = dict(model.named_parameters())
        self.theta = self.of({name: p.detach() for name, p in self.named.items()})
        self.gradient = torch.zeros_like(self.theta)
        first = 0
        for p in self.named.values():
            end = first + p.numel()
            p.data = self.theta[first:end].view_as(p)
            p.grad = self.gradient[first:end].view_as(p)
            first = end

    def of(self, params: Params) -> Tensor:
        """(P,) such tensors in the order of the parameters."""
        return torch.cat([params[name].reshape(-1) for name in self.named])

    def release(self) -> None:
        """Give every parameter memory of its own again, and no gradient."""
        for p in self.named.values():
            p.data, p.grad = p.data.clone(), None
