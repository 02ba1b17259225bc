"""A version's weights as safetensors bytes, and back: model, scaling, error scale."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from pipeline.errors import ArtifactCorrupt
from pipeline.model.networks import Forecaster
from pipeline.model.scaling import Scaling

_SHAPE = "shape"
#: What reading other bytes raises: no safetensors, parts missing, sizes that do not fit.
_NOT_WEIGHTS = (SafetensorError, KeyError, TypeError, ValueError, OverflowError, RuntimeError)


@dataclass(frozen=True, slots=True)
class Weights:
    """Everything that scores a reading."""

    model: Forecaster
    scaling: Scaling
    #: (d,) root mean squared forecast error on held-out readings, in scales.
    error_scale: Tensor
    window: int
    channels: int
    hidden: int

    def to_bytes(self) -> bytes:
        """safetensors; equal weights, equal bytes."""
        tensors = {f"model.{name}": p.detach() for name, p in self.model.state_dict().items()}
        tensors["scaling.location"] = self.scaling.location
        tensors["scaling.scale"] = self.scaling.scale
        tensors["error.scale"] = self.error_scale
        tensors[_SHAPE] = torch.tensor([self.window, self.channels, self.hidden])
        return save({name: t.contiguous() for name, t in sorted(tensors.items())})

    @classmethod
    def from_bytes(cls, content: bytes) -> Weights:
        """What `to_bytes` made; ArtifactCorrupt for anything else."""
        try:
            tensors = load(content)
            window, channels, hidden = (int(n) for n in tensors[_SHAPE])
            model = Forecaster(window, channels, hidden)
            prefix = "model."
            model.load_state_dict(
                {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
            )
            location, scale, error_scale = (
                tensors[name].reshape(channels)
                for name in ("scaling.location", "scaling.scale", "error.scale")
            )
            return cls(
                model=model.eval(),
                scaling=Scaling(location, scale),
                error_scale=error_scale,
                window=window,
                channels=channels,
                hidden=hidden,
            )
        except _NOT_WEIGHTS as exc:
            raise ArtifactCorrupt(f"not the weights of a version: {exc}") from None
