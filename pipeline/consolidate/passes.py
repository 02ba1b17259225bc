"""A batch in, a model's output out; the output's gradient in, the parameters' gradients out.

A stack of linear layers and ReLUs, as most networks here are, is passed in closed form, in memory
that is taken once: autograd takes new memory for every tensor of every step. Any other module is
passed by autograd.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from pipeline.consolidate.flat import Flat
from pipeline.model.networks import stack

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class Passes(Protocol):
    """Forward and backward, in turn."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, ...) -> (N, K) without a graph; the next call may overwrite it."""

    def backward(self, gradient: Tensor) -> None:
        """Leave each parameter's gradient in it, by that of the last output (N, K)."""


def passes(model: nn.Module, flat: Flat, rows: int) -> Passes:
    """Of a model whose parameters are flat, for batches of so many rows at most."""
    layers = _dense(model)
    return Dense(layers, rows) if layers else Graph(model, flat)


class Graph:
    """By autograd."""

    def __init__(self, model: nn.Module, flat: Flat) -> None:
        self.model, self.flat = model, flat
        self.output = torch.empty(0)

    def forward(self, x: Tensor) -> Tensor:
        """With a graph behind it."""
        self.output = self.model(x)
        return self.output.detach()

    def backward(self, gradient: Tensor) -> None:
        """Through the graph."""
        self.flat.gradient.zero_()
        torch.autograd.backward(self.output, gradient)


@dataclass(frozen=True, slots=True)
class Layer:
    """a -> a W' + b, and perhaps a ReLU."""

    linear: nn.Linear
    relu: bool


class Dense:
    """A stack of linear layers, by the chain rule (Rumelhart et al. 1986)."""

    def __init__(self, layers: list[Layer], rows: int) -> None:
        self.layers = layers
        weights = [layer.linear.weight for layer in layers]
        #: Of each layer (rows, out): its output, and the gradient by it.
        self.outputs = [w.new_empty(rows, len(w)) for w in weights]
        self.gradients = [torch.empty_like(output) for output in self.outputs]
        #: Of each layer, in the last forward pass.
        self.inputs: list[Tensor] = []

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """relu(a W' + b), layer after layer."""
        a, self.inputs = x.flatten(1), []
        for layer, output in zip(self.layers, self.outputs, strict=True):
            self.inputs.append(a)
            weight, bias = layer.linear.weight.t(), layer.linear.bias
            out = output[: len(a)]
            a = (
                torch.mm(a, weight, out=out)
                if bias is None
                else torch.addmm(bias, a, weight, out=out)
            )
            if layer.relu:
                a.relu_()
        return a

    @torch.no_grad()
    def backward(self, gradient: Tensor) -> None:
        """W: g' a; b: sum g; a: g W, where the ReLU before let it pass."""
        for k in reversed(range(len(self.layers))):
            linear, a = self.layers[k].linear, self.inputs[k]
            torch.mm(gradient.t(), a, out=linear.weight.grad)
            if linear.bias is not None:
                torch.sum(gradient, dim=0, out=linear.bias.grad)
            if k:
                gradient = torch.mm(gradient, linear.weight, out=self.gradients[k - 1][: len(a)])
                if self.layers[k - 1].relu:
                    gradient.mul_(a > 0)


def _dense(model: nn.Module) -> list[Layer] | None:
    """A model's layers, if it is a stack of them and of nothing else, and the last has no ReLU."""
    if any(vars(module)[hooks] for module in model.modules() for hooks in _HOOKS):
        return None
    layers: list[Layer] = []
    for module in stack(model):
        if type(module) is nn.Linear:
            layers.append(Layer(module, relu=False))
        elif type(module) is nn.ReLU and layers:
            layers[-1] = Layer(layers[-1].linear, relu=True)
        else:
            return None
    if not layers or layers[-1].relu:
        return None
    owned = [id(p) for layer in layers for p in layer.linear.parameters()]
    if len(set(owned)) < len(owned) or not all(p.requires_grad for p in model.parameters()):
        return None
    return layers if set(owned) == {id(p) for p in model.parameters()} else None
