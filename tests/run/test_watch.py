"""When a champion has left what the gate saw of it, and what explains that it has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.records import Boundary, Settled
from pipeline.run.watch import INSIDE, Left, Watch
from tests.register.making import boundary

AFTER = 100
#: A score of 1 is usual, up to 1 + 3 * 0.25 is allowed: 1 is as far in as can be, 3 out.
SEEN = {1: (1.0, 0.25), 2: (2.0, 0.25)}
GOOD, BAD = 1.0, 3.0
NAN = np.nan


def settled(segment: int, series: str = "pump") -> Settled:
    return Settled(series=series, segment=segment, end_row=0, end_offset=0, end_time=0)


def update(
    watch: Watch,
    scores: Mapping[str, Sequence[float]],
    boundaries: Sequence[Boundary] = (),
    ends: Sequence[Settled] = (),
) -> list[Left]:
    starts = np.cumsum([0, *map(len, scores.values())])
    values = np.concatenate([np.asarray(s, dtype=np.float32) for s in scores.values()])
    return watch.update(tuple(scores), starts, values, boundaries, ends)


def serving(series: Sequence[str] = ("pump",)) -> Watch:
    """Series in task 1 that version 7 served well, and version 8, on trial, has just begun with."""
    watch = Watch(AFTER)
    watch.follow(7, SEEN, on_trial=True)
    watch.named((name, 0, 1) for name in series)
    assert update(watch, dict.fromkeys(series, [GOOD] * 60)) == []
    watch.follow(8, SEEN, on_trial=True)
    return watch


def test_a_rise_is_left_when_it_has_lasted_and_is_told_with_its_figures() -> None:
    """Not at AFTER readings, at one more; mean score, what the gate saw and how far is usual."""
    watch = serving()
    assert update(watch, {"pump": [BAD] * AFTER}) == []
    (left,) = update(watch, {"pump": [BAD]})
    assert left == Left(
        task=1, series="pump", out=1, of=1, readings=101, score=3.0, expected=1.0, limit=1.75
    )
    assert str(left) == (
        "task 1 in series pump: mean score 3.00 over 101 readings, the gate saw 1.00 and up to "
        "1.75 is usual; no boundary explains it"
    )


Step = tuple[list[float], list[Boundary], list[Settled]]


@dataclass(frozen=True)
class Case:
    """What comes after a promotion to a series that has been served, and whether it is left."""

    name: str
    #: (scores, boundaries, ends of transitions), update by update.
    steps: list[Step]
    left: bool
    on_trial: bool = True
    task: int = 1
    seen: Mapping[int, tuple[float, float]] = field(default_factory=lambda: SEEN)


def step(*scores: list[float], at: Boundary | None = None) -> Step:
    return list(chain(*scores)), [at] if at else [], []


LONG = [BAD] * 150
CASES = [
    Case("all is well", [step([GOOD] * 500)], False),
    Case("bad from the first reading", [step(LONG)], True),
    Case("bad later", [step([GOOD] * 300), step(LONG)], True),
    Case("bad, then good again", [step([BAD] * 90, [GOOD] * 200), step([BAD] * 90)], False),
    Case("at the limit", [step([1.75] * 500)], False),
    Case("a little beyond it", [step([1.76] * 500)], True),
    Case("one outlier in three", [step([BAD, GOOD, GOOD] * 200)], False),
    Case("two outliers in three", [step([BAD, BAD, GOOD] * 200)], True),
    Case("one that is enormous", [step([1e30], [GOOD] * 400)], False),
    Case("holes do not count", [step([BAD] * 90, [NAN] * 500)], False),
    Case("nor do they end a rise", [step([BAD] * 90, [NAN] * 500, [BAD] * 20)], True),
    Case("a champion not on trial", [step(LONG)], False, on_trial=False),
    Case("a task that the gate did not see", [step(LONG)], False, task=3),
    Case("a task that scores higher by nature", [step([2.9] * 500)], False, task=2),
    Case("a very regular one may rise by half", [step([1.5] * 500)], False, seen={1: (1.0, 0.01)}),
    Case("and no more", [step([1.51] * 500)], True, seen={1: (1.0, 0.01)}),
    Case("a boundary in the rise", [step([BAD] * 90), step(LONG, at=boundary())], False),
    Case(
        "a boundary just before it is left", [step([BAD] * 100, at=boundary()), step(LONG)], False
    ),
    Case("of another series", [step([BAD] * 90), step(LONG, at=boundary(series="fan"))], True),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_is_left(case: Case) -> None:
    watch = serving()
    watch.follow(9, case.seen, on_trial=case.on_trial)
    watch.named([("pump", 0, case.task)])
    found = []
    for scores, boundaries, ends in case.steps:
        found += update(watch, {"pump": scores}, boundaries, ends)
    assert bool(found) is case.left


def after_a_boundary() -> Watch:
    """Segment 1 is task 2, its transition goes on, and its scores are high."""
    watch = serving()
    update(watch, {"pump": [BAD] * 50}, [boundary()])
    watch.named([("pump", 1, 2)])
    return watch


def test_a_transition_explains_what_rises_in_it_until_the_series_is_served() -> None:
    """Over or not: without having been served the new segment, nobody can say that it was left."""
    bad = [4.0] * 150  # task 2: 2 is usual, 3 the limit
    watch = after_a_boundary()
    assert update(watch, {"pump": bad}) == []
    assert update(watch, {"pump": bad}, ends=[settled(1)]) == []
    assert update(watch, {"pump": bad}) == []
    assert update(watch, {"pump": [2.0] * int(INSIDE + 149 + 150 + 150 + 5)}) == []
    assert update(watch, {"pump": bad})[0].task == 2


def test_a_quick_look_in_does_not_prove_that_it_is_served() -> None:
    """After a boundary INSIDE readings are needed: a single good one may be chance."""
    watch = after_a_boundary()
    update(watch, {"pump": [4.0]}, ends=[settled(1)])
    assert update(watch, {"pump": [2.0] * int(INSIDE)}) == []
    assert update(watch, {"pump": [4.0] * 300}) == []


def test_the_end_of_an_earlier_transition_ends_no_later_one() -> None:
    """Both may come in one poll: the end of segment 1's, and the boundary that began segment 2."""
    watch = serving()
    update(watch, {"pump": [GOOD] * 10}, [boundary(1), boundary(2)], [settled(1)])
    watch.named([("pump", 2, 1)])
    update(watch, {"pump": [GOOD] * 100})
    assert update(watch, {"pump": LONG}) == []


def test_a_promotion_during_a_transition_is_judged_after_it() -> None:
    """What the new version was trained for it has to serve, once the series has arrived."""
    watch = serving()
    watch.follow(9, {1: SEEN[1]}, on_trial=True)  # knew nothing of task 2
    update(watch, {"pump": [BAD] * 50}, [boundary()])
    watch.named([("pump", 1, 2)])
    watch.follow(10, SEEN, on_trial=True)
    assert update(watch, {"pump": [4.0] * 150}) == []
    assert update(watch, {"pump": [4.0]}, ends=[settled(1)])[0].readings == 151


def test_what_the_one_before_did_not_serve_either_is_no_reason() -> None:
    """To go back would bring nothing: such a series has to be served first."""
    watch = serving()
    update(watch, {"pump": [BAD] * 50})
    watch.follow(9, SEEN, on_trial=True)
    assert update(watch, {"pump": LONG}) == []
    update(watch, {"pump": [GOOD] * 250})
    assert len(update(watch, {"pump": LONG})) == 1


@pytest.mark.parametrize(("before", "left"), [(1, True), (INSIDE - 1, True), (INSIDE, False)])
def test_a_few_odd_readings_before_a_promotion_excuse_nobody(before: float, left: bool) -> None:
    """The one before served the series: the new one is judged from its first reading on."""
    watch = serving()
    update(watch, {"pump": [BAD] * int(before)})
    watch.follow(9, SEEN, on_trial=True)
    assert bool(update(watch, {"pump": LONG})) is left


def test_a_watch_that_begins_has_to_see_the_series_served_first() -> None:
    """After a restart nobody knows what was before: nothing is left on half a story."""
    watch = Watch(AFTER)
    watch.follow(8, SEEN, on_trial=True)
    watch.named([("pump", 0, 1)])
    assert update(watch, {"pump": LONG}) == []
    assert update(watch, {"pump": [GOOD] * 250}) == []
    assert len(update(watch, {"pump": LONG})) == 1


def test_one_broken_series_of_many_says_nothing_of_the_version() -> None:
    """Half of a task's series have to be out."""
    names = ("pump", "fan", "mill", "press")
    watch = serving(names)
    good = dict.fromkeys(names, [GOOD] * 150)
    assert update(watch, good | {"fan": LONG}) == []
    (left,) = update(watch, good | {"fan": LONG, "mill": LONG})
    assert (left.series, left.out, left.of, left.readings) == ("fan", 2, 4, 300)
    assert "in series fan and 1 more of 4 series: " in str(left)


def test_a_segment_s_other_name_begins_anew() -> None:
    """As more is seen it may turn out to be another task, with other scores to expect."""
    watch = serving()
    update(watch, {"pump": [BAD] * 90})
    watch.named([("pump", 0, 2)])
    assert update(watch, {"pump": [4.0] * 90}) == []
    assert update(watch, {"pump": [4.0] * 20})[0].readings == 110
    watch.named([("pump", 0, 2)])
    assert update(watch, {"pump": [4.0]})[0].readings == 111


def test_with_0_nothing_is_watched() -> None:
    """A setting turns it off."""
    watch = Watch(0)
    watch.follow(8, SEEN, on_trial=True)
    assert update(watch, {"pump": LONG * 9}) == []


def by_hand(scores: NDArray[np.float64]) -> tuple[float, int]:
    """The sum reading by reading, and readings since it was 0 last."""
    total, age = 0.0, 0
    for score in scores[~np.isnan(scores)]:
        total = max(0.0, total + np.clip((score - 1.0) / 0.75 - 1.0, -1.0, 1.0))
        age = age + 1 if total > 0 else 0
    return total, age


@pytest.mark.parametrize("polls", [1, 2, 7, 50])
def test_it_is_the_sum_reading_by_reading_however_the_log_is_cut(polls: int) -> None:
    """Against the recursion, for three series at once, some of them absent from a poll."""
    rng = np.random.default_rng(polls)
    names = ("pump", "fan", "mill")
    watch = serving(names)
    scores = {name: rng.gamma(4.0, 0.45, 300) for name in names}
    for values in scores.values():
        values[rng.random(300) < 0.1] = np.nan
    cuts = {name: np.sort(rng.integers(0, 301, polls - 1)) for name in names}
    pieces = {name: np.split(scores[name], cuts[name]) for name in names}
    for poll in range(polls):
        update(watch, {name: pieces[name][poll] for name in names})
    state = watch._state
    for slot, name in enumerate(names):
        total, age = by_hand(scores[name].astype(np.float32).astype(np.float64))
        assert state.excess[slot] == pytest.approx(total, abs=1e-9)
        assert state.age[slot] == age
        since = scores[name][~np.isnan(scores[name])][-age:] if age else np.zeros(1)
        assert state.total[slot] == pytest.approx(since.sum(), rel=1e-5)
