"""A module, inputs and its outputs' gradient in; summed squares of per-sample gradients out."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from pipeline.consolidate.products import RULES, Uses, watching

Params = dict[str, Tensor]

#: Cells of the inputs in one pass through the model.
CELLS = 1 << 19
#: Samples whose gradients vmap holds at once; more are slower.
VMAP_CHUNK = 32


def chunk(x: Tensor) -> int:
    """Samples in one pass through a model, of inputs (N, ...): what bounds its memory."""
    return max(1, CELLS // max(1, x[:1].numel()))


def squared_gradients(
    model: nn.Module, x: Tensor, score: Tensor, alive: Callable[[], None] = lambda: None
) -> Params:
    """sum_n (d score_n . f(x_n) / d theta_i)^2 of every parameter, exactly, in eval mode.

    x: (N, ...), score: (N, K). By products if they agree with autograd on the first sample, else by
    vmap, else sample by sample. Nothing is left in the model. alive: called after each pass.
    """
    way = _by_products if _trusted(model, x[:1], score[:1]) else _by_vmap
    total = {name: torch.zeros_like(p.detach()) for name, p in model.named_parameters()}
    rows = chunk(x)
    for x_part, score_part in zip(torch.split(x, rows), torch.split(score, rows), strict=True):
        for name, found in way(model, x_part, score_part).items():
            total[name] += found
        alive()
    return total


def _trusted(model: nn.Module, x: Tensor, score: Tensor) -> bool:
    """Whether every gradient is of products that were seen: nothing borrowed, nothing unknown."""
    owned = {id(p) for m in model.modules() if type(m) in RULES for p in m.parameters(False)}
    params = dict(model.named_parameters())
    if not all(id(p) in owned and p.requires_grad for p in params.values()):
        return False
    expected = _by_loop(model, x, score)
    found = _by_products(model, x, score)
    return all(
        torch.allclose(found[name], e, rtol=1e-3, atol=1e-5 * float(e.max()))
        for name, e in expected.items()
    )


def _by_products(model: nn.Module, x: Tensor, score: Tensor) -> Params:
    uses = Uses(len(x))
    with torch.enable_grad(), watching(model, uses):
        loss = (model(x) * score).sum()
    squares = uses.squares(loss)
    return {
        name: squares[id(p)].reshape(p.shape) if id(p) in squares else torch.zeros_like(p.detach())
        for name, p in model.named_parameters()
    }


def _by_vmap(model: nn.Module, x: Tensor, score: Tensor) -> Params:
    """One gradient a sample, vectorised; what torch cannot vectorise, sample by sample."""
    theta = {name: p.detach() for name, p in model.named_parameters()}

    def sample(theta: Params, x_n: Tensor, score_n: Tensor) -> Tensor:
        output: Tensor = functional_call(model, theta, (x_n.unsqueeze(0),))
        return (output.squeeze(0) * score_n).sum()

    try:
        grads: Params = vmap(grad(sample), in_dims=(None, 0, 0), chunk_size=VMAP_CHUNK)(
            theta, x, score
        )
    except RuntimeError:
        return _by_loop(model, x, score)
    return {name: g.square().sum(dim=0) for name, g in grads.items()}


def _by_loop(model: nn.Module, x: Tensor, score: Tensor) -> Params:
    """One backward pass a sample."""
    theta = {name: p.detach().requires_grad_() for name, p in model.named_parameters()}
    total = {name: torch.zeros_like(p) for name, p in theta.items()}
    for x_n, score_n in zip(torch.split(x, 1), torch.split(score, 1), strict=True):
        with torch.enable_grad():
            loss = (functional_call(model, theta, (x_n,)) * score_n).sum()
        grads = torch.autograd.grad(loss, list(theta.values()), allow_unused=True)
        for name, g in zip(theta, grads, strict=True):
            if g is not None:
                total[name] += g.square()
    return {name: t.detach() for name, t in total.items()}
