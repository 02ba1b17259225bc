"""Candidate against champion: promote or reject, with the reason and the figures. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping

from pipeline.config import Gate
from pipeline.records import Candidate, Decision, Version


def decide(
    candidate: Candidate, champion: Version | None, gate: Gate, numbers: Mapping[int, int]
) -> Decision:
    """Promote only if the new tasks got better and no task got worse than allowed.

    Skills are 1 - MSE / variance on each task's held-out readings. The gain is the mean over the
    new tasks, so that a fall of one of them counts as any other's. A bootstrap (no champion)
    needs nothing but finite skills.

    numbers: task id -> its number in the stream, by which people know it.
    """
    skills, before = candidate.skills, candidate.parent_skills
    figures = {
        "skills": dict(skills),
        "parent_skills": dict(before),
        "min_gain": gate.min_gain,
        "max_forgetting": gate.max_forgetting,
    }
    if not skills or not all(map(math.isfinite, (*skills.values(), *before.values()))):
        return Decision(promote=False, reason="its skills are not finite", figures=figures)
    if champion is None:
        return Decision(promote=True, reason="first version of the stream", figures=figures)
    gain = _mean([skills[t] - before[t] for t in candidate.new_tasks if t in before])
    figures["gain"] = gain
    if gain < gate.min_gain:
        reason = f"the new task got better by {gain:.3f}, less than {gate.min_gain:g}"
        return Decision(promote=False, reason=reason, figures=figures)
    falls = {t: before[t] - skills[t] for t in before}
    worst = max(falls, key=lambda t: falls[t], default=None)
    figures["worst_fall"] = falls[worst] if worst is not None else 0.0
    if worst is not None and falls[worst] > gate.max_forgetting:
        fall = f"{falls[worst]:.3f}, more than {gate.max_forgetting:g}"
        reason = f"task {numbers[worst]} got worse by {fall}"
        return Decision(promote=False, reason=reason, figures=figures)
    reason = f"the new task got better by {gain:.3f}, no task worse by more than allowed"
    return Decision(promote=True, reason=reason, figures=figures)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0
