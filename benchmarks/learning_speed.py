"""Training time beside Avalanche's, the Fisher diagonal beside vmap, and the trainer's memory."""

from __future__ import annotations

import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from benchmarks import learning_peer as peer
from benchmarks.detection_goals import Goal, at_least, at_most
from benchmarks.learning_data import Problem, digits, forecasting, mlp
from benchmarks.learning_live import Live
from benchmarks.learning_sequence import Learner
from pipeline.config import Learn, Score
from pipeline.consolidate.fisher import fisher_diagonal
from pipeline.consolidate.training import Examples
from pipeline.model.kinds import Design, network
from pipeline.model.objectives import CrossEntropy

#: Ours, and the peer's name of it; live: every batch is a training call of its own.
METHODS = {"replay": "er", "online_ewc": "ewc", "ewc_replay": "ewc_er", "live": "live"}
BATCH, ROWS, TASKS = 64, 6000, 3
FISHER_ROWS, CONSOLIDATIONS = 2000, 200
#: bfloat16 products are of these.
FLAG = "avx512_bf16"

Line = tuple[str, str, Sequence[float], Goal | None]


@dataclass(frozen=True, slots=True)
class Case:
    """Tasks and a network to time, and how many times as fast as the peer we mean to be."""

    name: str
    problem: Problem
    hidden: int
    epochs: int
    kept: int
    goals: Mapping[str, float]
    #: The setting `learn.precision`.
    precision: str = "float32"


def cases(python: str) -> list[Case]:
    """The digits' 269k parameters, and the default forecaster of 8 sensors in synthetic regimes."""
    made = digits(python, "permuted", 0, 7)
    tasks = [Examples(x=t.x[:ROWS], y=t.y[:ROWS]) for t in made.tasks[:TASKS]]
    wide = Case(
        "269k parameters",
        replace(made, tasks=tasks),
        hidden=256,
        epochs=1,
        kept=500,
        goals=dict(zip(METHODS, (1.6, 2.5, 2.4, 3.5), strict=True)),
    )
    regimes, score = forecasting("synthetic", 0), Score()
    design = Design(window=score.window, channels=8, hidden=score.hidden)
    small = Case(
        "the default sensor model",
        replace(regimes, tasks=regimes.tasks[:TASKS], model=lambda: network(design, 0)),
        hidden=score.hidden,
        epochs=5,
        kept=2000,
        goals=dict.fromkeys(METHODS, 3.0),
    )
    halved = dict(zip(METHODS, (3.3, 3.5, 4.0, 6.0), strict=True))
    half = replace(wide, name="269k parameters, bfloat16", goals=halved, precision="bfloat16")
    return [wide, small, half]


def training(python: str, repeat: int) -> Iterator[Line]:
    """Training time in pairs, ours and the peer's in turn, on one thread."""
    for case in cases(python):
        if case.precision == "bfloat16" and FLAG not in Path("/proc/cpuinfo").read_text():
            yield f"training time, {case.name}", f"not measured: the CPU has no {FLAG}", [], None
            continue
        with tempfile.TemporaryDirectory() as scratch:
            file = Path(scratch) / "tasks"
            save_file(_tensors(case.problem.tasks), file)
            for ours, theirs in METHODS.items():
                pairs = [
                    (_ours(case, ours), _peer(python, file, case, theirs)) for _ in range(repeat)
                ]
                yield from _compared(case, ours, theirs, pairs)


Timed = Mapping[str, float]


def _compared(
    case: Case, ours: str, theirs: str, pairs: Sequence[tuple[Timed, Timed]]
) -> Iterator[Line]:
    of = f"training time, {case.name}"
    peer_ = f"Avalanche {theirs}"
    yield of, f"{ours}: seconds", [mine["wall_s"] for mine, _ in pairs], None
    yield of, f"{peer_}: seconds", [other["wall_s"] for _, other in pairs], None
    yield of, f"{ours}: loss on all tasks", [mine["loss"] for mine, _ in pairs], None
    yield of, f"{peer_}: loss on all tasks", [other["loss"] for _, other in pairs], None
    for clock, goal in (("cpu_s", None), ("wall_s", at_least(case.goals[ours]))):
        by = " by the process's clock" if clock == "cpu_s" else ""
        ratios = [other[clock] / mine[clock] for mine, other in pairs]
        yield of, f"{ours}: times as fast as {peer_}{by}", ratios, goal


def _tensors(tasks: Sequence[Examples]) -> dict[str, Tensor]:
    parts = enumerate(tasks)
    return {
        f"{k}.{name}": tensor.contiguous()
        for k, part in parts
        for name, tensor in (("x", part.x.flatten(1)), ("y", part.y))
    }


def _peer(python: str, file: Path, case: Case, method: str) -> Timed:
    """A live stream is seen once, as ours is."""
    epochs = 1 if method == "live" else case.epochs
    return peer.timed(python, file, method, hidden=case.hidden, epochs=epochs, kept=case.kept)


def _ours(case: Case, method: str) -> Timed:
    """Seconds by both clocks, and the mean loss on all tasks at the end."""
    model, objective = case.problem.model(), case.problem.objective
    run = _stream(case, model) if method == "live" else _sequence(case, model, method)
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    with torch.no_grad():
        losses = [float(objective.loss(model(task.x), task.y)) for task in case.problem.tasks]
    return {"wall_s": wall, "cpu_s": cpu, "loss": statistics.mean(losses)}


def _sequence(case: Case, model: nn.Module, strategy: str) -> Callable[[], None]:
    precision = {} if case.precision == "float32" else {"precision": case.precision}
    learn = Learn(
        strategy=strategy,  # type: ignore[arg-type]
        epochs=case.epochs,
        reservoir_capacity=case.kept,
        **precision,  # type: ignore[arg-type]
    )
    learner = Learner(model, case.problem.objective, learn, 0)

    def run() -> None:
        for task in case.problem.tasks:
            learner.learn(task)

    return run


def _stream(case: Case, model: nn.Module) -> Callable[[], None]:
    """Task after task, each shuffled, in batches."""
    tasks, generator = case.problem.tasks, torch.Generator().manual_seed(0)
    x, y = (torch.cat([getattr(task, name) for task in tasks]) for name in ("x", "y"))
    live = Live(model, case.problem.objective, x, y, case.kept, BATCH)
    orders, first = [], 0
    for task in tasks:
        orders.append(first + torch.randperm(len(task), generator=generator))
        first += len(task)

    def run() -> None:
        for order in orders:
            for rows in torch.split(order, BATCH):
                live.learn(rows)

    return run


def diagonal() -> Iterator[Line]:
    """2,000 samples of the digits' network: ours beside torch.func's vmap, on the same draws."""
    model = mlp(0, 784, 256, 10)
    x = torch.rand(FISHER_ROWS, 784, generator=torch.Generator().manual_seed(0))
    fast, mine = _timed(lambda: fisher_diagonal(model, CrossEntropy(), x, _generator()))
    slow, other = _timed(lambda: _by_vmap(model, x))
    error = max(float((fast[n] - f).abs().max() / f.abs().max()) for n, f in slow.items())
    yield "Fisher diagonal", "milliseconds", [1e3 * mine], None
    yield "Fisher diagonal", "vmap, milliseconds", [1e3 * other], None
    yield "Fisher diagonal", "times as fast as vmap", [other / mine], at_least(15)
    yield "Fisher diagonal", "largest error, of the largest entry", [error], at_most(1e-5)


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
    yield "memory", "MiB more after 200 consolidations than after 20", [grown], at_most(10)


def _resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20
