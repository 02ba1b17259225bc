"""The way of one poll, on memory and SQLite: what a crash at each step costs."""

from __future__ import annotations

import hashlib
import itertools
import json
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace
from sqlalchemy import func, select

from pipeline.config import Database, Detect, Kafka, Learn, Run, Score, Settings, Stream
from pipeline.errors import DatabaseAway, RegistryError, SourceError, StaleEpoch
from pipeline.ingest.decode import Decoder
from pipeline.ingest.memory import MemorySink, MemorySource, Message
from pipeline.records import Records
from pipeline.register import tables as t
from pipeline.register.checkpoints import Piece
from pipeline.register.sql import SqlRegistry
from pipeline.run.partition import Partition
from pipeline.run.pieces import rows_of
from pipeline.run.stream import Streamer
from pipeline.run.trainer import Trainer
from pipeline.serve.lineage import Lineage
from tests.full_disk import fill, rows
from tests.register.making import hasty

SHIFT = 300  # row at which the level moves
ROWS = 600


def message(row: int, values: list[float]) -> Message:
    return b"press", json.dumps({"time": 1_767_225_600 + row, "values": values}).encode()


@pytest.fixture(scope="module")
def log() -> list[Message]:
    """One series of two sensors whose level moves by 8 deviations, and one bad record."""
    values = np.random.default_rng(1).normal(size=(ROWS, 2)).round(3)
    values[SHIFT:] += 8.0
    records = [message(row, x) for row, x in enumerate(values.tolist())]
    records.insert(100, (b"press", b"not json"))
    return records


def configured(database: Database) -> Settings:
    return Settings(
        kafka=Kafka(max_poll_records=50),
        stream=Stream(topic="readings"),
        database=database,
        score=Score(window=8, hidden=8),
        detect=Detect(warm_up=60, fit_after=100, settle_after=60),
        learn=Learn(adapt_after=64, refine_after=0, epochs=2, reservoir_capacity=50),
        run=Run(checkpoint_interval_s=1e-6),
    )


@pytest.fixture
def settings(sqlite_at_head: Database) -> Settings:
    return configured(sqlite_at_head)


@pytest.fixture
def registry(settings: Settings) -> Iterator[SqlRegistry]:
    made = hasty(SqlRegistry(settings.database))
    yield made
    made.close()


def streamer(
    settings: Settings, registry: SqlRegistry, log: list[Message], sink: Any = None, polls: int = 50
) -> Streamer:
    source = MemorySource({0: log}, topic="readings", max_poll_records=polls)
    made = Streamer(settings, source, sink or MemorySink(), registry, owner="test")
    source.subscribe(made)
    return made


def drain(made: Streamer) -> None:
    while made.poll_once() or made.source.lag().get(0, 1):
        continue
    made.checkpoint()


def state(registry: SqlRegistry) -> tuple[Any, ...]:
    """What must come out the same whatever happened on the way."""
    with registry.engine.connect() as conn:
        return (
            conn.execute(select(t.checkpoints.c.next_offset, t.checkpoints.c.sha256)).all(),
            set(conn.execute(select(t.checkpoint_pieces)).all()),
            conn.execute(
                select(*[c for c in t.boundaries.c if c.name not in ("id", "recorded")])
            ).all(),
            conn.execute(
                select(t.requests.c.series, t.requests.c.segment, t.requests.c.inputs)
            ).all(),
        )


@pytest.fixture(scope="module")
def undisturbed(
    log: list[Message], sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Any, ...]:
    file = shutil.copy(sqlite_template, tmp_path_factory.mktemp("undisturbed") / "tidemark.db")
    database = Database(url=f"sqlite:///{file}")
    other = hasty(SqlRegistry(database))
    drain(streamer(configured(database), other, log))
    found = state(other)
    other.close()
    return found


def test_a_shift_becomes_one_boundary_and_its_requests(registry, settings, log) -> None:
    """The level moves at row 300: one boundary there; a bootstrap before, a request after."""
    drain(streamer(settings, registry, log))
    (checkpoint,), _, (boundary,), requests = state(registry)
    assert checkpoint.next_offset == len(log)
    assert abs(boundary.boundary_row - SHIFT) <= 5
    assert boundary.boundary_offset == boundary.boundary_row + 1  # the bad record lies before
    assert [(r.series, r.segment) for r in requests] == [("press", 0), ("press", 1)]


def test_a_bad_record_goes_to_the_dead_letters_and_the_stream_goes_on(
    registry, settings, log
) -> None:
    """One dead letter with its place and reason, and every good reading counted."""
    sink = MemorySink()
    made = streamer(settings, registry, log, sink)
    drain(made)
    dead = [headers for topic, _, _, headers in sink.sent if topic == "readings.dead"]
    assert [(d["offset"], d["kind"]) for d in dead] == [(b"100", b"not_json")]
    assert made.metrics.readings._value.get() == ROWS


def of_many(log: list[Message]) -> list[Message]:
    """The log with a name of its own for every tenth record, and three names for the others."""
    names = [b"new %d" % i if i % 10 == 0 else b"press %d" % (i % 3) for i in range(len(log))]
    return [(name, value) for name, (_, value) in zip(names, log, strict=True)]


def with_most_series(settings: Settings, most: int) -> Settings:
    return replace(settings, stream=replace(settings.stream, max_series=most))


def refused(sink: MemorySink) -> list[int]:
    """Offsets of the records of further series, once each."""
    dead = [headers for topic, _, _, headers in sink.sent if topic == "readings.dead"]
    return sorted({int(d["offset"]) for d in dead if d["kind"] == b"too_many_series"})


@pytest.mark.parametrize("polls", [1, 7, 5000])
def test_a_partition_s_first_series_are_the_ones_it_has(registry, settings, log, polls) -> None:
    """Five names come first; the others are dead letters, and no cut into polls changes it."""
    most, sink = with_most_series(settings, 5), MemorySink()
    drain(streamer(most, registry, of_many(log), sink, polls=polls))
    assert refused(sink) == [i for i in range(20, len(log), 10) if i != 100]
    with registry.engine.connect() as conn:
        pieces = conn.execute(
            select(*[t.checkpoint_pieces.c[name] for name in Piece._fields])
            .where(t.checkpoint_pieces.c.kind == "series")
            .order_by(t.checkpoint_pieces.c.slot)
        )
        names = [row.name for row in rows_of([Piece(*piece) for piece in pieces])]
    assert names == ["new 0", "press 1", "press 2", "press 0", "new 10"]


def test_a_restart_does_not_make_room_for_further_series(registry, settings, log) -> None:
    """The names are in the checkpoint, so the next process refuses what this one would have."""
    most, sink = with_most_series(settings, 5), MemorySink()
    for _ in range(3):
        streamer(most, registry, of_many(log), sink).poll_once()
    drain(streamer(most, registry, of_many(log), sink))
    assert refused(sink) == [i for i in range(20, len(log), 10) if i != 100]


def test_the_topics_for_results_are_required_before_anything_is_followed(
    registry, settings, log
) -> None:
    """A stream that cannot publish must not take a partition from one that can."""

    class Poor(MemorySink):
        required: tuple[str, ...] = ()

        def require(self, topics) -> None:
            self.required = tuple(topics)
            raise SourceError("no topic readings.dead")

    for publish in (True, False):
        quiet = replace(settings, stream=replace(settings.stream, publish_scores=publish))
        source, sink = MemorySource({0: log}, topic="readings"), Poor()
        with pytest.raises(SourceError, match=r"no topic readings\.dead"):
            Streamer(quiet, source, sink, registry, owner="test").run(lambda: True)
        scores = ("readings.scores",) if publish else ()
        assert sink.required == (
            *scores,
            *(f"readings.{kind}" for kind in ("boundaries", "events", "dead")),
        )
        assert source._owner is None


def test_the_lag_of_a_partition_that_is_gone_is_gone(registry, settings, log) -> None:
    """Its last value would stand for ever, beside the true one of its new owner."""
    made = streamer(settings, registry, log)
    made.poll_once()

    def shown() -> list[str]:
        (lag,) = made.metrics.lag.collect()
        return [sample.labels["partition"] for sample in lag.samples]

    assert shown() == ["0"]
    made.revoked([0])
    assert shown() == []
    made.lost([0])


@pytest.mark.parametrize("polls", [1, 7, 5000])
def test_the_cut_into_polls_changes_nothing(registry, settings, log, undisturbed, polls) -> None:
    """State, boundaries and inputs' hashes are functions of the log, not of the polls."""
    drain(streamer(settings, registry, log, polls=polls))
    assert state(registry) == undisturbed


def test_a_restart_goes_on_from_the_checkpoint(registry, settings, log, undisturbed) -> None:
    """A process that ends after any number of polls is continued by another, bit for bit."""
    for polls in (1, 3, 4):
        made = streamer(settings, registry, log)
        for _ in range(polls):
            made.poll_once()
    drain(streamer(settings, registry, log))
    assert state(registry) == undisturbed


def test_a_crash_before_the_transaction_replays_the_poll(
    registry, settings, log, undisturbed, monkeypatch
) -> None:
    """Step 7 fails once in the middle: nothing of it is kept, and the next process repeats it."""
    made = streamer(settings, registry, log)
    for _ in range(7):
        made.poll_once()
    monkeypatch.setattr("pipeline.register.checkpoints.note_scored", _broken)
    with pytest.raises(RegistryError, match="power cut"):
        drain(made)
    monkeypatch.undo()
    drain(streamer(settings, registry, log))
    assert state(registry) == undisturbed


def _broken(*_: Any, **__: Any) -> None:
    raise RegistryError("power cut")


def test_unacknowledged_scores_keep_the_offset_where_it_is(
    registry, settings, log, undisturbed
) -> None:
    """Step 6 comes before step 7: without the flush there is no checkpoint."""

    class Deaf(MemorySink):
        def flush(self) -> None:
            raise SourceError("3 records were not acknowledged")

    with pytest.raises(SourceError):
        drain(streamer(settings, registry, log, Deaf()))
    with registry.engine.connect() as conn:
        assert conn.execute(select(t.checkpoints.c.next_offset)).scalar() is None
    drain(streamer(settings, registry, log))
    assert state(registry) == undisturbed


def test_a_stale_owner_writes_nothing(registry, settings, log, undisturbed) -> None:
    """Another process took the partition: the old one's checkpoint raises and leaves no trace."""
    old = streamer(settings, registry, log)
    old.poll_once()
    new = streamer(settings, registry, log)
    new.poll_once()
    with pytest.raises(StaleEpoch):
        drain(old)
    drain(new)
    assert state(registry) == undisturbed


def test_revoked_partitions_are_checkpointed_and_lost_ones_are_not(registry, settings, log) -> None:
    """On revoke the last word is written; on loss it would be somebody else's page."""
    slow = Run(checkpoint_interval_s=3600.0)
    patient = Settings(
        **{f: getattr(settings, f) for f in settings.__struct_fields__} | {"run": slow}
    )

    def next_offset() -> int | None:
        with registry.engine.connect() as conn:
            return conn.execute(select(t.checkpoints.c.next_offset)).scalar()

    made = streamer(patient, registry, log)
    made.poll_once()
    made.lost([0])
    made.checkpoint()
    assert next_offset() is None
    made = streamer(patient, registry, log)
    made.poll_once()
    made.revoked([0])
    assert next_offset() == 50


def test_every_offset_after_the_first_version_is_scored_by_one_version(
    registry, settings, log
) -> None:
    """Ranges without hole or overlap, from the champion's first poll to the end of the log."""
    made = streamer(settings, registry, log)
    while made.source.lag().get(0, 1):
        made.live._due = 0.0  # look for a champion at every poll
        made.poll_once()
        Trainer(settings, registry, owner="trainer").work_once()
    made.checkpoint()
    with registry.engine.connect() as conn:
        rows = conn.execute(select(t.scored).order_by(t.scored.c.first_offset)).all()
        versions = conn.execute(select(func.count()).select_from(t.versions)).scalar()
    assert versions >= 1
    assert rows[-1].end_offset == len(log)
    assert all(a.end_offset == b.first_offset for a, b in itertools.pairwise(rows))


def test_who_takes_a_partition_over_scores_as_the_owner_before_did(registry, settings, log) -> None:
    """He asked for a champion just before there was one: what he takes over has one by now."""
    source = MemorySource({0: log}, topic="readings", max_poll_records=50)
    late = Streamer(settings, source, MemorySink(), registry, owner="late", clock=lambda: 0.0)
    late.live.refresh()
    first = streamer(settings, registry, log)
    for _ in range(4):
        first.poll_once()
    Trainer(settings, registry, owner="trainer").work_once()
    first.live._due = 0.0
    first.poll_once()
    first.revoked([0])
    source.subscribe(late)
    drain(late)
    with registry.engine.connect() as conn:
        rows = conn.execute(select(t.scored).order_by(t.scored.c.first_offset)).all()
    assert [(row.first_offset, row.end_offset) for row in rows] == [(200, len(log))]


def test_a_long_poll_is_alive_at_each_partition(
    registry, settings, log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fetch may hold minutes of work: between two partitions a watchdog hears, at each stage."""
    seen: list[str] = []

    def told(owner: type, name: str) -> None:
        act = getattr(owner, name)

        def acts(*args: Any, **rest: Any) -> Any:
            seen.append(name)
            return act(*args, **rest)

        monkeypatch.setattr(owner, name, acts)

    for owner, name in ((Decoder, "decode"), (Partition, "advance"), (SqlRegistry, "save")):
        told(owner, name)
    source = MemorySource(dict.fromkeys(range(3), log), topic="readings", max_poll_records=50)
    alive = partial(seen.append, "alive")
    made = Streamer(settings, source, MemorySink(), registry, owner="test", alive=alive)
    source.subscribe(made)
    made.poll_once()  # the first one decides the channels too
    seen.clear()
    made.poll_once()
    work = [name for name in seen if name != "alive"]
    assert {name: work.count(name) for name in work} == {"decode": 3, "advance": 3, "save": 3}
    assert all("alive" in pair for pair in itertools.pairwise(seen))


def test_scores_are_published_with_the_version_that_made_them(registry, settings, log) -> None:
    """One message a series and poll: as many scores as readings, finite once there is a window."""
    sink = MemorySink()
    made = streamer(settings, registry, log, sink)
    for _ in range(4):
        made.poll_once()
    Trainer(settings, registry, owner="trainer").work_once()
    made.live._due = 0.0
    sink.sent.clear()
    made.poll_once()
    ((_, key, value, _),) = [s for s in sink.sent if s[0] == "readings.scores"]
    body = json.loads(value)
    assert key == f"readings/0/{body['series']}".encode()
    assert (body["version"], len(body["scores"]), body["offsets"][0]) == (1, 50, 200)
    assert all(score > 0 for score in body["scores"])


def test_a_checkpoint_of_other_settings_is_refused(registry, settings, log) -> None:
    """A state that was shaped by other settings is not misread: one line says which."""
    drain(streamer(settings, registry, log[:200]))
    other = Settings(
        **{f: getattr(settings, f) for f in settings.__struct_fields__}
        | {"score": Score(window=9, hidden=8)}
    )
    with pytest.raises(RegistryError, match=r"score\.window was 8, is 9"):
        drain(streamer(other, registry, log))


def test_a_checkpoint_of_another_profile_is_refused(registry, settings, log) -> None:
    """What is kept of a series is another."""
    drain(streamer(settings, registry, log[:200]))
    other = Settings(
        **{f: getattr(settings, f) for f in settings.__struct_fields__}
        | {"detect": replace(settings.detect, profile="light")}
    )
    with pytest.raises(RegistryError, match=r"detect\.profile was default, is light"):
        drain(streamer(other, registry, log))


def test_a_topic_that_was_made_anew_is_told_and_nothing_is_written(registry, settings, log) -> None:
    """Its offsets begin before the checkpoint's: other readings, which it must not go on with."""
    drain(streamer(settings, registry, log))
    before = state(registry)
    made = streamer(settings, registry, log)
    made.poll_once()  # nothing is left, and the partition is assigned
    made.source.poll = lambda timeout_s: [records_of(log, 0, 10)]
    with pytest.raises(SourceError, match="made anew"):
        made.poll_once()
    assert state(registry) == before


def records_of(log, low: int, high: int) -> Records:
    return Records(
        topic="readings",
        partition=0,
        offsets=list(range(low, high)),
        keys=[key for key, _ in log[low:high]],
        values=[value for _, value in log[low:high]],
        next_offset=high,
    )


def test_the_end_of_a_transition_is_kept_and_published(registry, settings, log) -> None:
    """With the checkpoint, and once, however often the stream starts again.

    The level moves at once at row 300; 60 readings without a crossing, and it is over.
    """
    sink = MemorySink()
    streamer(settings, registry, log, sink, polls=9).poll_once()
    drain(streamer(settings, registry, log, sink))
    (told,) = _events(sink, "transition_over")
    assert abs(told["end_row"] - SHIFT) <= 15
    lineage = Lineage(settings.database)
    (kept,) = lineage.boundaries("readings")
    lineage.close()
    for name in ("segment", "end_row", "end_offset", "end_at"):
        assert kept[name] == told[name]


def test_a_name_that_was_not_published_is_told_by_the_next_owner(registry, settings, log) -> None:
    """The process dies after the transaction that named a segment, and before it could say so."""
    sink = MemorySink()
    made = streamer(settings, registry, log, sink)
    made._publish_names = lambda _, named: named and _broken()
    with pytest.raises(RegistryError, match="power cut"):
        drain(made)
    assert _events(sink, "task_named") == []
    drain(streamer(settings, registry, log, sink))
    told = {event["segment"]: event["task"] for event in _events(sink, "task_named")}
    lineage = Lineage(settings.database)
    assert told == {kept["segment"]: kept["task"] for kept in lineage.segments("readings")} != {}
    lineage.close()


def _events(sink: MemorySink, kind: str) -> list[dict[str, Any]]:
    sent = [json.loads(value) for topic, _, value, _ in sink.sent if topic.endswith(".boundaries")]
    return [value for value in sent if value.get("event") == kind]


def test_a_sensor_that_falls_silent_is_kept_and_published(registry, settings, log) -> None:
    """With the checkpoint, under its name, and once, however often the stream starts again."""
    gone = [message(ROWS + k, [None, 0.5 + k % 7]) for k in range(40)]
    sink = MemorySink()
    made = streamer(settings, registry, [*log, *gone], sink)
    made.poll_once()
    drain(streamer(settings, registry, [*log, *gone], sink))
    (told,) = _events(sink, "sensor_silent")
    assert (told["event"], told["sensor"], told["row"]) == ("sensor_silent", "c0", ROWS + 29)
    lineage = Lineage(settings.database)
    (kept,) = lineage.events("readings")
    lineage.close()
    assert {name: kept[name] for name in ("event", "sensor", "offset")} == {
        name: told[name] for name in ("event", "sensor", "offset")
    }


def test_a_checkpoint_that_finds_no_room_is_not_half_written(
    at_head, settings, log, undisturbed
) -> None:
    """It fails in one line that says what to do; with room, a restart ends as if undisturbed."""
    registry = SqlRegistry(at_head)
    made = streamer(settings, registry, log)
    for _ in range(4):
        made.poll_once()
    before = rows(registry)
    give_room = fill(registry, "checkpoints")
    with pytest.raises(DatabaseAway, match=r"^database .+ free space on its disk") as failed:
        drain(made)
    assert "\n" not in str(failed.value)
    found = rows(registry)
    give_room()
    (was,), (now,) = before["checkpoints"], found["checkpoints"]
    assert now.sha256 == hashlib.sha256(now.state).hexdigest()
    assert was.next_offset <= now.next_offset < len(log)
    drain(streamer(settings, registry, log))
    assert state(registry) == undisturbed
    registry.close()


def test_a_first_reading_that_finds_no_room_names_no_channels(registry, settings, log) -> None:
    """The stream's row cannot be written: that is told, not taken for another process's word."""
    made = streamer(settings, registry, log)

    def full(name: str, channels: Any) -> Any:
        if channels:
            raise DatabaseAway("no room")
        return real(name, channels)

    real, registry.open_stream = registry.open_stream, full
    with pytest.raises(DatabaseAway, match="no room"):
        made.poll_once()
    registry.open_stream = real
    drain(streamer(settings, registry, log))
    assert registry.stream("readings").channels == ("c0", "c1")
