from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from pipeline.consolidate import per_sample, products
from pipeline.consolidate.fisher import fisher_diagonal
from pipeline.model.kinds import Design, network
from pipeline.model.objectives import CrossEntropy, Objective, Squared
from tests.model.making import forecaster

Params = dict[str, Tensor]

SAMPLES = 37


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


class Outputs(nn.Module):
    """A recurrent layer, of which every output is used and the last state."""

    def __init__(self, layer: nn.Module, *, given: bool = False) -> None:
        super().__init__()
        self.layer, self.given = layer, given
        self.head = nn.Linear(layer.hidden_size * (1 + layer.bidirectional), 2)

    def forward(self, x: Tensor) -> Tensor:
        """(N, W, 3) -> (N, 2)."""
        first = self.layer.batch_first
        sequence = x if first else x.transpose(0, 1)
        states = {}
        if self.given:
            start = x.mean(dim=1).repeat(self.layer.num_layers, 1, 2)[..., : self.layer.hidden_size]
            states = {"hx": (start, start + 1) if isinstance(self.layer, nn.LSTM) else start}
        out, last = self.layer(sequence, **states)
        last = last[0] + last[1].tanh() if isinstance(last, tuple) else last
        y: Tensor = self.head(out.mean(dim=1 if first else 0))
        return y + last.sum(dim=(0, 2))[:, None]


class TimeMajor(nn.Module):
    """A linear layer over readings with time in front: its rows are no samples."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        """(N, W, 3) -> (N, 2)."""
        y: Tensor = self.head(self.layer(x.transpose(0, 1)).tanh().sum(dim=0))
        return y


class Careful(nn.Module):
    """It looks at the values of what it computes, which vmap cannot, and owns a bare parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.gain = nn.Linear(6, 2), nn.Parameter(torch.randn(2))

    def forward(self, x: Tensor) -> Tensor:
        """(N, 2, 3) -> (N, 2)."""
        y: Tensor = self.layer(x.flatten(1)) * self.gain
        if bool(y.isnan().any()):
            raise ValueError("NaN")
        return y


class Odd(nn.Linear):
    """A linear layer by its class that is none."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, in) -> (N, out), with the weight squared."""
        return nn.functional.linear(x, self.weight.square(), self.bias)


class Partly(nn.Module):
    """A layer that is used, one that is not, and one from which no gradient is taken."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.idle, self.cut = nn.Linear(6, 2), nn.Linear(6, 2), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 2, 3) -> (N, 2)."""
        y: Tensor = self.used(x.flatten(1)) + self.cut(x.flatten(1)).detach()
        return y


class Convolutions(nn.Module):
    """Convolutions with every option, each sample's window one channel first."""

    def __init__(self, kernel: int = 2, **options: object) -> None:
        super().__init__()
        self.one = nn.Conv1d(3, 4, 3, padding=2, dilation=2)
        self.two = nn.Conv1d(4, 6, kernel, **options)
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        """(N, W, 3) -> (N, 2)."""
        y: Tensor = self.head(self.two(self.one(x.transpose(1, 2)).tanh()).tanh().sum(dim=2))
        return y


def mlp() -> nn.Module:
    """The default forecaster, small."""
    return forecaster(4, 3, 5, seed=2)


def form(name: str, kind: str = "forecaster") -> nn.Module:
    """Another of ours, small."""
    return network(Design(window=4, channels=3, hidden=8, kind=kind, form=name), seed=2)


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


def overwritten() -> nn.Module:
    """Activations that overwrite what the layer before them gave."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(6, 4), nn.ReLU(inplace=True), nn.Linear(4, 3), nn.ReLU(inplace=True)
    )


def frozen() -> nn.Module:
    """A layer that is not trained in front of one that is."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3))
    return model.requires_grad_(False)


def recurrent(kind: type[nn.Module], *, given: bool = False, **options: object) -> Outputs:
    """A GRU or LSTM of 5 cells over 3 channels."""
    return Outputs(kind(3, 5, **options), given=given)


#: (model, shape of a sample, whether products are enough).
MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, int], bool]] = {
    "forecaster": (mlp, (4, 3), True),
    "gru": (lambda: form("gru"), (4, 3), True),
    "tcn": (lambda: form("tcn"), (4, 3), True),
    "autoencoder": (lambda: form("mlp", kind="autoencoder"), (4, 3), True),
    "no bias": (no_bias, (2, 3), True),
    "batch norm and dropout": (normed, (2, 3), False),
    "a bare matrix": (Convolved, (5, 3), False),
    "convolution": (Convolutions, (9, 3), True),
    "groups and stride": (lambda: Convolutions(groups=2, stride=2, bias=False), (9, 3), True),
    "padded with the same": (lambda: Convolutions(3, padding="same"), (9, 3), False),
    "padded in a circle": (
        lambda: Convolutions(padding=1, padding_mode="circular"),
        (9, 3),
        False,
    ),
    "GRU": (lambda: recurrent(nn.GRU, batch_first=True), (5, 3), True),
    "GRU, time first": (lambda: recurrent(nn.GRU, bias=False), (5, 3), True),
    "GRU, layers": (
        lambda: recurrent(nn.GRU, batch_first=True, num_layers=3, dropout=0.5, given=True),
        (5, 3),
        True,
    ),
    "GRU, both ways": (lambda: recurrent(nn.GRU, bidirectional=True), (5, 3), False),
    "LSTM": (lambda: recurrent(nn.LSTM, batch_first=True), (5, 3), True),
    "LSTM, time first": (lambda: recurrent(nn.LSTM, bias=False), (5, 3), True),
    "LSTM, layers": (
        lambda: recurrent(nn.LSTM, batch_first=True, num_layers=2, given=True),
        (5, 3),
        True,
    ),
    "a layer used twice": (Twice, (2, 3), True),
    "tied weights": (Tied, (2, 3), True),
    "a layer over each reading": (PerReading, (5, 3), True),
    "a layer over readings, time first": (TimeMajor, (5, 3), False),
    "as many readings as samples": (TimeMajor, (SAMPLES, 3), False),
    "a borrowed weight": (Borrowed, (2, 3), False),
    "overwriting activations": (overwritten, (2, 3), True),
    "frozen layers": (frozen, (2, 3), False),
    "layers without gradient": (Partly, (2, 3), True),
    "another forward": (lambda: nn.Sequential(nn.Flatten(), Odd(6, 2)), (2, 3), False),
    "values looked at": (Careful, (2, 3), False),
}
OBJECTIVES: dict[str, Objective] = {"squared": Squared(), "cross entropy": CrossEntropy()}


@pytest.fixture(params=MODELS)
def case(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> tuple[nn.Module, Tensor]:
    """A model, and inputs for it: more than a chunk each way, and no multiple."""
    make, shape, _ = MODELS[request.param]
    monkeypatch.setattr(per_sample, "VMAP_CHUNK", 5)
    monkeypatch.setattr(per_sample, "CELLS", 150)
    monkeypatch.setattr(products, "CELLS", 150)
    torch.manual_seed(5)
    return make(), torch.randn(SAMPLES, *shape)


def per_sample_loop(model: nn.Module, objective: Objective, x: Tensor, seed: int) -> Params:
    """The definition, one sample and one backward pass at a time.

    The gradient of -log p(y | x) by the output, with y drawn from p, is the objective's (tested
    with it); from there one backward pass a sample, squared, then the mean.
    """
    model.eval()
    with torch.no_grad():
        score = objective.score(model(x), generator(seed))
    needed = {name: p.requires_grad for name, p in model.named_parameters()}
    model.requires_grad_()
    total = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for x_n, score_n in zip(x, score, strict=True):
        loss = (model(x_n[None])[0] * score_n).sum()
        grads = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
        for (name, _), g in zip(model.named_parameters(), grads, strict=True):
            total[name] += 0 if g is None else g.square()
    for name, p in model.named_parameters():
        p.requires_grad_(needed[name])
    return {name: t / len(x) for name, t in total.items()}


def generator(seed: int) -> torch.Generator:
    """A generator of its own."""
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)
def test_the_fisher_diagonal_is_the_mean_of_squared_per_sample_gradients(
    case: tuple[nn.Module, Tensor], objective: Objective
) -> None:
    """Exact for every kind of module, whichever way it is computed: against a plain loop."""
    model, x = case
    expected = per_sample_loop(model, objective, x, seed=3)
    found = fisher_diagonal(model, objective, x, generator(3))
    assert list(found) == [name for name, _ in model.named_parameters()]
    for name, f in found.items():
        torch.testing.assert_close(f, expected[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_only_what_is_not_of_products_takes_the_slow_way(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Products are ten times faster: the fallback must not be what answers for known layers."""
    make, shape, products = MODELS[name]
    asked: list[int] = []
    slow = per_sample._by_vmap
    monkeypatch.setattr(per_sample, "_by_vmap", lambda *a: asked.append(1) or slow(*a))
    torch.manual_seed(5)
    fisher_diagonal(make(), Squared(), torch.randn(SAMPLES, *shape), generator(0))
    assert bool(asked) is not products


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
