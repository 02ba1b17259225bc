"""Windows in, scores out, under inference_mode: high is odd."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from pipeline.model.kinds import kind_of
from pipeline.model.weights import Weights
from pipeline.records import FloatArray

#: Rows in one forward pass: what fits into a cache beats one pass of everything.
CHUNK = 2048


class Scorer:
    """Scores readings with one version's weights."""

    def __init__(self, weights: Weights) -> None:
        self.weights = weights

    @classmethod
    def load(cls, content: bytes, factory: str = "") -> Scorer:
        """From a version's artifact; ArtifactCorrupt if it is not one, and `factory` as there."""
        return cls(Weights.from_bytes(content, factory))

    def score(self, contexts: FloatArray, readings: FloatArray) -> FloatArray:
        """Normalised error (N,) of readings (N, d) after contexts (N, W, d).

        Root mean square over the observed channels of (x - answer) / held-out error; NaN where
        no channel is observed. Around 1 for what the version knows.
        """
        scores = np.empty(len(readings), dtype=np.float32)
        objective, scale = kind_of(self.weights.design).objective, self.weights.error_scale
        for part, output, target in self._answers(contexts, readings):
            error = objective.oddness(output, target)[:, -len(scale) :] / scale
            scores[part] = error.square_().nanmean(dim=1).sqrt_().numpy()
        return scores

    def classify(self, contexts: FloatArray, readings: FloatArray) -> FloatArray:
        """(N, 2) number and probability of the likeliest class: what a classifier says."""
        said = np.empty((len(readings), 2), dtype=np.float32)
        for part, output, _ in self._answers(contexts, readings):
            p, number = output.softmax(dim=1).max(dim=1)
            said[part] = torch.stack([number.float(), p], dim=1).numpy()
        return said

    def predict(self, contexts: FloatArray, readings: FloatArray) -> FloatArray:
        """What the version says of readings (N, d) after contexts (N, W, d), in the sensors' units.

        (N, d) of a forecaster or autoencoder, (N, 1) of a regressor; of a classifier (N, K) the
        probabilities of its classes.
        """
        said = [self._said(output) for _, output, _ in self._answers(contexts, readings)]
        return torch.cat(said).numpy()

    def _said(self, output: Tensor) -> Tensor:
        design = self.weights.design
        if design.classes:
            return output.softmax(dim=1)
        columns = output[:, -len(self.weights.error_scale) :]
        return self.weights.scaling.undo(columns, max(design.target, 0))

    def _answers(
        self, contexts: FloatArray, readings: FloatArray
    ) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Rows, and the model's outputs and targets of them."""
        w, pair = self.weights, kind_of(self.weights.design).pair
        for first in range(0, len(readings), CHUNK):
            part = slice(first, first + CHUNK)
            with torch.inference_mode():
                scaled = (w.scaling.apply(_tensor(a[part])) for a in (contexts, readings))
                x, y = pair(w.design, *scaled)
                output = w.model(x)
            yield part, output, y


def _tensor(array: FloatArray) -> Tensor:
    """The array as a tensor; what is read-only or not contiguous is copied, as torch wants it."""
    return torch.from_numpy(np.require(array, requirements=("C", "W")))
