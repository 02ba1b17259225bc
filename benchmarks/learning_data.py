"""Tasks with known figures: digits, gas sensors that drift, and regimes that return."""

from __future__ import annotations

import csv
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from benchmarks.detection_data import SHARED
from pipeline.consolidate.training import Examples
from pipeline.model.kinds import Design, network
from pipeline.model.objectives import CrossEntropy, Objective, Squared

WINDOW = 16
GAS_BATCHES = (1, 2, 3, 4, 5, 6, 8, 9)
#: Every so many rows of a segment a block is held out, the blocks are of BLOCK rows.
EVERY, BLOCK = 4, 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Tasks in order, a network for them, and how well it does on each one's held-out rows."""

    tasks: list[Examples]
    held_out: list[Examples]
    model: Callable[[], nn.Module]
    objective: Objective

    def measure(self, model: nn.Module) -> list[float]:
        """Accuracy of a classifier; 1 - MSE / variance of a forecaster."""
        return [self._figure(model(part.x), part.y) for part in self.held_out]

    def _figure(self, output: Tensor, y: Tensor) -> float:
        if isinstance(self.objective, CrossEntropy):
            return float((output.argmax(dim=1) == y).float().mean())
        variance = y.var(dim=0, unbiased=False).mean()
        return 1 - float((output - y).square().mean() / variance)


_EXPORT = """
import sys
from safetensors.torch import save_file
sys.path.insert(0, sys.argv[1])
from digits import tasks
kind, seed, images, out = sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5]
made = tasks(kind, seed, images=images)
save_file({f"{k}.{n}": t.clone() for k, task in enumerate(made)
           for n, t in zip(("x", "y", "xt", "yt"), task)}, out)
"""


@cache
def digits(python: str, kind: str, seed: int, images: int) -> Problem:
    """Five tasks of 28 x 28 digits, made by the peer's environment, which has scikit-learn."""
    with tempfile.TemporaryDirectory() as scratch:
        out = str(Path(scratch) / "digits")
        arguments = [str(SHARED / "bench"), kind, str(seed), str(images), out]
        subprocess.run([python, "-c", _EXPORT, *arguments], check=True)
        parts = load_file(out)
    made = [{n: parts[f"{k}.{n}"] for n in ("x", "y", "xt", "yt")} for k in range(5)]
    return Problem(
        tasks=[Examples(x=t["x"].flatten(1), y=t["y"]) for t in made],
        held_out=[Examples(x=t["xt"].flatten(1), y=t["yt"]) for t in made],
        model=lambda: mlp(seed, 784, 256, 10),
        objective=CrossEntropy(),
    )


@cache
def gas(seed: int, split: int) -> Problem:
    """Eight batches of a drifting array: 6 gases, 128 features, a quarter of each held out.

    Signed logarithms, standardised by the first batch. split: of the rows.
    """
    batches = [_gas_batch(number) for number in GAS_BATCHES]
    names = sorted({name for _, labels in batches for name in labels})
    first = batches[0][0]
    location, scale = first.mean(axis=0), first.std(axis=0) + 1e-6
    rng = np.random.default_rng(split)
    tasks, held_out = [], []
    for x, labels in batches:
        order = rng.permutation(len(x))
        z = torch.from_numpy(((x - location) / scale).astype(np.float32)[order])
        y = torch.tensor([names.index(labels[i]) for i in order])
        cut = len(x) // EVERY
        tasks.append(Examples(x=z[cut:], y=y[cut:]))
        held_out.append(Examples(x=z[:cut], y=y[:cut]))
    return Problem(
        tasks=tasks,
        held_out=held_out,
        model=lambda: mlp(seed, first.shape[1], 128, len(names)),
        objective=CrossEntropy(),
    )


@cache
def _gas_batch(number: int) -> tuple[np.ndarray, list[str]]:
    with (SHARED / "data" / "gas_drift" / f"batch{number}.dat").open() as file:
        rows = [row for row in csv.reader(file) if row]
    x = np.array([[float(cell) for cell in row[2:130]] for row in rows])
    return np.sign(x) * np.log1p(np.abs(x)), [row[0] for row in rows]


@cache
def forecasting(stream: str, seed: int) -> Problem:
    """Each segment between two true boundaries is a task: the next reading from WINDOW of them.

    Standardised by the first segment; of every EVERY blocks of BLOCK rows one is held out, and no
    reading is in windows of both.
    """
    sys.path.insert(0, str(SHARED / "bench"))
    import streams

    made = streams.synthetic(seed) if stream == "synthetic" else _arem(streams, seed)
    x, regimes = _held(made[0]), made[1]
    edges = [0, *streams.boundaries(regimes), len(x)]
    first = x[: edges[1]]
    scale = np.maximum(first.std(axis=0) + 1e-6, 0.25 * x.std(axis=0) * (stream == "arem"))
    z = ((x - first.mean(axis=0)) / scale).astype(np.float32)
    pairs = [_windows(z[a:b]) for a, b in pairwise(edges)]
    return Problem(
        tasks=[train for train, _ in pairs],
        held_out=[held for _, held in pairs],
        model=lambda: network(Design(window=WINDOW, channels=x.shape[1], hidden=128), seed),
        objective=Squared(),
    )


def _arem(streams: object, seed: int) -> tuple[np.ndarray, np.ndarray]:
    made: tuple[np.ndarray, np.ndarray] = streams.arem(seed, SHARED / "data" / "arem")  # type: ignore[attr-defined]
    return made


def _held(x: np.ndarray) -> np.ndarray:
    """With the last seen reading where one is missing."""
    seen = np.where(np.isnan(x), 0, np.arange(len(x))[:, None])
    return np.take_along_axis(x, np.maximum.accumulate(seen, axis=0), axis=0)


def _windows(z: np.ndarray) -> tuple[Examples, Examples]:
    """Training and held-out windows of one segment."""
    n = len(z) - WINDOW
    block, place = np.arange(n) // BLOCK, np.arange(n) % BLOCK
    held = (block % EVERY == EVERY - 1) & (place >= WINDOW)
    late = (block % EVERY == 0) & (block > 0) & (place < WINDOW)  # begins in a held-out block
    train = (block % EVERY != EVERY - 1) & ~late
    cut = np.lib.stride_tricks.sliding_window_view(z, WINDOW + 1, axis=0).transpose(0, 2, 1)
    both = [torch.from_numpy(cut[:n][which].copy()) for which in (train, held)]
    train_, held_ = (Examples(x=w[:, :-1], y=w[:, -1]) for w in both)
    return train_, held_


def mlp(seed: int, features: int, hidden: int, outputs: int) -> nn.Module:
    """Two hidden layers, from a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Linear(features, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, outputs),
        )
