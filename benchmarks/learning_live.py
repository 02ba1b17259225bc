"""Live learning: every batch of a stream is a training call of its own, with one step."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.consolidate.flat import Flat
from pipeline.consolidate.optimisers import Adam
from pipeline.consolidate.passes import passes
from pipeline.consolidate.readings import Windows
from pipeline.consolidate.reservoir import Reservoir
from pipeline.model.objectives import Objective

#: Adam's rate, constant: nobody knows where a stream ends.
LR = 0.002


class Live:
    """Replay of as many kept rows as there are new ones; then the reservoir takes the new ones.

    Weights, moments and reservoir go on from call to call, as the peer's do.

    Parameters
    ----------
    x, y
        All rows of the stream, of which each call names some: the reservoir keeps their numbers.
    """

    def __init__(
        self, model: nn.Module, objective: Objective, x: Tensor, y: Tensor, kept: int, batch: int
    ) -> None:
        self.objective, self.x, self.y = objective, x, y
        self.flat = Flat(model)
        self.optimiser = Adam(self.flat)
        self.passes = passes(model, self.flat, 2 * batch)
        self.reservoir = Reservoir(kept, 0, 1)
        self.generator = torch.Generator().manual_seed(0)

    def learn(self, rows: Tensor) -> None:
        """One batch (N,), by the numbers of its rows."""
        n = len(rows)
        held = torch.from_numpy(self.reservoir.state()["offsets"][:, 0])
        if len(held):
            drawn = torch.randint(len(held), (n,), generator=self.generator)
            both = torch.cat([rows, held[drawn]])
        else:
            both = rows
        output, y = self.passes.forward(self.x[both]), self.y[both]
        parts = zip(torch.split(output, n), torch.split(y, n), strict=True)
        self.passes.backward(torch.cat([self.objective.gradient(o, t) for o, t in parts]))
        self.optimiser.step(LR)
        numbers = rows.numpy()
        self.reservoir.offer(
            Windows(
                values=np.zeros((n, 1, 1), np.float32),
                offsets=np.stack([numbers, numbers], axis=1),
            )
        )
