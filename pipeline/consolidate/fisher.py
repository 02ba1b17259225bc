"""Exact per-sample Fisher diagonal: each sample's gradient is squared before the mean."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from pipeline.consolidate.per_sample import Params, chunk, squared_gradients
from pipeline.model.networks import evaluating
from pipeline.model.objectives import Objective


def fisher_diagonal(
    model: nn.Module,
    objective: Objective,
    x: Tensor,
    generator: torch.Generator,
    alive: Callable[[], None] = lambda: None,
) -> Params:
    """Fisher information of a model, diagonal only, with targets sampled from its own output.

    F_i = 1/N sum_n (d log p(y_n | x_n) / d theta_i)^2,  y_n ~ p(y | x_n).

    x: (N, ...). Squaring a batch's mean gradient instead lets opposite signs cancel and keeps a
    few per cent of the trace. The model is put in eval mode and given back as it was; its gradients
    are not touched. Memory does not grow with N. alive: called after each pass through the model.
    """
    with evaluating(model):
        with torch.no_grad():
            output = torch.cat([model(part) for part in torch.split(x, chunk(x))])
        squares = squared_gradients(model, x, objective.score(output, generator), alive)
    return {name: square / len(x) for name, square in squares.items()}
