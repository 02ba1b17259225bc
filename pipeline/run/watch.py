"""Whether the champion still does what the gate saw of it: scores in, a regime it has left out.

The live loss is prequential: each reading is forecast before it is seen, and its score is the
normalised error. A score is compared with those that the gate saw of the series' task: it is out
beyond their mean by SPREADS standard deviations, and by LEAST_RISE of the mean at least. How far,
in units of that allowance and cut to [-1, 1], is summed up and never falls below 0 (CUSUM: Page
1954): the sum is above 0 since a reading from which on, at every moment, more was out than in. That
reading is where the rise began. One outlier counts no more than a good reading does.

A boundary explains a rise that goes on when it is found, or begins before its transition is over;
so does a series of which nothing is known yet. It is explained until the champion is seen to serve
the series, by INSIDE more readings in than out.

All of it is about one champion and begins anew with another, after a restart and with another owner
of the partition: then every series has to be served first. It is not part of a checkpoint, because
what a partition decides must not depend on the champion.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from pipeline.records import Boundary, FloatArray, IntArray, Settled

#: Standard deviations of single scores above their mean: a whole stretch there is no chance.
SPREADS = 3.0
#: Part of the mean: what a regime's slow changes do to a forecast is no fault of a version.
LEAST_RISE = 0.5
#: Readings in, net of those out, that show that the champion serves a series; so many out, net of
#: those in, that it does not: a few are chance.
INSIDE = 50.0
#: Of a task's series that the champion scores, those that have to be out: a single broken one
#: among many says nothing of the version.
SHARE = 0.5

#: No task: the open segment has no name yet.
UNNAMED = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """A task whose scores have left what the gate saw of it."""

    task: int
    #: Of the series that has been out the longest, and how many of how many are out.
    series: str
    out: int
    of: int
    #: Readings since the rise, and their mean score; mean and limit of what the gate saw.
    readings: int
    score: float
    expected: float
    limit: float

    def __str__(self) -> str:
        """One sentence for the audit."""
        others = f" and {self.out - 1} more of {self.of} series" if self.out > 1 else ""
        return (
            f"task {self.task} in series {self.series}{others}: mean score {self.score:.2f} over "
            f"{self.readings} readings, the gate saw {self.expected:.2f} and up to "
            f"{self.limit:.2f} is usual; no boundary explains it"
        )


@dataclass(slots=True)
class _State:
    """Arrays with a row for each series."""

    #: The sum, readings since it was 0 last, and the sum of their scores.
    excess: NDArray[np.float64]
    age: NDArray[np.float64]
    total: NDArray[np.float64]
    explained: NDArray[np.bool_]
    #: A transition is under way.
    open: NDArray[np.bool_]
    segment: IntArray
    task: IntArray

    @classmethod
    def of(cls, n: int) -> _State:
        """Series of which nothing is known."""
        zeros = np.zeros(n, dtype=np.int64)
        return cls(
            excess=np.full(n, INSIDE),
            age=np.zeros(n),
            total=np.zeros(n),
            explained=np.ones(n, dtype=bool),
            open=np.zeros(n, dtype=bool),
            segment=zeros,
            task=zeros.copy(),
        )

    def grown(self, n: int) -> _State:
        """With n rows at least."""
        more = n - len(self.age)
        if more <= 0:
            return self
        new = self.of(max(more, len(self.age)))
        names = [field.name for field in fields(self)]
        return _State(**{k: np.concatenate([getattr(self, k), getattr(new, k)]) for k in names})


class Watch:
    """Watches the champion's scores of one partition.

    Parameters
    ----------
    after
        Readings for which a series must be out; 0: nothing is watched.
    spreads, least_rise
        How far above the mean a score is out: so many standard deviations of those that the gate
        saw, and at least this part of the mean.
    """

    def __init__(
        self, after: int, *, spreads: float = SPREADS, least_rise: float = LEAST_RISE
    ) -> None:
        self.after = after
        self.spreads = spreads
        self.least_rise = least_rise
        self._version: int | None = None
        self._on_trial = False
        self._table = _table({})
        self._slots: dict[str, int] = {}
        self._state = _State.of(0)

    def follow(
        self, version: int, expected: Mapping[int, tuple[float, float]], *, on_trial: bool
    ) -> None:
        """Another champion: what it does from its first reading on is its own.

        But where the one before did not do what was expected of it, this one has to serve first.

        expected: task's number -> mean and spread of the scores that the gate saw.
        on_trial: whether it may be left at all.
        """
        if version == self._version:
            return
        if self._version is not None:
            state = self._state
            failed = self._known() & (state.explained | (state.excess >= INSIDE))
            self._begin(slice(None), proven=~failed)
        self._version, self._on_trial, self._table = version, on_trial, _table(expected)

    def named(self, segments: Iterable[tuple[str, int, int]]) -> None:
        """(series, segment, task): what segments were named."""
        for series, segment, task in segments:
            slot = self._slot(series)
            state = self._state
            if segment < state.segment[slot]:
                continue
            if state.task[slot] not in (UNNAMED, task):
                self._begin(slot, proven=~state.explained[slot])
            state.segment[slot], state.task[slot] = segment, task

    def update(
        self,
        series: Sequence[str],
        starts: IntArray,
        scores: FloatArray,
        boundaries: Sequence[Boundary] = (),
        settled: Sequence[Settled] = (),
    ) -> list[Left]:
        """Take a batch in; the tasks that the champion has left, as they stand at its end.

        series (S,) with rows starts[i]:starts[i + 1] of scores (N,), NaN where there is none.
        """
        if not self.after:
            return []
        slots = np.array([self._slot(name) for name in series], dtype=np.int64)
        for boundary in boundaries:
            self._explain(boundary)
        if self._version is not None and len(scores):
            self._sum_up(slots, starts, scores.astype(np.float64))
        for end in settled:
            slot = self._slot(end.series)
            if end.segment == self._state.segment[slot]:
                self._state.open[slot] = False
        return self._left()

    def _explain(self, boundary: Boundary) -> None:
        """What rises now does so because the regime changes."""
        slot, state = self._slot(boundary.series), self._state
        state.open[slot], state.segment[slot] = True, boundary.segment
        state.task[slot] = UNNAMED
        self._begin(slot, proven=np.False_)

    def _begin(self, where: int | slice, *, proven: NDArray[np.bool_] | np.bool_) -> None:
        """Forget the scores; `proven`: the next rise is one, else the series must be served."""
        state = self._state
        state.excess[where] = np.where(proven, 0.0, INSIDE)
        state.age[where] = state.total[where] = 0.0
        state.explained[where] = ~proven

    def _known(self) -> NDArray[np.bool_]:
        """Series with a task that the gate saw."""
        return ~np.isnan(self._usual(self._state.task)[0])

    def _sum_up(self, slots: IntArray, starts: IntArray, scores: NDArray[np.float64]) -> None:
        """The sum of each series of a batch, and where it was 0 last."""
        state = self._state
        mean, allowance = self._usual(state.task[slots])
        filled = starts[1:] > starts[:-1]
        watched = ~np.isnan(mean) & filled
        slots, mean, allowance = slots[watched], mean[watched], allowance[watched]
        counts = np.diff(starts)[watched]
        if not len(slots):
            return
        rows = np.repeat(watched, np.diff(starts))
        scores = scores[rows]
        first = np.cumsum(counts) - counts
        each = np.repeat(np.arange(len(slots)), counts)
        seen = ~np.isnan(scores)
        excess = np.clip((scores - mean[each]) / allowance[each] - 1.0, -1.0, 1.0)
        path = state.excess[slots][each] + _cumulated(np.where(seen, excess, 0.0), first, each)
        age = _cumulated(seen.astype(np.float64), first, each)
        total = _cumulated(np.where(seen, scores, 0.0), first, each)
        last = first + counts - 1
        low = np.minimum.reduceat(path, first)
        reached = low <= 0.0
        # the last reading at which the path was lowest: from there the sum counts anew
        at_low = np.where(path == low[each], np.arange(len(path)), -1)
        lowest = np.maximum.reduceat(at_low, first)
        state.excess[slots] = path[last] - np.minimum(low, 0.0)
        state.age[slots] = np.where(reached, age[last] - age[lowest], state.age[slots] + age[last])
        state.total[slots] = np.where(
            reached, total[last] - total[lowest], state.total[slots] + total[last]
        )
        state.explained[slots] &= ~(reached & ~state.open[slots])

    def _left(self) -> list[Left]:
        """The tasks of which enough series are out."""
        state = self._state
        if not self._on_trial:
            return []
        known = self._known() & ~state.open & ~state.explained
        out = known & (state.excess > 0.0) & (state.age > self.after)
        found = []
        for task in np.unique(state.task[out]):
            mine = out & (state.task == task)
            of = int((known & (state.task == task)).sum())
            if mine.sum() >= SHARE * of:
                longest = int(np.argmax(np.where(mine, state.age, -1.0)))
                found.append(self._told(longest, int(mine.sum()), of))
        return found

    def _told(self, slot: int, out: int, of: int) -> Left:
        state, names = self._state, list(self._slots)
        mean, allowance = self._usual(state.task[slot : slot + 1])
        return Left(
            task=int(state.task[slot]),
            series=names[slot],
            out=out,
            of=of,
            readings=int(state.age[slot]),
            score=float(state.total[slot] / state.age[slot]),
            expected=float(mean[0]),
            limit=float(mean[0] + allowance[0]),
        )

    def _usual(self, tasks: IntArray) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean score of each task, and how far above it a score may be; NaN: the gate saw none."""
        mean, spread = self._table[np.where(tasks < len(self._table), tasks, UNNAMED)].T
        return mean, np.maximum(np.maximum(self.spreads * spread, self.least_rise * mean), 1e-6)

    def _slot(self, series: str) -> int:
        slot = self._slots.setdefault(series, len(self._slots))
        self._state = self._state.grown(slot + 1)
        return slot


def _table(expected: Mapping[int, tuple[float, float]]) -> NDArray[np.float64]:
    """Mean and spread by the task's number; NaN where there is none."""
    table = np.full((max(expected, default=UNNAMED) + 1, 2), np.nan)
    for task, found in expected.items():
        table[task] = found
    return table


def _cumulated(values: NDArray[np.float64], first: IntArray, each: IntArray) -> NDArray[np.float64]:
    """Cumulative sums (N,) that begin anew at each row in `first`; `each`: whose part a row is."""
    sums = np.cumsum(values)
    before = np.concatenate([[0.0], sums])[first]
    return np.asarray(sums - before[each])
