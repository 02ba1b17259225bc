"""Exact per-sample Fisher diagonal: each sample's gradient is squared before the mean."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from pipeline.model.networks import evaluating
from pipeline.model.objectives import Objective

Params = dict[str, Tensor]

#: Samples whose gradients the fallback holds at once.
CHUNK = 32


def fisher_diagonal(
    model: nn.Module, objective: Objective, x: Tensor, generator: torch.Generator
) -> Params:
    """Fisher information of a model, diagonal only, with targets sampled from its own output.

    F_i = 1/N sum_n (d log p(y_n | x_n) / d theta_i)^2,  y_n ~ p(y | x_n).

    x: (N, ...). Squaring a batch's mean gradient instead lets opposite signs cancel and keeps a
    few per cent of the trace. The model is put in eval mode and given back as it was; its gradients
    are not touched. Modules of linear layers go by outer products, others by vmap.
    """
    with evaluating(model):
        with torch.no_grad():
            score = objective.score(model(x), generator)
        fisher = _by_outer_products(model, x, score) if _only_linear(model) else None
        return fisher or _by_vmap(model, x, score)


def _by_outer_products(model: nn.Module, x: Tensor, score: Tensor) -> Params | None:
    """For y = W a + b: sum_n (g_n a_n')^2 = (g^2)' (a^2), element by element.

    None if a sample passes a layer more or less than once: the square is then not of one product.
    """
    layers = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear)}
    calls: dict[nn.Linear, list[tuple[Tensor, Tensor]]] = {m: [] for m in layers.values()}

    def keep(layer: nn.Linear, args: tuple[Tensor, ...], out: Tensor) -> None:
        calls[layer].append((args[0].detach(), out))

    hooks = [layer.register_forward_hook(keep) for layer in layers.values()]
    try:
        with torch.enable_grad():
            loss = (model(x) * score).sum()
    finally:
        for hook in hooks:
            hook.remove()
    if any([a.shape for a, _ in calls[m]] != [(len(x), m.in_features)] for m in layers.values()):
        return None
    grads = torch.autograd.grad(loss, [calls[layer][0][1] for layer in layers.values()])
    fisher: Params = {}
    for (name, layer), g in zip(layers.items(), grads, strict=True):
        squared = g.square()
        fisher[f"{name}.weight"] = squared.T @ calls[layer][0][0].square() / len(x)
        if layer.bias is not None:
            fisher[f"{name}.bias"] = squared.mean(dim=0)
    return {name: fisher[name] for name, _ in model.named_parameters()}


def _by_vmap(model: nn.Module, x: Tensor, score: Tensor) -> Params:
    """Any module: one gradient a sample, vectorised."""
    theta = {name: p.detach() for name, p in model.named_parameters()}

    def sample(theta: Params, x_n: Tensor, score_n: Tensor) -> Tensor:
        output: Tensor = functional_call(model, theta, (x_n.unsqueeze(0),))
        return (output.squeeze(0) * score_n).sum()

    grads: Params = vmap(grad(sample), in_dims=(None, 0, 0), chunk_size=CHUNK)(theta, x, score)
    return {name: g.square().mean(dim=0) for name, g in grads.items()}


def _only_linear(model: nn.Module) -> bool:
    """Whether every parameter belongs to one linear layer, and to it alone."""
    linear = [m for m in model.modules() if isinstance(m, nn.Linear)]
    owned = [id(p) for m in linear for p in m.parameters(recurse=False)]
    return len(owned) == len(set(owned)) and set(map(id, model.parameters())) <= set(owned)
