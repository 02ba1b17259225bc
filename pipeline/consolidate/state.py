"""What a version knows of the past beside its weights: its anchor, and what was answered on kept
windows when they entered."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from pipeline.consolidate.ewc import Anchor
from pipeline.consolidate.readings import Windows
from pipeline.errors import ArtifactCorrupt

Keys = NDArray[np.int64]

#: Bytes of a window's key.
KEY = 16
_KEYS, _OUTPUTS = "answers.keys", "answers.outputs"


@dataclass(frozen=True, slots=True)
class Answers:
    """What was answered on windows (K, d), by the windows' keys (K, 2)."""

    keys: Keys
    outputs: Tensor

    @classmethod
    def of_tensors(cls, tensors: dict[str, Tensor]) -> Answers:
        """Taken out of tensors; ValueError or KeyError if they do not match."""
        keys, outputs = tensors.pop(_KEYS).numpy(), tensors.pop(_OUTPUTS)
        if keys.dtype != np.int64 or keys.shape != (len(outputs), 2):
            raise ValueError("keys and answers do not match")
        return cls(keys, outputs)

    def of(self, keys: Keys, now: Tensor) -> Answers:
        """Of other windows (N, 2): what was answered on them, or else what is `now` (N, d)."""
        places = {key.tobytes(): i for i, key in enumerate(self.keys)}
        found = np.array([places.get(key.tobytes(), -1) for key in keys], dtype=np.int64)
        known = torch.from_numpy(found >= 0)
        outputs = now.clone()
        outputs[known] = self.outputs[torch.from_numpy(found[found >= 0])]
        return Answers(keys=keys, outputs=outputs)


@dataclass(frozen=True, slots=True)
class State:
    """All of it, as one artifact."""

    anchor: Anchor | None = None
    answers: Answers | None = None

    def to_bytes(self) -> bytes:
        """safetensors; equal states, equal bytes. Nothing known, no bytes."""
        tensors = self.anchor.tensors() if self.anchor else {}
        if self.answers is not None:
            tensors[_KEYS] = torch.from_numpy(self.answers.keys.copy())
            tensors[_OUTPUTS] = self.answers.outputs
        ordered = {name: tensors[name].contiguous() for name in sorted(tensors)}
        return save(ordered) if ordered else b""

    @classmethod
    def from_bytes(cls, content: bytes) -> State:
        """What `to_bytes` made; ArtifactCorrupt for anything else."""
        if not content:
            return cls()
        try:
            tensors = load(content)
            answers = Answers.of_tensors(tensors) if _KEYS in tensors else None
            return cls(Anchor.of(tensors) if tensors else None, answers)
        except (SafetensorError, KeyError, ValueError) as exc:
            raise ArtifactCorrupt(f"not the state of a version: {exc}") from None


def keys_of(windows: Windows) -> Keys:
    """(N, 2) the same for the same readings, wherever they are kept."""
    digests = [
        hashlib.blake2b(window.tobytes(), digest_size=KEY).digest() for window in windows.values
    ]
    return np.frombuffer(b"".join(digests), dtype=np.int64).reshape(-1, 2)
