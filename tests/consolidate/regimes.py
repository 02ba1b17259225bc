"""Two regimes that forecast each other badly, and consolidations of their segments."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import numpy as np
from msgspec.structs import replace

from pipeline.config import Learn, Score
from pipeline.consolidate.consolidation import Inputs, consolidate
from pipeline.consolidate.readings import Readings, split
from pipeline.consolidate.reservoir import Reservoir
from pipeline.records import Candidate

SCORE = Score(window=8, hidden=32)
LEARN = Learn()
CHANNELS = 2


def regime(sign: int, n: int, seed: int) -> Readings:
    """A noisy rotation that turns one way (+1) or the other (-1), each about its own point."""
    rng = np.random.default_rng(seed)
    angle = 0.7 * sign
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    x = np.zeros((n, CHANNELS))
    x[0] = rng.normal(size=CHANNELS)
    for t in range(1, n):
        x[t] = 0.97 * turn @ x[t - 1] + 0.25 * rng.normal(size=CHANNELS)
    values = x + np.array([10.0, -5.0]) + sign * np.array([1.0, -1.0])
    return Readings(values=values.astype(np.float32), offsets=np.arange(n))


def reservoir(segments: Sequence[Readings], learn: Learn = LEARN) -> bytes:
    """What a partition keeps of ended segments: their training windows."""
    kept = Reservoir(learn.reservoir_capacity, SCORE.window, CHANNELS)
    for segment in segments:
        kept.offer(split(segment, SCORE.window, learn.held_out)[0])
    return kept.to_bytes()


def alternating(
    strategy: str, seed: int, segments: int = 3, n: int = 512
) -> tuple[list[Candidate], list[Readings]]:
    """Regime 0, regime 1, regime 0 ...: each consolidated on top of the one before."""
    learn = replace(LEARN, strategy=strategy)
    stream = [regime(1 - 2 * (i % 2), n, 100 * seed + i) for i in range(segments)]
    held_out: dict[int, tuple[bytes, ...]] = {}
    made: list[Candidate] = []
    for i, segment in enumerate(stream):
        task, content = i % 2, segment.to_bytes()
        held_out = held_out | {task: (*held_out.get(task, ()), content)}
        inputs = Inputs(
            parent=made[-1].weights if made else None,
            ewc=(made[-1].ewc or None) if made else None,
            segments=((task, content),),
            ended=tuple(s.to_bytes() for s in stream[max(0, i - 1) : i]),
            reservoirs=(reservoir(stream[:i], learn),),
            earlier=tuple(s.to_bytes() for s in stream[:i]),
            held_out=held_out,
            seed=1000 * seed + i,
        )
        made.append(consolidate(inputs, SCORE, learn))
    return made, stream


def second(strategy: str = "ewc_replay", n: int = 256) -> Inputs:
    """The inputs of a consolidation with everything to it: parent, EWC state, reservoirs."""
    made, stream = alternating(strategy, seed=1, segments=2, n=n)
    again = regime(1, n, seed=77)
    return Inputs(
        parent=made[-1].weights,
        ewc=made[-1].ewc or None,
        segments=((0, again.to_bytes()),),
        ended=(stream[1].to_bytes(),),
        reservoirs=(reservoir(stream), reservoir([regime(-1, n, seed=78)])),
        held_out={1: (stream[1].to_bytes(),), 0: (again.to_bytes(), stream[0].to_bytes())},
        seed=5,
    )


def figures(candidate: Candidate) -> dict[str, object]:
    """Everything that a candidate says, but for the time it took."""
    return {
        "weights": hashlib.sha256(candidate.weights).hexdigest(),
        "ewc": hashlib.sha256(candidate.ewc).hexdigest(),
        "metrics": {k: repr(v) for k, v in candidate.metrics.items() if k != "seconds"},
        "skills": {str(k): repr(v) for k, v in candidate.skills.items()},
        "parent_skills": {str(k): repr(v) for k, v in candidate.parent_skills.items()},
        "new_tasks": list(candidate.new_tasks),
        "sizes": {str(k): v for k, v in candidate.sizes.items()},
    }
