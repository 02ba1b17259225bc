"""Networks and versions for tests."""

from __future__ import annotations

import torch
from torch import nn

from pipeline.model.kinds import Design, kind_of, network
from pipeline.model.scaling import Scaling
from pipeline.model.weights import Weights


def forecaster(window: int, channels: int, hidden: int, seed: int = 0) -> nn.Module:
    """The default model, of these sizes."""
    return network(Design(window=window, channels=channels, hidden=hidden), seed)


def version(design: Design, seed: int = 0) -> Weights:
    """A version of any design, with another location and scale for each channel."""
    steps, columns = torch.arange(design.channels), kind_of(design).scored(design)
    return Weights(
        model=network(design, seed).eval(),
        scaling=Scaling(steps + 0.5, steps + 1.5),
        error_scale=torch.arange(columns) + 0.25,
        design=design,
    )
