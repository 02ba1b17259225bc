"""Windows in, scores out, under inference_mode: high is odd."""

from __future__ import annotations

import numpy as np
import torch

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
        for first in range(0, len(readings), CHUNK):
            part = slice(first, first + CHUNK)
            scores[part] = self._score(contexts[part], readings[part])
        return scores

    @torch.inference_mode()
    def _score(self, contexts: FloatArray, readings: FloatArray) -> FloatArray:
        w = self.weights
        scaled = (w.scaling.apply(_tensor(part)) for part in (contexts, readings))
        kind = kind_of(w.design)
        x, y = kind.pair(w.design, *scaled)
        odd = kind.objective.oddness(w.model(x), y)[:, -len(w.error_scale) :]
        error = odd / w.error_scale
        scores: FloatArray = error.square_().nanmean(dim=1).sqrt_().numpy()
        return scores


def _tensor(array: FloatArray) -> torch.Tensor:
    """The array as a tensor; what is read-only or not contiguous is copied, as torch wants it."""
    return torch.from_numpy(np.require(array, requirements=("C", "W")))
