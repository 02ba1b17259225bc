from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline.model.kinds import Design, network
from pipeline.model.networks import FORMS, TAPS
from tests.model.making import forecaster


def of(form: str, window: int = 6, channels: int = 2, hidden: int = 5, seed: int = 1) -> nn.Module:
    """A forecaster in a form."""
    return network(Design(window=window, channels=channels, hidden=hidden, form=form), seed)


def test_an_mlp_is_two_hidden_layers_over_the_flat_window() -> None:
    """W3 relu(W2 relu(W1 x + b1) + b2) + b3 by numpy: (N, W, d) in, (N, d) out."""
    model = forecaster(3, 2, 5, seed=1)
    x = np.random.default_rng(0).normal(size=(4, 3, 2)).astype(np.float32)
    w1, b1, w2, b2, w3, b3 = (p.detach().numpy() for p in model.parameters())
    hidden = np.maximum(x.reshape(4, 6) @ w1.T + b1, 0)
    hidden = np.maximum(hidden @ w2.T + b2, 0)
    assert model(torch.from_numpy(x)).detach().numpy() == pytest.approx(
        hidden @ w3.T + b3, rel=1e-5, abs=1e-6
    )


def test_a_gru_steps_through_the_window_and_answers_from_its_last_state() -> None:
    """Gates by numpy, reading by reading: r and z by the sigmoid, n with r on the state's part."""
    model = of("gru")
    x = np.random.default_rng(0).normal(size=(4, 6, 2)).astype(np.float32)
    w_x, w_h, b_x, b_h, w, b = (p.detach().numpy() for p in model.parameters())

    def sigmoid(a: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-a))

    h = np.zeros((4, 5))
    for t in range(6):
        r_x, z_x, n_x = np.split(x[:, t] @ w_x.T + b_x, 3, axis=1)
        r_h, z_h, n_h = np.split(h @ w_h.T + b_h, 3, axis=1)
        z = sigmoid(z_x + z_h)
        h = (1 - z) * np.tanh(n_x + sigmoid(r_x + r_h) * n_h) + z * h
    found = model(torch.from_numpy(x)).detach().numpy()
    assert found == pytest.approx(h @ w.T + b, rel=1e-4, abs=1e-5)


def test_a_tcn_adds_dilated_causal_convolutions_to_what_they_are_given() -> None:
    """x_t + relu(b + sum_k W_k x_{t - 2^depth (TAPS - 1 - k)}) by numpy, 0 before the window."""
    model = of("tcn")
    x = np.random.default_rng(0).normal(size=(4, 6, 2)).astype(np.float32)
    here = x @ model.lift.weight.detach().numpy().T + model.lift.bias.detach().numpy()
    for depth, layer in enumerate(model.layers):
        w, b = layer.weight.detach().numpy(), layer.bias.detach().numpy()
        made = np.tile(b, (4, 6, 1)).astype(float)
        for t in range(6):
            for k in range(TAPS):
                back = t - 2**depth * (TAPS - 1 - k)
                if back >= 0:
                    made[:, t] += here[:, back] @ w[:, :, k].T
        here = here + np.maximum(made, 0)
    expected = here[:, -1] @ model.head.weight.detach().numpy().T + model.head.bias.detach().numpy()
    assert model(torch.from_numpy(x)).detach().numpy() == pytest.approx(
        expected, rel=1e-4, abs=1e-5
    )


@pytest.mark.parametrize("window", [1, 2, 3, 4, 7, 8, 15, 16, 17, 40])
@pytest.mark.parametrize("form", FORMS)
def test_an_answer_depends_on_every_reading_of_the_window(form: str, window: int) -> None:
    """The receptive field is the window, whatever its length: a gradient at each reading."""
    x = torch.randn(64, window, 2, generator=torch.Generator().manual_seed(0)).requires_grad_()
    output: Tensor = of(form, window, hidden=16)(x)
    assert output.shape == (64, 2)
    (gradient,) = torch.autograd.grad(output.sum(), x)
    assert bool((gradient.abs().sum(dim=(0, 2)) > 0).all())


def test_the_forms_have_about_as_many_weights() -> None:
    """At the defaults, 16 readings of 8 channels: what differs is the form, not the size."""
    sizes = [
        sum(p.numel() for p in of(form, 16, 8, hidden=64).parameters()) for form in ("mlp", "gru")
    ]
    sizes.append(sum(p.numel() for p in of("tcn", 16, 8, hidden=64).parameters()))
    assert max(sizes) < 1.25 * min(sizes)


@pytest.mark.parametrize("form", FORMS)
def test_a_fresh_network_depends_on_its_seed_alone(form: str) -> None:
    """A first version can be made again; torch's own generator is neither read nor moved."""
    torch.manual_seed(1)
    one = of(form, seed=7)
    drawn = torch.rand(4)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(4), drawn)
    again, other = of(form, seed=7), of(form, seed=8)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), again.parameters(), strict=True))
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    assert not any(torch.equal(a, b) for a, b in pairs)
