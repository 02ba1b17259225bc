from __future__ import annotations

import hashlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save

from pipeline.errors import ArtifactCorrupt
from pipeline.model.kinds import Design
from pipeline.model.scaling import Scaling
from pipeline.model.weights import Weights
from tests.model.making import forecaster, version

ROOT = Path(__file__).parents[2]


def weights(
    window: int = 4, channels: int = 2, hidden: int = 6, seed: int = 0, **more: object
) -> Weights:
    """A version with weights from a seed."""
    return version(Design(window=window, channels=channels, hidden=hidden, **more), seed)


@settings(deadline=None)
@given(
    window=st.integers(1, 6),
    channels=st.integers(1, 4),
    hidden=st.integers(1, 8),
    seed=st.integers(0, 2**31),
)
def test_weights_come_back_from_their_bytes(
    window: int, channels: int, hidden: int, seed: int
) -> None:
    """Every tensor bit for bit, every size, and then the same bytes again."""
    before = weights(window, channels, hidden, seed)
    after = Weights.from_bytes(before.to_bytes())
    assert after.design == Design(window=window, channels=channels, hidden=hidden)
    assert torch.equal(after.scaling.location, before.scaling.location)
    assert torch.equal(after.scaling.scale, before.scaling.scale)
    assert torch.equal(after.error_scale, before.error_scale)
    state = after.model.state_dict()
    assert state.keys() == before.model.state_dict().keys()
    assert all(torch.equal(p, state[name]) for name, p in before.model.state_dict().items())
    assert after.to_bytes() == before.to_bytes()


def test_equal_weights_have_equal_bytes_however_they_came_about() -> None:
    """Layout, mode and gradients are no part of a version: its sha256 is of the numbers alone."""
    one, other = weights(), weights()
    with torch.no_grad():
        layer = other.model.layers[0]
        layer.weight.data = layer.weight.data.T.contiguous().T  # the same numbers, column by column
    other.model(torch.ones(3, 4, 2)).sum().backward()
    other.model.eval()
    assert not other.model.layers[0].weight.is_contiguous()
    assert one.to_bytes() == other.to_bytes()


def test_equal_weights_have_equal_bytes_in_another_process() -> None:
    """Nothing of a process (hash seed, dict order, global random state) gets into the bytes."""
    program = (
        "import hashlib, torch; torch.manual_seed(99); torch.rand(7)\n"
        "from tests.model.test_weights import weights\n"
        "print(hashlib.sha256(weights(seed=11).to_bytes()).hexdigest())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == hashlib.sha256(weights(seed=11).to_bytes()).hexdigest()


@pytest.mark.parametrize("part", ["model", "location", "scale", "error_scale"])
def test_any_number_changed_changes_the_bytes(part: str) -> None:
    """What scores is what is hashed: nothing can differ between versions of one sha256."""
    one, other = weights(), weights()
    if part == "model":
        with torch.no_grad():
            other.model.layers[4].bias[1] += 1e-6
    elif part == "error_scale":
        other = replace(other, error_scale=other.error_scale * (1 + 1e-6))
    else:
        values = {"location": one.scaling.location, "scale": one.scaling.scale}
        values[part] = values[part] * (1 + 1e-6)
        other = replace(other, scaling=Scaling(**values))
    assert one.to_bytes() != other.to_bytes()


def test_loaded_weights_are_in_eval_mode() -> None:
    """A version forecasts the same every time it is asked."""
    assert not Weights.from_bytes(weights().to_bytes()).model.training


def _old(shape: torch.Tensor) -> bytes:
    """Bytes of before there were kinds: no design, but three sizes."""
    tensors = load(weights().to_bytes())
    del tensors["design"]
    return save(tensors | {"shape": shape})


def _designed(text: bytes) -> bytes:
    """A version with another design."""
    return _with("design", torch.frombuffer(bytearray(text), dtype=torch.uint8))


def test_bytes_without_a_design_are_of_an_mlp_that_forecasts() -> None:
    """Versions of before there were kinds score as they did."""
    old = Weights.from_bytes(_old(torch.tensor([4, 2, 6])))
    assert old.to_bytes() == weights().to_bytes()


def _without(name: str) -> bytes:
    return save({n: t for n, t in load(weights().to_bytes()).items() if n != name})


def _with(name: str, tensor: torch.Tensor) -> bytes:
    return save(load(weights().to_bytes()) | {name: tensor})


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"garbage",
        bytes(100),
        weights().to_bytes()[:-1],
        weights().to_bytes() + b"x",
        save({}),
        save({"a": torch.ones(3)}),
        _without("design"),
        _designed(b"{}"),
        _designed(b'{"window": 4, "channels": 2, "hidden": 7}'),
        _designed(b'{"window": 4, "channels": 2, "hidden": 6, "kind": "oracle"}'),
        _designed(b'{"window": 4, "channels": 2, "hidden": 6, "form": "gru"}'),
        _with("design", torch.tensor([300, -1])),
        _without("scaling.scale"),
        _without("error.scale"),
        _without("model.layers.2.bias"),
        _with("model.layers.9.bias", torch.ones(1)),
        _old(torch.tensor([4, 2, 7])),
        _old(torch.tensor([4, 2])),
        _old(torch.tensor(4)),
        _old(torch.tensor([-4, 2, 6])),
        _old(torch.tensor([4.0, float("inf"), 6.0])),
        _with("scaling.scale", torch.ones(3)),
        _with("error.scale", torch.ones(1)),
    ],
    ids=range(24),
)
def test_anything_else_is_corrupt(content: bytes) -> None:
    """One error, whatever is wrong: cut short, another file, parts missing or that do not fit."""
    with pytest.raises(ArtifactCorrupt):
        Weights.from_bytes(content)


def test_a_fresh_forecaster_depends_on_its_seed_alone() -> None:
    """A first version can be made again; torch's own generator is neither read nor moved."""
    torch.manual_seed(1)
    one = forecaster(3, 2, 5, seed=7)
    drawn = torch.rand(4)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(4), drawn)
    again, other = forecaster(3, 2, 5, seed=7), forecaster(3, 2, 5, seed=8)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), again.parameters(), strict=True))
    assert not torch.equal(one.layers[0].weight, other.layers[0].weight)
