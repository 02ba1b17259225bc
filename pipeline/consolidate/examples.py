"""Segments in; windows apart for training and for measuring, scaled for the model, out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from pipeline.config import Learn
from pipeline.consolidate.readings import Readings, Windows, halves, split
from pipeline.consolidate.training import Examples
from pipeline.model.kinds import kind_of
from pipeline.model.weights import Weights
from pipeline.records import FloatArray

#: Held-out windows of a task on which strengths of the penalty can be compared.
ENOUGH = 100


def windows_of(
    segments: Sequence[Readings], window: int, held_out: float
) -> tuple[Windows, Windows]:
    """Training and held-out windows of several segments; none crosses from one to another."""
    pairs = [split(readings, window, held_out) for readings in segments]
    return _join([train for train, _ in pairs]), _join([held for _, held in pairs])


def held_out_of(segments: Sequence[Readings], window: int, learn: Learn) -> tuple[Windows, Windows]:
    """Held-out windows of a task that measure, and those on which strengths are compared.

    A search takes every other run and leaves the gate those that it has not looked at; none if that
    were fewer than ENOUGH, or if nothing is searched.
    """
    if learn.ewc_lambda == "search":
        pairs = [halves(readings, window, learn.held_out) for readings in segments]
        measuring, comparing = _join([m for m, _ in pairs]), _join([c for _, c in pairs])
        if len(comparing) >= ENOUGH:
            return measuring, comparing
    return windows_of(segments, window, learn.held_out)[1], _join([])


def examples(windows: FloatArray, weights: Weights) -> Examples:
    """Windows (N, W + 1, d) as a version is asked about them, in its scaling."""
    scaled = weights.scaling.apply(torch.from_numpy(np.array(windows)))
    x, y = kind_of(weights.design).pair(weights.design, scaled[:, :-1], scaled[:, -1])
    return Examples(x=x, y=y)


def _join(parts: Sequence[Windows]) -> Windows:
    if not parts:
        return Windows(values=np.zeros((0, 1, 1), np.float32), offsets=np.zeros((0, 2), np.int64))
    return Windows(
        values=np.concatenate([p.values for p in parts]),
        offsets=np.concatenate([p.offsets for p in parts]),
    )
