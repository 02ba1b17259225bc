"""Exact per-sample Fisher diagonal: each sample's gradient is squared before the mean."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

Params = dict[str, Tensor]

#: Samples whose gradients the fallback holds at once.
CHUNK = 32


def fisher_diagonal(model: nn.Module, x: Tensor, generator: torch.Generator) -> Params:
    """Fisher information of a forecaster, diagonal only, with targets sampled from its own output.

    F_i = 1/N sum_n (d log p(y_n | x_n) / d theta_i)^2,  y_n ~ N(f(x_n), 1): the output gradient
    of a sample is its noise, y_n - f(x_n).

    x: (N, W, d). Squaring a batch's mean gradient instead lets opposite signs cancel and keeps a
    few per cent of the trace. The model is put in eval mode and given back as it was; its gradients
    are not touched. Modules of linear layers go by outer products, others by vmap.
    """
    with _evaluating(model):
        noise = torch.randn(len(x), _outputs(model, x), generator=generator)
        if _only_linear(model):
            return _by_outer_products(model, x, noise)
        return _by_vmap(model, x, noise)


def _by_outer_products(model: nn.Module, x: Tensor, noise: Tensor) -> Params:
    """For y = W a + b: sum_n (g_n a_n')^2 = (g^2)' (a^2), element by element."""
    inputs: dict[nn.Linear, Tensor] = {}
    outputs: dict[nn.Linear, Tensor] = {}

    def keep(layer: nn.Linear, args: tuple[Tensor, ...], out: Tensor) -> None:
        inputs[layer], outputs[layer] = args[0].detach(), out

    layers = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear)}
    hooks = [layer.register_forward_hook(keep) for layer in layers.values()]
    try:
        with torch.enable_grad():
            loss = (model(x) * noise).sum()
            grads = torch.autograd.grad(loss, [outputs[layer] for layer in layers.values()])
    finally:
        for hook in hooks:
            hook.remove()
    fisher: Params = {}
    for (name, layer), g in zip(layers.items(), grads, strict=True):
        squared = g.square()
        fisher[f"{name}.weight"] = squared.T @ inputs[layer].square() / len(x)
        if layer.bias is not None:
            fisher[f"{name}.bias"] = squared.mean(dim=0)
    return {name: fisher[name] for name, _ in model.named_parameters()}


def _by_vmap(model: nn.Module, x: Tensor, noise: Tensor) -> Params:
    """Any module: one gradient a sample, vectorised."""
    theta = {name: p.detach() for name, p in model.named_parameters()}

    def sample(theta: Params, x_n: Tensor, noise_n: Tensor) -> Tensor:
        output: Tensor = functional_call(model, theta, (x_n.unsqueeze(0),))
        return (output.squeeze(0) * noise_n).sum()

    grads: Params = vmap(grad(sample), in_dims=(None, 0, 0), chunk_size=CHUNK)(theta, x, noise)
    return {name: g.square().mean(dim=0) for name, g in grads.items()}


def _only_linear(model: nn.Module) -> bool:
    """Whether every parameter belongs to a linear layer that sees each sample once, flat."""
    owned = {id(p) for m in model.modules() if isinstance(m, nn.Linear) for p in m.parameters()}
    shared = len(list(model.parameters())) != len(owned)
    return not shared and all(id(p) in owned for p in model.parameters())


@torch.no_grad()
def _outputs(model: nn.Module, x: Tensor) -> int:
    return int(model(x[:1]).shape[1])


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Batch-norm and dropout off, and every module's mode back afterwards."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
