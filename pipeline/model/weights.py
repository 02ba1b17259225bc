"""A version's weights as safetensors bytes, and back: model, scaling, error scale."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

import msgspec
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from pipeline.errors import ArtifactCorrupt, SettingsError
from pipeline.model.kinds import Design, kind_of, network
from pipeline.model.scaling import Scaling

_DESIGN = "design"
#: Window, channels and hidden of an MLP that forecasts, in bytes that have no design.
_SHAPE = "shape"
_MODEL = "model."
#: What reading other bytes raises: no safetensors, parts missing, sizes that do not fit.
_NOT_WEIGHTS = (
    *(SafetensorError, KeyError, TypeError, ValueError, OverflowError, RuntimeError),
    msgspec.MsgspecError,
)


@dataclass(frozen=True, slots=True)
class Weights:
    """Everything that scores a reading."""

    model: nn.Module
    scaling: Scaling
    #: (scored,) root mean squared error of the last reading's columns, held out, in scales.
    error_scale: Tensor
    design: Design

    def to_bytes(self) -> bytes:
        """safetensors; equal weights, equal bytes."""
        tensors = {f"{_MODEL}{name}": p.detach() for name, p in self.model.state_dict().items()}
        tensors["scaling.location"] = self.scaling.location
        tensors["scaling.scale"] = self.scaling.scale
        tensors["error.scale"] = self.error_scale
        text = msgspec.json.encode(self.design)
        tensors[_DESIGN] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
        return save({name: _alone(t) for name, t in sorted(tensors.items())})

    @classmethod
    def from_bytes(cls, content: bytes, factory: str = "") -> Weights:
        """What `to_bytes` made; ArtifactCorrupt for anything else.

        factory: the "module:factory" that may be imported to build the model; SettingsError if the
        bytes name another.
        """
        try:
            tensors = load(content)
            design = _design(tensors)
            if ":" in design.kind and design.kind != factory:
                raise SettingsError(
                    f"score.model is {factory or 'another'}, but the version is of {design.kind}: "
                    "set it back, or start on a new topic"
                )
            model = network(design)
            model.load_state_dict(
                {n.removeprefix(_MODEL): t for n, t in tensors.items() if n.startswith(_MODEL)}
            )
            scaling = (tensors[f"scaling.{name}"] for name in ("location", "scale"))
            return cls(
                model=model.eval(),
                scaling=Scaling(*(t.reshape(design.channels) for t in scaling)),
                error_scale=tensors["error.scale"].reshape(kind_of(design).scored(design)),
                design=design,
            )
        except _NOT_WEIGHTS as exc:
            raise ArtifactCorrupt(f"not the weights of a version: {exc}") from None


def moved(before: nn.Module, after: nn.Module) -> float:
    """How far training moved the weights: |after - before| / |before| (L2, all parameters).

    Infinite if they came from 0.
    """
    pairs = list(zip(before.parameters(), after.parameters(), strict=True))
    length = sum(float(old.detach().double().square().sum()) for old, _ in pairs) ** 0.5
    step = sum(float((new - old).detach().double().square().sum()) for old, new in pairs) ** 0.5
    return step / length if length else (inf if step else 0.0)


def _design(tensors: dict[str, Tensor]) -> Design:
    if _DESIGN in tensors:
        return msgspec.json.decode(bytes(tensors[_DESIGN].tolist()), type=Design)
    window, channels, hidden = (int(n) for n in tensors[_SHAPE])
    return Design(window=window, channels=channels, hidden=hidden)


def _alone(tensor: Tensor) -> Tensor:
    """In memory of its own: safetensors refuses what shares it, as tied weights do."""
    return tensor.clone(memory_format=torch.contiguous_format)
