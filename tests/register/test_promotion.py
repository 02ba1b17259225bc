"""The gate: a candidate becomes champion only with a gain, and only if nothing is forgotten."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import Gate
from pipeline.records import Version
from pipeline.register.promotion import decide
from tests.register.making import candidate

CHAMPION = Version(
    id=1, stream_id=1, number=1, parent_id=None, sha256="a", ewc_sha256=None, status="champion"
)
#: Powers of two, so that every difference below is exact.
GATE = Gate(min_gain=0.125, max_forgetting=0.25)
#: Task id -> its number in the stream.
NUMBERS = {1: 11, 2: 22, 3: 33, 4: 44}
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
    decision = decide(made, case.champion, GATE, NUMBERS)
    assert decision.promote is case.promote
    assert case.reason in decision.reason
    assert "\n" not in decision.reason


def test_the_figures_that_decided_are_kept() -> None:
    """Whoever doubts a decision can repeat it from what stands beside it."""
    made = candidate({1: 0.5, 2: 0.625}, {1: 0.25, 2: 0.75}, new=(1,))
    assert decide(made, CHAMPION, GATE, NUMBERS).figures == {
        "skills": {1: 0.5, 2: 0.625},
        "parent_skills": {1: 0.25, 2: 0.75},
        "min_gain": 0.125,
        "max_forgetting": 0.25,
        "gain": 0.25,
        "worst_fall": 0.125,
    }


SKILL = st.floats(-100, 1) | st.just(NAN)
ROWS = st.dictionaries(st.integers(1, 4), st.tuples(SKILL, SKILL), min_size=1)


@given(rows=ROWS, data=st.data())
def test_what_is_promoted_has_gained_and_forgot_nothing(
    rows: dict[int, tuple[float, float]], data: st.DataObject
) -> None:
    """Whatever the figures: promoted means every task held and the new ones gained on average."""
    new = tuple(data.draw(st.sets(st.sampled_from(sorted(rows)))))
    skills = {task: now for task, (now, _) in rows.items()}
    before = {task: then for task, (_, then) in rows.items()}
    if not decide(candidate(skills, before, new=new), CHAMPION, GATE, NUMBERS).promote:
        return
    gains = [skills[task] - before[task] for task in new]
    assert sum(gains) / len(gains) >= GATE.min_gain
    assert all(before[task] - skills[task] <= GATE.max_forgetting for task in rows)
