"""The audit's nine questions: what each answers, and that a view of the database says the same."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from safetensors.numpy import save
from sqlalchemy import text

from pipeline.config import Database
from pipeline.consolidate.readings import Readings
from pipeline.errors import PipelineError, SettingsError
from pipeline.records import Decision, Extent, Version
from pipeline.register.checkpoints import State
from pipeline.register.envelope import Limits
from pipeline.register.orders import Act, Agree, Approve, Order, Promote, Refuse
from pipeline.register.sql import SqlRegistry, Stream
from pipeline.serve.answers import iso
from pipeline.serve.audit import Audit
from pipeline.serve.times import parse_time
from tests.register.making import (
    SECOND,
    Clock,
    asked,
    boundary,
    by_hand,
    candidate,
    change,
    claimed,
    next_version,
    opened,
    promoted,
    rejected,
)

START = 1_000 * SECOND
#: When the readings of segment 1 were enough.
ENOUGH = 600 * SECOND
READINGS = Readings(
    values=np.zeros((300, 2), dtype=np.float32), offsets=np.arange(1096, 1396, dtype=np.int64)
)
FIGURES = {
    "min_gain": 0.02,
    "max_forgetting": 0.05,
    "confidence": 0.95,
    "bootstrap": 1000,
    "gain": {"mean": 0.75, "low": 0.5, "high": 1.0, "windows": 40},
}


def weights(first: float, second: float) -> bytes:
    """Two layers: 3 x 2 weights and 3 of bias, all `first`; 4 weights, all `second`."""
    tensors = {
        "model.0.weight": np.full((3, 2), first, np.float32),
        "model.0.bias": np.full(3, first, np.float32),
        "model.2.weight": np.full(4, second, np.float32),
        "design": np.frombuffer(b"{}", np.uint8),
    }
    return save(tensors)


@pytest.fixture
def clock() -> Clock:
    return Clock(START)


@pytest.fixture
def registry(at_head: Database, clock: Clock) -> Iterator[SqlRegistry]:
    with opened(at_head, clock) as registry:
        yield registry


@pytest.fixture
def stream(registry: SqlRegistry) -> Stream:
    """The stream that is asked about, beside one whose version 1 is another."""
    other = registry.open_stream("other", ["a"])
    next_version(registry, other)
    return registry.open_stream("plant", ["pressure", "flow"])


@pytest.fixture
def audit(registry: SqlRegistry) -> Iterator[Audit]:
    audit = Audit(registry.database)
    yield audit
    audit.close()


@pytest.fixture
def learned(registry: SqlRegistry, stream: Stream, clock: Clock) -> tuple[int, dict[str, str]]:
    """Version 1 by hand, and version 2 of a boundary, 10 s later; its task and artifacts."""
    first = next_version(registry, stream, made=candidate(weights=weights(0.0, 1.0)))
    clock.pass_s(10)
    shas = {
        role: registry.put(role, content)
        for role, content in (("segment", READINGS.to_bytes()), ("reservoir", b"windows"))
    }
    extent = Extent(readings=300, first_offset=1096, last_offset=1395, until=ENOUGH)
    epoch = registry.acquire(stream.id, 3, "owner").epoch
    registry.save(
        stream.id, 3, epoch, next_offset=2000, state=State(b"s"), boundaries=[boundary()],
        requests=[asked(stream, partition=3, inputs=shas, extent=extent)],
        scored=[(first.id, 1000, 1500), (first.id, 1600, 2000)],
    )  # fmt: skip
    claim = claimed(registry)
    task = registry.assign(claim, claim.id, np.zeros((2, 2)))
    registry.register(
        claim,
        candidate({task: 0.5}, {task: -0.25}, new=(task,), weights=weights(2.0, 1.0), loss=0.25),
        Decision(
            promote=True,
            reason="better by 0.75",
            figures=FIGURES | {"skills": {task: 0.5}, "changes": {task: FIGURES["gain"]}},
        ),
        parent=first,
        inputs={
            "segments": [(task, shas["segment"])],
            "held_out": {task: [shas["segment"]]},
            "ended": [],
            "earlier": [],
            "reservoirs": [shas["reservoir"]],
            "left_out": [[("pump", 0)]],
            "replayed": {task: 12},
            "settings": "s" * 64,
        },
        settings={"learn": {"epochs": 20, "lr": 0.5}},
        strategy="ewc_replay",
        seed=9,
        code_version="0.1.0",
    )
    return task, shas


def view(registry: SqlRegistry, name: str, where: str, **values: Any) -> list[dict[str, Any]]:
    """What somebody without tidemark reads of the stream in a view."""
    return read(registry, f"SELECT * FROM {name} WHERE stream = 'plant' AND {where}", **values)  # noqa: S608


def read(registry: SqlRegistry, sql: str, **values: Any) -> list[dict[str, Any]]:
    """What a query finds."""
    with registry.engine.connect() as conn:
        return [dict(row) for row in conn.execute(text(sql), values).mappings()]


# Data -----------------------------------------------------------------------------------------


def test_data_tells_where_in_the_log_a_version_is_from(
    audit: Audit, learned: tuple[int, dict[str, str]]
) -> None:
    """Topic, partition, offsets, times, readings per task, every hash, and what was replayed."""
    _, shas = learned
    part = {
        "task": 1,
        "partition": 3,
        "series": "pump",
        "segment": 1,
        "readings": 300,
        "first_offset": 1096,
        "last_offset": 1395,
        "since": iso(500 * SECOND),
        "until": iso(ENOUGH),
        "sha256": shas["segment"],
    }
    answer = audit.data("plant", 2)
    for name in ("weights_sha256", "ewc_sha256"):
        assert len(answer.pop(name)) == 64
    assert answer == {
        "stream": "plant",
        "topic": "plant",
        "version": 2,
        "parent": 1,
        "partitions": [{"partition": 3, "first_offset": 1096, "last_offset": 1395}],
        "readings": {"task 1": 300},
        "learned": [part],
        "held_out": [part],
        "ended": [],
        "earlier": [],
        "replayed": {"task 1": 12},
        "reservoirs": [{"partition": 3, "sha256": shas["reservoir"], "left_out": [["pump", 0]]}],
        "settings_sha256": "s" * 64,
        "seed": 9,
    }


def test_a_later_request_with_the_same_bytes_changes_no_answer(
    registry: SqlRegistry, stream: Stream, audit: Audit, learned: tuple[int, dict[str, str]]
) -> None:
    """Two pumps that stand still send the same readings; an old version is of the first."""
    before = audit.data("plant", 2)
    registry.submit(asked(stream, 7, partition=5, inputs=learned[1]))
    assert audit.data("plant", 2) == before


def test_an_extent_that_nobody_noted_is_read_from_the_readings(
    registry: SqlRegistry, audit: Audit, learned: tuple[int, dict[str, str]]
) -> None:
    """As of requests from before it was noted; if the readings are gone, only it is unknown."""
    before = audit.data("plant", 2)["learned"]
    unknown = "readings = NULL, first_offset = NULL, last_offset = NULL"
    change(registry.engine, f"UPDATE request_inputs SET {unknown}")  # noqa: S608
    assert audit.data("plant", 2)["learned"] == before
    change(registry.engine, "UPDATE artifacts SET content = :none", none=b"")
    (part,) = audit.data("plant", 2)["learned"]
    gone = dict.fromkeys(("readings", "first_offset", "last_offset"))
    assert part == before[0] | gone


# Decisions ------------------------------------------------------------------------------------


def test_decided_tells_thresholds_figures_and_what_came_after(
    registry: SqlRegistry,
    stream: Stream,
    audit: Audit,
    clock: Clock,
    learned: tuple[int, dict[str, str]],
) -> None:
    """The gate's word by which figures; then a person's; each with its entry in the ledger."""
    del learned
    clock.pass_s(10)
    registry.roll_back(stream.id, actor="eve", reason="too warm")
    answer = audit.decided("plant", 2)
    entries = answer.pop("ledger")
    assert [(e["kind"], e["by"], e["at"]) for e in entries] == [
        ("version", "tidemark", iso(START + 10 * SECOND)),
        ("promotion", "gate", iso(START + 10 * SECOND)),
        ("rollback", "eve", iso(START + 20 * SECOND)),
    ]
    hashes = read(registry, "SELECT id, hash FROM ledger")
    assert {(e["entry"], e["hash"]) for e in entries} <= {(r["id"], r["hash"]) for r in hashes}
    assert answer == {
        "stream": "plant",
        "version": 2,
        "decision": "promoted",
        "decided_at": iso(START + 10 * SECOND),
        "by": "gate",
        "because": "better by 0.75",
        "thresholds": {
            "min_gain": 0.02,
            "max_forgetting": 0.05,
            "confidence": 0.95,
            "bootstrap": 1000,
        },
        "gain": FIGURES["gain"],
        "skills": {"task 1": 0.5},
        "parent_skills": {},
        "changes": {"task 1": FIGURES["gain"]},
        "envelope": None,
        "words": [],
        "live": [
            {
                "from": iso(START + 10 * SECOND),
                "until": iso(START + 20 * SECOND),
                "by": "gate",
                "because": "better by 0.75",
            }
        ],
        "rolled_back": [
            {"at": iso(START + 20 * SECOND), "by": "eve", "because": "too warm", "to": 1}
        ],
    }


def test_refusals_come_page_by_page(
    registry: SqlRegistry, stream: Stream, audit: Audit, clock: Clock
) -> None:
    """Half-open in time; pages join without gap or overlap, also within one microsecond."""
    next_version(registry, stream)
    times = []
    for wait in (0, 5, 0, 0, 5):
        clock.pass_s(wait)
        next_version(registry, stream, rejected(f"worse at {clock.now}"))
        times.append(clock.now)
    whole = audit.rejected("plant")
    assert [each["version"] for each in whole["rejected"]] == [2, 3, 4, 5, 6]
    assert [each["at"] for each in whole["rejected"]] == list(map(iso, times))
    assert whole["rejected"][1]["because"] == f"worse at {times[1]}"
    assert whole["next"] is None
    page, found = audit.rejected("plant", limit=2), []
    while True:
        found += [each["version"] for each in page["rejected"]]
        if page["next"] is None:
            break
        page = audit.rejected("plant", limit=2, after=page["next"])
    assert found == [2, 3, 4, 5, 6]
    between = audit.rejected("plant", times[1], times[4])["rejected"]
    assert [each["version"] for each in between] == [3, 4, 5]


def test_what_was_refused_stays_so_whatever_a_person_does(
    registry: SqlRegistry, stream: Stream, audit: Audit, clock: Clock
) -> None:
    """2: the gate, then promoted by hand; 3: a person, then promoted; 4: waits; 5: approved.

    The answer and the view say who said no and when; `decided` and its view, the envelope and the
    words of people.
    """

    def ordered(order: Order, reason: str) -> None:
        clock.pass_s(5)
        registry.act(stream.id, order, Act(actor="ada", reason=reason))

    next_version(registry, stream)
    clock.pass_s(5)
    next_version(registry, stream, rejected("worse"))
    by_gate = clock.now
    ordered(Promote(version=2), "the gate is wrong")
    ordered(Agree(limits=Limits(triggers=())), "plan 12")
    next_version(registry, stream)
    ordered(Refuse(version=3), "too large a step")
    by_ada = clock.now
    ordered(Promote(version=3), "it was not")
    next_version(registry, stream)
    next_version(registry, stream)
    ordered(Approve(version=5), "looked at it")

    told = audit.rejected("plant")["rejected"]
    seen = [(e["version"], e["at"], e["by"], e["because"]) for e in told]
    assert seen == [
        (2, iso(by_gate), "gate", "worse"),
        (3, iso(by_ada), "ada", "too large a step"),
    ]
    columns = ("version", "rejected_at", "rejected_by", "reason")
    rows = view(registry, "audit_rejected", "version > 0 ORDER BY version")
    assert [tuple(row[name] for name in columns) for row in rows] == seen
    between = audit.rejected("plant", by_gate + 1, by_ada + 1)["rejected"]
    assert [each["version"] for each in between] == [3]
    with pytest.raises(PipelineError, match="version 4 was never refused"):
        audit.rejected("plant", after=4)

    answers = {number: audit.decided("plant", number) for number in range(1, 6)}
    assert [answers[n]["decision"] for n in answers] == [
        "promoted", "rejected", "promoted", "waiting", "promoted",
    ]  # fmt: skip
    words = {
        n: [(e["word"], e["at"], e["by"], e["because"]) for e in answers[n]["words"]]
        for n in answers
    }
    assert [[word for word, *_ in words[n]] for n in words] == [
        [], ["promoted"], ["refused", "promoted"], [], ["approved"],
    ]  # fmt: skip
    for n in (1, 2):
        assert answers[n]["envelope"] is None
    for n in (3, 4, 5):
        held = answers[n]["envelope"]
        assert (held["envelope"], held["inside"], len(held["outside"])) == (1, False, 1)
    for n in answers:
        gate, *people = view(
            registry, "audit_decided", "version = :n ORDER BY decided_at_us, actor DESC", n=n
        )
        assert gate["decision"] == ("rejected" if n == 2 else "waiting" if n > 2 else "promoted")
        assert gate["envelope"] == (1 if n > 2 else None)
        said = [(r["decision"], r["decided_at"], r["actor"], r["reason"]) for r in people]
        assert said == words[n]


def test_nothing_refused_is_an_empty_answer(audit: Audit, stream: Stream) -> None:
    del stream
    assert audit.rejected("plant")["rejected"] == []


# Scores ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("offset", "first"), [(1000, 1000), (1499, 1000), (1600, 1600)])
def test_scored_tells_the_version_of_an_offset(
    audit: Audit, learned: tuple[int, dict[str, str]], offset: int, first: int
) -> None:
    del learned
    answer = audit.scored("plant", 3, offset)
    assert (answer["version"], answer["first_offset"]) == (1, first)
    assert first <= offset < answer["end_offset"]


@pytest.mark.parametrize(
    ("partition", "offset", "reached"),
    [
        (3, 999, "it is scored up to 1999"),
        (3, 1500, "it is scored up to 1999"),
        (3, 2000, "it is scored up to 1999"),
        (0, 1000, "nothing of it is"),
    ],
)
def test_what_no_version_scored_is_said_in_one_line(
    audit: Audit,
    learned: tuple[int, dict[str, str]],
    partition: int,
    offset: int,
    reached: str,
) -> None:
    del learned
    said = f"^offset {offset} of partition {partition} was scored by no version: {reached}$"
    with pytest.raises(PipelineError, match=said):
        audit.scored("plant", partition, offset)


# Differences ----------------------------------------------------------------------------------


def test_diff_goes_from_one_version_to_another(
    audit: Audit, learned: tuple[int, dict[str, str]]
) -> None:
    """Layer 0 moved by 2 in each of 9 weights: sqrt(9 * 4) = 6, from 0; layer 2 stayed."""
    _, shas = learned
    answer = audit.diff("plant", 1, 2)
    assert answer["weights"] == {
        "distance": 6.0,
        "layers": {
            "model.0": {"distance": 6.0, "relative": None, "largest": 2.0, "parameters": 9},
            "model.2": {"distance": 0.0, "relative": 0.0, "largest": 0.0, "parameters": 4},
        },
    }
    assert answer["settings"] == {
        "learn.epochs": {"from": None, "to": 20},
        "learn.lr": {"from": None, "to": 0.5},
        "learn.strategy": {"from": "ewc", "to": None},
        "seed": {"from": 7, "to": 9},
        "strategy": {"from": "ewc", "to": "ewc_replay"},
    }
    assert answer["metrics"] == {
        "loss": {"from": None, "to": 0.25, "change": None},
        "loss_after": {"from": 0.25, "to": None, "change": None},
    }
    assert answer["skills"] == {"task 1": {"from": None, "to": 0.5, "change": None}}
    data = answer["data"]["learned"]
    assert [part["sha256"] for part in data["only_to"]] == [shas["segment"]]
    assert (len(data["only_from"]), data["both"]) == (1, 0)
    back = audit.diff("plant", 2, 1)["weights"]["layers"]["model.0"]
    assert (back["distance"], back["relative"]) == (6.0, 1.0)


def test_a_version_differs_from_itself_in_nothing(
    audit: Audit, learned: tuple[int, dict[str, str]]
) -> None:
    del learned
    answer = audit.diff("plant", 2, 2)
    assert (answer["settings"], answer["weights"]["distance"]) == ({}, 0.0)
    assert all(not each["only_from"] + each["only_to"] for each in answer["data"].values())


def test_weights_that_are_gone_leave_the_rest_of_the_difference(
    registry: SqlRegistry, audit: Audit, learned: tuple[int, dict[str, str]]
) -> None:
    del learned
    change(registry.engine, "UPDATE artifacts SET content = :none", none=b"")
    answer = audit.diff("plant", 1, 2)
    assert answer["weights"] is None
    assert "does not match its hash" in answer["weights_missing"]
    assert answer["settings"]["seed"] == {"from": 7, "to": 9}


# Times ----------------------------------------------------------------------------------------


def test_the_hour_that_comes_twice_is_two_hours() -> None:
    """Clocks go back in Berlin on 2026-10-25: 02:30 was at 00:30 and at 01:30 UTC."""
    first, second = (parse_time(f"2026-10-25T02:30:00+0{hours}:00") for hours in (2, 1))
    assert second - first == 3_600 * SECOND
    zone = ZoneInfo("Europe/Berlin")
    for fold, at in enumerate((first, second)):
        local = datetime(2026, 10, 25, 2, 30, fold=fold, tzinfo=zone)
        assert parse_time(local.isoformat()) == at


@pytest.mark.parametrize("naive", ["2026-10-25T02:30:00", "2026-10-25", "20261025T023000.000001"])
def test_a_time_without_a_zone_is_refused_with_what_to_do(naive: str) -> None:
    with pytest.raises(SettingsError, match="has no zone: add Z or an offset") as refused:
        parse_time(naive)
    assert "\n" not in str(refused.value)


def test_a_microsecond_is_not_lost() -> None:
    at = parse_time("2026-10-25T02:30:00.000001Z")
    assert at == parse_time("2026-10-25T02:30:00Z") + 1
    assert parse_time(str(iso(at))) == at


# Measured again -------------------------------------------------------------------------------


@pytest.fixture
def measured(
    registry: SqlRegistry, stream: Stream, clock: Clock, learned: tuple[int, dict[str, str]]
) -> list[tuple[int, dict[str, float]]]:
    """(when, skills) of three measurements: two of version 2, then 1 is live again, and one of it.

    The second is of one task less, as that has become a fault, say.
    """
    del learned
    (task,) = (each.id for each in registry.tasks(stream.id))
    registry.submit(asked(stream, 2))
    claim = claimed(registry)
    other = registry.assign(claim, claim.id, np.full((2, 2), 99.0))
    registry.finish(claim, "done")
    found = []
    for skills in ({task: 0.25, other: 0.75}, {task: 0.125, other: float("nan")}, {task: -0.5}):
        clock.pass_s(10)
        if len(found) == 2:
            registry.roll_back(stream.id, actor="eve", reason="too warm")
            clock.pass_s(10)
        registry.submit(by_hand(stream, reason="evaluate", due=clock.now))
        champion = registry.champion(stream.id)
        assert champion is not None
        registry.measured(claimed(registry), champion, skills, dict.fromkeys(skills, 40))
        numbers = {task: "task 1", other: "task 2"}
        told = {numbers[each]: skill for each, skill in skills.items() if skill == skill}
        found.append((clock.now, told))
    return found


def test_what_was_measured_again_is_told_as_it_was_known_then(
    audit: Audit, measured: list[tuple[int, dict[str, float]]]
) -> None:
    """To the microsecond; of the version that was live then, and beside what the gate saw."""
    one, two, three = measured
    cases = [
        (one[0] - 1, 2, None),
        (one[0], 2, one),
        (two[0] - 1, 2, one),
        (two[0], 2, two),
        (three[0] - 10 * SECOND - 1, 2, two),
        (three[0] - 10 * SECOND, 1, None),
        (three[0] - 1, 1, None),
        (three[0], 1, three),
        (three[0] + 10**9, 1, three),
    ]
    for at, version, expected in cases:
        told = audit.metrics_at("plant", at)
        assert told["version"] == version
        when, skills = expected or (None, {})
        assert (told["measured_again_at"], told["skills_again"]) == (iso(when), skills), at
        assert told["skills"] == ({"task 1": 0.5} if version == 2 else {})


def test_the_view_tells_all_that_was_measured_again(
    registry: SqlRegistry, measured: list[tuple[int, dict[str, float]]]
) -> None:
    """A row a task and time, beside the figures of the version."""
    rows = view(registry, "audit_metrics", "name = 'skill_again' ORDER BY measured_at, task")
    told = [(r["version"], r["measured_at"], f"task {r['task']}", r["value"]) for r in rows]
    assert told == [
        (version, iso(when), task, skill)
        for version, (when, skills) in zip((2, 2, 1), measured, strict=True)
        for task, skill in skills.items()
    ]
    rows = view(registry, "audit_metrics", "name = 'skill' AND version = 2")
    assert [(r["value"], r["measured_at"]) for r in rows] == [(0.5, iso(START + 10 * SECOND))]


# Views ----------------------------------------------------------------------------------------


def test_the_views_say_what_the_answers_say(
    registry: SqlRegistry,
    stream: Stream,
    audit: Audit,
    clock: Clock,
    learned: tuple[int, dict[str, str]],
) -> None:
    """Each view beside the question that it is for, of a history with everything in it."""
    del learned
    clock.pass_s(10)
    next_version(registry, stream, rejected("worse"))
    registry.roll_back(stream.id, actor="eve", reason="too warm")
    at = START + 15 * SECOND

    (live,) = view(
        registry,
        "audit_live",
        "live_from_us <= :at AND (live_until_us IS NULL OR live_until_us > :at)",
        at=at,
    )
    said = audit.live_at("plant", at)
    for column, name in (("actor", "promoted_by"), ("reason", "because")):
        assert live[column] == said[name]
    for name in ("version", "sha256", "live_from", "live_until"):
        assert live[name] == said[name]

    (why,) = view(registry, "audit_why", "version = 2")
    told = audit.why("plant", 2)
    for name in ("trained_because", "actor", "note", "request", "requested_at", "due", "task"):
        assert why[name] == told[name]
    for name in (
        *("partition", "series", "segment", "boundary_offset", "detected_offset", "boundary_at"),
        *("detected_at", "signal", "statistic", "threshold", "task", "task_kind", "task_name"),
    ):
        assert why[name] == told["boundary"][name]
    assert json.loads(why["detectors"]) == told["boundary"]["detectors"]
    moved = [change["channel"] for change in json.loads(why["sensors"])]
    assert moved == [change["channel"] for change in told["boundary"]["sensors"]]

    data = audit.data("plant", 2)
    rows = view(registry, "audit_data", "version = 2")
    for use in ("learned", "held_out"):
        parts = [{n: r[n] for n in data[use][0]} for r in rows if r["used_as"] == use]
        assert parts == data[use]
    (reservoir,) = (row for row in rows if row["used_as"] == "reservoir")
    assert (reservoir["partition"], reservoir["sha256"]) == (
        3,
        data["reservoirs"][0]["sha256"],
    )
    replayed = [row for row in rows if row["used_as"] == "replayed"]
    assert {f"task {r['task']}": r["windows"] for r in replayed} == data["replayed"]
    assert len(rows) == 4

    figures = audit.metrics_at("plant", at)
    rows = view(registry, "audit_metrics", "version = 2")
    assert {r["name"]: r["value"] for r in rows if r["task"] is None} == figures["metrics"]
    skills = {f"task {r['task']}": r["value"] for r in rows if r["name"] == "skill"}
    assert skills == figures["skills"]
    assert {r["measured_at"] for r in rows} == {figures["measured_at"]}

    gate, left = view(registry, "audit_decided", "version = 2 ORDER BY decided_at_us")
    word = audit.decided("plant", 2)
    assert (gate["decision"], gate["actor"], gate["reason"]) == (
        "promoted",
        "gate",
        word["because"],
    )
    assert (gate["decided_at"], json.loads(gate["figures"])["gain"]) == (
        word["decided_at"],
        word["gain"],
    )
    for name in ("min_gain", "max_forgetting", "confidence"):
        assert gate[name] == word["thresholds"][name]
    assert (gate["gain"], gate["gain_low"], gate["gain_high"]) == (0.75, 0.5, 1.0)
    (back,) = word["rolled_back"]
    assert (left["decision"], left["back_to"]) == ("rolled_back", back["to"])
    assert (left["decided_at"], left["actor"], left["reason"]) == (
        back["at"],
        back["by"],
        back["because"],
    )

    (refused,) = view(registry, "audit_rejected", "version > 0")
    (tried,) = audit.rejected("plant")["rejected"]
    for column, name in (
        *(("rejected_at", "at"), ("actor", "asked_by"), ("reason", "because")),
        *((same, same) for same in ("version", "parent", "trained_because")),
    ):
        assert refused[column] == tried[name]

    (scored,) = view(
        registry,
        "audit_scored",
        '"partition" = 3 AND first_offset <= :offset AND end_offset > :offset',
        offset=1700,
    )
    found = audit.scored("plant", 3, 1700)
    assert scored == {name: value for name, value in found.items() if name != "offset"}

    lines = read(
        registry,
        "WITH RECURSIVE up (version) AS (SELECT 3 UNION ALL SELECT l.parent FROM audit_lineage l "
        "JOIN up ON l.version = up.version AND l.stream = 'plant' WHERE l.parent IS NOT NULL) "
        "SELECT l.* FROM audit_lineage l JOIN up USING (version) WHERE stream = 'plant' "
        "ORDER BY version DESC",
    )
    chain = audit.lineage("plant", 3)["chain"]
    assert [(r["version"], r["parent"], r["status"], r["made_at"]) for r in lines] == [
        (m["version"], m["parent"], m["fate"], m["created"]) for m in chain
    ]

    rows = view(registry, "audit_settings", "version = 2")
    assert {f"{r['section']}.{r['name']}": json.loads(r["value"]) for r in rows} == {
        "learn.epochs": 20,
        "learn.lr": 0.5,
    }


@pytest.mark.parametrize(
    "time", [0, 1, -1, -SECOND, 1_792_888_200_000_001, 253_402_300_799_999_999]
)
def test_a_view_s_times_are_the_answers_times(
    registry: SqlRegistry, stream: Stream, time: int
) -> None:
    """To the microsecond, before 1970 and in the year 9999 too."""
    next_version(registry, stream)
    change(registry.engine, "UPDATE promotions SET live_from = :time, live_until = NULL", time=time)
    told = read(registry, "SELECT live_from, live_from_us FROM audit_live WHERE stream = 'plant'")
    assert told == [{"live_from": iso(time), "live_from_us": time}]


# Refusals -------------------------------------------------------------------------------------


def test_a_version_that_is_not_there_is_refused_by_each_question(
    registry: SqlRegistry, stream: Stream, audit: Audit
) -> None:
    """The same line as everywhere."""
    version: Version = next_version(registry, stream)
    for ask in (
        lambda number: audit.data("plant", number),
        lambda number: audit.decided("plant", number),
        lambda number: audit.diff("plant", version.number, number),
        lambda number: audit.diff("plant", number, version.number),
    ):
        with pytest.raises(PipelineError, match=r"^no version 2: the stream has 1$"):
            ask(2)


def test_answers_are_plain_data(audit: Audit, learned: tuple[int, dict[str, str]]) -> None:
    """What JSON says and reads again is the same: nothing is lost on the way to a browser."""
    del learned
    for answer in (
        audit.data("plant", 2),
        audit.decided("plant", 2),
        audit.rejected("plant"),
        audit.scored("plant", 3, 1000),
        audit.diff("plant", 1, 2),
        audit.lineage("plant", 2),
    ):
        assert json.loads(json.dumps(answer)) == answer


def test_a_person_s_request_is_why_too(registry: SqlRegistry, stream: Stream, audit: Audit) -> None:
    """Taken along or first: who asked, in their words."""
    registry.submit(by_hand(stream))
    registry.submit(by_hand(stream, actor="bob", note="me too"))
    claim = claimed(registry)
    registry.register(
        claim, candidate(), promoted(), parent=None, inputs={}, settings={},
        strategy="ewc", seed=1, code_version="0",
    )  # fmt: skip
    why = audit.why("plant", 1)
    assert (why["actor"], why["note"]) == ("ada", "after the repair")
    (along,) = why["taken_along"]
    assert (along["actor"], along["note"], along["boundary"]) == ("bob", "me too", None)
