"""What people do: once each, all of it or nothing, and an entry of the ledger with who and why."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import pytest
from sqlalchemy import event

from pipeline.config import Database
from pipeline.errors import PipelineError, RegistryError, VersionConflict
from pipeline.records import Version
from pipeline.register import migrate
from pipeline.register.chain import sound
from pipeline.register.engine import connect, reading
from pipeline.register.envelope import Limits
from pipeline.register.orders import (
    RESERVED,
    Act,
    Agree,
    Approve,
    Done,
    Mark,
    Order,
    Pause,
    Promote,
    Refuse,
    Resume,
    Retrain,
    RollBack,
)
from pipeline.register.rollback import WATCH
from pipeline.register.schedules import ACTOR
from pipeline.register.sql import SqlRegistry, Stream
from pipeline.register.versions import GATE
from pipeline.serve.lineage import Lineage
from tests.register.making import (
    LEASE_S,
    Clock,
    asked,
    by_hand,
    candidate,
    change,
    claimed,
    column,
    everything,
    next_version,
    opened,
    promoted,
    race,
    register,
    rejected,
)

#: Nothing that is asked for by hand may pass.
NEVER = Limits(triggers=())
ROUNDS = 5


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def registry(at_head: Database, clock: Clock) -> Iterator[SqlRegistry]:
    with opened(at_head, clock) as registry:
        yield registry
        with reading(registry.engine) as conn:
            assert sound(conn)


@pytest.fixture
def second(at_head: Database, clock: Clock) -> Iterator[SqlRegistry]:
    with opened(at_head, clock) as registry:
        yield registry


@pytest.fixture
def stream(registry: SqlRegistry) -> Stream:
    return registry.open_stream("plant", ["a", "b"])


def ada(request_id: str | None = None, reason: str = "the new pump") -> Act:
    if request_id is None:
        return Act(actor="ada", reason=reason)
    return Act(actor="ada", reason=reason, request_id=request_id)


def statuses(registry: SqlRegistry) -> list[str]:
    return column(registry.engine, "SELECT status FROM versions ORDER BY id")


def last_entry(registry: SqlRegistry) -> tuple[str, str, dict[str, Any]]:
    kind, actor, entry = everything(registry.engine)["ledger"][-1][3:6]
    return kind, actor, json.loads(entry)


def named_task(registry: SqlRegistry, stream: Stream) -> int:
    """Id of a task whose readings were brought by a request that is done."""
    number = registry.submit(asked(stream)) or 0
    claim = claimed(registry)
    task = registry.assign(claim, number, np.zeros((2, 2)))
    registry.finish(claim, "done")
    return task


# Once each ------------------------------------------------------------------------------------


def history(registry: SqlRegistry, stream: Stream) -> None:
    """Champion 3, former champions 1 and 2, rejected 4, waiting 5 and a task."""
    named_task(registry, stream)
    for _ in range(3):
        next_version(registry, stream)
    next_version(registry, stream, rejected())
    registry.act(stream.id, Agree(limits=NEVER), ada())
    next_version(registry, stream)


ORDERS: list[tuple[Order, str]] = [
    (Promote(version=4), "promotion"),
    (RollBack(to=1), "rollback"),
    (Approve(version=5), "promotion"),
    (Refuse(version=5), "refused"),
    (Retrain(), "request"),
    (Pause(), "paused"),
    (Mark(task=1, kind="fault"), "task_marked"),
    (Agree(limits=Limits(min_skill=0.5)), "envelope"),
]


@pytest.mark.parametrize(("order", "kind"), ORDERS, ids=lambda value: getattr(value, "act", None))
def test_the_same_request_again_answers_the_same_and_does_nothing(
    registry: SqlRegistry, stream: Stream, clock: Clock, order: Order, kind: str
) -> None:
    """A client whose answer was lost asks again: hours later, or when everything has changed."""
    history(registry, stream)
    done = registry.act(stream.id, order, ada("r-1"))
    assert done.changed
    found, actor, entry = last_entry(registry)
    assert (found, actor, entry["request_id"]) == (kind, "ada", "r-1")
    assert "the new pump" in (entry.get("reason"), entry.get("note"))
    before = everything(registry.engine)
    clock.pass_s(7200)
    assert registry.act(stream.id, order, ada("r-1")) == done
    assert everything(registry.engine) == before


@pytest.mark.parametrize(
    ("order", "act"),
    [
        (Promote(version=4), ada("r-1")),
        (RollBack(), ada("r-1")),
        (RollBack(to=1), Act(actor="bob", reason="the new pump", request_id="r-1")),
        (RollBack(to=1), ada("r-1", reason="another")),
    ],
)
def test_an_id_of_another_act_is_refused(
    registry: SqlRegistry, stream: Stream, order: Order, act: Act
) -> None:
    """Another order, other details, another person or another reason."""
    history(registry, stream)
    registry.act(stream.id, RollBack(to=1), ada("r-1"))
    before = everything(registry.engine)
    with pytest.raises(PipelineError, match=r"^request id r-1 was used for another act: rollback,"):
        registry.act(stream.id, order, act)
    assert everything(registry.engine) == before


def test_an_id_of_another_stream_is_refused(registry: SqlRegistry, stream: Stream) -> None:
    registry.act(stream.id, Pause(), ada("r-1"))
    other = registry.open_stream("other", ["a"])
    with pytest.raises(PipelineError, match="used for another act: pause"):
        registry.act(other.id, Pause(), ada("r-1"))


def test_what_failed_may_be_tried_again_under_its_id(registry: SqlRegistry, stream: Stream) -> None:
    """Only what was done is remembered."""
    with pytest.raises(RegistryError, match="the stream has no version 1"):
        registry.act(stream.id, Promote(version=1), ada("r-1"))
    next_version(registry, stream, rejected())
    assert registry.act(stream.id, Promote(version=1), ada("r-1")).changed


def test_of_two_at_once_with_one_id_one_does_it(
    registry: SqlRegistry, second: SqlRegistry, stream: Stream
) -> None:
    """A proxy that sends a request twice asks for one training."""
    for n in range(ROUNDS):
        one, two = race(
            *(lambda own=own, n=n: own.act(stream.id, Retrain(), ada(f"r-{n}"))
              for own in (registry, second))
        )  # fmt: skip
        assert isinstance(one, Done)
        assert one == two
    assert column(registry.engine, "SELECT COUNT(*) FROM requests") == [ROUNDS]


@pytest.mark.parametrize(
    ("act", "says"),
    [
        *((Act(actor=name, reason="why"), "nobody's name") for name in (*RESERVED, " ")),
        (Act(actor="ada ", reason="why"), "nobody's name"),
        (Act(actor="a\x1b[2J", reason="why"), "nobody's name"),
        (Act(actor="a" * 101, reason="why"), "nobody's name"),
        (Act(actor="ada", reason=" "), "--reason is empty"),
        (Act(actor="ada", reason="why", request_id=""), "1 to 100 printable"),
        (Act(actor="ada", reason="why", request_id="x" * 101), "1 to 100 printable"),
        (Act(actor="ada", reason="why", request_id="a\nb"), "1 to 100 printable"),
    ],
)
def test_nobody_and_no_reason_do_nothing(
    registry: SqlRegistry, stream: Stream, act: Act, says: str
) -> None:
    before = everything(registry.engine)
    with pytest.raises(PipelineError, match=says):
        registry.act(stream.id, Pause(), act)
    assert everything(registry.engine) == before


def test_what_acts_by_itself_has_a_name_that_no_person_has() -> None:
    """Else the ledger could not tell one from the other."""
    assert {GATE, WATCH, ACTOR} < set(RESERVED)


@contextmanager
def power_fails_at(registry: SqlRegistry, statement: int) -> Iterator[None]:
    """At a write of this number."""
    seen: list[str] = []

    def fail(conn: object, cursor: object, sql: str, *rest: object) -> None:
        if sql.startswith(("UPDATE", "INSERT")):
            seen.append(sql)
            if len(seen) == statement:
                raise RuntimeError("power failure")

    event.listen(registry.engine, "before_cursor_execute", fail)
    try:
        yield
    finally:
        event.remove(registry.engine, "before_cursor_execute", fail)


@pytest.mark.parametrize(("order", "kind"), ORDERS, ids=lambda value: getattr(value, "act", None))
def test_half_an_act_is_none(
    registry: SqlRegistry, stream: Stream, order: Order, kind: str
) -> None:
    """Power fails at each of its writes: everything is as it was, and the id is free."""
    history(registry, stream)
    before, statement = everything(registry.engine), 0
    done = None
    while done is None:
        statement += 1
        with power_fails_at(registry, statement), suppress(RuntimeError):
            done = registry.act(stream.id, order, ada("r-1"))
        assert (everything(registry.engine) == before) is (done is None)
    assert statement > 3  # what it does, the ledger, the id
    assert last_entry(registry)[0] == kind


def test_who_did_what_can_be_asked_for(registry: SqlRegistry, stream: Stream, clock: Clock) -> None:
    next_version(registry, stream)
    registry.act(stream.id, Pause(), ada("r-1", reason="stocktaking"))
    clock.pass_s(1)
    registry.act(stream.id, Promote(version=1), Act(actor="bob", reason="why not"))
    assert [(a.actor, a.reason, what, d.changed) for a, what, d in registry.acts(stream.id)] == [
        ("ada", "stocktaking", "pause", True),
        ("bob", "why not", "promote", False),
    ]


# Promoting ------------------------------------------------------------------------------------


def test_a_rejected_version_is_promoted_against_the_gates_word(
    registry: SqlRegistry, stream: Stream, clock: Clock
) -> None:
    """A person may know better; what the gate said stands beside it."""
    next_version(registry, stream)
    bad = next_version(registry, stream, rejected("worse by 0.3"))
    clock.pass_s(5)
    done = registry.act(stream.id, Promote(version=2), ada("r-1"))
    assert done.sentence == (
        "version 2 of plant is champion, in place of 1, against the gate: worse by 0.3"
    )
    assert statuses(registry) == ["retired", "champion"]
    kind, actor, entry = last_entry(registry)
    assert (kind, actor) == ("promotion", "ada")
    assert entry == {
        "version": bad.id, "instead_of": 1, "reason": "the new pump", "was": "rejected",
        "against": "worse by 0.3", "request_id": "r-1",
    }  # fmt: skip
    row, held = registry.promotions(stream.id)[-1]
    assert (row.version, row.live_from, row.actor, held) == (2, clock.now, "ada", None)


def test_the_gates_word_stays_what_it_was(registry: SqlRegistry, stream: Stream) -> None:
    """Whoever asks what was decided hears of both: the gate's no, and the person's yes."""
    next_version(registry, stream)
    next_version(registry, stream, rejected("worse by 0.3"))
    registry.act(stream.id, Promote(version=2), ada())
    lineage = Lineage(registry.database)
    one, two = (lineage.decided("plant", number) for number in (1, 2))
    lineage.close()
    assert (one["decision"], two["decision"], two["because"]) == (
        "promoted", "rejected", "worse by 0.3",
    )  # fmt: skip
    assert [live["by"] for live in two["live"]] == ["ada"]


def test_the_champion_is_promoted_to_nothing(registry: SqlRegistry, stream: Stream) -> None:
    """One line, and no entry: nothing happened."""
    next_version(registry, stream)
    before = everything(registry.engine)
    done = registry.act(stream.id, Promote(version=1), ada())
    assert (done.changed, done.sentence) == (
        False, "version 1 of plant is champion already: nothing to do",
    )  # fmt: skip
    after = everything(registry.engine)
    assert {name for name in after if after[name] != before[name]} == {"acts"}


def test_a_first_champion_by_hand(registry: SqlRegistry, stream: Stream) -> None:
    """The gate let none through."""
    next_version(registry, stream, rejected())
    done = registry.act(stream.id, Promote(version=1), ada())
    assert "is champion, the first of the stream" in done.sentence
    assert registry.champion(stream.id).number == 1


def test_versions_of_other_streams_are_none_of_this_one(
    registry: SqlRegistry, stream: Stream
) -> None:
    """Numbers are those of the stream."""
    other = registry.open_stream("other", ["a"])
    for _ in range(2):
        next_version(registry, other)
    next_version(registry, stream)
    for order in (Promote(version=2), RollBack(to=2), Approve(version=2), Refuse(version=2)):
        with pytest.raises(RegistryError, match=r"^the stream has no version 2$"):
            registry.act(stream.id, order, ada())


def test_what_was_left_or_retired_may_come_back(registry: SqlRegistry, stream: Stream) -> None:
    """And the one that it replaces is retired, not rolled back."""
    for _ in range(3):
        next_version(registry, stream)
    registry.act(stream.id, RollBack(), ada())
    registry.act(stream.id, Promote(version=3), ada())
    registry.act(stream.id, Promote(version=1), ada())
    assert statuses(registry) == ["champion", "retired", "retired"]


@pytest.mark.parametrize("order", [Promote(version=2), RollBack(to=1)], ids=["promote", "rollback"])
def test_weights_that_were_pruned_do_not_come_back(
    registry: SqlRegistry, stream: Stream, order: Order
) -> None:
    """There is nothing to score with; who let them go is told."""
    next_version(registry, stream, made=candidate(weights=b"one"))
    next_version(registry, stream, rejected(), made=candidate(weights=b"two"))
    next_version(registry, stream, made=candidate(weights=b"three"))
    change(
        registry.engine,
        "UPDATE artifacts SET content = :none, pruned = 86400000000, pruned_by = 'eve' "
        "WHERE kind = 'weights' AND sha256 <> :kept",
        none=b"",
        kept=registry.champion(stream.id).sha256,
    )
    before = everything(registry.engine)
    says = r"^the weights of version \d: pruned on 1970-01-02 by eve$"
    with pytest.raises(RegistryError, match=says):
        registry.act(stream.id, order, ada())
    assert everything(registry.engine) == before


def test_what_learned_a_fault_is_not_promoted(registry: SqlRegistry, stream: Stream) -> None:
    """The rule holds for people too, until they say that it is no fault."""
    task = named_task(registry, stream)
    next_version(registry, stream)
    registry.submit(by_hand(stream))
    inputs = {"segments": [(task, "segment-1")]}
    register(
        registry, claimed(registry), rejected(), parent=registry.champion(stream.id), inputs=inputs
    )
    registry.act(stream.id, Mark(task=1, kind="fault"), ada())
    with pytest.raises(VersionConflict, match="its readings are of task 1 by now"):
        registry.act(stream.id, Promote(version=2), ada())
    registry.act(stream.id, Mark(task=1, kind="normal"), ada())
    assert registry.act(stream.id, Promote(version=2), ada()).changed


def test_a_person_and_a_trainer_at_once_leave_one_champion(
    registry: SqlRegistry, second: SqlRegistry, stream: Stream
) -> None:
    """Either the candidate was measured against what the person promoted over, and is given back;
    or it is promoted first, and the person's version replaces it."""
    next_version(registry, stream)
    for n in range(ROUNDS):
        next_version(registry, stream, rejected())
        number = 2 * n + 2 - column(registry.engine, GIVEN_BACK)[0]
        champion = registry.champion(stream.id)
        registry.submit(by_hand(stream))
        claim = claimed(registry)
        by_trainer, by_person = race(
            lambda claim=claim, champion=champion: register(
                registry, claim, promoted(), parent=champion
            ),
            lambda number=number: second.act(stream.id, Promote(version=number), ada()),
        )
        assert isinstance(by_person, Done), by_person
        assert registry.champion(stream.id).number == number
        if isinstance(by_trainer, VersionConflict):
            registry.release(claim, str(by_trainer))
            registry.finish(claimed(registry), "enough")
        else:
            assert isinstance(by_trainer, Version)
        assert column(registry.engine, IN_ORDER) == []


#: Candidates that had no version as the champion had changed.
GIVEN_BACK = "SELECT COUNT(*) FROM requests WHERE outcome = 'enough'"
#: Reigns that do not begin where the one before ended.
IN_ORDER = (
    "SELECT b.id FROM promotions a JOIN promotions b ON b.id = a.id + 1 "
    "WHERE a.live_until IS NULL OR a.live_until <> b.live_from"
)


def test_who_was_promoted_by_hand_is_on_trial_as_any_other(
    registry: SqlRegistry, stream: Stream
) -> None:
    """A person's word does not make a version good: the watch may still leave it; but not what
    was brought back."""
    next_version(registry, stream)
    next_version(registry, stream, rejected())
    registry.act(stream.id, Promote(version=2), ada())
    two = registry.champion(stream.id)
    assert registry.on_trial(two)
    assert registry.roll_back(stream.id, leave=two, actor=WATCH, reason="odd").to == 1
    registry.act(stream.id, Promote(version=2), ada())
    assert not registry.on_trial(registry.champion(stream.id))


# Pausing --------------------------------------------------------------------------------------


def test_a_paused_stream_has_no_training(
    registry: SqlRegistry, stream: Stream, clock: Clock
) -> None:
    """Its requests wait, those of others do not; what was claimed is finished."""
    other = registry.open_stream("other", ["a"])
    registry.submit(by_hand(stream))
    running = claimed(registry)
    registry.act(stream.id, Pause(), ada(reason="stocktaking"))
    assert registry.stream("plant").pause.since == clock.now
    register(registry, running, promoted(), parent=None)
    registry.submit(asked(stream))
    registry.submit(by_hand(other))
    assert claimed(registry).request.stream_id == other.id
    assert registry.claim("trainer", LEASE_S) is None
    assert "it is paused" in registry.act(stream.id, Retrain(), ada()).sentence
    again = registry.act(stream.id, Pause(), ada())
    assert not again.changed
    assert again.sentence.endswith("UTC by ada")
    registry.act(stream.id, Resume(), ada())
    assert last_entry(registry)[0] == "resumed"
    assert registry.stream("plant").pause is None
    claim = claimed(registry)
    assert (claim.request.stream_id, len(claim.folded)) == (stream.id, 1)
    assert not registry.act(stream.id, Resume(), ada()).changed


# The envelope ---------------------------------------------------------------------------------


def test_a_version_outside_of_the_envelope_waits(
    registry: SqlRegistry, stream: Stream, clock: Clock
) -> None:
    """It passed the gate, and is not champion; the ledger says which limits it passes over."""
    first = next_version(registry, stream)
    registry.act(stream.id, Agree(limits=Limits(max_weight_change=0.5)), ada())
    made = next_version(registry, stream, made=candidate(weight_change=0.62))
    assert made.status == "waiting"
    assert registry.champion(stream.id).id == first.id
    kind, actor, entry = last_entry(registry)
    assert (kind, actor) == ("waiting", "tidemark")
    outside = ["its weights moved by 0.62, more than 0.5"]
    assert entry == {"version": made.id, "instead_of": first.id, "envelope": 1, "outside": outside}
    ((row, held),) = registry.waiting(stream.id)
    assert (row.version, held.envelope, held.instead_of) == (2, 1, first.id)
    outcome = column(registry.engine, "SELECT outcome FROM requests WHERE id = 2")
    assert outcome == ["version 2 waits for a person's word: better"]
    clock.pass_s(60)
    done = registry.act(stream.id, Approve(version=2), ada("r-1"))
    assert done.facts == {"version": 2, "instead_of": 1, "envelope": 1, "outside": outside}
    assert statuses(registry) == ["retired", "champion"]
    assert last_entry(registry)[2] == {
        "version": made.id, "instead_of": first.id, "reason": "the new pump", "was": "waiting",
        "envelope": 1, "outside": outside, "request_id": "r-1",
    }  # fmt: skip
    row, held = registry.promotions(stream.id)[-1]
    assert (row.version, row.live_from, row.actor, held.envelope) == (2, clock.now, "ada", 1)
    assert [each.said for each in held.outside] == outside


def test_inside_of_the_envelope_nobody_is_asked(registry: SqlRegistry, stream: Stream) -> None:
    """Each promotion says which envelope it was inside, also after that was changed."""
    for most in (0.5, 0.1):
        registry.act(stream.id, Agree(limits=Limits(max_weight_change=most)), ada())
        next_version(registry, stream, made=candidate(weight_change=0.1))
    kind, actor, entry = last_entry(registry)
    assert (kind, actor, entry["envelope"], entry["outside"]) == ("promotion", "gate", 2, [])
    found = registry.promotions(stream.id)
    assert [(row.version, held.envelope, held.outside) for row, held in found] == [
        (1, 1, ()),
        (2, 2, ()),
    ]
    assert [each.limits.max_weight_change for each in registry.envelopes(stream.id)] == [0.5, 0.1]


def test_what_is_judged_is_what_was_registered(registry: SqlRegistry, stream: Stream) -> None:
    """Skills by the tasks' numbers, and the reasons of all requests that were taken along."""
    named_task(registry, registry.open_stream("other", ["a"]))  # ids are not numbers
    task = named_task(registry, stream)
    next_version(registry, stream)
    limits = Limits(min_skill_of_task={1: 0.5}, triggers=("boundary", "refine"))
    registry.act(stream.id, Agree(limits=limits), ada())
    registry.submit(asked(stream, 2))
    registry.submit(asked(stream, 3, reason="refine"))
    registry.submit(by_hand(stream))
    made = candidate({task: 0.4375}, {task: 0.25})
    register(
        registry, claimed(registry), promoted(), parent=registry.champion(stream.id), made=made
    )
    ((_, held),) = registry.waiting(stream.id)
    assert [each.said for each in held.outside] == [
        "its skill on task 1 is 0.4375, less than 0.5",
        "it was asked for by manual, and allowed are boundary, refine",
    ]


def test_promotions_of_a_day_are_counted(
    registry: SqlRegistry, stream: Stream, clock: Clock
) -> None:
    """Versions that went live for the first time since midnight: a roll-back is none."""
    registry.act(stream.id, Agree(limits=Limits(max_promotions_a_day=2)), ada())
    clock.now = 86_400_000_000 - 2_000_000
    next_version(registry, stream)
    clock.pass_s(2)  # midnight
    made = []
    for _ in range(3):
        made.append(next_version(registry, stream).status)
        if made[-1] == "champion":
            registry.act(stream.id, RollBack(), ada())
    assert made == ["champion", "champion", "waiting"]
    clock.pass_s(86_399)
    assert next_version(registry, stream).status == "waiting"
    clock.pass_s(1)
    assert next_version(registry, stream).status == "champion"


def test_a_first_version_may_wait_too(registry: SqlRegistry, stream: Stream) -> None:
    """Then the stream has no champion until a person says so."""
    registry.act(stream.id, Agree(limits=NEVER), ada())
    assert next_version(registry, stream).status == "waiting"
    assert registry.champion(stream.id) is None
    done = registry.act(stream.id, Approve(version=1), ada())
    assert done.facts["instead_of"] is None
    assert registry.champion(stream.id).number == 1


def test_who_was_overtaken_is_not_approved(registry: SqlRegistry, stream: Stream) -> None:
    """It was measured against another champion. Once that is back, it may be approved."""
    next_version(registry, stream)
    registry.act(stream.id, Agree(limits=NEVER), ada())
    for _ in range(2):
        next_version(registry, stream)
    registry.act(stream.id, Approve(version=2), ada())
    before = everything(registry.engine)
    says = (
        "^version 3 was overtaken: version 1 is no longer champion; "
        "refuse it, then promote it if you must$"
    )
    with pytest.raises(VersionConflict, match=says):
        registry.act(stream.id, Approve(version=3), ada())
    assert everything(registry.engine) == before
    registry.act(stream.id, RollBack(), ada())
    assert registry.act(stream.id, Approve(version=3), ada()).facts["instead_of"] == 1


def test_refused_by_a_person_it_may_still_be_promoted_by_one(
    registry: SqlRegistry, stream: Stream
) -> None:
    """What waits has words of its own: it is not promoted past them."""
    next_version(registry, stream)
    registry.act(stream.id, Agree(limits=NEVER), ada())
    next_version(registry, stream)
    with pytest.raises(RegistryError, match=r"^version 2 waits for a word: approve or refuse it$"):
        registry.act(stream.id, Promote(version=2), ada())
    registry.act(stream.id, Refuse(version=2), ada())
    assert statuses(registry) == ["champion", "refused"]
    assert registry.waiting(stream.id) == []
    for order in (Approve(version=2), Refuse(version=2)):
        with pytest.raises(RegistryError, match=r"^version 2 waits for no word, it is refused$"):
            registry.act(stream.id, order, ada())
    registry.act(stream.id, Promote(version=2), ada())
    assert statuses(registry) == ["retired", "champion"]
    says = "^version 2 waits for no word, it is champion: `tidemark rollback` leaves it$"
    with pytest.raises(RegistryError, match=says):
        registry.act(stream.id, Refuse(version=2), ada())


def test_a_rejected_version_promoted_by_hand_says_what_it_passes_over(
    registry: SqlRegistry, stream: Stream
) -> None:
    """The envelope holds nobody back who decides himself, and is told all the same."""
    next_version(registry, stream)
    registry.act(stream.id, Agree(limits=NEVER), ada())
    next_version(registry, stream, rejected())
    done = registry.act(stream.id, Promote(version=2), ada())
    assert done.facts["outside"] == ["it was asked for by manual, and allowed are none"]
    assert registry.promotions(stream.id)[-1][1].envelope == 1


def test_no_envelope_holds_a_roll_back_up(registry: SqlRegistry, stream: Stream) -> None:
    """What scores too badly is left, whatever was agreed on."""
    for _ in range(2):
        next_version(registry, stream)
    limits = Limits(max_promotions_a_day=0, triggers=(), min_skill=9.0, hours="00:00-00:01")
    registry.act(stream.id, Agree(limits=limits), ada())
    two = registry.champion(stream.id)
    assert registry.roll_back(stream.id, leave=two, actor=WATCH, reason="odd").to == 1


def test_a_candidate_that_would_wait_for_nothing_is_given_back(
    registry: SqlRegistry, stream: Stream
) -> None:
    """Its parent is champion no longer: nobody could approve it."""
    one = next_version(registry, stream)
    registry.act(stream.id, Agree(limits=NEVER), ada())
    registry.submit(by_hand(stream))
    claim = claimed(registry)
    next_status = register(registry, claim, promoted(), parent=one).status
    registry.submit(by_hand(stream))
    claim = claimed(registry)
    registry.act(stream.id, Approve(version=2), ada())
    before = everything(registry.engine)
    with pytest.raises(VersionConflict, match="version 1 is no longer champion"):
        register(registry, claim, promoted(), parent=one)
    assert (next_status, everything(registry.engine)) == ("waiting", before)


# The schema -----------------------------------------------------------------------------------


def test_migrating_a_database_in_use(database: Database, clock: Clock) -> None:
    """Down with versions that wait and are refused, under a view that reads them, and up again."""
    migrate.upgrade(database)
    with opened(database, clock) as registry:
        stream = registry.open_stream("plant", ["a", "b"])
        next_version(registry, stream)
        registry.act(stream.id, Agree(limits=NEVER), ada())
        for _ in range(2):
            next_version(registry, stream)
        registry.act(stream.id, Refuse(version=3), ada())
        change(registry.engine, "CREATE VIEW told AS SELECT number, status FROM versions")
    for step in (lambda: migrate.downgrade(database, "0013-1"), lambda: migrate.upgrade(database)):
        step()
        engine = connect(database)
        found = column(engine, "SELECT status FROM told ORDER BY number")
        engine.dispose()
        assert found == ["champion", "rejected", "rejected"]
