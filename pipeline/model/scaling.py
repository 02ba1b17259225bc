"""Location and scale per channel: sensors' units out of the model's way."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.records import FloatArray

#: Scaled readings grow by the logarithm from here on: an outlier must not own the loss, nor a far
#: regime become a constant.
KNEE = 10.0
#: A quotient that overflows counts as this.
LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True, slots=True)
class Scaling:
    """x -> z = (x - location) / scale, and sign(z) (KNEE + log(1 + |z| - KNEE)) where |z| > KNEE.

    Fitted once, on all readings that a stream's first version was made from, and on no later ones.

    Later versions inherit it, so that weights, EWC state and skills stay comparable.
    """

    location: Tensor  # (d,)
    scale: Tensor  # (d,)

    @classmethod
    def fit(cls, readings: FloatArray) -> Scaling:
        """Median, and the larger of the quartiles' distance and a tenth of the deviation, (n, d).

        A sensor that never moves is scaled by a thousandth of its value, one that is silent by 1.
        """
        x = np.where(np.isfinite(readings), readings, np.nan).astype(np.float64)
        silent = np.isnan(x).all(axis=0)
        x[:, silent] = 0.0
        low, median, high = np.nanquantile(x, (0.25, 0.5, 0.75), axis=0)
        scale = np.maximum((high - low) / 1.349, np.nanstd(x, axis=0) / 10)
        still = np.maximum(np.abs(median) * 1e-3, 1e-9)
        scale = np.where(silent, 1.0, np.where(scale > np.abs(median) * 1e-9, scale, still))
        return cls(
            location=torch.from_numpy(median.astype(np.float32)),
            scale=torch.from_numpy(np.maximum(scale, 1e-30).astype(np.float32)),
        )

    def apply(self, readings: Tensor) -> Tensor:
        """(..., d) readings, scaled; a missing cell stays NaN."""
        z = (readings - self.location) / self.scale
        inside = z.clamp(-KNEE, KNEE)
        over = z.sub_(inside).clamp_(-LARGEST, LARGEST)
        if not over.any():  # the common case; NaN counts as any
            return inside
        return inside.add_(over.sign().mul_(over.abs_().log1p_()))

    def undo(self, scaled: Tensor, first: int = 0) -> Tensor:
        """(..., k) scaled values of the channels from `first` on, in the sensors' units."""
        last = first + scaled.shape[-1]
        inside = scaled.clamp(-KNEE, KNEE)
        over = scaled - inside
        z = inside + over.sign() * over.abs().expm1()
        return z * self.scale[first:last] + self.location[first:last]
