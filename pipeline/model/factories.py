"""The user's "module:factory" in, a network that forecasts out, or one line that says why not."""

from __future__ import annotations

import importlib

import torch
from torch import Tensor, nn

from pipeline.errors import SettingsError
from pipeline.model.networks import evaluating

#: Rows that a network is tried on.
ROWS = 3


def make(name: str, window: int, channels: int) -> nn.Module:
    """factory(window, channels): (N, W, d) -> (N, d), tried on a few windows of zeros.

    Raises
    ------
    SettingsError
        There is no such factory, it raises, or what it returns is no such network.
    """
    module, _, attribute = name.partition(":")
    try:
        model = getattr(importlib.import_module(module), attribute)(window, channels)
    except Exception as exc:  # whatever a user's module raises
        raise _unfit(name, f"{type(exc).__name__}: {exc}") from exc
    if not isinstance(model, nn.Module):
        raise _unfit(name, f"it returns a {type(model).__name__}, not a torch.nn.Module")
    if not any(p.requires_grad for p in model.parameters()):
        raise _unfit(name, "its module has no parameter to train")
    if any(p.dtype != torch.float32 for p in model.parameters()):
        raise _unfit(name, "its parameters are not float32")
    try:
        with evaluating(model), torch.no_grad():
            output = model(torch.zeros(ROWS, window, channels))
    except Exception as exc:
        raise _unfit(name, f"of ({ROWS}, {window}, {channels}): {exc}") from exc
    wanted = (ROWS, channels)
    if not isinstance(output, Tensor):
        raise _unfit(name, f"its module gives a {type(output).__name__}, not a tensor")
    if tuple(output.shape) != wanted:
        raise _unfit(name, f"its module gives {tuple(output.shape)} where {wanted} is wanted")
    return model


def _unfit(name: str, why: str) -> SettingsError:
    lines = why.splitlines()
    return SettingsError(f"score.model: {name}: {lines[0] if lines else why}")
