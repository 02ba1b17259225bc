"""Candidate against champion: promote or reject, with the reason and the figures. Pure.

Both were measured on the same held-out windows, so their losses are compared window by window. A
change counts if its mean is beyond the limit and its interval leaves no doubt of its sign:

* the new tasks must have gained min_gain, and the interval of the gain must be above 0;
* a task that the champion serves has got worse if it fell by more than max_forgetting, and the
  interval of the fall is above 0.

The limit is held against the mean, and 0 against the interval. To hold a limit against an interval
would let a small held-out set block for ever (the fall may always be larger than allowed) or let
anything pass (it may always be smaller). Where there are too few windows for an interval the mean
decides alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from pipeline.config import Gate
from pipeline.records import Candidate, Decision, Version
from pipeline.register.bootstrap import Effect, effect

#: A task of a lower skill is not served, and cannot be forgotten: who knows a regime's mean, and no
#: more, has about 0 there.
SERVED = -1.0


def decide(
    candidate: Candidate,
    champion: Version | None,
    gate: Gate,
    numbers: Mapping[int, int],
    seed: int,
) -> Decision:
    """Promote only if the new tasks got better and no task got worse than allowed.

    Skills are 1 - mean loss on each task's held-out windows. The gain is the mean over the new
    tasks, so that a fall of one of them counts as any other's. A task that returns is new. A
    bootstrap (no champion) needs nothing but finite skills.

    numbers: task id -> its number in the stream, by which people know it.
    seed: of the bootstrap: the same candidate and seed, the same decision.
    """
    skills, before = candidate.skills, candidate.parent_skills
    figures: dict[str, Any] = {
        "skills": dict(skills),
        "parent_skills": dict(before),
        "min_gain": gate.min_gain,
        "max_forgetting": gate.max_forgetting,
    }
    if not skills or not all(map(math.isfinite, (*skills.values(), *before.values()))):
        return Decision(promote=False, reason="its skills are not finite", figures=figures)
    if champion is None:
        return Decision(promote=True, reason="first version of the stream", figures=figures)
    new = [task for task in candidate.new_tasks if task in before]
    gain = _change(candidate, new, gate, (seed, *(numbers[task] for task in new)))
    changes = {
        task: _change(candidate, [task], gate, (seed, numbers[task])) for task in sorted(before)
    }
    figures |= {
        "confidence": gate.confidence,
        "bootstrap": gate.bootstrap,
        "block": candidate.block,
        "gain": asdict(gain),
        "changes": {task: asdict(change) for task, change in changes.items()},
    }
    served = {task: change for task, change in changes.items() if before[task] > SERVED}
    promote, reason = _judged(gain if candidate.new_tasks else None, served, gate, numbers)
    return Decision(promote=promote, reason=reason, figures=figures)


def _judged(
    gain: Effect | None, changes: Mapping[int, Effect], gate: Gate, numbers: Mapping[int, int]
) -> tuple[bool, str]:
    """The rule, and the sentence that says how it went; gain: None where no task is new."""
    better = ""
    if gain is not None:
        better = f"the new task got better by {_told(gain.mean, gain.low, gain.high, gate)}, "
        if gain.mean < gate.min_gain:
            return False, f"{better}less than {gate.min_gain:g}"
        if not gain.is_rise:
            return False, f"{better}which may be chance"
    falls = {task: change for task, change in changes.items() if change.is_fall}
    worst = min(falls, key=lambda task: falls[task].mean, default=None)
    if worst is None:
        return True, f"{better}no task worse by more than allowed"
    change = falls[worst]
    fall = _told(-change.mean, _minus(change.high), _minus(change.low), gate)
    if -change.mean > gate.max_forgetting:
        worse = f"task {numbers[worst]} got worse by {fall}"
        return False, f"{worse}, more than {gate.max_forgetting:g}"
    most = f"the largest fall is task {numbers[worst]}'s, by {fall}"
    return True, f"{better}no task worse by more than allowed: {most}"


def _change(candidate: Candidate, tasks: Sequence[int], gate: Gate, seed: Sequence[int]) -> Effect:
    """The rise of the skill, as the mean over tasks: the parent's losses less the candidate's.

    seed: with the tasks' numbers, which are the same in every database; their ids are not.
    """
    if not tasks:
        return Effect(mean=0.0, low=None, high=None, windows=0)
    return effect(
        [candidate.parent_losses[task] - candidate.losses[task] for task in tasks],
        candidate.block,
        gate.bootstrap,
        gate.confidence,
        seed,
    )


def _told(mean: float, low: float | None, high: float | None, gate: Gate) -> str:
    if low is None or high is None:
        return f"{mean:.3f}"
    return f"{mean:.3f} ({low:.3f} to {high:.3f} at {gate.confidence:.0%})"


def _minus(value: float | None) -> float | None:
    return None if value is None else -value
