from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from pipeline.consolidate.flat import Flat
from pipeline.consolidate.passes import Dense, Graph, passes
from pipeline.model.kinds import Design, network

FEATURES, OUTPUTS, ROWS = 6, 4, 10


def autoencoder() -> nn.Module:
    """Two linear layers meet where its code is."""
    return network(Design(window=3, channels=2, hidden=16, kind="autoencoder"), 0)


STACKS: dict[str, Callable[[], nn.Module]] = {
    "forecaster": lambda: network(Design(window=3, channels=2, hidden=16), 0),
    "autoencoder": autoencoder,
    "one layer": lambda: nn.Sequential(nn.Linear(FEATURES, OUTPUTS, bias=False)),
    "nested": lambda: nn.Sequential(
        nn.Sequential(nn.Linear(FEATURES, 8), nn.ReLU()), nn.Linear(8, OUTPUTS)
    ),
}


def batch(rows: int, seed: int) -> Tensor:
    """Windows (N, 3, 2)."""
    return torch.randn(rows, 3, 2, generator=torch.Generator().manual_seed(seed))


def flat_input(model: nn.Module, x: Tensor) -> Tensor:
    """A Sequential takes no windows."""
    return x.flatten(1) if isinstance(model, nn.Sequential) else x


@pytest.mark.parametrize("name", STACKS)
def test_a_stack_passes_as_autograd_says(name: str) -> None:
    """Output and every gradient, over batches of which the last is shorter."""
    model, twin = STACKS[name](), STACKS[name]()
    twin.load_state_dict(model.state_dict())
    found = passes(model, Flat(model), ROWS)
    assert isinstance(found, Dense)
    for rows, seed in ((ROWS, 1), (ROWS, 2), (3, 3)):
        x = flat_input(model, batch(rows, seed))
        expected = twin(x)
        torch.testing.assert_close(found.forward(x), expected)
        gradient = torch.randn(expected.shape)
        twin.zero_grad()
        expected.backward(gradient)
        found.backward(gradient)
        for p, q in zip(model.parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(p.grad, q.grad)


def hooked() -> nn.Module:
    """Twice what the layer says."""
    model = nn.Sequential(nn.Linear(FEATURES, OUTPUTS))
    model[0].register_forward_hook(lambda _layer, _inputs, output: 2 * output)
    return model


def shared() -> nn.Module:
    """One layer, passed twice."""
    layer = nn.Linear(FEATURES, FEATURES)
    return nn.Sequential(layer, nn.ReLU(), layer)


def frozen() -> nn.Module:
    """A layer that is not to be trained has no gradient."""
    model = nn.Sequential(nn.Linear(FEATURES, OUTPUTS))
    model[0].bias.requires_grad_(False)
    return model


OTHERS: dict[str, Callable[[], nn.Module]] = {
    "hook": hooked,
    "shared": shared,
    "frozen": frozen,
    "subclass": lambda: nn.Sequential(nn.modules.linear.NonDynamicallyQuantizableLinear(6, 4)),
    "ReLU first": lambda: nn.Sequential(nn.ReLU(), nn.Linear(FEATURES, OUTPUTS)),
    "ReLU last": lambda: nn.Sequential(nn.Linear(FEATURES, OUTPUTS), nn.ReLU()),
    "other activation": lambda: nn.Sequential(nn.Linear(FEATURES, OUTPUTS), nn.Tanh()),
    "normed": lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(6, 4))),
    "gru": lambda: network(Design(window=3, channels=2, hidden=8, form="gru"), 0),
    "tcn": lambda: network(Design(window=3, channels=2, hidden=8, form="tcn"), 0),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_no_stack_is_left_to_autograd(name: str) -> None:
    """What only looks like one too; its output and gradients are autograd's own."""
    model = OTHERS[name]()
    found = passes(model, Flat(model), ROWS)
    assert isinstance(found, Graph)
    x = flat_input(model, batch(ROWS, 1))
    expected = model(x)
    assert torch.equal(found.forward(x), expected)
    trained = [p for p in model.parameters() if p.requires_grad]
    gradient = torch.randn(expected.shape)
    grads = torch.autograd.grad(expected, trained, gradient)
    found.backward(gradient)
    for p, g in zip(trained, grads, strict=True):
        torch.testing.assert_close(p.grad, g)
