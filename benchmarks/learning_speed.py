"""Training time beside Avalanche's, the Fisher diagonal beside vmap, and the trainer's memory."""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from benchmarks import learning_peer as peer
from benchmarks.detection_goals import Goal, at_least, at_most
from benchmarks.learning_data import Problem, digits, mlp
from benchmarks.learning_sequence import Learner
from pipeline.config import Learn
from pipeline.consolidate.fisher import fisher_diagonal
from pipeline.consolidate.training import Examples
from pipeline.model.objectives import CrossEntropy

#: Ours, the peer's name of it, and how many times as fast we mean to be.
METHODS = (("replay", "er", 1.6), ("online_ewc", "ewc", 2.5), ("ewc_replay", "ewc_er", 2.4))
ROWS, TASKS = 6000, 3
FISHER_ROWS, CONSOLIDATIONS = 2000, 200

Line = tuple[str, str, float, Goal | None]


def training(python: str, repeat: int) -> Iterator[Line]:
    """Wall time of three tasks of 6,000 digits, interleaved with the peer's on one thread."""
    problem = digits(python, "permuted", 0, 7)
    for ours, theirs, goal in METHODS:
        pairs = [(_seconds(problem, ours), _theirs(python, theirs)) for _ in range(repeat)]
        mine, other = (statistics.median(column) for column in zip(*pairs, strict=True))
        yield "training time", f"{ours}: seconds", mine, None
        yield "training time", f"{theirs} of Avalanche: seconds", other, None
        yield "training time", f"{ours}: times as fast as {theirs}", other / mine, at_least(goal)


def _seconds(problem: Problem, strategy: str) -> float:
    learn = Learn(strategy=strategy, epochs=1, reservoir_capacity=500)  # type: ignore[arg-type]
    learner = Learner(problem.model(), problem.objective, learn, 0)
    for task in problem.tasks[:TASKS]:
        learner.learn(Examples(x=task.x[:ROWS], y=task.y[:ROWS]))
    return learner.seconds


def _theirs(python: str, method: str) -> float:
    asked = ("--rows", str(ROWS), "--count", str(TASKS))
    return float(peer.ask(python, "permuted", method, 0, *asked)["wall_s"])


def diagonal() -> Iterator[Line]:
    """2,000 samples of the digits' network: ours beside torch.func's vmap, on the same draws."""
    model = mlp(0, 784, 256, 10)
    x = torch.rand(FISHER_ROWS, 784, generator=torch.Generator().manual_seed(0))
    fast, mine = _timed(lambda: fisher_diagonal(model, CrossEntropy(), x, _generator()))
    slow, other = _timed(lambda: _by_vmap(model, x))
    error = max(float((fast[n] - f).abs().max() / f.abs().max()) for n, f in slow.items())
    yield "Fisher diagonal", "milliseconds", 1e3 * mine, None
    yield "Fisher diagonal", "vmap, milliseconds", 1e3 * other, None
    yield "Fisher diagonal", "times as fast as vmap", other / mine, at_least(15)
    yield "Fisher diagonal", "largest error, of the largest entry", error, at_most(1e-5)


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(1)


def _by_vmap(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """One gradient a sample, vectorised, squared, then the mean."""
    with torch.no_grad():
        score = CrossEntropy().score(model(x), _generator())
    theta = {name: p.detach() for name, p in model.named_parameters()}

    def sample(theta: dict[str, Tensor], x_n: Tensor, score_n: Tensor) -> Tensor:
        output: Tensor = functional_call(model, theta, (x_n[None],))
        return (output[0] * score_n).sum()

    grads = vmap(grad(sample), in_dims=(None, 0, 0), chunk_size=32)(theta, x, score)
    return {name: g.square().mean(dim=0) for name, g in grads.items()}


def _timed(run: Callable[[], Any]) -> tuple[Any, float]:
    """An answer, and the least of three times."""
    times = []
    for _ in range(3):
        started = time.perf_counter()
        answer = run()
        times.append(time.perf_counter() - started)
    return answer, min(times)


def memory() -> Iterator[Line]:
    """Memory of the process after 20 and after 200 consolidations of one learner."""
    generator = torch.Generator().manual_seed(0)
    learn = Learn(epochs=1, reservoir_capacity=500)
    learner = Learner(mlp(0, 64, 64, 10), CrossEntropy(), learn, 0)
    held = {}
    for k in range(1, CONSOLIDATIONS + 1):
        x = torch.randn(50, 64, generator=generator)
        learner.learn(Examples(x=x, y=torch.randint(10, (50,), generator=generator)))
        held[k] = _resident_mib()
    grown = held[CONSOLIDATIONS] - held[20]
    yield "memory", "MiB more after 200 consolidations than after 20", grown, at_most(10)


def _resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20
