"""A model in; its forward and backward passes in the precision that `learn.precision` names out."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor, nn

from pipeline.consolidate.flat import Flat
from pipeline.consolidate.passes import Passes, passes

#: What processors that compute in bfloat16 say of themselves: x86 by vectors or tiles, ARM.
NATIVE = ("avx512_bf16", "amx_bf16", "bf16")


def passes_in(precision: str, model: nn.Module, flat: Flat, rows: int) -> Passes:
    """Of a model with flat parameters, for batches of so many rows at most."""
    dtype: torch.dtype = getattr(torch, precision)
    if dtype == torch.float32:
        return passes(model, flat, rows)
    return Shadow(model, flat, rows, dtype)


class Shadow:
    """Passes below float32, through a copy that takes the model's weights before each (Micikevicius
    et al. 2018).

    Weights, outputs and their gradients stay float32. bfloat16 has the exponents of float32, so
    that no loss needs scaling.
    """

    def __init__(self, model: nn.Module, flat: Flat, rows: int, dtype: torch.dtype) -> None:
        self.model, self.flat, self.dtype = model, flat, dtype
        self.copy = deepcopy(model).to(dtype)
        self.copy_flat = Flat(self.copy)
        self.through = passes(self.copy, self.copy_flat, rows)

    def forward(self, x: Tensor) -> Tensor:
        """The copy's output, in float32."""
        self.copy_flat.theta.copy_(self.flat.theta)
        return self.through.forward(x.to(self.dtype)).float()

    def backward(self, gradient: Tensor) -> None:
        """The copy's gradients; and its running statistics, such as those of batch-norm."""
        self.through.backward(gradient.to(self.dtype))
        self.flat.gradient.copy_(self.copy_flat.gradient)
        for mine, other in zip(self.model.buffers(), self.copy.buffers(), strict=True):
            mine.copy_(other)


def advice(precision: str) -> str | None:
    """Why a precision makes no training quicker on this machine; None if it does."""
    can = torch.cpu.get_capabilities()
    if precision == "float32" or any(can.get(name) for name in NATIVE):
        return None
    return f"learn.precision: {precision} is slower here, this processor does not compute in it"
