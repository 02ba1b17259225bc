"""Small torch networks over a window of readings: (N, W, d), scaled, 0 for a missing cell."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional

#: Taps of a convolution; each layer looks back twice as far as the one before it.
TAPS = 3


class MLP(nn.Module):
    """Two hidden layers over the flat window.

    Parameters
    ----------
    window, channels, hidden, outputs
        W, d, the width of the hidden layers, and K: (N, W, d) -> (N, K).
    """

    def __init__(self, window: int, channels: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(window * channels, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, outputs),
        )

    def forward(self, windows: Tensor) -> Tensor:
        """(N, W, d) -> (N, K)."""
        output: Tensor = self.layers(windows.flatten(1))
        return output


class GRU(nn.Module):
    """The last state of one gated recurrent layer (Cho et al. 2014); sizes as of MLP."""

    def __init__(self, window: int, channels: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.layer = nn.GRU(channels, hidden, batch_first=True)
        self.head = nn.Linear(hidden, outputs)

    def forward(self, windows: Tensor) -> Tensor:
        """(N, W, d) -> (N, K)."""
        _, last = self.layer(windows)
        output: Tensor = self.head(last[0])
        return output


class TCN(nn.Module):
    """Dilated causal convolutions with residuals (Bai et al. 2018), as deep as the window wants.

    Sizes as of MLP; half as many features as it has hidden units make about as many weights.
    """

    def __init__(self, window: int, channels: int, hidden: int, outputs: int) -> None:
        super().__init__()
        features = -(-hidden // 2)
        self.lift = nn.Linear(channels, features)
        self.layers = nn.ModuleList()
        sees = 1  # readings that the last output depends on
        while sees < window or not self.layers:
            dilation = 2 ** len(self.layers)
            back = (TAPS - 1) * dilation
            self.layers.append(nn.Conv1d(features, features, TAPS, dilation=dilation, padding=back))
            sees += back
        self.head = nn.Linear(features, outputs)

    def forward(self, windows: Tensor) -> Tensor:
        """(N, W, d) -> (N, K)."""
        x = self.lift(windows).transpose(1, 2)
        for layer in self.layers:
            x = x + functional.relu(layer(x)[..., : windows.shape[1]])
        output: Tensor = self.head(x[..., -1])
        return output


class Autoencoder(nn.Module):
    """A network's few outputs, the code, and from them the flat window again."""

    def __init__(self, encoder: nn.Module, code: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = nn.Sequential(nn.Linear(code, hidden), nn.ReLU(), nn.Linear(hidden, outputs))

    def forward(self, windows: Tensor) -> Tensor:
        """(N, W, d) -> (N, W d)."""
        output: Tensor = self.decoder(self.encoder(windows))
        return output


def stack(model: nn.Module) -> list[nn.Module]:
    """The modules that the flat input passes one after the other; one is the model itself if what
    it does is not known.
    """
    if type(model) is MLP:
        return stack(model.layers)
    if type(model) is Autoencoder:
        return [*stack(model.encoder), *stack(model.decoder)]
    if type(model) is nn.Sequential:
        return [part for module in model for part in stack(module)]
    return [model]


#: `score.form` -> its class.
FORMS: dict[str, Callable[[int, int, int, int], nn.Module]] = {"mlp": MLP, "gru": GRU, "tcn": TCN}


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """torch's chance from a seed; its own goes on afterwards as if nothing had been."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Batch-norm and dropout off, and every module's mode back afterwards."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
