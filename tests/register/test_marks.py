"""What a person says of a task, and all that follows from it, on both databases."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select

from pipeline.config import Database
from pipeline.errors import PipelineError, VersionConflict
from pipeline.records import Claim, Version
from pipeline.register import ledger
from pipeline.register import tables as t
from pipeline.register.chain import sound
from pipeline.register.engine import reading
from pipeline.register.sql import SqlRegistry, Stream
from pipeline.serve.lineage import Lineage
from tests.register.making import (
    SECOND,
    Clock,
    asked,
    by_hand,
    candidate,
    change,
    claimed,
    column,
    everything,
    marked,
    opened,
    promoted,
    race,
    register,
    rejected,
)

#: Racing threads meet often enough in this many rounds.
ROUNDS = 6


@pytest.fixture
def registry(at_head: Database) -> Iterator[SqlRegistry]:
    """A registry over a new schema; what it did must have left a whole ledger."""
    with opened(at_head, Clock()) as registry:
        yield registry
        with reading(registry.engine) as conn:
            assert sound(conn)


@pytest.fixture
def second(at_head: Database) -> Iterator[SqlRegistry]:
    """Another process's, over the same database."""
    with opened(at_head, Clock()) as registry:
        yield registry


@pytest.fixture
def stream(registry: SqlRegistry) -> Stream:
    """The stream that is followed."""
    return registry.open_stream("readings", ["pressure"])


@pytest.fixture
def lineage(registry: SqlRegistry) -> Iterator[Lineage]:
    """Questions about it."""
    made = Lineage(registry.database)
    yield made
    made.close()


def units(level: float) -> np.ndarray[Any, Any]:
    """One sensor about a level: another level is another regime."""
    return np.array([[level], [1.0]])


def shown(
    registry: SqlRegistry, stream: Stream, *levels: float, ask: bool = False
) -> tuple[Claim, list[int]]:
    """Segments of these levels, each asked for, all in one claim and named; their tasks' ids."""
    first = registry.last_request(stream.id)
    numbers = [registry.submit(asked(stream, first + n)) or 0 for n in range(len(levels))]
    claim = claimed(registry)
    named = zip(numbers, levels, strict=True)
    return claim, [registry.assign(claim, n, units(level), ask=ask) for n, level in named]


def fault(
    registry: SqlRegistry, stream: Stream, number: int, kind: str = "fault"
) -> dict[str, Any]:
    return marked(registry, stream.id, number, kind=kind, why="it shook")


def requests(registry: SqlRegistry) -> list[tuple[str, str | None]]:
    """Status and outcome of every request."""
    with reading(registry.engine) as conn:
        rows = conn.execute(select(t.requests.c.status, t.requests.c.outcome).order_by("id"))
        return [(row.status, row.outcome) for row in rows]


# Saying so ------------------------------------------------------------------------------------


def test_what_was_said_is_kept_with_who_and_why_and_what_it_was_before(
    registry: SqlRegistry, stream: Stream, lineage: Lineage
) -> None:
    """Named, marked, and marked normal again: three entries, and the task as it was."""
    shown(registry, stream, 0, 9)
    named = marked(registry, stream.id, 2, name="bearing", why="heard it")
    assert (named["before"], named["after"]) == (
        {"kind": "normal", "name": None},
        {"kind": "normal", "name": "bearing"},
    )
    fault(registry, stream, 2)
    assert [(t.kind, t.name) for t in registry.tasks(stream.id)] == [
        ("normal", None),
        ("fault", "bearing"),
    ]
    marked(registry, stream.id, 2, kind="normal", name="", by="bob", why="the new pump")
    assert [(t.kind, t.name) for t in registry.tasks(stream.id)] == [("normal", None)] * 2
    assert [
        (said["actor"], said["reason"], said["before"]["kind"], said["after"]["kind"])
        for said in lineage.task("readings", 2)["said"]
    ] == [
        ("ada", "heard it", "normal", "normal"),
        ("ada", "it shook", "normal", "fault"),
        ("bob", "the new pump", "fault", "normal"),
    ]
    assert lineage.task("readings", 1)["said"] == []


@pytest.mark.parametrize(
    ("number", "what", "says"),
    [
        (3, {"kind": "fault"}, r"no task 3: the stream has 1 to 2"),
        (1, {"kind": "bad"}, r"no kind bad: a task is normal, fault, ignore"),
        (1, {"kind": "asked"}, r"no kind asked"),
        (1, {"name": "x" * 101}, r"up to 100 printable characters"),
        (1, {"name": "a\x1b[2J"}, r"up to 100 printable characters: 'a\\x1b\[2J'"),
        (1, {"name": "two\nlines"}, r"printable"),
    ],
)
def test_what_cannot_be_said_is_refused_and_changes_nothing(
    registry: SqlRegistry, stream: Stream, number: int, what: dict[str, str], says: str
) -> None:
    """One line that names it."""
    shown(registry, stream, 0, 9)
    before = everything(registry.engine)
    with pytest.raises(PipelineError, match=says):
        marked(registry, stream.id, number, why="why", **what)
    assert everything(registry.engine) == before


def test_a_stream_without_tasks_says_so(registry: SqlRegistry, stream: Stream) -> None:
    """And a task belongs to its stream: another one's is not there."""
    shown(registry, registry.open_stream("other", []), 0)
    with pytest.raises(PipelineError, match="no task 1: the stream has none"):
        fault(registry, stream, 1)


def broken_ledger(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Let the power fail when the ledger is to be told of something."""
    real = ledger.append

    def append(conn: Any, what: str, *entries: Any, **rest: Any) -> str:
        if what == kind:
            raise RuntimeError("power cut")
        return real(conn, what, *entries, **rest)

    monkeypatch.setattr(ledger, "append", append)


def test_a_power_cut_between_the_kind_and_the_ledger_leaves_nothing(
    registry: SqlRegistry, stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task that is a fault, and nobody said so, is the one state that must not be."""
    shown(registry, stream, 0, 9)
    before = everything(registry.engine)
    broken_ledger(monkeypatch, "task_marked")
    with pytest.raises(RuntimeError, match="power cut"):
        fault(registry, stream, 2)
    assert everything(registry.engine) == before


# Requests -------------------------------------------------------------------------------------


def test_a_fault_leaves_the_held_out_readings_and_comes_back(
    registry: SqlRegistry, stream: Stream
) -> None:
    """What measures a version is of normal tasks only, as they are now."""
    _, (a, b) = shown(registry, stream, 0, 9)
    upto = registry.last_request(stream.id)
    both = {a: ["segment-0"], b: ["segment-1"]}
    assert registry.held_out(stream.id, upto, 8) == both
    fault(registry, stream, 2)
    assert registry.held_out(stream.id, upto, 8) == {a: ["segment-0"]}
    fault(registry, stream, 2, "normal")
    assert registry.held_out(stream.id, upto, 8) == both
    assert registry.places(stream.id) == {(0, "pump", 0): a, (0, "pump", 1): b}


@pytest.mark.parametrize(("kind", "is_"), [("fault", "is a fault"), ("ignore", "is to be ignored")])
def test_of_a_claim_only_what_is_normal_is_admitted(
    registry: SqlRegistry, stream: Stream, kind: str, is_: str
) -> None:
    """A fault that was taken along is done with its sentence, and with no version's."""
    claim, _ = shown(registry, stream, 0, 9, 0)
    fault(registry, stream, 2, kind)
    admitted = registry.admit(claim)
    assert admitted is not None
    assert [n for n, _ in admitted.folded] == [claim.folded[1][0]]
    assert requests(registry)[1] == ("done", f"task 2 {is_}: not learned")
    inputs = {"segments": [(1, "segment-0")]}
    register(registry, admitted, promoted(), parent=None, inputs=inputs)
    assert [status for status, _ in requests(registry)] == ["done"] * 3
    assert requests(registry)[1][1] == f"task 2 {is_}: not learned"
    lineage = Lineage(registry.database)
    assert [a["request"] for a in lineage.why("readings", 1)["taken_along"]] == [3]
    lineage.close()


def test_a_claim_whose_own_request_is_a_fault_gives_the_others_back(
    registry: SqlRegistry, stream: Stream
) -> None:
    """They are claimed at once, and have cost no attempt."""
    claim, _ = shown(registry, stream, 0, 9, 9)
    fault(registry, stream, 1)
    assert registry.admit(claim) is None
    assert requests(registry) == [
        ("done", "task 1 is a fault: not learned"),
        ("pending", None),
        ("pending", None),
    ]
    after = claimed(registry)
    assert (after.id, after.attempts, [n for n, _ in after.folded]) == (2, 1, [3])


def test_where_all_is_normal_nothing_changes(registry: SqlRegistry, stream: Stream) -> None:
    """Not a row is written."""
    claim, _ = shown(registry, stream, 0, 9)
    before = everything(registry.engine)
    assert registry.admit(claim) == claim
    assert everything(registry.engine) == before


def test_a_power_cut_while_a_claim_is_admitted_leaves_it_whole(
    registry: SqlRegistry, stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second fault's entry cannot be written: the first is not done either."""
    claim, _ = shown(registry, stream, 0, 9, 30)
    fault(registry, stream, 2)
    fault(registry, stream, 3)
    before = everything(registry.engine)
    real, told = ledger.append, []

    def append(*args: Any, **rest: Any) -> str:
        told.append(args)
        if len(told) == 2:
            raise RuntimeError("power cut")
        return real(*args, **rest)

    monkeypatch.setattr(ledger, "append", append)
    with pytest.raises(RuntimeError, match="power cut"):
        registry.admit(claim)
    assert everything(registry.engine) == before


# Asking ---------------------------------------------------------------------------------------


def test_a_new_task_waits_and_the_streams_first_does_not(
    registry: SqlRegistry, stream: Stream
) -> None:
    """The first is what detection takes for normal; a known one's return makes nobody wait."""
    shown(registry, stream, 0, 9, 0, ask=True)
    assert [(t.number, t.kind) for t in registry.tasks(stream.id)] == [(1, "normal"), (2, "asked")]
    entries = column(registry.engine, "SELECT entry FROM ledger WHERE kind = 'task_named'")
    assert [json.loads(e)["kind"] for e in entries] == ["normal", "asked", "normal"]


def test_what_waits_holds_up_no_other_and_costs_no_attempt(
    registry: SqlRegistry, stream: Stream
) -> None:
    """The waiting request is older than the next one, which is claimed before it."""
    claim, _ = shown(registry, stream, 0, 9, ask=True)
    admitted = registry.admit(claim)
    assert admitted is not None
    assert admitted.folded == ()
    assert requests(registry)[1] == ("pending", "task 2 waits: nobody has said yet what it is")
    registry.finish(admitted, "done")
    assert registry.claim("t", 60.0) is None
    later = registry.submit(by_hand(stream))
    assert claimed(registry).id == later
    assert registry.claim("t", 60.0) is None


@pytest.mark.parametrize("kind", ["normal", "fault", "ignore"])
def test_a_word_releases_what_waited_for_it(
    registry: SqlRegistry, stream: Stream, kind: str
) -> None:
    """Its own request waits, then it is claimed: to be learned, or to be done with a sentence."""
    first, _ = shown(registry, stream, 0)
    registry.finish(first, "done")
    claim, _ = shown(registry, stream, 9, ask=True)
    assert registry.admit(claim) is None
    assert registry.claim("t", 60.0) is None
    marked(registry, stream.id, 2, kind=kind, name="pump off", why="saw it")
    again = claimed(registry)
    assert (again.id, again.attempts) == (claim.id, 1)
    admitted = registry.admit(again)
    assert (admitted is None) == (kind != "normal")
    assert requests(registry)[1][0] == ("claimed" if kind == "normal" else "done")


def test_a_name_alone_says_nothing_of_what_it_is(registry: SqlRegistry, stream: Stream) -> None:
    """It goes on waiting."""
    claim, _ = shown(registry, stream, 0, 9, ask=True)
    admitted = registry.admit(claim)
    assert admitted is not None
    registry.finish(admitted, "done")
    marked(registry, stream.id, 2, name="pump off", why="saw it")
    assert registry.tasks(stream.id)[1].kind == "asked"
    assert registry.claim("t", 60.0) is None


# Versions -------------------------------------------------------------------------------------


def learning(
    registry: SqlRegistry,
    stream: Stream,
    parent: Version | None,
    inputs: dict[str, Any],
    decision: Any = None,
    champion: Version | None = None,
) -> Version:
    """A version made from these inputs."""
    registry.submit(by_hand(stream))
    return registry.register(
        claimed(registry),
        candidate(),
        decision or promoted(),
        parent=parent,
        champion=champion,
        inputs=inputs,
        settings={},
        strategy="ewc",
        seed=1,
        code_version="0",
    )


@pytest.fixture
def versions(registry: SqlRegistry, stream: Stream) -> list[Version]:
    """Of tasks 1, 2, 3: 1 learns the first, 2 nothing new, 3 replays the second, 4 and a rejected 5
    come from 3, and 6 is made anew, without any of them."""
    claim, (a, b, c) = shown(registry, stream, 0, 9, 30)
    registry.finish(claim, "named")
    held = {a: ["segment-0"]}
    one = learning(registry, stream, None, {"segments": [(a, "segment-0")], "held_out": held})
    two = learning(registry, stream, one, {"segments": [(a, "segment-0")]})
    three = learning(registry, stream, two, {"segments": [], "replayed": {a: 3, b: 2}})
    four = learning(registry, stream, three, {"segments": [(a, "segment-0")]})
    five = learning(registry, stream, four, {"held_out": {c: ["segment-2"]}}, rejected())
    six = learning(registry, stream, None, {"replayed": {a: 5}}, rejected())
    return [one, two, three, four, five, six]


def learned_by(lineage: Lineage) -> list[list[int]]:
    return [task["learned_by"] for task in lineage.tasks("readings")]


def test_versions_that_learned_a_task_are_named(
    registry: SqlRegistry, stream: Stream, versions: list[Version], lineage: Lineage
) -> None:
    """From its readings, its replayed windows, what measured them, or from a version that had."""
    expected = [[1, 2, 3, 4, 5, 6], [3, 4, 5], [5]]
    assert learned_by(lineage) == expected
    assert [list(fault(registry, stream, n)["learned_by"]) for n in (1, 2, 3)] == expected
    assert lineage.task("readings", 2)["learned_by"] == [3, 4, 5]


def test_a_segment_that_is_named_otherwise_by_now_was_learned_as_that(
    registry: SqlRegistry, stream: Stream, versions: list[Version], lineage: Lineage
) -> None:
    """Recorded as of task 1, it is of task 3 in the end: whoever learned it has learned task 3."""
    c = registry.tasks(stream.id)[2].id
    change(registry.engine, "UPDATE requests SET task_id = :c WHERE segment = 0", c=c)
    assert learned_by(lineage) == [[3, 4, 5, 6], [3, 4, 5], [1, 2, 3, 4, 5]]


def test_the_newest_forebear_that_never_saw_a_task_is_found(
    registry: SqlRegistry, stream: Stream, versions: list[Version]
) -> None:
    """Of task 2 that is version 2, of task 3 the champion itself, of task 1 there is none."""
    found = [registry.unaware(stream.id, number) for number in (1, 2, 3)]
    assert [version and version.number for version in found] == [None, 2, 4]
    with pytest.raises(PipelineError, match="no task 4"):
        registry.unaware(stream.id, 4)


def test_a_version_may_replace_a_champion_that_is_not_its_parent(
    registry: SqlRegistry, stream: Stream, versions: list[Version]
) -> None:
    """From version 2, in place of version 4; no longer once somebody else is champion."""
    one, two, *_ = versions
    champion = registry.champion(stream.id)
    made = learning(registry, stream, two, {}, champion=champion)
    assert (made.parent_id, made.status) == (two.id, "champion")
    with pytest.raises(VersionConflict, match="version 4 is no longer champion"):
        learning(registry, stream, one, {}, champion=champion)


CHANGES: dict[str, tuple[dict[str, Any], Callable[[SqlRegistry, Stream], object]]] = {
    "its segment's task": (
        {"segments": [(2, "segment-1")]},
        lambda registry, stream: fault(registry, stream, 2),
    ),
    "a task that was replayed": (
        {"segments": [(1, "segment-0")], "replayed": {1: 4, 2: 4}},
        lambda registry, stream: fault(registry, stream, 2, "ignore"),
    ),
    "a task that measured it": (
        {"segments": [(1, "segment-0")], "held_out": {2: ["segment-1"]}},
        lambda registry, stream: fault(registry, stream, 2),
    ),
    "what its parent learned": (
        {"segments": [(1, "segment-0")], "ended": ["segment-1"]},
        lambda registry, stream: fault(registry, stream, 2),
    ),
    "what it went back to": (
        {"segments": [(1, "segment-0")], "earlier": ["lost", "segment-1"]},
        lambda registry, stream: fault(registry, stream, 2),
    ),
    "what its segment was named": (
        {"segments": [(1, "segment-1")]},
        lambda registry, stream: fault(registry, stream, 2),
    ),
    "nothing, and it was to be without": (
        {"segments": [(2, "segment-1")], "without": 2},
        lambda *_: None,
    ),
}


@pytest.mark.parametrize("decision", [promoted(), rejected()], ids=["promoted", "rejected"])
@pytest.mark.parametrize("which", CHANGES)
def test_a_task_marked_under_way_keeps_the_version_from_being_registered(
    registry: SqlRegistry, stream: Stream, which: str, decision: Any
) -> None:
    """Nothing is written, and the request is there to be worked on with what is normal now."""
    inputs, happens = CHANGES[which]
    claim, tasks = shown(registry, stream, 0, 9)
    assert tasks == [1, 2], "the inputs above name them"
    registry.finish(claim, "named")
    registry.submit(by_hand(stream))
    claim = claimed(registry)
    happens(registry, stream)
    before = everything(registry.engine)
    with pytest.raises(VersionConflict, match=r"of task 2 by now, which is not learned"):
        register(registry, claim, decision, parent=None, inputs=inputs)
    assert everything(registry.engine) == before


def test_what_is_marked_and_what_was_not_used_does_not_matter(
    registry: SqlRegistry, stream: Stream
) -> None:
    """Task 2 is a fault; the version was made from task 1 alone."""
    claim, (a, _) = shown(registry, stream, 0, 9)
    fault(registry, stream, 2)
    inputs = {"segments": [(a, "segment-0")], "replayed": {a: 9}, "held_out": {a: ["segment-0"]}}
    assert register(registry, claim, promoted(), parent=None, inputs=inputs).number == 1


def test_the_same_bytes_in_two_partitions_do_not_hold_a_version_up(
    registry: SqlRegistry, stream: Stream
) -> None:
    """One segment of the bytes is task 1's, and normal; the other is the fault's."""
    numbers = [
        registry.submit(asked(stream, 0, partition=n, inputs={"segment": "same"})) or 0
        for n in range(2)
    ]
    claim = claimed(registry)
    a, _ = (registry.assign(claim, n, units(9.0 * n)) for n in numbers)
    fault(registry, stream, 2)
    admitted = registry.admit(claim)
    assert admitted is not None
    inputs = {"segments": [(a, "same")], "held_out": {a: ["same"]}}
    assert register(registry, admitted, promoted(), parent=None, inputs=inputs).number == 1


def test_marking_races_with_registering(
    registry: SqlRegistry, second: SqlRegistry, stream: Stream
) -> None:
    """Either the mark sees the version, or the version sees the mark: never neither, nor both."""
    claim, (_, b) = shown(registry, stream, 0, 9)
    registry.finish(claim, "named")
    inputs = {"replayed": {b: 1}}
    for _ in range(ROUNDS):
        fault(registry, stream, 2, "normal")
        registry.submit(by_hand(stream))
        claim = claimed(registry)
        made, told = race(
            lambda c=claim: register(registry, c, rejected(), parent=None, inputs=inputs),
            lambda: fault(second, stream, 2),
        )
        refused = isinstance(made, VersionConflict)
        assert refused != (not refused and made.number in told["learned_by"])
        if refused:
            registry.release(claim, str(made))
            registry.finish(claimed(registry), "enough")


# Requests for a version without a task ---------------------------------------------------------


def test_a_version_without_a_task_is_asked_for_alone(registry: SqlRegistry, stream: Stream) -> None:
    """It takes no other along, and no other takes it: what it may learn differs."""
    shown(registry, stream, 0)
    registry.finish(claimed_again(registry), "done")
    numbers = [
        registry.submit(by_hand(stream, without_task=task)) for task in (None, 1, None, None)
    ]
    first = claimed(registry)
    assert [first.id, *(n for n, _ in first.folded)] == [numbers[0], numbers[2], numbers[3]]
    registry.finish(first, "done")
    alone = claimed(registry)
    assert (alone.id, alone.folded, alone.request.without_task) == (numbers[1], (), 1)
    registry.release(alone, "interrupted")
    registry.submit(by_hand(stream))
    assert claimed(registry).folded == ()


def claimed_again(registry: SqlRegistry) -> Claim:
    """The claim of the only request there is, after its lease."""
    registry.clock.pass_s(61)  # type: ignore[attr-defined]
    return claimed(registry)


def test_tasks_are_told_with_what_waits_for_them(
    registry: SqlRegistry, stream: Stream, lineage: Lineage
) -> None:
    """By number; where it was seen, and since when."""
    claim, _ = shown(registry, stream, 0, 9, 0, ask=True)
    registry.admit(claim)
    marked(registry, stream.id, 2, name="bearing", why="heard it")
    told = {"since": "1970-01-01T00:16:40.000000+00:00", "learned_by": []}
    assert registry.clock() == 1000 * SECOND
    assert lineage.tasks("readings") == [
        told | {"task": 1, "kind": "normal", "name": None, "segments": 2, "waiting": 0},
        told | {"task": 2, "kind": "asked", "name": "bearing", "segments": 1, "waiting": 1},
    ]
    assert lineage.task("readings", 1)["shown_in"] == [
        {"partition": 0, "series": "pump", "segment": 0, "recurrence": False, "final": False},
        {"partition": 0, "series": "pump", "segment": 2, "recurrence": True, "final": False},
    ]
    with pytest.raises(PipelineError, match="no task 3: the stream has 1 to 2"):
        lineage.task("readings", 3)
    assert lineage.segments("readings")[1]["task_kind"] == "asked"
    assert lineage.segments("readings")[1]["task_name"] == "bearing"
