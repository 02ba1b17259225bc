"""A finished stream's requests in; what frozen and naive models would have made of them out."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from pipeline.config import Settings
from pipeline.consolidate.consolidation import Inputs, consolidate, evaluate
from pipeline.register.sql import SqlRegistry

Skills = dict[int, float]


def measure(settings: Settings, registry: SqlRegistry, stream_id: int) -> dict[str, Skills]:
    """Skill on every task's held-out readings of `champion`, `frozen` and `naive`, at the end.

    frozen: the first version, kept. naive: the first version, fine-tuned on every segment of a
    normal task in the order of the requests, whether or not the champion was trained on it.
    """
    lasts = registry.held_out(stream_id, registry.last_request(stream_id), 8)
    held_out = {t: tuple(map(registry.get, shas)) for t, shas in lasts.items()}
    champion = registry.champion(stream_id)
    first = registry.first_version(stream_id)
    if champion is None or first is None:
        return {}
    frozen = registry.get(first.sha256)
    models = {
        "champion": registry.get(champion.sha256),
        "frozen": frozen,
        "naive": _naive(settings, registry, stream_id, frozen, held_out.keys()),
    }
    return {
        name: evaluate(weights, held_out, settings.learn)[0] for name, weights in models.items()
    }


def _naive(
    settings: Settings,
    registry: SqlRegistry,
    stream_id: int,
    weights: bytes,
    tasks: Collection[int],
) -> bytes:
    learn = replace(settings.learn, strategy="fine_tune")
    for number, task, segment in registry.segments(stream_id):
        if task not in tasks:
            continue
        content = registry.get(segment)
        inputs = Inputs(
            parent=weights,
            ewc=None,
            segments=((task, content),),
            ended=(),
            reservoirs=(),
            held_out={task: (content,)},
            seed=number,
        )
        weights = consolidate(inputs, settings.score, learn).weights
    return weights


def mean(skills: Mapping[int, float] | Sequence[float]) -> float | None:
    """Average over the tasks; None without one."""
    values: list[Any] = list(skills.values() if isinstance(skills, Mapping) else skills)
    return sum(values) / len(values) if values else None
