"""Avalanche's training time on tasks from a file; runs in the peer's environment, not in ours.

    python learning_peer_timed.py TASKS.safetensors er 64 1 500

TASKS: x (N, features) and y of each task, as `0.x`, `0.y`, ...; y of integers are classes. Methods:
er, ewc (online, decay 0.9), ewc_er, and live: er where every batch is an experience of its own.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import time
import warnings
from pathlib import Path

import torch
from torch import nn

warnings.filterwarnings("ignore")
#: Beside replay a larger penalty costs the peer accuracy; time does not depend on it.
EWC_LAMBDA = {"ewc": 100.0, "ewc_er": 1.0}
LR, GAMMA = 0.002, 0.9


def timed(tasks: list, method: str, hidden: int, epochs: int, kept: int, batch: int = 64) -> dict:
    """Seconds of training, optimiser steps, and the mean loss on all tasks at the end."""
    from avalanche.benchmarks import benchmark_from_datasets
    from avalanche.benchmarks.scenarios.online import split_online_stream
    from avalanche.benchmarks.utils import _make_taskaware_classification_dataset
    from avalanche.training.plugins import EWCPlugin, ReplayPlugin
    from avalanche.training.storage_policy import ReservoirSamplingBuffer
    from avalanche.training.supervised import Naive

    def dataset(x, y):  # its targets only say which rows are of which class: of numbers, none
        data = torch.utils.data.TensorDataset(x, y)
        data.targets = [0] * len(y) if y.is_floating_point() else y.tolist()
        return _make_taskaware_classification_dataset(data, targets=data.targets, task_labels=0)

    plugins = []
    if method in EWC_LAMBDA:
        plugins.append(EWCPlugin(EWC_LAMBDA[method], mode="online", decay_factor=GAMMA))
    if method != "ewc":
        buffer = ReservoirSamplingBuffer(kept)
        sizes = {"batch_size": batch, "batch_size_mem": batch}
        plugins.append(ReplayPlugin(kept, storage_policy=buffer, **sizes))
    x, y = tasks[0]
    numbers = y.is_floating_point()
    criterion = nn.MSELoss() if numbers else nn.CrossEntropyLoss()
    model = network(x.shape[1], hidden, y.shape[1] if numbers else int(y.max()) + 1)
    optimiser = torch.optim.Adam(model.parameters(), lr=LR)
    strategy = Naive(
        model=model,
        optimizer=optimiser,
        criterion=criterion,
        train_mb_size=batch,
        train_epochs=epochs,
        plugins=plugins,
        evaluator=None,
    )
    stream = benchmark_from_datasets(train=[dataset(*task) for task in tasks]).train_stream
    if method == "live":
        stream = split_online_stream(stream, experience_size=batch)
    wall, cpu = 0.0, 0.0
    for experience in stream:
        wall_0, cpu_0 = time.perf_counter(), time.process_time()
        strategy.train(experience)
        wall, cpu = wall + time.perf_counter() - wall_0, cpu + time.process_time() - cpu_0
    state = optimiser.state[next(iter(model.parameters()))]
    steps = int(state["step"])
    with torch.no_grad():
        losses = [float(criterion(model(x), y)) for x, y in tasks]
    return {"wall_s": wall, "cpu_s": cpu, "steps": steps, "loss": sum(losses) / len(losses)}


def network(features: int, hidden: int, outputs: int) -> nn.Module:
    """Two hidden layers: that of the digits, and of the default forecaster."""
    torch.manual_seed(0)
    layers = (nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU())
    return nn.Sequential(*layers, nn.Linear(hidden, outputs))


def main() -> None:
    path, method, *numbers = sys.argv[1:]
    torch.set_num_threads(1)
    sys.path.insert(0, str(Path(__file__).parents[2] / "shared" / "bench"))
    from avalanche_peer import _declare_torchvision_operators
    from safetensors.torch import load_file

    declared = _declare_torchvision_operators() if torch.version.cuda is None else None
    parts = load_file(path)
    tasks = [(parts[f"{k}.x"], parts[f"{k}.y"]) for k in range(len(parts) // 2)]
    with contextlib.redirect_stdout(io.StringIO()):
        answer = timed(tasks, method, *map(int, numbers))
    del declared
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
