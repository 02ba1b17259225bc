"""A finished stream's requests in; what other methods would have made of them out: R of each.

Every line begins with the stream's first version and answers the requests after it in their order,
one by one, whether or not the champion was trained on them. A baseline has no gate: what it trains
is what it has. All lines are measured alike: after each request, on the readings of every task that
are held out at the end. No line was trained on those.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain

import numpy as np
from msgspec.structs import replace

from pipeline.config import Settings
from pipeline.consolidate.consolidation import Inputs, consolidate
from pipeline.consolidate.measure import Measure, held_out
from pipeline.consolidate.strategies import STRATEGIES
from pipeline.consolidate.transfer import Matrix
from pipeline.errors import TrainingFailed
from pipeline.register.sql import SqlRegistry
from pipeline.register.tasks import HELD_OUT_SEGMENTS, Asked
from pipeline.run.progress import Show, silent

#: What was live: the line that the baselines are compared with.
CHAMPION = "champion"
#: The first version, left alone; and the strategy of every other baseline.
FROZEN = "frozen"
METHODS = {
    "naive": "fine_tune",
    "replay_only": "replay_only",
    "ewc_only": "ewc_only",
    "joint": "joint",
}
BASELINES = (FROZEN, *METHODS)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Line:
    """R (T, K), NaN where nothing could be measured; and the duration of its trainings."""

    r: Matrix
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Lines:
    """Lines over the same requests, by name; row 0 of each is the first version."""

    #: (K,) ids, and the row by which each had come up.
    tasks: tuple[int, ...]
    learned_at: tuple[int, ...]
    #: (T,) when each row's request was done, microseconds.
    done: tuple[int, ...]
    by_name: Mapping[str, Line]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A consolidation to make: a new segment, and the old readings that its strategy replays."""

    task: int
    segment: bytes
    reservoirs: tuple[bytes, ...] = ()
    earlier: tuple[bytes, ...] = ()
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """How far a line has come: weights, EWC state, what it learned last, its training so far."""

    weights: bytes | None = None
    ewc: bytes | None = None
    learned: tuple[bytes, ...] = ()
    seconds: float = 0.0


def compare(
    settings: Settings,
    registry: SqlRegistry,
    stream_id: int,
    names: Collection[str] = BASELINES,
    show: Show = silent,
) -> Lines | None:
    """R of the champion and of each baseline in `names`; None without a version."""
    first = registry.first_version(stream_id)
    if first is None:
        return None
    begin = State(
        weights=registry.get(first.sha256),
        ewc=registry.get(first.ewc_sha256) if first.ewc_sha256 else None,
        learned=tuple(map(registry.get, known := registry.learned(first.id))),
    )
    newest = registry.held_out(stream_id, registry.last_request(stream_id), HELD_OUT_SEGMENTS)
    asked = [
        each
        for each in registry.segments(stream_id)
        if each.finished is not None and each.task in newest  # of a normal task
    ]
    later = [each for each in asked if each.segment not in known]
    learned_at = _learned_at(asked, later)
    measure = _measure(settings, registry, {task: newest[task] for task in learned_at})
    lives = registry.lives(stream_id)
    done = (lives[0][0], *(each.finished or 0 for each in later))
    lines = {CHAMPION: line(_live(registry, lives, done), measure)}
    if FROZEN in names:
        lines[FROZEN] = line([begin] * len(done), measure)
    for name in (name for name in METHODS if name in names):
        mine = replace(settings, learn=replace(settings.learn, strategy=METHODS[name]))
        tick = partial(show, total=len(later), what=f"baseline {name}")
        steps = _steps(mine, registry, stream_id, later)
        lines[name] = line(chain([begin], follow(steps, begin, mine, tick)), measure)
    return Lines(
        tasks=measure.tasks,
        learned_at=tuple(learned_at[task] for task in measure.tasks),
        done=done,
        by_name=lines,
    )


def follow(
    steps: Iterable[Step], begin: State, settings: Settings, tick: Callable[[int], None]
) -> Iterator[State]:
    """What a line has after each step; one that cannot be trained on leaves it as it was.

    tick: told how many are done, again and again while one is trained.
    """
    state = begin
    for done, step in enumerate(steps):
        state = take(step, state, settings, partial(tick, done))
        yield state


def line(states: Iterable[State], measure: Measure) -> Line:
    """R over what a line had in turn; the same weights are measured once."""
    rows: dict[bytes | None, Matrix] = {None: np.full(len(measure.tasks), np.nan)}
    r, seconds = [], 0.0
    for state in states:
        if state.weights is not None and state.weights not in rows:
            rows[state.weights] = measure.row(state.weights)
        r.append(rows[state.weights])
        seconds = state.seconds
    return Line(r=np.array(r), seconds=seconds)


def take(step: Step, state: State, settings: Settings, tick: Callable[[], None]) -> State:
    """What a line has after one more step."""
    tick()
    inputs = Inputs(
        parent=state.weights,
        ewc=state.ewc,
        segments=((step.task, step.segment),),
        ended=state.learned,
        reservoirs=step.reservoirs,
        earlier=step.earlier,
        held_out={step.task: (step.segment,)},
        seed=step.seed,
    )
    try:
        made = consolidate(inputs, settings.score, settings.learn, lambda _: tick())
    except TrainingFailed:
        return state
    return State(
        weights=made.weights,
        ewc=made.ewc or None,
        learned=(step.segment,),
        seconds=state.seconds + made.metrics["seconds"],
    )


def _steps(
    settings: Settings, registry: SqlRegistry, stream_id: int, later: Sequence[Asked]
) -> Iterator[Step]:
    """The requests with what the strategy keeps, as SQL had it when each was made."""
    get, keeps = registry.get, STRATEGIES[settings.learn.strategy].keeps
    for each in later:
        reservoirs: Mapping[int, str] = {}
        earlier: list[str] = []
        if keeps == "reservoir":
            reservoirs = registry.latest_reservoirs(stream_id, each.request)
        if keeps in ("latest", "everything"):
            found = registry.earlier(stream_id, each.request)
            earlier = [sha for _, sha in found if sha != each.segment]
        yield Step(
            task=each.task,
            segment=get(each.segment),
            reservoirs=tuple(get(sha) for _, sha in sorted(reservoirs.items())),
            earlier=tuple(map(get, dict.fromkeys(earlier))),
            seed=settings.learn.seed + each.request,
        )


def _live(
    registry: SqlRegistry, lives: Sequence[tuple[int, str]], done: Sequence[int]
) -> Iterator[State]:
    """The first version, then the one that was live when each request was done."""
    since = [at for at, _ in lives]
    yield State(weights=registry.get(lives[0][1]))
    for at in done[1:]:
        yield State(weights=registry.get(lives[bisect_right(since, at) - 1][1]))


def _learned_at(asked: Sequence[Asked], later: Sequence[Asked]) -> dict[int, int]:
    """Task -> the row by which it had come up: 0 for those of the first version."""
    rows = {each.request: row for row, each in enumerate(later, start=1)}
    found: dict[int, int] = {}
    for each in asked:
        row = rows.get(each.request, 0)
        found[each.task] = min(row, found.get(each.task, row))
    return found


def _measure(
    settings: Settings, registry: SqlRegistry, newest: Mapping[int, Sequence[str]]
) -> Measure:
    """On the tasks' newest segments, as they are at the end."""
    window, share = settings.score.window, settings.learn.held_out
    return Measure(
        {task: held_out(map(registry.get, shas), window, share) for task, shas in newest.items()},
        settings.score.factory,
    )
