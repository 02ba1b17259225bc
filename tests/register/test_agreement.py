"""What was changed in a table behind the ledger's back is found, and which row."""

from __future__ import annotations

import ast
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import update

import pipeline
from pipeline.config import Database, Schedule
from pipeline.records import Decision, Gap, SensorEvent, Settled
from pipeline.register import tables
from pipeline.register.agreement import differences, in_sql
from pipeline.register.bundle import export
from pipeline.register.checkpoints import State
from pipeline.register.envelope import Limits
from pipeline.register.ledger import KINDS
from pipeline.register.letters import Decided, LetterBook, Place
from pipeline.register.orders import (
    Act,
    Agree,
    Approve,
    Mark,
    Order,
    Pause,
    PauseSchedule,
    Promote,
    Prune,
    Refuse,
    Resume,
    ResumeSchedule,
    Retrain,
    RevokeToken,
    RollBack,
    RunSchedule,
)
from pipeline.register.proof import of_row, verify
from pipeline.register.schedules import LEASE
from pipeline.register.sql import SqlRegistry
from pipeline.register.tokens import TokenBook
from pipeline.register.triggers import drop_triggers
from pipeline.register.unbundle import verify_bundle
from tests.register.making import (
    Clock,
    admitted,
    asked,
    boundary,
    by_hand,
    candidate,
    change,
    claimed,
    column,
    marked,
    next_version,
    opened,
    register,
    rejected,
)

#: Location and deviation of two sensors that stand still.
UNITS = np.zeros((2, 2))
NIGHTLY = Schedule(name="nightly", cron="30 2 * * *")
HOURLY = Schedule(name="hourly", every_s=3600.0, kind="evaluate")


@pytest.fixture
def registry(at_head: Database) -> Iterator[SqlRegistry]:
    with opened(at_head, Clock()) as registry:
        fill(registry)
        yield registry


def fill(registry: SqlRegistry) -> None:
    """A history with every kind of state change, each through the registry."""
    clock = registry.clock
    assert isinstance(clock, Clock)
    registry.open_stream("readings", ())
    stream = registry.open_stream("readings", ("pressure", "flow"))
    registry.follow(stream, "topic-id", {0: 0})
    epoch = registry.acquire(stream.id, 0, "stream").epoch
    silent = SensorEvent(series="pump", channel=1, kind="sensor_silent", row=5, offset=50, time=7)
    end = Settled(series="pump", segment=1, end_row=300, end_offset=1300, end_time=9)
    registry.save(
        stream.id,
        0,
        epoch,
        next_offset=2000,
        state=State(b"{}", {}),
        boundaries=[boundary(1), boundary(2)],
        events=[silent],
        settled=[end],
        requests=[asked(stream, 1), asked(stream, 2)],
        scored=[],
        gaps=[Gap(first_offset=10, end_offset=20, went_on="earliest")],
    )
    claim = claimed(registry)
    registry.assign(claim, claim.id, UNITS)
    task = registry.tasks(stream.id)[0].id
    made = candidate({task: 0.5}, loss_after=0.25, gain=float("nan"))
    register(registry, claim, rejected(), parent=None, made=made)
    for _ in range(3):
        clock.pass_s(1)
        next_version(registry, stream)
    clock.pass_s(1)
    registry.roll_back(stream.id, actor="ada", reason="worse")
    registry.submit(by_hand(stream))
    registry.finish(claimed(registry), "nothing to do")
    registry.submit(by_hand(stream))
    registry.fail(claimed(registry), "no data", retry=False)
    registry.submit(by_hand(stream))
    marked(registry, stream.id, 1, kind="fault", name="cavitation", why="seen")
    book = LetterBook(registry.database, stream.id, clock=clock)
    places = [Place(0, offset, "f" * 64) for offset in range(3)]
    book.begin(places[:1], {0: 70}, actor="ada", reason="mended")
    book.settle({places[0]: 71})
    book.drop(places[1:2], actor="ada", reason="noise")
    book.begin(places[2:], {0: 80}, actor="ada", reason="mended")
    book.close()


def steer(registry: SqlRegistry) -> None:
    """One of each act, behind a history; whoever waits is approved or refused."""
    clock = registry.clock
    assert isinstance(clock, Clock)
    stream = registry.stream("readings")
    assert stream is not None
    registry.act(stream.id, Mark(task=1, kind="normal"), ada("mended"))
    registry.finish(claimed(registry), "nothing to do")

    def ordered(order: Order) -> None:
        clock.pass_s(1)
        registry.act(stream.id, order, ada("plan 12"))

    def made(name: bytes, decision: Decision | None = None) -> int:
        clock.pass_s(1)
        return next_version(registry, stream, decision, candidate(weights=name)).number

    ordered(Promote(version=made(b"bad", rejected())))
    ordered(Agree(limits=Limits(triggers=(), min_skill_of_task={1: 0.5})))
    ordered(Refuse(version=made(b"refused")))
    ordered(Promote(version=made(b"bad too", rejected())))
    ordered(Approve(version=made(b"approved")))
    made(b"waits")
    ordered(Agree(limits=Limits()))
    made(b"inside")
    for order in (RollBack(), Retrain(), Pause(), Pause(), Resume(), Pause()):
        ordered(order)
    clock.pass_s(400 * 86_400)
    registry.act(None, Prune(keep_days=365, replays_all=False), ada("retention"))
    registry.act(None, Prune(keep_days=365, replays_all=False), ada("retention again"))
    for name in ("eve", "bob"):
        admitted(registry, name)
    registry.act(None, RevokeToken(name="eve"), ada("left"))
    for kind in (PauseSchedule, PauseSchedule, RunSchedule, RunSchedule, ResumeSchedule):
        registry.act(None, kind(schedule=NIGHTLY), ada("plan 13"))
    by_the_clock(registry)
    TokenBook(registry.engine, clock=clock).note_failures({"address": "203.0.113.7", "failures": 3})
    registry.note_settings("train", "readings", {"learn": {"epochs": 1}}, "ada")


def by_the_clock(registry: SqlRegistry) -> None:
    """Of each state that a schedule, a run and a measurement may be in, one or two."""
    clock = registry.clock
    assert isinstance(clock, Clock)
    assert registry.lease(LEASE, "a", 60.0)
    gone = Schedule(name="gone", every_s=60.0, kind="verify")
    registry.adopt_schedules([NIGHTLY, HOURLY, gone], "a")
    registry.adopt_schedules([NIGHTLY, HOURLY], "a")
    registry.act(None, PauseSchedule(schedule=HOURLY), ada("plan 14"))
    (ordered,) = registry.unfinished_runs()
    assert registry.begin_run(ordered, "a")
    assert registry.end_run(ordered, "a", ok=False, outcome="broken")
    for due in (1, 2, 3):
        assert registry.note_due(HOURLY, due, "a")
    stream = registry.stream("readings")
    assert stream is not None
    (run,) = registry.unfinished_runs()
    champion = registry.champion(stream.id)
    assert champion is not None
    registry.act(stream.id, Resume(), ada("plan 15"))
    while (claim := registry.claim("trainer", 60.0)) is not None:
        registry.finish(claim, "nothing to do")
    registry.request_run(run, by_hand(stream, reason="evaluate", due=3), "a")
    task = registry.tasks(stream.id)[0].id
    skills = {task: 0.5, task + 1: float("nan")}
    registry.measured(claimed(registry), champion, skills, dict.fromkeys(skills, 40))
    registry.note_due(HOURLY, 4, "a")
    registry.act(None, RunSchedule(schedule=NIGHTLY), ada("plan 16"))


def ada(reason: str) -> Act:
    return Act(actor="ada", reason=reason)


@pytest.fixture
def steered(registry: SqlRegistry) -> SqlRegistry:
    steer(registry)
    return registry


def test_what_people_did_agrees(steered: SqlRegistry, tmp_path: Path) -> None:
    """One of each act: nothing is found, in the database and in bundles of it."""
    kinds = set(column(steered.engine, "SELECT kind FROM ledger"))
    by_people = {"waiting", "refused", "envelope", "paused", "resumed", "pruned", "rollback"}
    assert by_people | {"token_added", "token_revoked", "login_failed", "settings"} <= kinds
    assert column(steered.engine, "SELECT COUNT(*) FROM artifacts WHERE pruned > 0") != [0]
    assert verify(steered.database, contents=True).findings == ()
    for stream in (None, "readings"):
        file = tmp_path / f"{stream}.zip"
        export(steered.database, file, stream)
        assert verify_bundle(file).findings == []
        with zipfile.ZipFile(file) as held:
            weights = {name for name in held.namelist() if name.startswith("weights/")}
        gone = column(steered.engine, "SELECT sha256 FROM artifacts WHERE pruned > 0")
        assert weights
        assert not weights & {f"weights/{sha}.safetensors" for sha in gone}


#: As ATTACKS, where people did something.
STEERED = [
    ("UPDATE streams SET paused = 1", "streams", "edited", "id 1: paused"),
    ("UPDATE streams SET paused_by = 'eve'", "streams", "edited", "id 1: paused_by"),
    (
        "UPDATE versions SET status = 'retired' WHERE status = 'refused'",
        "versions",
        "edited",
        "status",
    ),
    (
        "UPDATE versions SET rejected = NULL WHERE number = 1",
        "versions",
        "edited",
        "id 1: rejected",
    ),
    ("UPDATE envelopes SET limits = '{}' WHERE number = 1", "envelopes", "edited", "limits"),
    ("UPDATE envelopes SET actor = 'eve' WHERE number = 2", "envelopes", "edited", "actor"),
    (
        "UPDATE judgements SET outside = '[]' WHERE version_id = "
        "(SELECT id FROM versions WHERE status = 'refused')",
        "judgements",
        "edited",
        "said",
    ),
    (
        "UPDATE judgements SET outside = 'x' WHERE version_id = "
        "(SELECT id FROM versions WHERE status = 'refused')",
        "judgements",
        "edited",
        "said",
    ),
    (
        "UPDATE judgements SET envelope_id = 2 WHERE version_id = "
        "(SELECT id FROM versions WHERE status = 'refused')",
        "judgements",
        "edited",
        "envelope",
    ),
    (
        "DELETE FROM acts WHERE answer LIKE '%is refused%'",
        "acts",
        "deleted",
        "request_id",
    ),
    (
        "UPDATE acts SET asked = REPLACE(asked, 'ada', 'eve') WHERE answer LIKE '%is refused%'",
        "acts",
        "edited",
        "actor",
    ),
    ("DELETE FROM acts WHERE answer LIKE '%nightly: goes on%'", "acts", "deleted", "request_id"),
    (
        "UPDATE acts SET asked = REPLACE(asked, 'plan 13', 'plan 14') "
        "WHERE answer LIKE '%nightly: paused\"%'",
        "acts",
        "edited",
        "reason",
    ),
    ("UPDATE tokens SET role = 'approver' WHERE name = 'bob'", "tokens", "edited", "role"),
    ("UPDATE tokens SET revoked = NULL WHERE name = 'eve'", "tokens", "edited", "revoked"),
]


def test_what_people_did_and_was_changed_is_found(steered: SqlRegistry) -> None:
    """As above: one change, one finding."""
    check_attacks(steered, STEERED)


#: As ATTACKS, of what happens by the clock.
CLOCKED = [
    ("UPDATE schedules SET paused = NULL WHERE name = 'hourly'", "schedules", "edited", "paused"),
    ("UPDATE schedules SET paused = 5 WHERE name = 'nightly'", "schedules", "edited", "paused"),
    ("UPDATE schedules SET since = 5 WHERE name = 'nightly'", "schedules", "edited", "since"),
    ("UPDATE schedules SET gone = NULL WHERE name = 'gone'", "schedules", "edited", "gone"),
    (
        "UPDATE schedules SET definition = REPLACE(definition, '3600', '60') WHERE name = 'hourly'",
        "schedules",
        "edited",
        "name hourly: definition",
    ),
    ("DELETE FROM schedules WHERE name = 'gone'", "schedules", "deleted", "name gone"),
    (
        "INSERT INTO schedules (name, definition, since) VALUES ('new', '{}', 0)",
        "schedules",
        "inserted",
        "name new",
    ),
    (
        "UPDATE schedule_runs SET outcome = 'done' WHERE outcome = 'broken'",
        "schedule_runs",
        "edited",
        "outcome",
    ),
    ("UPDATE schedule_runs SET ok = NOT ok WHERE due = 1", "schedule_runs", "edited", "due 1: ok"),
    (
        "UPDATE schedule_runs SET finished = NULL WHERE due = 3",
        "schedule_runs",
        "edited",
        "due 3: finished",
    ),
    (
        "UPDATE schedule_runs SET actor = 'eve' WHERE outcome = 'broken'",
        "schedule_runs",
        "edited",
        "actor",
    ),
    ("DELETE FROM schedule_runs WHERE due = 2", "schedule_runs", "deleted", "due 2"),
    (
        "DELETE FROM schedule_runs WHERE finished IS NULL AND actor = 'ada'",
        "schedule_runs",
        "deleted",
        "schedule nightly",
    ),
    (
        "INSERT INTO schedule_runs (schedule, due, kind, actor, reason, finished) "
        "VALUES ('nightly', 9, 'verify', 'scheduler', '', 10)",
        "schedule_runs",
        "inserted",
        "due 9",
    ),
    ("UPDATE measurements SET skill = 0.75", "measurements", "edited", "skill"),
    ("UPDATE measurements SET measured = 5", "measurements", "edited", "measured"),
    ("DELETE FROM measurements", "measurements", "deleted", "task_id 1"),
    (
        "INSERT INTO measurements (request_id, task_id, version_id, skill, windows, measured) "
        "VALUES (1, 1, 1, 1.0, 1, 1)",
        "measurements",
        "inserted",
        "request_id 1, task_id 1",
    ),
]


def test_what_the_clock_did_and_was_changed_is_found(steered: SqlRegistry) -> None:
    """As above: a run that is to be done and was not yet has no entry, and is none of it."""
    count = "SELECT COUNT(*) FROM schedule_runs WHERE finished IS NULL"
    assert column(steered.engine, count) == [2]
    check_attacks(steered, CLOCKED)
    told = change(steered.engine, "DELETE FROM schedule_runs WHERE due = 4")
    assert told == 1
    assert verify(steered.database).findings == ()


def test_what_was_not_pruned_is_not_taken_for_it(steered: SqlRegistry) -> None:
    """Who takes bytes away and says that they were pruned has no entry of the ledger for it."""
    hide = "UPDATE artifacts SET content = :none, pruned = 5, pruned_by = 'ada' WHERE sha256 = "
    hide += "(SELECT sha256 FROM versions WHERE status = 'champion')"
    assert change(steered.engine, hide, none=b"") == 1
    (finding,) = verify(steered.database, contents=True).findings
    assert (finding.where, finding.what) == ("artifacts", "edited")


def test_a_letter_that_was_dropped_stays_dropped_after_a_crash(registry: SqlRegistry) -> None:
    """Replayed, dropped, about to be replayed again, and never sent: the last decision holds."""
    stream = registry.stream("readings")
    assert stream is not None
    sent, dropped, new = (Place(0, offset, "f" * 64) for offset in (0, 1, 9))
    book = LetterBook(registry.database, stream.id, clock=registry.clock)
    book.drop([sent], actor="bob", reason="enough")
    again = [sent, dropped, new]
    book.begin(again, {0: 90}, actor="ada", reason="once more")
    book.settle({}, again)
    found = book.decided(again)
    book.close()
    assert found == {sent: Decided("dropped", 71), dropped: Decided("dropped", None)}
    rows = "SELECT actor FROM dead_letters WHERE status = 'dropped' ORDER BY \"offset\""
    assert column(registry.engine, rows) == ["bob", "ada"]
    assert verify(registry.database).findings == ()


def test_every_kind_that_is_written_is_told(registry: SqlRegistry) -> None:
    """KINDS lists what the code appends, and nothing else: read from the code itself."""
    del registry
    found: set[str] = set()
    for file in Path(pipeline.__file__).parent.rglob("*.py"):
        tree = ast.parse(file.read_text())
        named: dict[str, list[ast.expr]] = {}
        for node in ast.walk(tree):
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                named.setdefault(node.targets[0].id, []).append(node.value)
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and _appends(node):
                given = [v for a in node.args for v in named.get(getattr(a, "id", ""), [a])]
                found |= {text for value in given for text in _texts(value)}
    assert found ^ set(KINDS) == set()


def _appends(call: ast.Call) -> bool:
    """ledger.append, and what passes a kind on to it."""
    func = call.func
    name = func.attr if isinstance(func, ast.Attribute) else getattr(func, "id", "")
    of = getattr(func.value, "id", "") if isinstance(func, ast.Attribute) else ""
    to = getattr(call.args[0], "id", "") if call.args else ""
    passes_on = name in ("_note", "_told") and to == "conn"
    return (of, name) in (("ledger", "append"), ("scene", "note")) or passes_on


def _texts(value: ast.expr) -> list[str]:
    parts = [value.body, value.orelse] if isinstance(value, ast.IfExp) else [value]
    told = [p.value for p in parts if isinstance(p, ast.Constant) and isinstance(p.value, str)]
    return [text for text in told if text.isidentifier()]


def test_an_honest_history_agrees(registry: SqlRegistry) -> None:
    """Every way to change a state writes an entry that tells all of it, on both databases."""
    assert verify(registry.database, contents=True).findings == ()


#: A change of one row, its table, what it is told as, and how the row and column are named.
ATTACKS = [
    ("UPDATE streams SET topic_id = 'x'", "streams", "edited", "id 1: topic_id"),
    (
        "UPDATE boundaries SET statistic = 5.5 WHERE segment = 2",
        "boundaries",
        "edited",
        "segment 2: statistic",
    ),
    ("UPDATE boundaries SET end_row = 1 WHERE segment = 1", "boundaries", "edited", "end_row"),
    ("UPDATE boundaries SET end_row = 1 WHERE segment = 2", "boundaries", "edited", "end_row"),
    ("DELETE FROM boundaries WHERE segment = 1", "boundaries", "deleted", "segment 1"),
    ("DELETE FROM sensor_events", "sensor_events", "deleted", "series pump"),
    ("UPDATE gaps SET end_offset = 11", "gaps", "edited", "first_offset 10: end_offset"),
    ("UPDATE tasks SET kind = 'normal'", "tasks", "edited", "number 1: kind"),
    ("UPDATE tasks SET name = NULL", "tasks", "edited", "number 1: name"),
    ("UPDATE segments SET distance = 0.5", "segments", "edited", "distance"),
    ("UPDATE requests SET actor = 'eve' WHERE id = 3", "requests", "edited", "id 3: actor"),
    ("UPDATE requests SET status = 'pending' WHERE id = 2", "requests", "edited", "id 2: over"),
    (
        "UPDATE requests SET status = 'done' WHERE status = 'pending'",
        "requests",
        "edited",
        "id 8: over",
    ),
    ("UPDATE versions SET seed = 8 WHERE number = 2", "versions", "edited", "id 2: seed"),
    (
        "UPDATE versions SET figures = '{}' WHERE number = 1",
        "versions",
        "edited",
        "id 1: figures",
    ),
    (
        "UPDATE versions SET status = 'retired' WHERE status = 'rejected'",
        "versions",
        "edited",
        "id 1: status",
    ),
    ("UPDATE metrics SET value = 0.1 WHERE version_id = 1", "metrics", "edited", "value"),
    (
        "INSERT INTO metrics (version_id, name, value) VALUES (1, 'gain', 9)",
        "metrics",
        "inserted",
        "version_id 1, name gain",
    ),
    ("UPDATE evaluations SET windows = 1", "evaluations", "edited", "windows"),
    (
        "UPDATE promotions SET live_from = live_from + 1 WHERE id = 2",
        "promotions",
        "edited",
        "turn 2: live_from",
    ),
    ("UPDATE promotions SET actor = 'ada' WHERE id = 1", "promotions", "edited", "turn 1: actor"),
    (
        "UPDATE dead_letters SET status = 'dropped' WHERE status = 'replayed'",
        "dead_letters",
        "edited",
        "offset 0: status",
    ),
]


def test_a_row_that_was_changed_is_found(registry: SqlRegistry) -> None:
    """Each is one change, and one finding, that names the row and its columns; then taken back."""
    check_attacks(registry, ATTACKS)


def check_attacks(registry: SqlRegistry, attacks: Sequence[tuple[str, str, str, str]]) -> None:
    for attack, table, what, detail in attacks:
        with registry.engine.connect() as conn:
            assert (
                conn.exec_driver_sql(
                    attack.replace("%", "%%") if conn.dialect.name == "postgresql" else attack
                ).rowcount
                == 1
            ), attack
            (difference,) = differences(*in_sql(conn))
            conn.rollback()
        finding = of_row(difference)
        assert (finding.where, finding.what) == (table, what), attack
        assert detail in finding.detail
        assert (finding.entry is None) == (what == "inserted")


def test_an_artifact_that_was_changed_or_is_gone_is_found(registry: SqlRegistry) -> None:
    """Its bytes have to be what their hash says, and those of versions to be there."""
    swap = "UPDATE artifacts SET content = ewc.content FROM artifacts ewc "
    swap += "WHERE artifacts.kind = 'weights' AND ewc.kind = 'ewc'"
    assert change(registry.engine, swap) == 1
    (finding,) = verify(registry.database, contents=True).findings
    assert (finding.where, finding.what) == ("artifacts", "edited")
    assert verify(registry.database).findings == ()


def test_entries_that_make_no_sense_are_the_chains_findings(registry: SqlRegistry) -> None:
    """The comparison goes on: what nobody can read tells of no row."""
    with registry.engine.begin() as conn:
        drop_triggers(conn)
        huge = '{"stream_id":1,"name":' + "9" * 40 + "}"
        for number, text in enumerate(("", "[]", "{}", '{"segment":[]}', huge), 1):
            this = tables.ledger.c.id == number
            conn.execute(update(tables.ledger).where(this).values(entry=text))
    findings = verify(registry.database).findings
    chain = [(each.entry, each.what) for each in findings if each.where == "ledger"]
    assert chain == [(number, "edited") for number in range(1, 6)]
