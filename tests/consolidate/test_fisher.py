from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from pipeline.consolidate import fisher
from pipeline.consolidate.fisher import fisher_diagonal
from pipeline.model.networks import forecaster
from pipeline.model.objectives import CrossEntropy, Squared

Params = dict[str, Tensor]


class Convolved(nn.Module):
    """A bare matrix and a convolution before a linear layer: not of linear layers alone."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Parameter(torch.randn(3, 3))
        self.conv = nn.Conv1d(3, 4, 2)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        """(N, W, 3) -> (N, 2)."""
        y: Tensor = self.head(self.conv((x @ self.mix).transpose(1, 2)).tanh().mean(dim=2))
        return y


class Twice(nn.Module):
    """One linear layer used two times: its gradient is the sum over both."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 2, 3) -> (N, 6)."""
        y: Tensor = self.layer(self.layer(x.flatten(1)).tanh())
        return y


class Tied(nn.Module):
    """Two linear layers that share a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(6, 6), nn.Linear(6, 6)
        self.two.weight = self.one.weight

    def forward(self, x: Tensor) -> Tensor:
        """(N, 2, 3) -> (N, 6)."""
        y: Tensor = self.two(self.one(x.flatten(1)).tanh())
        return y


class PerReading(nn.Module):
    """A linear layer over each reading of the window: a sample passes it W times."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        """(N, W, 3) -> (N, 2)."""
        y: Tensor = self.head(self.layer(x).tanh().sum(dim=1))
        return y


class Borrowed(nn.Module):
    """A linear layer whose weight is also used outside of it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 2, 3) -> (N, 6)."""
        return nn.functional.linear(x.flatten(1), self.layer.weight).tanh() + self.layer.bias


def mlp() -> nn.Module:
    """The default forecaster, small."""
    return forecaster(4, 3, 5, seed=2)


def no_bias() -> nn.Module:
    """Linear layers, one without a bias."""
    return nn.Sequential(nn.Flatten(), nn.Linear(6, 4, bias=False), nn.Tanh(), nn.Linear(4, 3))


def normed() -> nn.Module:
    """Batch-norm and dropout between linear layers: in eval mode each sample by itself."""
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 3)
    )
    model[2].running_mean.copy_(torch.randn(4))
    model[2].running_var.copy_(torch.rand(4) + 0.5)
    return model


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, int]]] = {
    "forecaster": (mlp, (4, 3)),
    "no bias": (no_bias, (2, 3)),
    "batch norm and dropout": (normed, (2, 3)),
    "convolution": (Convolved, (5, 3)),
    "a layer used twice": (Twice, (2, 3)),
    "tied weights": (Tied, (2, 3)),
    "a layer over each reading": (PerReading, (5, 3)),
    "a borrowed weight": (Borrowed, (2, 3)),
}


@pytest.fixture(params=MODELS)
def case(request: pytest.FixtureRequest) -> tuple[nn.Module, Tensor]:
    """A model, and 37 inputs for it: more than a chunk of the fallback, and no multiple."""
    make, shape = MODELS[request.param]
    torch.manual_seed(5)
    return make(), torch.randn(fisher.CHUNK + 5, *shape)


def per_sample(model: nn.Module, x: Tensor, seed: int) -> Params:
    """The definition, one sample and one backward pass at a time.

    log p(y | x) = -1/2 |y - f(x)|^2 + const with y = f(x) + noise: squared gradient, then mean.
    """
    model.eval()
    with torch.no_grad():
        noise = torch.randn(len(x), model(x).shape[1], generator=generator(seed))
    total = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for x_n, noise_n in zip(x, noise, strict=True):
        output = model(x_n[None])[0]
        log_likelihood = -0.5 * ((output.detach() + noise_n) - output).square().sum()
        grads = torch.autograd.grad(log_likelihood, list(model.parameters()))
        for (name, _), g in zip(model.named_parameters(), grads, strict=True):
            total[name] += g.square()
    return {name: t / len(x) for name, t in total.items()}


def generator(seed: int) -> torch.Generator:
    """A generator of its own."""
    return torch.Generator().manual_seed(seed)


def test_the_fisher_diagonal_is_the_mean_of_squared_per_sample_gradients(
    case: tuple[nn.Module, Tensor],
) -> None:
    """Exact for every kind of module, whichever way it is computed: against a plain loop."""
    model, x = case
    expected = per_sample(model, x, seed=3)
    found = fisher_diagonal(model, Squared(), x, generator(3))
    assert found.keys() == expected.keys()
    for name, f in found.items():
        torch.testing.assert_close(f, expected[name], rtol=1e-4, atol=1e-6)


def test_of_a_classifier_labels_are_drawn_from_its_own_output() -> None:
    """Against a loop: -log softmax(f(x))[y], y drawn once for each sample, squared, then mean."""
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)), torch.randn(40, 4)
    with torch.no_grad():
        labels = torch.multinomial(model(x).softmax(dim=1), 1, generator=generator(3))[:, 0]
    total = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for x_n, label in zip(x, labels, strict=True):
        loss = -model(x_n).log_softmax(dim=0)[label]
        grads = torch.autograd.grad(loss, list(model.parameters()))
        for (name, _), g in zip(model.named_parameters(), grads, strict=True):
            total[name] += g.square() / len(x)
    found = fisher_diagonal(model, CrossEntropy(), x, generator(3))
    for name, f in found.items():
        torch.testing.assert_close(f, total[name], rtol=1e-4, atol=1e-7)


def test_outer_products_agree_with_vmap() -> None:
    """(g^2)' (a^2) is an identity, not an estimate: both ways on the same noise."""
    model = mlp().eval()
    x, noise = torch.randn(70, 4, 3), torch.randn(70, 3)
    one, other = fisher._by_outer_products(model, x, noise), fisher._by_vmap(model, x, noise)
    assert list(one) == list(other)
    for name, f in one.items():
        torch.testing.assert_close(f, other[name], rtol=1e-4, atol=1e-7)


def test_the_default_model_takes_the_fast_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outer products are ten times faster: the fallback must not be what answers for an MLP."""

    def refuse(*_: object) -> Params:
        raise AssertionError("the fallback was asked")

    monkeypatch.setattr(fisher, "_by_vmap", refuse)
    assert fisher_diagonal(mlp(), Squared(), torch.randn(9, 4, 3), generator(0))


def test_squaring_a_batchs_mean_gradient_is_something_else() -> None:
    """The mistake not to make: independent signs cancel, and about 1/N of the trace is left.

    E[(1/N sum g_n)^2] = E[g^2] / N, for the noise of the samples is independent.
    """
    model, n = mlp(), 256
    x = torch.randn(n, 4, 3)
    exact = sum(float(f.sum()) for f in fisher_diagonal(model, Squared(), x, generator(1)).values())
    noise = torch.randn(n, 3, generator=generator(1))
    mean = torch.autograd.grad((model(x) * noise).sum() / n, list(model.parameters()))
    wrong = sum(float(g.square().sum()) for g in mean)
    assert wrong < 0.05 * exact


def test_fisher_of_a_linear_model_is_the_mean_square_of_its_input() -> None:
    """f = w x, noise of unit variance: E[(noise x)^2] = E[x^2]; of the bias, 1."""
    n = 20_000
    model = nn.Sequential(nn.Flatten(), nn.Linear(1, 1))
    x = torch.full((n, 1, 1), 3.0)
    found = fisher_diagonal(model, Squared(), x, generator(8))
    five_sigma = 5 * (2 / n) ** 0.5  # of the mean of n squared normals
    assert abs(float(found["1.bias"]) - 1) < five_sigma
    assert abs(float(found["1.weight"]) / 9 - 1) < five_sigma


def test_modes_and_gradients_are_given_back_as_they_were(case: tuple[nn.Module, Tensor]) -> None:
    """It may be called in the middle of a training: each module's own mode, each gradient."""
    model, x = case
    model.train()
    next(model.children(), model).eval()
    modes = [m.training for m in model.modules()]
    grads = [torch.randn_like(p) for p in model.parameters()]
    for p, g in zip(model.parameters(), grads, strict=True):
        p.grad = g.clone()
    state = {name: t.clone() for name, t in model.state_dict().items()}
    fisher_diagonal(model, Squared(), x, generator(0))
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), grads, strict=True))
    assert all(torch.equal(t, state[name]) for name, t in model.state_dict().items())
    assert not any(m._forward_hooks for m in model.modules())


def test_modes_are_given_back_after_a_failure() -> None:
    """Inputs that do not fit leave a model that can still be trained, without hooks."""
    model = mlp().train()
    with pytest.raises(RuntimeError):
        fisher_diagonal(model, Squared(), torch.randn(5, 9, 9), generator(0))
    assert all(m.training for m in model.modules())
    assert not any(m._forward_hooks for m in model.modules())


def test_chance_comes_from_the_generator_alone() -> None:
    """The same state gives the same bits, another other ones; torch's own is not moved."""
    model, x = mlp(), torch.randn(20, 4, 3)
    torch.manual_seed(4)
    expected = torch.rand(3)
    torch.manual_seed(4)
    one, again = (fisher_diagonal(model, Squared(), x, generator(6)) for _ in range(2))
    assert torch.equal(torch.rand(3), expected)
    other = fisher_diagonal(model, Squared(), x, generator(7))
    assert all(torch.equal(f, again[name]) for name, f in one.items())
    assert not any(torch.equal(f, other[name]) for name, f in one.items())
