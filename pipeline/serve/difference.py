"""Two versions side by side: settings, data, figures, and how far apart their weights lie. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load

from pipeline.errors import ArtifactCorrupt
from pipeline.serve.answers import Answer

#: Lists of artifacts in an answer to `data`.
PARTS = ("learned", "held_out", "ended", "earlier", "reservoirs")
Tensors = dict[str, NDArray[Any]]


def settings(one: Mapping[str, Any], other: Mapping[str, Any]) -> Answer:
    """section.name -> what it was in each, where they differ; None: not set."""
    a, b = _flat(one), _flat(other)
    return {
        name: {"from": a.get(name), "to": b.get(name)}
        for name in sorted(a | b)
        if a.get(name) != b.get(name) or (name in a) != (name in b)
    }


def data(one: Answer, other: Answer) -> Answer:
    """Of two answers to `data`: what only one of them was made from, and how much both."""
    found: Answer = {}
    for use in PARTS:
        a, b = ({part["sha256"]: part for part in answer[use]} for answer in (one, other))
        found[use] = {
            "only_from": [part for sha, part in a.items() if sha not in b],
            "only_to": [part for sha, part in b.items() if sha not in a],
            "both": len(a.keys() & b.keys()),
        }
    return found


def figures(one: Mapping[str, float], other: Mapping[str, float]) -> Answer:
    """name -> the figure of each and its change; None where one has it not."""
    return {
        name: {"from": one.get(name), "to": other.get(name), "change": _change(name, one, other)}
        for name in sorted({*one, *other})
    }


def weights(one: bytes, other: bytes) -> Answer:
    """How far two versions' weights lie apart, layer by layer.

    distance: Euclidean, over all tensors of the layer; relative: by the norm of the first's;
    largest: of all single changes. A layer that only one has, or in another shape, has no distance.

    Raises
    ------
    ArtifactCorrupt
        The bytes are no safetensors.
    """
    a, b = _layers(one), _layers(other)
    layers = {name: _apart(a.get(name, {}), b.get(name, {})) for name in sorted(a | b)}
    known = [layer["distance"] for layer in layers.values() if layer["distance"] is not None]
    return {"distance": float(np.linalg.norm(known)) if known else None, "layers": layers}


def _flat(sections: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for section, values in sections.items():
        if isinstance(values, Mapping):
            found |= {f"{section}.{name}": value for name, value in values.items()}
        else:
            found[section] = values
    return found


def _change(name: str, one: Mapping[str, float], other: Mapping[str, float]) -> float | None:
    return other[name] - one[name] if name in one and name in other else None


def _layers(content: bytes) -> dict[str, Tensors]:
    """Tensors by layer: the name up to its last dot. What is no number of a model has no layer."""
    try:
        tensors = load(content)
    except (SafetensorError, ValueError) as exc:
        raise ArtifactCorrupt(f"not the weights of a version: {exc}") from None
    found: dict[str, Tensors] = {}
    for name, tensor in tensors.items():
        if np.issubdtype(tensor.dtype, np.floating):
            found.setdefault(name.rpartition(".")[0] or name, {})[name] = tensor
    return found


def _apart(one: Tensors, other: Tensors) -> Answer:
    shapes = [{name: tensor.shape for name, tensor in layer.items()} for layer in (one, other)]
    size = sum(tensor.size for tensor in (other or one).values())
    if shapes[0] != shapes[1]:
        return {"distance": None, "relative": None, "largest": None, "parameters": size}
    before, after = (_joined([layer[name] for name in one]) for layer in (one, other))
    change = after - before
    distance, norm = sqrt(change @ change), sqrt(before @ before)
    return {
        "distance": distance,
        "relative": distance / norm if norm else None,
        "largest": float(np.abs(change, out=change).max(initial=0.0)),
        "parameters": size,
    }


def _joined(tensors: Sequence[NDArray[Any]]) -> NDArray[np.float64]:
    return np.concatenate([tensor.ravel() for tensor in tensors], dtype=np.float64)
