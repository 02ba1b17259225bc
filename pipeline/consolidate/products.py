"""Layers and what passes them in; squared per-sample gradients of their weights, summed, out.

A weight W that makes y_p = W a_p at positions p (readings of a window, steps of a recurrence,
several uses) has the gradient sum_p g_p a_p' of one sample: a batched product of the outputs'
gradients g and the inputs a, squared before it is summed over samples. Biases have sum_p g_p.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.nn import functional

#: Cells of one weight's per-sample gradients that are held at once: they fit into a cache.
CELLS = 1 << 19


class Uses:
    """What passed the products of a model: of each parameter, inputs and where outputs' gradients
    are to be had.
    """

    def __init__(self, samples: int) -> None:
        self.samples = samples
        #: Inputs (N, G, P, in) of G groups at P positions; None: of a bias.
        self.inputs: list[tuple[Tensor, Tensor | None]] = []
        #: Where the gradient of the outputs is, and how it becomes (N, G, P, out).
        self.edges: list[tuple[GradientEdge, Callable[[Tensor], Tensor]]] = []

    def add(
        self,
        weight: Tensor,
        bias: Tensor | None,
        inputs: Tensor,
        output: Tensor,
        arrange: Callable[[Tensor], Tensor],
    ) -> None:
        """Note one use; what has not one row a sample is left out, and found missing later."""
        if len(output) != self.samples or not output.requires_grad:
            return
        edge = get_gradient_edge(output)  # of the output as it is now: a ReLU may overwrite it
        for parameter, a in ((weight, inputs.detach()), (bias, None)):
            if parameter is not None:
                self.inputs.append((parameter, a))
                self.edges.append((edge, arrange))

    def linear(self, a: Tensor, weight: Tensor, bias: Tensor | None, output: Tensor) -> Tensor:
        """Note output = a W' + b, of (N, ..., in); the output."""

        def positions(t: Tensor) -> Tensor:
            return t.reshape(len(t), 1, -1, t.shape[-1])

        self.add(weight, bias, positions(a), output, positions)
        return output

    def squares(self, loss: Tensor) -> dict[int, Tensor]:
        """id of a parameter -> sum over samples of its squared gradient, flat."""
        if not self.edges:
            return {}
        distinct = {id(edge): edge for edge, _ in self.edges}
        grads = torch.autograd.grad(loss, list(distinct.values()), allow_unused=True)
        of = dict(zip(distinct, grads, strict=True))
        parts: dict[Tensor, list[tuple[Tensor, Tensor | None]]] = defaultdict(list)
        for (parameter, a), (edge, arrange) in zip(self.inputs, self.edges, strict=True):
            if (g := of[id(edge)]) is not None:
                parts[parameter].append((arrange(g), a))
        return {id(p): _square_of(uses) for p, uses in parts.items()}


def _square_of(uses: list[tuple[Tensor, Tensor | None]]) -> Tensor:
    """Of one parameter's gradients (N, G, P, out) and inputs (N, G, P, in), over all its uses."""
    g = _joined([g for g, _ in uses])
    inputs = [a for _, a in uses if a is not None]
    if not inputs:
        return g.sum(dim=2).square_().sum(dim=0)
    a = _joined(inputs)
    if g.shape[1:3] == (1, 1):  # sum_n (g_n a_n')^2 = (g^2)' (a^2)
        return g[:, 0, 0].square().T @ a[:, 0, 0].square()
    rows = max(1, CELLS // (g[0, :, 0].numel() * a.shape[-1]))
    total = torch.zeros(())
    for g_part, a_part in zip(torch.split(g, rows), torch.split(a, rows), strict=True):
        total = total + (g_part.transpose(2, 3) @ a_part).square_().sum(dim=0)
    return total


def _joined(parts: list[Tensor]) -> Tensor:
    """(N, G, P, K) of several uses as further positions."""
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)


def _of_linear(uses: Uses, layer: nn.Linear, args: Any, output: Tensor) -> None:
    uses.linear(args["input"], layer.weight, layer.bias, output)


def _of_conv(uses: Uses, layer: nn.Conv1d, args: Any, output: Tensor) -> None:
    """A convolution is a product with every patch of its input (Chellapilla et al. 2006)."""
    if layer.padding_mode != "zeros" or isinstance(layer.padding, str):
        return
    groups = layer.groups

    def positions(t: Tensor) -> Tensor:
        return t.reshape(len(t), groups, -1, t.shape[-1]).transpose(2, 3)

    sizes = {
        name: (first, *getattr(layer, name))
        for name, first in (("kernel_size", 1), ("dilation", 1), ("padding", 0), ("stride", 1))
    }
    patches = functional.unfold(args["input"].unsqueeze(2), **sizes)  # (N, C k, P)
    uses.add(layer.weight, layer.bias, positions(patches), output, positions)


def _of_recurrent(uses: Uses, layer: nn.GRU | nn.LSTM, args: Any, output: Any) -> Any:
    """The same output, unrolled: each step is two products, and gates by element."""
    x, size = args["input"], layer.hidden_size
    if layer.bidirectional or layer.proj_size or not isinstance(x, Tensor) or x.dim() != 3:
        return output
    x = x if layer.batch_first else x.transpose(0, 1)
    given = args.get("hx")
    if given is None:
        given = x.new_zeros(layer.num_layers, len(x), size)
        given = (given, given) if isinstance(layer, nn.LSTM) else given
    starts = given if isinstance(given, tuple) else (given,)
    ends = []
    for k in range(layer.num_layers):
        state, steps = tuple(start[k] for start in starts), []
        w_x, w_h = getattr(layer, f"weight_ih_l{k}"), getattr(layer, f"weight_hh_l{k}")
        b_x, b_h = (getattr(layer, f"bias_{s}h_l{k}") if layer.bias else None for s in "ih")
        from_x = uses.linear(x, w_x, b_x, functional.linear(x, w_x, b_x))  # (N, T, gates)
        for t in range(x.shape[1]):
            h = state[0]
            from_h = uses.linear(h, w_h, b_h, functional.linear(h, w_h, b_h))
            step = _lstm_step if isinstance(layer, nn.LSTM) else _gru_step
            state = step(from_x[:, t], from_h, *state)
            steps.append(state[0])
        x = torch.stack(steps, dim=1)
        ends.append(state)
    last = tuple(torch.stack(each) for each in zip(*ends, strict=True))
    sequence = x if layer.batch_first else x.transpose(0, 1)
    return sequence, last if isinstance(layer, nn.LSTM) else last[0]


def _gru_step(from_x: Tensor, from_h: Tensor, h: Tensor) -> tuple[Tensor]:
    """Cho et al. 2014, as torch has it: the reset gate acts on the product with h."""
    r_x, z_x, n_x = from_x.chunk(3, dim=-1)
    r_h, z_h, n_h = from_h.chunk(3, dim=-1)
    r, z = (r_x + r_h).sigmoid(), (z_x + z_h).sigmoid()
    n = (n_x + r * n_h).tanh()
    return (n + z * (h - n),)


def _lstm_step(from_x: Tensor, from_h: Tensor, _: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """Hochreiter and Schmidhuber 1997, with a forget gate."""
    i, f, g, o = (from_x + from_h).chunk(4, dim=-1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


#: How the products of a layer are seen, of exactly these classes: a subclass may do otherwise.
RULES: dict[type[nn.Module], Callable[..., Any]] = {
    nn.Linear: _of_linear,
    nn.Conv1d: _of_conv,
    nn.GRU: _of_recurrent,
    nn.LSTM: _of_recurrent,
}


@contextmanager
def watching(model: nn.Module, uses: Uses) -> Iterator[None]:
    """Note all uses of the layers that there are rules for."""

    def note(layer: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        named = dict(zip(("input", "hx"), args, strict=False)) | kwargs
        return RULES[type(layer)](uses, layer, named, output)

    layers = [m for m in model.modules() if type(m) in RULES]
    hooks = [layer.register_forward_hook(note, with_kwargs=True) for layer in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
