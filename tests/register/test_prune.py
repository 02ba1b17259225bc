"""Old readings and weights go; nothing that is still needed does, and what is gone says so."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.config import Audit, Database, Learn, Schedule, Settings
from pipeline.errors import ArtifactCorrupt, ArtifactPruned, PipelineError
from pipeline.ingest.series import group
from pipeline.records import Batch
from pipeline.register.chain import sound
from pipeline.register.engine import reading
from pipeline.register.envelope import Limits
from pipeline.register.orders import Act, Agree, Mark, Prune, RollBack, RunSchedule
from pipeline.register.proof import verify
from pipeline.register.schedules import LEASE
from pipeline.register.sql import SqlRegistry, Stream
from pipeline.register.tasks import HELD_OUT_SEGMENTS
from pipeline.run.pruning import order
from pipeline.serve.timeline import timeline
from tests.register import timelines
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
    next_version,
    opened,
    promoted,
    register,
    rejected,
)
from tests.register.timelines import Follower, stored, values_of

DAY_S = 86_400.0
KEEP = 183
POLICY = Prune(keep_days=KEEP, replays_all=False)
ADA = Act(actor="ada", reason="retention", request_id="r-1")


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
def stream(registry: SqlRegistry) -> Stream:
    return registry.open_stream("plant", ["a", "b"])


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def version(registry: SqlRegistry, stream: Stream, name: str, decision=None) -> None:
    """A version with weights of its own: the name in bytes."""
    next_version(registry, stream, decision, made=candidate(weights=name.encode()))


def ask(registry: SqlRegistry, stream: Stream, segment: int, level: float, *, end: bool = True):
    """A request with readings and a reservoir, `segment-N` and `reservoir-N` in bytes; named."""
    inputs = {
        role: registry.put(role, f"{role}-{segment}".encode()) for role in ("segment", "reservoir")
    }
    number = registry.submit(asked(stream, segment, inputs=inputs)) or 0
    if not end:
        return
    claim = claimed(registry)
    registry.assign(claim, number, np.full((2, 2), level))
    registry.finish(claim, "done")


def gone(registry: SqlRegistry) -> set[str]:
    return set(column(registry.engine, "SELECT sha256 FROM artifacts WHERE pruned IS NOT NULL"))


def hashes(*names: str) -> set[str]:
    return {sha(name.encode()) for name in names}


def test_weights_that_nobody_will_need_go(
    registry: SqlRegistry, stream: Stream, clock: Clock
) -> None:
    """Of a first version, one retired and one rejected, the champion before and the champion:
    the second and third. Their EWC state goes too; hashes, figures and decisions stay."""
    version(registry, stream, "first")
    version(registry, stream, "retired")
    version(registry, stream, "bad", rejected())
    version(registry, stream, "before")
    version(registry, stream, "champion")
    clock.pass_s(KEEP * DAY_S + 1)
    before = everything(registry.engine)
    done = registry.act(None, POLICY, ADA)
    names = ("retired", "ewc of retired", "bad", "ewc of bad")
    assert gone(registry) == hashes(*names)
    size = sum(map(len, names))
    assert done.facts["artifacts"] == {"ewc": 2, "weights": 2}
    assert done.facts["bytes"] == size
    after = everything(registry.engine)
    assert {table for table in after if after[table] != before[table]} == {
        "artifacts", "ledger", "acts",
    }  # fmt: skip
    kind, actor, entry = after["ledger"][-1][3:6]
    facts = json.loads(entry)
    assert (kind, actor, facts["bytes"], facts["reason"]) == ("pruned", "ada", size, "retention")
    assert (set(facts["hashes"]), facts["request_id"]) == (hashes(*names), "r-1")
    assert sorted(column(registry.engine, "SELECT size FROM artifacts")) == sorted(
        row[3] for row in before["artifacts"]
    )


def test_what_is_gone_says_so(registry: SqlRegistry, stream: Stream, clock: Clock) -> None:
    """One line with the day and who; it is not taken for damage by chance. Bytes that come again
    are kept again."""
    clock.now = 0
    content = b"retired"
    registry.put("weights", content)
    clock.pass_s(200 * DAY_S)
    registry.act(None, POLICY, ADA)
    says = f"^artifact {sha(content)}: pruned on 1970-07-20 by ada$"
    with pytest.raises(ArtifactPruned, match=says):
        registry.get(sha(content))
    assert issubclass(ArtifactPruned, ArtifactCorrupt)  # who can do without damaged bytes, can here
    registry.put("weights", content)
    assert registry.get(sha(content)) == content
    assert gone(registry) == set()


def test_nothing_goes_before_its_time(registry: SqlRegistry, stream: Stream, clock: Clock) -> None:
    """The age is that of the last use: when a version was left, not when it was made."""
    for name in ("first", "old", "before", "champion"):
        version(registry, stream, name)
        clock.pass_s(100 * DAY_S)
    # `old` was left on day 200, and today is day 400 at the latest of these
    for day, expected in ((400, set()), (383, set())):
        clock.now = 1_000_000_000 + int(day * DAY_S * 1e6)
        wanted = Prune(keep_days=201 if day == 400 else KEEP, replays_all=False)
        assert {each[0] for each in registry.prunable(wanted).artifacts} == expected
    clock.pass_s(1)
    assert {each[0] for each in registry.prunable(POLICY).artifacts} == hashes("old", "ewc of old")


def test_a_dry_run_says_what_would_go_and_changes_nothing(
    registry: SqlRegistry, stream: Stream, clock: Clock
) -> None:
    for name in ("first", "old", "before", "champion"):
        version(registry, stream, name)
    clock.pass_s(KEEP * DAY_S + 1)
    before = everything(registry.engine)
    found = registry.prunable(POLICY)
    assert everything(registry.engine) == before
    registry.act(None, POLICY, ADA)
    assert gone(registry) == {each[0] for each in found.artifacts} == hashes("old", "ewc of old")
    assert registry.prunable(POLICY).artifacts == []


def test_readings_in_use_stay(registry: SqlRegistry, stream: Stream, clock: Clock) -> None:
    """The newest segments of each task, the newest reservoir, and all of a request that is not
    done; of a fault, too, which a person may call normal yet."""
    many = HELD_OUT_SEGMENTS + 2
    for segment in range(many):
        ask(registry, stream, segment, 0.0)
    ask(registry, stream, many, 9.0)
    ask(registry, stream, many + 1, 0.0, end=False)
    registry.act(stream.id, Mark(task=2, kind="fault"), Act(actor="ada", reason="it shook"))
    clock.pass_s(KEEP * DAY_S + 1)
    registry.act(None, POLICY, ADA)
    old = [f"segment-{n}" for n in range(2)] + [f"reservoir-{n}" for n in range(many + 1)]
    assert gone(registry) == hashes(*old)


def test_where_all_is_replayed_no_segment_goes(
    registry: SqlRegistry, stream: Stream, clock: Clock
) -> None:
    """Joint training wants every reading again."""
    for segment in range(HELD_OUT_SEGMENTS + 2):
        ask(registry, stream, segment, 0.0)
    clock.pass_s(KEEP * DAY_S + 1)
    registry.act(None, Prune(keep_days=KEEP, replays_all=True), ADA)
    found = registry.held_out(stream.id, 2**31 - 1, 2**31)
    assert not gone(registry) & {each for shas in found.values() for each in shas}
    assert gone(registry) == hashes(*(f"reservoir-{n}" for n in range(HELD_OUT_SEGMENTS + 1)))


def test_what_the_champion_learned_stays(
    registry: SqlRegistry, stream: Stream, clock: Clock
) -> None:
    """The next training folds its Fisher information in, on those readings."""
    for name in ("first", "old", "before", "champion", "bad"):
        segment = registry.put("segment", f"of {name}".encode())
        registry.submit(by_hand(stream))
        register(
            registry,
            claimed(registry),
            rejected() if name == "bad" else promoted(),
            parent=registry.champion(stream.id),
            made=candidate(weights=name.encode()),
            inputs={"segments": [(1, segment)]},
        )
    clock.pass_s(KEEP * DAY_S + 1)
    registry.act(None, POLICY, ADA)
    names = ("of old", "old", "ewc of old", "of bad", "bad", "ewc of bad")
    assert gone(registry) == hashes(*names)


def test_who_waits_for_a_word_keeps_its_weights(
    registry: SqlRegistry, stream: Stream, clock: Clock
) -> None:
    """A person may take long."""
    version(registry, stream, "first")
    agreed = Act(actor="ada", reason="to be asked")
    registry.act(stream.id, Agree(limits=Limits(triggers=())), agreed)
    version(registry, stream, "waiting")
    clock.pass_s(KEEP * DAY_S + 1)
    registry.act(None, POLICY, ADA)
    assert gone(registry) == set()


def test_after_pruning_a_roll_back_still_has_its_weights(
    registry: SqlRegistry, stream: Stream, clock: Clock
) -> None:
    """The champion before is kept, however long ago it was left."""
    for name in ("first", "old", "before", "champion"):
        version(registry, stream, name)
    clock.pass_s(KEEP * DAY_S + 1)
    registry.act(None, POLICY, ADA)
    assert registry.act(stream.id, RollBack(), Act(actor="ada", reason="no")).facts["to"] == 3
    assert registry.get(registry.champion(stream.id).sha256) == b"before"


def test_a_version_without_a_task_goes_on_from_one_that_is_kept(
    registry: SqlRegistry, stream: Stream, clock: Clock
) -> None:
    """The newest that never learned it is gone; the first never did either, and stays."""
    for name in ("first", "old", "before"):
        version(registry, stream, name)
    ask(registry, stream, 1, 0.0)
    task = registry.tasks(stream.id)[0].id
    for name in ("four", "five"):  # both learn the task
        registry.submit(by_hand(stream))
        inputs = {"segments": [(task, sha(b"segment-1"))]}
        made = candidate(weights=name.encode())
        parent = registry.champion(stream.id)
        register(registry, claimed(registry), promoted(), parent=parent, made=made, inputs=inputs)
    assert registry.unaware(stream.id, 1).number == 3
    clock.pass_s(KEEP * DAY_S + 1)
    registry.act(None, POLICY, ADA)
    assert hashes("before") <= gone(registry)
    assert registry.unaware(stream.id, 1).number == 1


def test_of_a_shared_artifact_the_last_use_counts(
    registry: SqlRegistry, stream: Stream, clock: Clock
) -> None:
    """Equal bytes are one artifact: another stream's champion has the same weights."""
    for name in ("first", "shared", "before", "champion"):
        version(registry, stream, name)
    version(registry, registry.open_stream("other", ["a"]), "shared")
    clock.pass_s(KEEP * DAY_S + 1)
    registry.act(None, POLICY, ADA)
    assert gone(registry) == set()


@pytest.mark.parametrize(
    ("strategy", "all_"), [("ewc_replay", False), ("ewc_only", False), ("fifo", True)]
)
def test_the_policy_follows_the_settings(strategy: str, all_: bool) -> None:
    """By default as long as agreed, and never shorter."""
    settings = Settings(learn=Learn(strategy=strategy), audit=Audit(min_keep_days=200))
    assert order(settings) == Prune(keep_days=200, replays_all=all_)
    assert order(settings, 201) == Prune(keep_days=201, replays_all=all_)
    with pytest.raises(PipelineError, match=r"^199 days are fewer than audit.min_keep_days = 200$"):
        order(settings, 199)


# Runs and timelines ----------------------------------------------------------------------------

DAILY = Schedule(name="daily", every_s=DAY_S, kind="verify")
YEARLY = Schedule(name="yearly", cron="0 0 1 1 *", kind="verify")


def run(registry: SqlRegistry, schedule: Schedule, due: int) -> None:
    """What is due is done at once."""
    assert registry.lease(LEASE, "a", 60.0)
    assert registry.note_due(schedule, due, "a")
    for each in registry.unfinished_runs():
        assert registry.begin_run(each, "a")
        assert registry.end_run(each, "a", ok=True, outcome="done")


def test_old_runs_of_schedules_go_but_for_the_newest(registry: SqlRegistry, clock: Clock) -> None:
    """Three days' runs, 400 days ago, each with another that was asked for and done with the next,
    the last of them today; the yearly one stays, as its time would be due again. The ledger keeps
    them all, and agrees."""
    run(registry, YEARLY, clock.now)
    for day in range(3):
        run(registry, DAILY, clock.now)
        clock.pass_s(DAY_S / 2)
        registry.act(None, RunSchedule(schedule=DAILY), Act(actor="ada", reason=f"look {day}"))
        waited = clock.now
        clock.pass_s(DAY_S / 2)
    clock.pass_s(400 * DAY_S)
    last = clock.now
    run(registry, DAILY, last)
    told = column(registry.engine, "SELECT COUNT(*) FROM ledger WHERE kind = 'schedule_run'")
    assert registry.prunable(POLICY).runs == [("daily", last, 5)]
    done = registry.act(None, POLICY, ADA)
    assert (done.changed, done.facts["schedule_runs"]) == (True, 5)
    assert done.sentence.endswith("; 5 runs of schedules")
    assert [each.due for each in registry.schedule_runs("daily", 9)] == [last, waited]
    assert len(registry.schedule_runs("yearly", 9)) == 1
    for schedule, due in ((DAILY, last), (YEARLY, 1_000 * SECOND)):
        assert not registry.note_due(schedule, due, "a")
    assert told == [8]
    assert column(registry.engine, "SELECT COUNT(*) FROM ledger WHERE kind = 'schedule_run'") == [8]
    assert verify(registry.database).findings == ()
    assert not registry.prunable(POLICY)
    back = "INSERT INTO schedule_runs (schedule, due, kind, actor, reason, finished) "
    change(registry.engine, back + "VALUES ('daily', 5, 'verify', 'scheduler', '', 6)")
    (finding,) = verify(registry.database).findings
    assert (finding.where, finding.what) == ("schedule_runs", "inserted")


HOUR = 3_600 * SECOND
#: Readings, one an hour: 208 days of them; and so many that a bucket of level 4 is complete.
ROWS, MORE = 5_000, 17_000


def hourly(values: NDArray[np.float32], first: int) -> Batch:
    offsets = np.arange(first, first + len(values))
    return group(
        topic="plant", partition=0, ids=np.zeros(len(values), np.int64), names=["pump"],
        offsets=offsets, times=HOUR * offsets, values=values, next_offset=first + len(values),
    )  # fmt: skip


@pytest.mark.parametrize("now", [150 * 24, ROWS + 50 * 24])
def test_old_pieces_of_timelines_go_where_a_coarser_one_is_complete(
    registry: SqlRegistry, stream: Stream, clock: Clock, now: int
) -> None:
    """Those that ended 100 days before now, and before the series' newest; by the definition. What
    is made of the rest later is what it would have been."""
    values = values_of(MORE)
    follower = Follower(registry, stream)
    follower.take(hourly(values[:ROWS], 0))
    follower.save()
    clock.now = now * HOUR
    until = min(now, ROWS - 1) - 100 * 24  # hour
    kept, gone = [], 0
    for level in range(5):
        size = 64 * 4**level
        every = range(-(-ROWS // size) if not level else ROWS // size)
        left = [
            b
            for b in every
            if min((b + 1) * size, ROWS) - 1 >= until or (b // 4 + 1) * 4 * size > ROWS
        ]
        kept.append(left)
        gone += len(every) - len(left)
    assert gone > 10
    done = registry.act(None, Prune(keep_days=100, replays_all=False), ADA)
    assert done.facts["timeline_buckets"] == gone
    assert done.sentence.endswith(f"; {gone} pieces of timelines")
    assert [stored(registry, 0, level).numbers.tolist() for level in range(5)] == kept
    with reading(registry.engine) as conn:
        drawn = timeline(conn, "plant", 0, "pump")
    assert drawn["points"]["from"]
    follower.take(hourly(values[ROWS:], ROWS))
    follower.save()
    wide = np.column_stack([values, np.full(MORE, np.nan, np.float32)])
    made = stored(registry, 0, 4)
    (whole,) = timelines.expected(wide, np.arange(MORE), 64 * 4**4, open_=False)
    assert made.rows.tolist() == [whole["rows"]]
    for i, name in enumerate(("low", "high", "mean", "count")):
        np.testing.assert_allclose(made.cells[0, i], whole[name], rtol=4e-6)
    assert verify(registry.database).findings == ()
