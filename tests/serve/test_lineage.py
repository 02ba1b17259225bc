"""The audit's questions: which version was live, why it exists, what was known of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import event

from pipeline.config import Database
from pipeline.errors import PipelineError, StaleEpoch
from pipeline.records import Request, SensorEvent, Settled, Version
from pipeline.register.checkpoints import State
from pipeline.register.engine import writing
from pipeline.register.sql import SqlRegistry, Stream
from pipeline.serve.answers import iso
from pipeline.serve.lineage import Lineage
from tests.register.making import (
    SECOND,
    Clock,
    asked,
    boundary,
    by_hand,
    candidate,
    claimed,
    everything,
    next_version,
    opened,
    promoted,
    register,
    rejected,
)

#: 1970-01-01 00:16:40, where every clock here begins.
START = 1_000 * SECOND
#: Location and deviation of one sensor that stands still.
SENSOR = np.zeros((2, 1))


@pytest.fixture
def clock() -> Clock:
    """Time for the registry."""
    return Clock(START)


@pytest.fixture
def registry(at_head: Database, clock: Clock) -> Iterator[SqlRegistry]:
    """A registry over a new schema."""
    with opened(at_head, clock) as registry:
        yield registry


@pytest.fixture
def stream(registry: SqlRegistry) -> Stream:
    """The stream that is asked about, beside another one with versions of its own."""
    other = registry.open_stream("other", ["a"])
    next_version(registry, other, promoted("of the other stream"))
    return registry.open_stream("readings", ["pressure", "flow"])


@pytest.fixture
def lineage(registry: SqlRegistry) -> Iterator[Lineage]:
    """The questions, over the same database."""
    lineage = Lineage(registry.database)
    yield lineage
    lineage.close()


# Times ----------------------------------------------------------------------------------------


def test_times_are_iso_with_zone_to_the_microsecond() -> None:
    """A time can be compared as text, and given back to `--at`, without losing a microsecond."""
    assert iso(0) == "1970-01-01T00:00:00.000000+00:00"
    assert iso(1) == "1970-01-01T00:00:00.000001+00:00"
    assert iso(86_400 * SECOND - 1) == "1970-01-01T23:59:59.999999+00:00"
    assert iso(None) is None


@given(st.integers(-62_135_596_800 * SECOND, 253_402_300_800 * SECOND - 1))
def test_no_microsecond_is_lost(time: int) -> None:
    """From year 1 to 9999: whole seconds and the rest, by integers only."""
    text = iso(time)
    assert text is not None
    day, rest = text.split("T")
    clock, fraction = rest.removesuffix("+00:00").split(".")
    hours, minutes, seconds = map(int, clock.split(":"))
    days = np.datetime64(day, "D").astype(int)
    whole = int(days) * 86_400 + hours * 3_600 + minutes * 60 + seconds
    assert whole * SECOND + int(fraction) == time


@pytest.mark.parametrize("time", [253_402_300_800 * SECOND, -62_135_596_801 * SECOND, 2**63 - 1])
def test_a_time_outside_the_calendar_is_refused_in_one_line(time: int) -> None:
    """Nanoseconds taken for microseconds are the usual reason."""
    with pytest.raises(PipelineError, match=f"{time} is no time in microseconds"):
        iso(time)


# Live -----------------------------------------------------------------------------------------


@pytest.fixture
def three(registry: SqlRegistry, stream: Stream, clock: Clock) -> list[Version]:
    """Versions live from START + 10 s, + 20 s and + 30 s."""
    made = []
    for number in (1, 2, 3):
        clock.pass_s(10)
        decision = promoted(f"gain {number}")
        figures = candidate(weights=b"%d" % number, loss_after=number / 8)
        made.append(next_version(registry, stream, decision, figures))
    return made


@pytest.mark.parametrize(
    ("after", "version"),
    [
        (10 * SECOND, 1),
        (10 * SECOND + 1, 1),
        (20 * SECOND - 1, 1),
        (20 * SECOND, 2),
        (30 * SECOND - 1, 2),
        (30 * SECOND, 3),
        (10**6 * SECOND, 3),
    ],
)
def test_intervals_are_half_open(
    lineage: Lineage, three: list[Version], after: int, version: int
) -> None:
    """At every microsecond there is exactly one answer, at the borders as well."""
    answer = lineage.live_at("readings", START + after)
    assert answer["version"] == version
    assert answer["sha256"] == three[version - 1].sha256


def test_an_answer_names_time_and_reason(lineage: Lineage, three: list[Version]) -> None:
    """Who reads it need not ask again: since when, until when, by whom, why."""
    assert lineage.live_at("readings", START + 25 * SECOND) == {
        "stream": "readings",
        "at": "1970-01-01T00:17:05.000000+00:00",
        "version": 2,
        "sha256": three[1].sha256,
        "live_from": "1970-01-01T00:17:00.000000+00:00",
        "live_until": "1970-01-01T00:17:10.000000+00:00",
        "promoted_by": "gate",
        "because": "gain 2",
    }
    assert lineage.live_at("readings", START + 31 * SECOND)["live_until"] is None


def test_promotions_in_the_same_microsecond_leave_the_last(
    registry: SqlRegistry, stream: Stream, lineage: Lineage
) -> None:
    """The first two were live for no time at all: [t, t) is empty, and no answer is ambiguous."""
    for _ in range(3):
        next_version(registry, stream)
    assert lineage.live_at("readings", START)["version"] == 3
    assert lineage.live_at("readings", START + 1)["version"] == 3
    with pytest.raises(PipelineError):
        lineage.live_at("readings", START - 1)


def test_before_the_first_version_nothing_was_live(lineage: Lineage, three: list[Version]) -> None:
    """The answer says from when on there is one."""
    del three
    first = "1970-01-01T00:16:50.000000+00:00"
    with pytest.raises(PipelineError, match="no version was live at") as refused:
        lineage.live_at("readings", START + 10 * SECOND - 1)
    assert str(refused.value).endswith(f"the first went live at {first}")


def test_a_version_may_be_live_since_1970(
    registry: SqlRegistry, stream: Stream, clock: Clock, lineage: Lineage
) -> None:
    """0 is a time like any other."""
    clock.now = 0
    next_version(registry, stream)
    assert lineage.live_at("readings", 0)["live_from"] == iso(0)
    with pytest.raises(PipelineError, match="the first went live at 1970-01-01T00:00:00"):
        lineage.live_at("readings", -1)


def test_metrics_are_those_of_the_version_that_was_live(
    registry: SqlRegistry, stream: Stream, lineage: Lineage, clock: Clock
) -> None:
    """As they were measured then: a later version's figures do not reach back."""
    tasks = []
    for segment in range(2):
        number = registry.submit(asked(stream, segment)) or 0
        claim = claimed(registry)
        tasks.append(registry.assign(claim, number, SENSOR + segment))
        clock.pass_s(10)
        skills = dict.fromkeys(tasks, 0.5 + segment / 4)
        register(
            registry,
            claim,
            promoted(),
            parent=registry.champion(stream.id),
            made=candidate(skills, loss_after=0.5 - segment / 4, windows=float(segment)),
        )
    assert lineage.metrics_at("readings", START + 15 * SECOND) == {
        "stream": "readings",
        "at": iso(START + 15 * SECOND),
        "version": 1,
        "measured_at": iso(START + 10 * SECOND),
        "metrics": {"loss_after": 0.5, "windows": 0.0},
        "skills": {"task 1": 0.5},
        "measured_again_at": None,
        "skills_again": {},
    }
    later = lineage.metrics_at("readings", START + 20 * SECOND)
    assert later["version"] == 2
    assert later["metrics"] == {"loss_after": 0.25, "windows": 1.0}
    assert later["skills"] == {"task 1": 0.75, "task 2": 0.75}


def test_metrics_need_a_live_version(lineage: Lineage, stream: Stream) -> None:
    """Same question, same refusal as `live_at`."""
    del stream
    with pytest.raises(PipelineError, match=r"no version was live at .*: there is none yet"):
        lineage.metrics_at("readings", START)


# Why ------------------------------------------------------------------------------------------


def save(registry: SqlRegistry, stream: Stream, segments: int) -> None:
    """A checkpoint with boundaries of segments 1, 2, ... and a request for each."""
    epoch = registry.acquire(stream.id, 0, "worker").epoch
    registry.save(
        stream.id,
        0,
        epoch,
        next_offset=2000,
        state=State(b""),
        boundaries=[boundary(n, at=(500 + n) * SECOND) for n in range(1, segments + 1)],
        requests=[asked(stream, n) for n in range(1, segments + 1)],
    )


BOUNDARY: dict[str, Any] = {
    "partition": 0,
    "series": "pump",
    "segment": 1,
    "boundary_row": 96,
    "detected_row": 127,
    "boundary_offset": 1096,
    "detected_offset": 1127,
    "boundary_at": "1970-01-01T00:08:21.000000+00:00",  # 501 s
    "detected_at": "1970-01-01T00:08:52.000000+00:00",
    "end_row": None,
    "end_offset": None,
    "end_at": None,
    "signal": "level",
    "statistic": 7.5,
    "threshold": 5.25,
    "detectors": ["ADWIN", "PageHinkley"],
    "sensors": [
        {
            "sensor": "flow",
            "other_sensor": None,
            "kind": "level",
            "channel": 1,
            "other": None,
            "change": 4.5,
            "before": 10.0,
            "after": 19.0,
        },
        {
            "sensor": "pressure",
            "other_sensor": "flow",
            "kind": "correlation",
            "channel": 0,
            "other": 1,
            "change": -0.5,
            "before": 0.7,
            "after": 0.2,
        },
    ],
}
UNNAMED = dict.fromkeys(("task", "task_kind", "task_name", "recurrence", "distance"))
FIRST = UNNAMED | {"task": 1, "task_kind": "normal", "recurrence": False}


def test_why_because_of_a_boundary(
    registry: SqlRegistry, stream: Stream, lineage: Lineage, clock: Clock
) -> None:
    """The whole chain: readings moved, the test crossed, the task was new, the gate agreed."""
    save(registry, stream, 1)
    claim = claimed(registry)
    task = registry.assign(claim, claim.id, SENSOR)
    clock.pass_s(7)
    register(registry, claim, promoted("gain 0.5"), parent=None, made=candidate({task: 0.5}))
    assert lineage.why("readings", 1) == {
        "stream": "readings",
        "version": 1,
        "trained_because": "boundary",
        "actor": "tidemark",
        "note": "",
        "request": claim.id,
        "requested_at": iso(START),
        "due": None,
        "boundary": BOUNDARY
        | FIRST
        | {
            "sentence": "pump, from row 96: flow rose by 4.5 standard deviations (10 to 19); "
            "pressure and flow no longer move together (correlation 0.70 to 0.20) "
            "(noticed 31 readings later). level 7.50 > 5.25; task 1, new"
        },
        "task": 1,
        "task_kind": "normal",
        "task_name": None,
        "without_task": None,
        "taken_along": [],
        "parent": None,
        "inputs": {"segments": [[0, "segment-1"]]},
        "status": "champion",
        "decision": "gain 0.5",
        "rolled_back": [],
    }


def test_why_with_others_taken_along(
    registry: SqlRegistry, stream: Stream, lineage: Lineage
) -> None:
    """Three boundaries, one training: all three are its reasons."""
    save(registry, stream, 3)
    registry.submit(by_hand(stream))
    claim = claimed(registry)
    register(registry, claim, promoted(), parent=None)
    why = lineage.why("readings", 1)
    assert why["boundary"]["segment"] == 1
    assert [(a["request"], a["reason"]) for a in why["taken_along"]] == [
        (claim.folded[0][0], "boundary"),
        (claim.folded[1][0], "boundary"),
        (claim.folded[2][0], "manual"),
    ]
    boundaries = [a["boundary"] for a in why["taken_along"]]
    assert [b and b["segment"] for b in boundaries] == [2, 3, None]
    assert boundaries[0]["boundary_at"] == iso(502 * SECOND)


def test_what_came_back_is_not_counted_as_taken_along(
    registry: SqlRegistry, stream: Stream, lineage: Lineage
) -> None:
    """A request that a failed claim had folded in belongs to the version that it went into."""
    save(registry, stream, 2)
    registry.fail(claimed(registry), "no data", retry=False)
    register(registry, claimed(registry), promoted(), parent=None)
    why = lineage.why("readings", 1)
    assert (why["boundary"]["segment"], why["taken_along"]) == (2, [])


def test_why_because_somebody_asked(
    registry: SqlRegistry, stream: Stream, lineage: Lineage
) -> None:
    """Name and reason of the person, as they gave them."""
    next_version(registry, stream)
    next_version(registry, stream, rejected("task 1 got worse by 0.2"))
    why = lineage.why("readings", 2)
    assert (why["trained_because"], why["actor"], why["note"]) == (
        "manual",
        "ada",
        "after the repair",
    )
    assert (why["boundary"], why["task"], why["due"]) == (None, None, None)
    assert (why["parent"], why["status"]) == (1, "rejected")
    assert why["decision"] == "task 1 got worse by 0.2"


def test_why_because_of_the_clock(registry: SqlRegistry, stream: Stream, lineage: Lineage) -> None:
    """The due time is the reason, not the later moment at which the scheduler came to ask."""
    due = START - 3 * SECOND
    registry.submit(
        Request(
            stream_id=stream.id, reason="schedule", actor="scheduler", note="0 2 * * *", due=due
        )
    )
    register(registry, claimed(registry), promoted(), parent=None)
    why = lineage.why("readings", 1)
    assert (why["trained_because"], why["actor"], why["note"]) == (
        "schedule",
        "scheduler",
        "0 2 * * *",
    )
    assert (why["due"], why["requested_at"]) == (iso(due), iso(START))


def test_the_boundary_is_the_one_of_the_same_partition_and_series(
    registry: SqlRegistry, stream: Stream, lineage: Lineage
) -> None:
    """Segment 1 of one pump is not segment 1 of another, nor that of another stream."""
    other = registry.open_stream("third", ["a"])
    for known, partition in ((stream, 1), (other, 0)):
        epoch = registry.acquire(known.id, partition, "w").epoch
        registry.save(
            known.id,
            partition,
            epoch,
            next_offset=1,
            state=State(b""),
            boundaries=[boundary(1)],
        )
    epoch = registry.acquire(stream.id, 0, "w").epoch
    registry.save(
        stream.id,
        0,
        epoch,
        next_offset=1,
        state=State(b""),
        boundaries=[boundary(1, series="fan")],
    )
    registry.submit(asked(stream, 1))
    register(registry, claimed(registry), promoted(), parent=None)
    assert lineage.why("readings", 1)["boundary"] is None


def test_a_turnaround_is_from_a_boundary_to_the_champion_that_came_of_it(
    registry: SqlRegistry, stream: Stream, lineage: Lineage, clock: Clock
) -> None:
    """Two boundaries at the start, one version for both after 3 s, promoted after 4; a third one's
    version is rejected, and a version by hand came of none.
    """
    save(registry, stream, 2)
    clock.pass_s(3)
    claim = claimed(registry)
    clock.pass_s(1)
    first = register(registry, claim, promoted(), parent=None)
    epoch = registry.acquire(stream.id, 0, "worker").epoch
    registry.save(
        stream.id,
        0,
        epoch,
        next_offset=3000,
        state=State(b""),
        boundaries=[boundary(3)],
        requests=[asked(stream, 3)],
    )
    register(registry, claimed(registry), rejected(), parent=first)
    next_version(registry, stream)
    told = {"series": "pump", "version": 1, "recorded_at": iso(START), "requested_at": iso(START)}
    told["promoted_at"] = iso(START + 4 * SECOND)
    assert lineage.turnarounds("readings") == [told | {"segment": 1}, told | {"segment": 2}]


# History --------------------------------------------------------------------------------------


def test_history_tells_every_version(
    registry: SqlRegistry, stream: Stream, lineage: Lineage, clock: Clock
) -> None:
    """Promoted, rejected, replaced: in order, with what became of each."""
    next_version(registry, stream, promoted("first"))
    clock.pass_s(10)
    next_version(registry, stream, rejected("worse"))
    clock.pass_s(10)
    made = next_version(registry, stream, promoted("better"), candidate(loss_after=0.125))
    told = lineage.history("readings")
    assert [(v["version"], v["parent"], v["fate"], v["decision"], v["reason"]) for v in told] == [
        (1, None, "retired", "first", "manual"),
        (2, 1, "rejected", "worse", "manual"),
        (3, 1, "champion", "better", "manual"),
    ]
    assert [v["live"] for v in told] == [
        [{"from": iso(START), "until": iso(START + 20 * SECOND)}],
        [],
        [{"from": iso(START + 20 * SECOND), "until": None}],
    ]
    assert told[2]["created"] == iso(START + 20 * SECOND)
    assert told[2]["sha256"] == made.sha256
    assert told[2]["metrics"] == {"loss_after": 0.125}


def test_a_roll_back_is_told_of_both_versions(
    registry: SqlRegistry, stream: Stream, lineage: Lineage, clock: Clock
) -> None:
    """Of the one that was left: when, by whom, why, to which; of the other: that it is live again.

    Another stream's roll-back is its own.
    """
    other = registry.open_stream("another", ["a"])
    for known in (stream, other):
        next_version(registry, known)
        next_version(registry, known, promoted("better"))
    clock.pass_s(10)
    registry.roll_back(stream.id, actor="rollback", reason="mean score 4.1")
    left = {"at": iso(clock.now), "by": "rollback", "because": "mean score 4.1", "to": 1}
    one, two = lineage.history("readings")
    assert (one["fate"], one["rolled_back"]) == ("champion", [])
    assert (two["fate"], two["rolled_back"]) == ("rolled_back", [left])
    assert [span["until"] for span in one["live"]] == [iso(START), None]
    assert two["live"] == [{"from": iso(START), "until": iso(clock.now)}]
    assert lineage.why("readings", 2)["rolled_back"] == [left]
    assert lineage.why("readings", 1)["rolled_back"] == []
    live = lineage.live_at("readings", clock.now)
    assert (live["version"], live["promoted_by"]) == (1, "rollback")
    assert live["because"] == "mean score 4.1"
    assert [v["rolled_back"] for v in lineage.history("another")] == [[], []]


def test_lineage_goes_back_to_the_bootstrap(
    registry: SqlRegistry, stream: Stream, lineage: Lineage
) -> None:
    """Only forebears: rejected versions and later ones are not among them."""
    for decision in (promoted(), rejected(), promoted(), rejected(), promoted()):
        next_version(registry, stream, decision)
    parents = {5: 3, 4: 3, 3: 1, 2: 1, 1: None}
    for number in parents:
        chain, at = [], number
        while at is not None:
            chain.append(at)
            at = parents[at]
        told = lineage.lineage("readings", number)
        assert told["depth"] == len(chain)
        assert [v["version"] for v in told["chain"]] == chain
        assert [v["parent"] for v in told["chain"]] == [parents[n] for n in chain]
        others = [[n for n in parents if parents[n] == v and n not in chain] for v in chain]
        found = [[other["version"] for other in v["others"]] for v in told["chain"]]
        assert found == [sorted(each) for each in others]


def test_boundaries_and_matrix_are_told_in_order(
    registry: SqlRegistry, stream: Stream, lineage: Lineage
) -> None:
    """What was found, and how good each version was on each task."""
    save(registry, stream, 3)
    told = lineage.boundaries("readings")
    assert [b["segment"] for b in told] == [1, 2, 3]
    assert told[0] == BOUNDARY | UNNAMED
    claim = claimed(registry)
    numbers = [claim.id, *(n for n, _ in claim.folded)]
    tasks = [registry.assign(claim, n, SENSOR + 10.0**n) for n in numbers]
    register(
        registry,
        claim,
        promoted(),
        parent=None,
        made=candidate({tasks[2]: 0.25, tasks[0]: 0.75}),
    )
    made = candidate({tasks[1]: -1.5, tasks[0]: 0.5}, {tasks[1]: -2.5})
    next_version(registry, stream, rejected(), made)
    assert lineage.matrix("readings") == [
        {
            "version": 1,
            "status": "champion",
            "skills": {"task 1": 0.75, "task 3": 0.25},
            "parent_skills": {},
        },
        {
            "version": 2,
            "status": "rejected",
            "skills": {"task 1": 0.5, "task 2": -1.5},
            "parent_skills": {"task 2": -2.5},
        },
    ]
    for newest in (1, 2, 3):
        assert lineage.matrix("readings", newest) == lineage.matrix("readings")[-newest:]


@pytest.mark.parametrize(
    "ask",
    [
        lambda lineage, _: lineage.history("readings"),
        lambda lineage, _: lineage.matrix("readings"),
        lambda lineage, last: lineage.lineage("readings", last),
        lambda lineage, last: lineage.diff("readings", 1, last),
    ],
    ids=["history", "matrix", "lineage", "diff"],
)
def test_a_long_history_takes_no_more_queries_than_a_short_one(
    registry: SqlRegistry, stream: Stream, lineage: Lineage, ask: Callable[[Lineage, int], Any]
) -> None:
    """A stream that learned for a year is asked as quickly as one of yesterday."""
    asked_: list[str] = []

    @event.listens_for(lineage.engine, "before_cursor_execute")
    def on_execute(*args: Any) -> None:
        asked_.append(args[2])

    counts = []
    for versions in (1, 4):
        for _ in range(versions):
            next_version(registry, stream)
        made = next_version(registry, stream)
        asked_.clear()
        ask(lineage, made.number)
        counts.append(len(asked_))
    assert counts[0] == counts[1]


def test_answers_are_plain_data(registry: SqlRegistry, stream: Stream, lineage: Lineage) -> None:
    """`--json` prints them as they are."""
    save(registry, stream, 2)
    register(registry, claimed(registry), promoted(), parent=None)
    for answer in (
        lineage.live_at("readings", START),
        lineage.why("readings", 1),
        lineage.metrics_at("readings", START),
        lineage.history("readings"),
        lineage.lineage("readings", 1),
        lineage.boundaries("readings"),
        lineage.matrix("readings"),
    ):
        assert json.loads(json.dumps(answer)) == answer


# Refusals -------------------------------------------------------------------------------------

QUESTIONS: dict[str, Callable[[Lineage, str], Any]] = {
    "live_at": lambda lineage, stream: lineage.live_at(stream, START),
    "why": lambda lineage, stream: lineage.why(stream, 1),
    "metrics_at": lambda lineage, stream: lineage.metrics_at(stream, START),
    "history": lambda lineage, stream: lineage.history(stream),
    "lineage": lambda lineage, stream: lineage.lineage(stream, 1),
    "boundaries": lambda lineage, stream: lineage.boundaries(stream),
    "matrix": lambda lineage, stream: lineage.matrix(stream),
}


@pytest.mark.parametrize("question", QUESTIONS)
def test_an_unknown_stream_is_answered_with_those_that_are_known(
    lineage: Lineage, stream: Stream, question: str
) -> None:
    """Mostly a slip of the finger: the names are listed."""
    del stream
    with pytest.raises(PipelineError) as refused:
        QUESTIONS[question](lineage, "reading")
    assert str(refused.value) == "no stream reading; known: other, readings"


def test_without_any_stream_that_is_said(registry: SqlRegistry, lineage: Lineage) -> None:
    """A new database: nothing has been read yet."""
    del registry
    with pytest.raises(PipelineError, match=r"^no stream readings; known: none yet$"):
        lineage.history("readings")


def test_an_unknown_version_is_refused(
    registry: SqlRegistry, stream: Stream, lineage: Lineage
) -> None:
    """One line that says how many there are; another stream's number 1 does not count."""
    with pytest.raises(PipelineError, match=r"^no version 1: the stream has none$"):
        lineage.why("readings", 1)
    with pytest.raises(PipelineError, match=r"^no version 1: the stream has none$"):
        lineage.lineage("readings", 1)
    next_version(registry, stream)
    for number in (0, 2, -1):
        with pytest.raises(PipelineError, match=rf"^no version {number}: the stream has 1$"):
            lineage.why("readings", number)
        with pytest.raises(PipelineError, match=rf"^no version {number}: the stream has 1$"):
            lineage.lineage("readings", number)


def test_an_empty_stream_has_an_empty_history(lineage: Lineage, stream: Stream) -> None:
    """Known, but nothing has happened: no error, no rows."""
    del stream
    assert lineage.history("readings") == []
    assert lineage.boundaries("readings") == []
    assert lineage.matrix("readings") == []


def test_a_database_without_schema_is_said_in_one_line(database: Database) -> None:
    """The first command a person types might be a question."""
    lineage = Lineage(database)
    with pytest.raises(PipelineError) as refused:
        lineage.history("readings")
    assert "streams" in str(refused.value)
    assert "\n" not in str(refused.value)
    lineage.close()


def test_asking_neither_writes_nor_waits(registry: SqlRegistry, three: list[Version]) -> None:
    """An audit while the line runs: a writer in the middle of its work holds nobody up."""
    del three
    before = everything(registry.engine)
    lineage = Lineage(Database(url=registry.database.url, busy_timeout_s=0.05))
    with writing(registry.engine) as conn:
        conn.exec_driver_sql("UPDATE streams SET name = name || '!'")
        assert lineage.live_at("readings", START + 30 * SECOND)["version"] == 3
        for ask in (lineage.history, lineage.boundaries, lineage.matrix):
            ask("readings")
        conn.rollback()
    assert everything(registry.engine) == before
    lineage.close()


def test_the_end_of_a_transition_is_kept_with_its_boundary(
    registry: SqlRegistry, stream: Stream, lineage: Lineage
) -> None:
    """Found in one checkpoint, over in the next; the one of the same segment elsewhere is not."""
    save(registry, stream, 2)
    other = registry.acquire(stream.id, 1, "worker").epoch
    registry.save(stream.id, 1, other, next_offset=9, state=State(b""), boundaries=[boundary(2)])
    end = Settled(
        series="pump", segment=2, end_row=150, end_offset=1150, end_time=1_700_000_000_000_000
    )
    epoch = registry.acquire(stream.id, 0, "worker").epoch
    with pytest.raises(StaleEpoch):
        registry.save(stream.id, 0, epoch - 1, next_offset=9, state=State(b""), settled=[end])
    assert [b["end_row"] for b in lineage.boundaries("readings")] == [None, None, None]
    registry.save(stream.id, 0, epoch, next_offset=3000, state=State(b""), settled=[end])
    first, second, elsewhere = lineage.boundaries("readings")
    assert (first["end_row"], elsewhere["end_row"]) == (None, None)
    assert (second["end_row"], second["end_offset"]) == (150, 1150)
    assert second["end_at"] == "2023-11-14T22:13:20.000000+00:00"


def test_a_boundary_and_its_end_may_come_in_one_checkpoint(
    registry: SqlRegistry, stream: Stream, lineage: Lineage
) -> None:
    """A long poll holds both."""
    end = Settled(series="pump", segment=1, end_row=96, end_offset=1096, end_time=0)
    epoch = registry.acquire(stream.id, 0, "worker").epoch
    registry.save(
        stream.id,
        0,
        epoch,
        next_offset=9,
        state=State(b""),
        boundaries=[boundary()],
        settled=[end],
    )
    assert [b["end_row"] for b in lineage.boundaries("readings")] == [96]


def test_what_happened_to_a_sensor_is_told_by_name(registry: SqlRegistry, lineage: Lineage) -> None:
    """Kept with the checkpoint of the readings that showed it, or not at all."""
    stream = registry.open_stream("plant", ["flow", "heat"])
    checkpoint = registry.acquire(stream.id, 0, "a")
    silent = SensorEvent(
        series="p", channel=1, kind="sensor_silent", row=40, offset=44, time=1_700_000_000_000_000
    )
    registry.save(
        stream.id, 0, checkpoint.epoch, next_offset=45, state=State(b"s"), events=[silent]
    )
    with pytest.raises(StaleEpoch):
        registry.save(
            stream.id,
            0,
            checkpoint.epoch - 1,
            next_offset=60,
            state=State(b"s"),
            events=[replace(silent, kind="sensor_back", row=50, offset=55)],
        )
    assert lineage.events("plant") == [
        {
            "event": "sensor_silent",
            "sensor": "heat",
            "partition": 0,
            "series": "p",
            "row": 40,
            "offset": 44,
            "at": "2023-11-14T22:13:20.000000+00:00",
        }
    ]
