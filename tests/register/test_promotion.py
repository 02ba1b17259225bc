"""The gate: a candidate becomes champion only with a gain, and only if nothing is forgotten."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import Gate
from pipeline.records import Candidate, Version
from pipeline.register.promotion import SERVED, decide
from tests.register.making import candidate

CHAMPION = Version(
    id=1, stream_id=1, number=1, parent_id=None, sha256="a", ewc_sha256=None, status="champion"
)
#: Powers of two, so that every difference below is exact.
GATE = Gate(min_gain=0.125, max_forgetting=0.25)
#: Task id -> its number in the stream.
NUMBERS = {1: 11, 2: 22, 3: 33, 4: 44}
SEED = 5
NAN, INF = math.nan, math.inf


@dataclass(frozen=True)
class Case:
    name: str
    skills: dict[int, float]
    before: dict[int, float] = field(default_factory=dict)
    new: tuple[int, ...] = ()
    promote: bool = False
    reason: str = ""
    champion: Version | None = CHAMPION


CASES = [
    Case("first version", {1: 0.5}, promote=True, reason="first version", champion=None),
    Case("first version, poor", {1: -3.0}, promote=True, reason="first version", champion=None),
    Case("first version, measured on nothing", {}, reason="not finite", champion=None),
    Case("first version, no number", {1: NAN}, reason="not finite", champion=None),
    Case("first version, one of two", {1: 0.5, 2: -INF}, reason="not finite", champion=None),
    Case("no number later", {1: NAN}, {1: 0.5}, (1,), reason="not finite"),
    Case("parent has no number", {1: 0.5}, {1: NAN}, (1,), reason="not finite"),
    Case("clear gain", {1: 0.75}, {1: 0.25}, (1,), True, "better by 0.500"),
    Case("gain exactly enough", {1: 0.375}, {1: 0.25}, (1,), True, "better by 0.125"),
    Case("gain a little too small", {1: 0.374}, {1: 0.25}, (1,), reason="0.124, less than 0.125"),
    Case("no gain", {1: 0.25}, {1: 0.25}, (1,), reason="better by 0.000"),
    Case("a loss", {1: 0.0}, {1: 0.5}, (1,), reason="better by -0.500"),
    Case(
        "gain is the mean over the new tasks",
        {1: 0.5, 2: 0.25},
        {1: 0.25, 2: 0.25},
        (1, 2),
        True,
        "better by 0.125",
    ),
    Case("new task that nothing measures", {2: 0.5}, {2: 0.5}, (1,), reason="better by 0.000"),
    Case("an old task gained as well", {1: 0.5, 2: 0.75}, {1: 0.0, 2: 0.5}, (1,), True),
    Case("fall exactly allowed", {1: 0.5, 2: 0.5}, {1: 0.0, 2: 0.75}, (1,), True),
    Case(
        "fall a little too large",
        {1: 0.5, 2: 0.499},
        {1: 0.0, 2: 0.75},
        (1,),
        reason="task 22 got worse by 0.251, more than 0.25",
    ),
    Case(
        "the worst of several falls is named",
        {1: 0.5, 2: 0.25, 3: 0.0},
        {1: 0.0, 2: 0.75, 3: 0.75},
        (1,),
        reason="task 33 got worse by 0.750",
    ),
    Case(
        "a fall hidden in the mean of the tasks that were gone over",
        {1: 1.0, 2: 0.0},
        {1: 0.0, 2: 0.5},
        (1, 2),
        reason="task 22 got worse by 0.500",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_gate(case: Case) -> None:
    """Each rule at its border, with the sentence that an audit will read."""
    made = candidate(case.skills, case.before, new=case.new)
    decision = decide(made, case.champion, GATE, NUMBERS, SEED)
    assert decision.promote is case.promote
    assert case.reason in decision.reason
    assert "\n" not in decision.reason


def test_the_figures_that_decided_are_kept() -> None:
    """Whoever doubts a decision can repeat it from what stands beside it."""
    made = candidate({1: 0.5, 2: 0.625}, {1: 0.25, 2: 0.75}, new=(1,))
    assert decide(made, CHAMPION, GATE, NUMBERS, SEED).figures == {
        "skills": {1: 0.5, 2: 0.625},
        "parent_skills": {1: 0.25, 2: 0.75},
        "min_gain": 0.125,
        "max_forgetting": 0.25,
        "confidence": 0.95,
        "bootstrap": 1000,
        "block": 18,
        "gain": {"mean": 0.25, "low": None, "high": None, "windows": 1},
        "changes": {
            1: {"mean": 0.25, "low": None, "high": None, "windows": 1},
            2: {"mean": -0.125, "low": None, "high": None, "windows": 1},
        },
    }


# With intervals -------------------------------------------------------------------------------

BLOCK = 10
#: Windows of one task: so many blocks, of which each is all of one value.
Blocks = tuple[float, ...]
STEADY = (0.5, 0.5, 0.5, 0.5)


@dataclass(frozen=True)
class Doubt:
    """How the losses of each task fall from parent to candidate, block by block."""

    name: str
    changes: dict[int, Blocks]
    promote: bool
    reason: str
    new: tuple[int, ...] = (1,)


DOUBTS = [
    Doubt("a gain in every block", {1: STEADY}, True, "by 0.500 (0.500 to 0.500 at 95%), no"),
    Doubt("a gain in every one of two", {1: (0.25, 0.75)}, True, "0.500 (0.250 to 0.750 at 95%)"),
    Doubt("a gain in one of two", {1: (1.0, -0.25)}, False, "0.375 (-0.250 to 1.000 at 95%), whi"),
    Doubt("the same with the mean alone", {1: (0.375,)}, True, "better by 0.375, no task"),
    Doubt("a small one, however sure", {1: (0.0625,) * 9}, False, "at 95%), less than 0.125"),
    Doubt("many blocks that disagree", {1: (2.0, -1.0) * 4}, False, "which may be chance"),
    Doubt("more of them tell", {1: (2.0, -1.0) * 64}, True, "better by 0.500"),
    Doubt("a sure fall", {1: STEADY, 2: (-0.5,) * 4}, False, "22 got worse by 0.500 (0.500 to"),
    Doubt("a fall in every block of two", {1: STEADY, 2: (-0.125, -0.5)}, False, "22 got worse"),
    Doubt(
        "a fall in one block of two", {1: STEADY, 2: (0.125, -1.0)}, True, "by more than allowed"
    ),
    Doubt(
        "that fall with the mean alone", {1: STEADY, 2: (-0.4375,)}, False, "22 got worse by 0.4"
    ),
    Doubt("a sure fall that is allowed", {1: STEADY, 2: (-0.25,) * 4}, True, "task 22's, by 0.250"),
    Doubt(
        "a fall in doubt does not hide a sure one",
        {1: STEADY, 2: (0.125, -2.0), 3: (-0.5, -0.5)},
        False,
        "task 33 got worse by 0.500",
    ),
    Doubt(
        "a task that returns is new: that it kept its skill is not enough",
        {2: (0.0,) * 4},
        False,
        "the new task got better by 0.000",
        new=(2,),
    ),
    Doubt(
        "one new task of two has windows for no interval",
        {1: STEADY, 2: (0.0,)},
        True,
        "better by 0.250, no task",
        new=(1, 2),
    ),
]


def measured(changes: Mapping[int, Blocks]) -> Candidate:
    """Losses of 1 + change for the parent, and 1 for the candidate, in blocks of windows."""
    parent = {task: 1.0 + np.repeat(blocks, BLOCK) for task, blocks in changes.items()}
    losses = {task: np.ones(len(values)) for task, values in parent.items()}
    made = candidate(
        dict.fromkeys(changes, 0.0), {task: 1.0 - float(v.mean()) for task, v in parent.items()}
    )
    return replace(made, losses=losses, parent_losses=parent, block=BLOCK)


@pytest.mark.parametrize("doubt", DOUBTS, ids=lambda doubt: doubt.name)
def test_the_gate_by_intervals(doubt: Doubt) -> None:
    """The limit is held against the mean, 0 against the interval; without one, the mean decides."""
    made = replace(measured(doubt.changes), new_tasks=doubt.new)
    decision = decide(made, CHAMPION, GATE, NUMBERS, SEED)
    assert doubt.reason in decision.reason
    assert decision.promote is doubt.promote


def test_the_same_request_the_same_interval() -> None:
    """Another seed draws other blocks; the same one repeats the decision to the last bit."""
    rng = np.random.default_rng(3)
    made = replace(measured({1: tuple(rng.normal(0.5, 1.0, 9))}), new_tasks=(1,))
    once, again, other = (decide(made, CHAMPION, GATE, NUMBERS, seed) for seed in (5, 5, 6))
    assert once == again
    assert once.figures["gain"]["mean"] == other.figures["gain"]["mean"]
    assert once.figures["gain"]["low"] != other.figures["gain"]["low"]


def test_the_task_s_interval_does_not_depend_on_the_others() -> None:
    """Each task is drawn by a seed of its own."""
    rng = np.random.default_rng(4)
    blocks = tuple(rng.normal(0.5, 1.0, 9))
    alone, together = (
        decide(replace(measured(c), new_tasks=(1,)), CHAMPION, GATE, NUMBERS, SEED).figures
        for c in ({2: blocks, 1: STEADY}, {2: blocks, 1: STEADY, 3: STEADY})
    )
    assert alone["changes"][2] == together["changes"][2]


SKILL = st.floats(-100, 1) | st.just(NAN)
ROWS = st.dictionaries(st.integers(1, 4), st.tuples(SKILL, SKILL), min_size=1)


@given(rows=ROWS, data=st.data())
def test_what_is_promoted_has_gained_and_forgot_nothing(
    rows: dict[int, tuple[float, float]], data: st.DataObject
) -> None:
    """Whatever the figures: promoted means every task that was served held, and the new ones
    gained on average."""
    new = tuple(data.draw(st.sets(st.sampled_from(sorted(rows)), min_size=1)))
    skills = {task: now for task, (now, _) in rows.items()}
    before = {task: then for task, (_, then) in rows.items()}
    if not decide(candidate(skills, before, new=new), CHAMPION, GATE, NUMBERS, SEED).promote:
        return
    gains = [skills[task] - before[task] for task in new]
    assert sum(gains) / len(gains) >= GATE.min_gain
    served = [task for task in rows if before[task] > SERVED]
    assert all(before[task] - skills[task] <= GATE.max_forgetting for task in served)


def test_without_a_new_task_no_gain_is_asked_for() -> None:
    """A version without one of the tasks has nothing new: it may only not get worse."""
    same = decide(candidate({1: 0.5}, {1: 0.5}, new=()), CHAMPION, GATE, NUMBERS, SEED)
    assert same.promote
    worse = decide(candidate({1: 0.2}, {1: 0.5}, new=()), CHAMPION, GATE, NUMBERS, SEED)
    assert not worse.promote
    assert "got worse" in worse.reason


def test_what_was_never_served_cannot_be_forgotten() -> None:
    """From worse than the mean to worse still: it blocks no version that serves the new task."""
    skills, before = {1: -9.0, 2: 0.8}, {1: -2.0, 2: 0.1}
    assert decide(candidate(skills, before, new=(2,)), CHAMPION, GATE, NUMBERS, SEED).promote
