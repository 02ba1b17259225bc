"""Small torch models of a series' next reading."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Forecaster(nn.Module):
    """The next reading from the last W: an MLP of two hidden layers over the flat window.

    Parameters
    ----------
    window, channels
        W and d: the input is (N, W, d), scaled, with 0 for a missing cell.
    hidden
        Width of the hidden layers.
    """

    def __init__(self, window: int, channels: int, hidden: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(window * channels, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, channels),
        )

    def forward(self, windows: Tensor) -> Tensor:
        """(N, W, d) -> (N, d)."""
        forecast: Tensor = self.layers(windows.flatten(1))
        return forecast


def forecaster(window: int, channels: int, hidden: int, seed: int = 0) -> Forecaster:
    """A fresh forecaster; the same seed gives the same weights, and torch's own is not touched."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Forecaster(window, channels, hidden)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Batch-norm and dropout off, and every module's mode back afterwards."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
