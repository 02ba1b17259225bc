"""Factories as a user's module has them, of which one fits."""

from __future__ import annotations

import sys
import time

import torch
from torch import Tensor, nn


class Persistence(nn.Module):
    """The last reading, times a learned gain for each channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.rand(channels))

    def forward(self, windows: Tensor) -> Tensor:
        """(N, W, d) -> (N, d)."""
        return windows[:, -1] * self.gain


def persistence(window: int, channels: int) -> nn.Module:
    """One that fits."""
    return Persistence(channels)


def tied(window: int, channels: int) -> nn.Module:
    """Two layers with one weight, which safetensors would refuse as it is."""
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(window * channels, channels), *(nn.Linear(channels, channels),) * 2
    )
    model.append(nn.Linear(channels, channels, bias=False))
    model[4].weight = model[2].weight
    return model


class Slow(Persistence):
    """Takes its time for each pass; of one that is no step of a training it never comes back."""

    def __init__(self, channels: int, *, deaf: bool = False) -> None:
        super().__init__(channels)
        self.deaf = deaf

    def forward(self, windows: Tensor) -> Tensor:
        """(N, W, d) -> (N, d)."""
        time.sleep(0.02)
        if self.deaf and not self.training and len(windows) > 10:
            sys.stderr.write("deaf\n")
            time.sleep(3600)
        return super().forward(windows)


def slow(window: int, channels: int) -> nn.Module:
    """A training that takes minutes."""
    return Slow(channels)


def deaf(window: int, channels: int) -> nn.Module:
    """An evaluation that takes an hour, and looks at nothing meanwhile."""
    return Slow(channels, deaf=True)


def raising(window: int, channels: int) -> nn.Module:
    """One that raises."""
    raise KeyError("no GPU\nhere")


def not_a_module(window: int, channels: int) -> object:
    """A function where a module is wanted."""
    return lambda windows: windows[:, -1]


def narrow(window: int, channels: int) -> nn.Module:
    """One output, whatever the channels."""
    return nn.Sequential(nn.Flatten(), nn.Linear(window * channels, 1))


def fixed(window: int, channels: int) -> nn.Module:
    """For windows of 99 readings."""
    return nn.Sequential(nn.Flatten(), nn.Linear(99 * channels, channels))


def empty(window: int, channels: int) -> nn.Module:
    """Nothing to train: the whole window of one reading as it is."""
    return nn.Flatten()


def double(window: int, channels: int) -> nn.Module:
    """Double precision."""
    return persistence(window, channels).double()


class Pair(Persistence):
    """A module that answers with two tensors."""

    def forward(self, windows: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """(N, W, d) -> (N, d) twice."""
        return windows[:, -1], windows[:, -1]


def pair(window: int, channels: int) -> nn.Module:
    """Two answers."""
    return Pair(channels)
