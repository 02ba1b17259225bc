"""The champion as the stream sees it: picked up between two polls, scoring whole polls."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import structlog

from pipeline.records import FloatArray, Version
from pipeline.register.sql import SqlRegistry
from pipeline.run.partition import Step
from pipeline.score.scoring import Scorer

log = structlog.get_logger()

#: How often the registry is asked for another champion, in seconds.
INTERVAL_S = 0.5


class LiveChampion:
    """The version that scores now; `version` is None until there is one.

    factory: the "module:factory" that versions may be of.
    """

    def __init__(
        self,
        registry: SqlRegistry,
        stream_id: int,
        clock: Callable[[], float],
        factory: str = "",
    ) -> None:
        self.registry = registry
        self.stream_id = stream_id
        self.clock = clock
        self.factory = factory
        self.version: Version | None = None
        #: Task's number -> mean and spread of the scores that the gate saw of the version.
        self.expected: Mapping[int, tuple[float, float]] = {}
        #: Whether it may be rolled back.
        self.on_trial = False
        self._scorer: Scorer | None = None
        self._due = 0.0

    def refresh(self, *, now: bool = False) -> None:
        """Load another champion, if there is one; asks at most every INTERVAL_S, or `now`."""
        if not now and self.clock() < self._due:
            return
        self._due = self.clock() + INTERVAL_S
        version = self.registry.champion(self.stream_id)
        if version is None or (self.version and self.version.id == version.id):
            return
        self._scorer = Scorer.load(self.registry.get(version.sha256), self.factory)
        self.version = version
        self.expected = self.registry.expected_scores(version)
        self.on_trial = self.registry.on_trial(version)
        log.info("champion_loaded", version=version.number, sha256=version.sha256[:12])

    def score(self, steps: Sequence[Step]) -> list[FloatArray]:
        """(N,) scores for each step, all in one forward pass; NaN where there is no window."""
        if self._scorer is None or not steps:
            return []
        return _each(self._scorer.score, steps)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of what a classifier may say; none of another kind."""
        return self._scorer.weights.design.classes if self._scorer else ()

    def classify(self, steps: Sequence[Step]) -> list[FloatArray]:
        """(N, 2) likeliest class and its probability for each step; [] of another kind."""
        if self._scorer is None or not steps or not self.classes:
            return []
        return _each(self._scorer.classify, steps)


def _each(
    ask: Callable[[FloatArray, FloatArray], FloatArray], steps: Sequence[Step]
) -> list[FloatArray]:
    """What is said of each step's readings, asked once; NaN where there is no window."""
    ready = np.concatenate([step.ready for step in steps])
    if ready.all():
        said = ask(_join([s.contexts for s in steps]), _join([s.readings for s in steps]))
    else:
        some = ask(
            _join([s.contexts[s.ready] for s in steps]),
            _join([s.readings[s.ready] for s in steps]),
        )
        said = np.full((len(ready), *some.shape[1:]), np.nan, dtype=np.float32)
        said[ready] = some
    return list(np.split(said, np.cumsum([len(s.readings) for s in steps])[:-1]))


def _join(parts: Sequence[FloatArray]) -> FloatArray:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
