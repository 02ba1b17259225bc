"""What happens at a boundary, in numbered order: a pure function of its inputs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.config import Learn, Score
from pipeline.consolidate.ewc import Anchor
from pipeline.consolidate.examples import examples, held_out_of, windows_of
from pipeline.consolidate.fisher import fisher_diagonal
from pipeline.consolidate.readings import Readings, Windows, held_out_windows
from pipeline.consolidate.reservoir import Origin, union
from pipeline.consolidate.state import Answers, State, keys_of
from pipeline.consolidate.strategies import STRATEGIES
from pipeline.consolidate.strategies.base import Keeps, Strategy
from pipeline.consolidate.training import Examples, Kept, Task
from pipeline.consolidate.transfer import learning_curve_area
from pipeline.errors import TrainingFailed
from pipeline.model.kinds import Design, check_columns, kind_of, network, scaling_of
from pipeline.model.weights import Weights, moved
from pipeline.records import Candidate

#: A skill is never below this: a window's loss is cut there.
WORST = -100.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """Everything that a consolidation depends on, as bytes that have a hash."""

    #: The champion's weights, and what it knows beside them; None for a first version.
    parent: bytes | None
    ewc: bytes | None
    #: (task id, readings): what is to be learned now.
    segments: tuple[tuple[int, bytes], ...]
    #: What the parent learned: the tasks that have ended since.
    ended: tuple[bytes, ...]
    #: The newest reservoir of each partition; and all older segments, the oldest first, if the
    #: strategy keeps more than a sample.
    reservoirs: tuple[bytes, ...]
    earlier: tuple[bytes, ...] = ()
    #: Of each of them, the segments that are not replayed.
    left_out: tuple[tuple[Origin, ...], ...] = ()
    #: Task id -> readings whose held-out part measures it; the new tasks are among them.
    held_out: Mapping[int, tuple[bytes, ...]]
    seed: int


def consolidate(
    inputs: Inputs,
    score: Score,
    learn: Learn,
    progress: Callable[[float], None] | None = None,
) -> Candidate:
    """Make a candidate; the same inputs and settings give the same bytes on the same platform.

    1. Load the parent, or begin: scaling from the new readings, fresh weights from the seed.
    2. Fold the Fisher diagonal at the parent's weights, on what it learned, into its anchor.
    3. Train on the new segments, with replay from the reservoirs, under the anchor.
    4. Measure candidate and parent on every task's held-out readings: a row of R each.

    progress: called with the training's share in each step, also before it (0) and after it (1)
    once for each pass and each task; what it raises ends the work.

    Raises
    ------
    TrainingFailed
        No window to train on or to measure with, a loss that is not finite, or a parent of another
        kind than the settings want.
    SettingsError
        There is no such model for these channels, or the parent is of another factory.
    """
    started = time.monotonic()
    told = progress or (lambda _: None)
    with one_thread():
        strategy = STRATEGIES[learn.strategy]
        material = _material(inputs, strategy.keeps, score, learn)  # 1
        generator = torch.Generator().manual_seed(inputs.seed)
        anchor = _anchor(inputs, material, strategy, learn, generator, lambda: told(0.0))  # 2
        model = deepcopy(material.start.model).train()
        trained = strategy(  # 3
            Task(
                model=model,
                objective=kind_of(material.start.design).objective,
                new=material.new,
                held_out=material.held_out,
                kept=material.kept,
                anchor=anchor,
                learn=learn,
                generator=generator,
                compared_on=_compared_on(inputs, material.start, learn),
                progress=progress,
            )
        )
        after = partial(told, 1.0)
        weights = _finish(model.eval(), material.start, inputs.held_out, learn, after)
        row = _row(weights, inputs.held_out, learn, after)  # 4
        before = _row(material.start, inputs.held_out, learn, after) if inputs.parent else {}
        skills = _skills(row)
    return Candidate(
        weights=weights.to_bytes(),
        ewc=State(anchor, material.answers).to_bytes(),
        metrics={
            "loss_before": trained.loss_before,
            "loss_after": trained.loss_after,
            "learning_curve_area": learning_curve_area(trained.loss_before, trained.curve),
            "steps": float(trained.steps),
            "seconds": time.monotonic() - started,
            "ewc_lambda": trained.ewc_lambda,
            "fisher_trace": anchor.trace if anchor else 0.0,
            "windows_new": float(len(material.new)),
            "windows_replayed": float(trained.replayed),
            "windows_held_out": float(sum(len(measured.losses) for measured in row.values())),
            "tasks": float(len(row)),
            "parameters": float(sum(p.numel() for p in model.parameters())),
            "average_skill": float(np.mean(list(skills.values()))),
            **({"weight_change": moved(material.start.model, model)} if inputs.parent else {}),
            **{f"loss_at_lambda_{tried:g}": loss for tried, loss in trained.compared.items()},
        },
        skills=skills,
        parent_skills=_skills(before),
        new_tasks=tuple(sorted({task for task, _ in inputs.segments})),
        sizes={task: len(measured.losses) for task, measured in row.items()},
        losses={task: measured.losses for task, measured in row.items()},
        parent_losses={task: measured.losses for task, measured in before.items()},
        block=held_out_windows(weights.design.window),
        scores={task: measured.scores for task, measured in row.items()},
    )


def evaluate(
    weights: bytes,
    held_out: Mapping[int, Sequence[bytes]],
    learn: Learn,
    factory: str = "",
    alive: Callable[[], None] = lambda: None,
) -> tuple[dict[int, float], dict[int, int]]:
    """Skill on each task's held-out readings, and the windows behind it.

    skill = 1 - MSE / variance, over the observed cells, each channel in units of its own variance
    in the task: 0 for who answers the regime's mean, below for who takes it for another regime. Of
    a classifier it is the accuracy.
    factory: as `Weights.from_bytes` has it. alive: called after each task; what it raises ends it.
    """
    with one_thread():
        row = _row(Weights.from_bytes(weights, factory), held_out, learn, alive)
    return _skills(row), {task: len(measured.losses) for task, measured in row.items()}


def losses_of(
    weights: bytes,
    held_out: Mapping[int, Sequence[bytes]],
    learn: Learn,
    factory: str = "",
    alive: Callable[[], None] = lambda: None,
) -> dict[int, NDArray[np.float64]]:
    """Task id -> (N,) loss of each held-out window: the skill is 1 - their mean."""
    with one_thread():
        row = _row(Weights.from_bytes(weights, factory), held_out, learn, alive)
    return {task: measured.losses for task, measured in row.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Material:
    """What is trained from and on: `start`'s weights, and windows in its scaling."""

    start: Weights
    new: Examples
    held_out: Examples
    kept: Kept | None
    #: What the parent knew; and what was answered on what is kept.
    before: State
    answers: Answers | None


def _material(inputs: Inputs, keeps: Keeps, score: Score, learn: Learn) -> _Material:
    """Step 1: the inputs' bytes as a model and windows; TrainingFailed if there is too little."""
    segments = [Readings.from_bytes(content) for _, content in inputs.segments]
    if not sum(len(segment.offsets) for segment in segments):
        raise TrainingFailed("there is no reading to begin with")
    parent = Weights.from_bytes(inputs.parent, score.factory) if inputs.parent else None
    if parent:
        _check_same(parent.design, score)
    start = parent or _begin(segments, score, inputs.seed)
    train, held = windows_of(segments, start.design.window, learn.held_out)
    if not len(train) or not len(held):
        raise TrainingFailed("the new segment is too short to train and to measure on")
    new, held_out = (examples(part.values, start) for part in (train, held))
    observed = kind_of(start.design).objective.observed
    if not observed(new.y).any() or not observed(held_out.y).any():
        raise TrainingFailed("the new segment has no observed cell to train or to measure on")
    before = State.from_bytes(inputs.ewc or b"")
    if keeps == "everything":  # what is trained on alike is watched alike
        everything = [*map(Readings.from_bytes, inputs.earlier), *segments]
        watched = windows_of(everything, start.design.window, learn.held_out)[1]
        held_out = examples(watched.values, start)
    old = _old(inputs, keeps, start.design.window, learn) if inputs.parent else None
    kept, answers = _kept(start, old, before.answers) if old is not None else (None, None)
    return _Material(
        start=start, new=new, held_out=held_out, kept=kept, before=before, answers=answers
    )


def _old(inputs: Inputs, keeps: Keeps, window: int, learn: Learn) -> Windows | None:
    """The windows that a strategy replays; None if there are none."""
    if keeps == "reservoir":
        capacity = learn.reservoir_capacity
        return union(inputs.reservoirs, capacity, inputs.seed, inputs.left_out)
    if keeps == "nothing" or not inputs.earlier:
        return None
    segments = [Readings.from_bytes(content) for content in inputs.earlier]
    old, _ = windows_of(segments, window, learn.held_out)
    if keeps == "latest":
        last = slice(-learn.reservoir_capacity, None)
        old = Windows(values=old.values[last], offsets=old.offsets[last])
    return old if len(old) else None


@torch.no_grad()
def _kept(parent: Weights, old: Windows, before: Answers | None) -> tuple[Kept, Answers]:
    """Old windows with what was answered on them when they entered: by the parent, if that is now.

    They keep that answer (DER++, Buzzega et al. 2020): one asked for again and again would drift.
    """
    part = examples(old.values, parent)
    keys, now = keys_of(old), parent.model(part.x)
    answers = before.of(keys, now) if before is not None else Answers(keys, now)
    return Kept(examples=part, outputs=answers.outputs), answers


def _begin(segments: Sequence[Readings], score: Score, seed: int) -> Weights:
    values = np.concatenate([s.values for s in segments])
    channels = values.shape[1]
    check_columns(score, channels)
    design = Design.of(score, channels)
    return Weights(
        model=network(design, seed),
        scaling=scaling_of(design, values),
        error_scale=torch.ones(kind_of(design).scored(design)),
        design=design,
    )


def _check_same(design: Design, score: Score) -> None:
    """A version's children are of its kind: their figures and their memory are compared."""
    wanted = Design.of(score, design.channels)
    if str(design) != str(wanted):
        raise TrainingFailed(
            f"the parent is a {design}, the settings want a {wanted}: set them back, or start on "
            "a new topic"
        )


def _anchor(
    inputs: Inputs,
    material: _Material,
    strategy: Strategy,
    learn: Learn,
    generator: torch.Generator,
    alive: Callable[[], None],
) -> Anchor | None:
    """Step 2: the parent's weights and the Fisher diagonal there, merged with what came before."""
    if not inputs.parent or strategy.merge is None:
        return None
    before, start = material.before.anchor, material.start
    segments = [Readings.from_bytes(content) for content in inputs.ended]
    ended, _ = windows_of(segments, start.design.window, learn.held_out)
    if not len(ended):
        return before
    x = examples(ended.values, start).x
    rows = torch.randperm(len(x), generator=generator)[: learn.fisher_rows]
    objective = kind_of(start.design).objective
    fisher = fisher_diagonal(start.model, objective, x[rows], generator, alive)
    theta = {name: p.detach().clone() for name, p in start.model.named_parameters()}
    return strategy.merge(before, Anchor(theta=theta, fisher=fisher), learn.gamma)


def _finish(
    model: torch.nn.Module,
    start: Weights,
    held_out: Mapping[int, Sequence[bytes]],
    learn: Learn,
    alive: Callable[[], None],
) -> Weights:
    """The trained model with its error scale: per channel, over every task's held-out readings."""
    objective, scored = kind_of(start.design).objective, len(start.error_scale)
    squares, counts = torch.zeros(scored), torch.zeros(scored)
    for _, contents in sorted(held_out.items()):
        part = _held_out(contents, start, learn)
        with torch.no_grad():
            error = objective.oddness(model(part.x), part.y)[:, -scored:]
        squares += error.square().nan_to_num(0.0).sum(dim=0)
        counts += (~error.isnan()).sum(dim=0)
        alive()
    scale = (squares / counts.clamp(min=1)).sqrt()
    return replace(
        start,
        model=model,
        error_scale=torch.where(counts > 0, scale, 1.0).clamp(min=1e-3),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Measured:
    """A model on one task's held-out windows."""

    #: (N,) each window's part in 1 - skill, which is their mean; at most 1 - WORST.
    losses: NDArray[np.float64]
    #: Mean and standard deviation of its scores of the windows' targets.
    scores: tuple[float, float]


@torch.no_grad()
def _row(
    weights: Weights,
    held_out: Mapping[int, Sequence[bytes]],
    learn: Learn,
    alive: Callable[[], None] = lambda: None,
) -> dict[int, _Measured]:
    row, objective, scored = {}, kind_of(weights.design).objective, len(weights.error_scale)
    for task, contents in sorted(held_out.items()):
        part = _held_out(contents, weights, learn)
        if objective.observed(part.y).any():
            output = weights.model(part.x)
            odd = objective.oddness(output, part.y)[:, -scored:] / weights.error_scale
            losses = objective.losses(output, part.y).clamp(max=1.0 - WORST)
            row[task] = _Measured(
                losses=losses.numpy(), scores=_spread(odd.square().nanmean(dim=1).sqrt())
            )
        alive()
    return row


def _skills(row: Mapping[int, _Measured]) -> dict[int, float]:
    return {task: 1.0 - float(measured.losses.mean()) for task, measured in row.items()}


@torch.no_grad()
def skill(weights: Weights, part: Examples) -> float | None:
    """Skill on examples made for the weights; None if no target was observed."""
    objective = kind_of(weights.design).objective
    if not objective.observed(part.y).any():
        return None
    losses = objective.losses(weights.model(part.x), part.y).clamp(max=1.0 - WORST)
    return 1.0 - float(losses.mean())


def _held_out(contents: Sequence[bytes], weights: Weights, learn: Learn) -> Examples:
    segments = [Readings.from_bytes(content) for content in contents]
    measuring, _ = held_out_of(segments, weights.design.window, learn)
    return examples(measuring.values, weights)


def _compared_on(inputs: Inputs, start: Weights, learn: Learn) -> tuple[Examples, ...]:
    """Of every task, the windows on which strengths are compared; () if one has too few."""
    parts = []
    for _, contents in sorted(inputs.held_out.items()):
        segments = [Readings.from_bytes(content) for content in contents]
        _, comparing = held_out_of(segments, start.design.window, learn)
        if not len(comparing):
            return ()
        parts.append(examples(comparing.values, start))
    return tuple(parts)


def _spread(scores: Tensor) -> tuple[float, float]:
    """Mean and standard deviation of what is not NaN."""
    seen = scores[~scores.isnan()].double()
    mean = seen.mean()
    return float(mean), float((seen - mean).square().mean().sqrt())


@contextmanager
def one_thread() -> Iterator[None]:
    """Sums over threads would come in another order: the same bytes need one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
