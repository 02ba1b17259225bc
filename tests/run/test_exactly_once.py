"""What is published in transactions is there once, wherever the process ended on its way."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace
from sqlalchemy import select
from structlog.testing import capture_logs

from pipeline.config import Database, Detect, Kafka, Learn, Run, Score, Settings, Stream
from pipeline.consolidate.readings import Readings
from pipeline.errors import PipelineError, SettingsError, SourceError, StaleEpoch, TransactionLost
from pipeline.ingest import kafka_client
from pipeline.ingest.kafka_log import KafkaLog
from pipeline.ingest.kafka_sink import KafkaSink
from pipeline.ingest.kafka_source import KafkaSource
from pipeline.ingest.kafka_transactions import KafkaTransactions
from pipeline.ingest.memory import MemorySink, MemorySource, Message
from pipeline.ingest.once import Once
from pipeline.records import Gap, Outgoing
from pipeline.register import tables as t
from pipeline.register.sql import SqlRegistry
from pipeline.run import stream as streams
from pipeline.run.outbox import Outbox, mark, opened
from pipeline.run.stream import Streamer
from pipeline.run.trainer import Trainer
from tests.brokers import RealKafka, create_stream_topics
from tests.faults.steps import Killed
from tests.ingest.kafka_topics import Topics
from tests.ingest.owners import KeepingOwner
from tests.register.making import asked, candidate, next_version

ROWS, SHIFT, BAD = 400, 250, 100
#: A group may share its partitions out again soon after a join; then it rests, in seconds.
SETTLING_S = 2.0
#: For what a busy machine does late, in seconds.
PATIENCE_S = 120.0
GOOD = [row for row in range(ROWS) if row != BAD]


def log(partition: int) -> list[Message]:
    """One series of two sensors whose level moves by 8 deviations, and one bad record."""
    values = np.random.default_rng(partition).normal(size=(ROWS, 2)).round(3)
    values[SHIFT:] += 8.0
    key = b"press %d" % partition
    made: list[Message] = [
        (key, json.dumps({"time": 1_767_225_600 + row, "values": x}).encode())
        for row, x in enumerate(values.tolist())
    ]
    made[BAD] = key, b"not json"
    return made


@pytest.fixture
def settings(sqlite_at_head: Database, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A transaction a poll, and a checkpoint only where something was marked."""
    monkeypatch.setattr(streams, "TRANSACTION_INTERVAL_S", 0.0)
    return Settings(
        kafka=Kafka(max_poll_records=50),
        stream=Stream(topic="readings", channels=("flow", "heat")),
        database=sqlite_at_head,
        score=Score(window=8, hidden=4),
        detect=Detect(warm_up=60, fit_after=100, settle_after=60),
        learn=Learn(adapt_after=64, refine_after=0, epochs=1, reservoir_capacity=50),
        run=Run(checkpoint_interval_s=1000.0, poll_timeout_s=0.1),
    )


@pytest.fixture
def registry(settings: Settings) -> Iterator[SqlRegistry]:
    made = SqlRegistry(settings.database)
    bootstrap(settings, made)
    yield made
    made.close()


def bootstrap(settings: Settings, registry: SqlRegistry) -> None:
    """A champion from the first reading on, so that every one is scored."""
    values = np.random.default_rng(9).normal(size=(400, 2)).astype(np.float32)
    known = registry.open_stream(settings.stream.topic, settings.stream.channels)
    sha = registry.put("segment", Readings(values=values, offsets=np.arange(400)).to_bytes())
    place = {"partition": 9, "series": "elsewhere", "segment": 0}
    registry.submit(asked(known, reason="bootstrap", inputs={"segment": sha}, **place))
    assert Trainer(settings, registry, owner="t").work_once()
    assert registry.champion(known.id) is not None


# What came out ------------------------------------------------------------------------------------


class Published:
    """Messages of all topics, in order, as (kind, body)."""

    def __init__(self, found: Sequence[tuple[str, bytes | None, Mapping[str, bytes]]]) -> None:
        self.scores: list[dict[str, Any]] = []
        self.boundaries: list[str] = []
        self.dead: list[tuple[int, int]] = []
        for topic, value, headers in found:
            kind = topic.rpartition(".")[2]
            if kind == "dead":
                self.dead.append((int(headers["partition"]), int(headers["offset"])))
            elif kind == "scores":
                self.scores.append(json.loads(value or b""))
            elif json.loads(value or b"").get("event") != "task_named":
                self.boundaries.append((value or b"").decode())

    def offsets(self, partition: int) -> list[int]:
        """Of scores, in the order in which they lie there."""
        return [
            offset
            for message in self.scores
            if message["partition"] == partition
            for offset in message["offsets"]
        ]

    def versions(self, partition: int) -> dict[int, int]:
        """Offset -> which version scored it."""
        mine = [message for message in self.scores if message["partition"] == partition]
        return {o: message["version"] for message in mine for o in message["offsets"]}

    def check(self, partitions: Sequence[int] = (0,)) -> None:
        """Each reading has one score, each bad record one letter, each boundary one message."""
        for number in partitions:
            assert self.offsets(number) == GOOD
        assert sorted(self.dead) == [(number, BAD) for number in partitions]
        assert set(Counter(self.boundaries).values()) == {1}
        assert sum('"statistic"' in each for each in self.boundaries) == len(partitions)


def scored(registry: SqlRegistry, partition: int) -> dict[int, int]:
    """Offset -> the version that scored it, as SQL has it; no offset twice."""
    c = t.scored.c
    query = select(c.version_id, c.first_offset, c.end_offset).where(c.partition == partition)
    with registry.engine.connect() as conn:
        ranges = conn.execute(query).all()
    every = [(o, v) for v, first, end in ranges for o in range(first, end)]
    assert len(dict(every)) == len(every)
    return dict(every)


# On memory: every place in which an attempt may end ----------------------------------------------


class MemoryTransactions:
    """All or nothing; the commit of number `at` is answered by TransactionLost, done or not."""

    def __init__(self) -> None:
        self.out: list[Outgoing] = []
        self.far: dict[int, tuple[int, str]] = {}
        self.commits = 0
        self.at: int | None = None
        self.happens = False
        self.meanwhile: Callable[[], None] = lambda: None

    def done(self, partitions: Sequence[int]) -> dict[int, tuple[int, str]]:
        return {n: self.far[n] for n in partitions if n in self.far}

    def commit(self, records: Sequence[Outgoing], done: Mapping[int, tuple[int, str]]) -> None:
        fails = self.commits == self.at
        self.commits += 1
        if not fails or self.happens:
            assert all(self.far.get(n, (0, ""))[0] < offset for n, (offset, _) in done.items())
            self.out += records
            self.far |= done
        if fails:
            self.meanwhile()
            raise TransactionLost("nobody knows")

    def close(self) -> None:
        pass

    def published(self) -> Published:
        return Published([(r.topic, r.value, dict(r.headers)) for r in self.out])


def streamer(
    settings: Settings, registry: SqlRegistry, transactions: Any, polls: int
) -> tuple[Streamer, MemorySource]:
    source = MemorySource({0: log(0)}, topic="readings", max_poll_records=polls)
    made = Streamer(
        settings, source, MemorySink(), registry, owner="test", transactions=transactions
    )
    return made, source


@pytest.mark.parametrize("happens", [False, True], ids=["aborted", "committed"])
@pytest.mark.parametrize("at", [0, 4, 6])
def test_a_lost_transaction_is_found_out_about_and_nothing_goes_out_twice(
    settings: Settings, registry: SqlRegistry, at: int, happens: bool
) -> None:
    """The process joins again, and reads again from its checkpoint, cut into other polls."""
    transactions = MemoryTransactions()
    made, source = streamer(settings, registry, transactions, 50)

    def meanwhile() -> None:
        source.max_poll_records = 70

    transactions.at, transactions.happens, transactions.meanwhile = at, happens, meanwhile
    with capture_logs() as logs:
        made.run(lambda: source.lag().get(0, 1) == 0)
    assert [line["reason"] for line in logs if line["event"] == "rejoining"] == ["nobody knows"]
    transactions.published().check()
    assert scored(registry, 0) == dict.fromkeys(range(ROWS), 1)


@pytest.mark.parametrize("at", range(3))
def test_a_crash_before_the_checkpoint_publishes_nothing_twice(
    settings: Settings, registry: SqlRegistry, at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is out stays; a champion that came meanwhile scores what is not, and SQL says the same
    of every offset as the messages do."""
    transactions, saves = MemoryTransactions(), 0
    first, source = streamer(settings, registry, transactions, 50)
    real = registry.save

    def save(*args: Any, **kwargs: Any) -> Any:
        nonlocal saves
        saves += 1
        if saves > at:
            raise Killed
        return real(*args, **kwargs)

    monkeypatch.setattr(registry, "save", save)
    source.subscribe(first)
    with suppress(Killed):
        while source.lag().get(0, 1):
            first.poll_once()
        first.checkpoint()
    monkeypatch.setattr(registry, "save", real)
    offset = transactions.far[0][0]
    same = registry.get(registry.champion(first.stream.id).sha256)
    next_version(registry, first.stream, made=candidate(weights=same))
    second, source = streamer(settings, registry, transactions, 70)
    second.run(lambda: source.lag().get(0, 1) == 0)
    published = transactions.published()
    published.check()
    assert published.versions(0) == {o: 1 if o < offset else 2 for o in GOOD}
    assert scored(registry, 0) == {o: 1 if o < offset else 2 for o in range(ROWS)}


def test_what_a_failed_revocation_left_undecided_is_not_sent_again(
    settings: Settings, registry: SqlRegistry
) -> None:
    """One transaction holds the results of all partitions: the one that stays is torn with the one
    that goes, and has to be taken anew as well."""
    transactions = MemoryTransactions()
    source = MemorySource({n: log(n) for n in range(2)}, topic="readings", max_poll_records=50)
    made = Streamer(
        settings, source, MemorySink(), registry, owner="test", transactions=transactions
    )
    source.subscribe(made)
    made.poll_once()
    for number in range(2):
        made.owned[number].outbox.send("readings.events", key=b"k", value=b"{}")
        made.owned[number].next_offset += 1
        made.owned[number].dirty = True
    transactions.at, transactions.happens = transactions.commits, True
    made.revoked([0])
    assert list(made.owned) == [1]
    before = list(transactions.out)
    with pytest.raises(TransactionLost, match="an earlier Kafka transaction"):
        made.checkpoint()
    assert transactions.out == before


def test_a_gap_that_was_told_is_not_told_again(settings: Settings, registry: SqlRegistry) -> None:
    """The first owner ends after the transaction; the next one meets the gap again."""
    transactions = MemoryTransactions()
    for _ in range(2):
        made, _ = streamer(settings, registry, transactions, 50)
        made.assigned([0])
        made._save = lambda *_: []  # type: ignore[method-assign] # it ends before SQL has it
        made.skipped(0, Gap(first_offset=0, end_offset=30, went_on="earliest"))
    assert [r.topic for r in transactions.out] == ["readings.events"]


def test_a_mark_of_another_stream_says_nothing() -> None:
    """Another database on the same group, a tool's own note, or none: nothing is held back."""
    ranges = [(3, 0, 7)]
    assert opened((7, mark(11, ranges)), 11) == Outbox(done=7, scored=ranges)
    others = [(7, mark(12, ranges)), (7, ""), (7, "by hand"), (7, "[1]"), None]
    assert [opened(each, 11).done for each in others] == [0] * 5


@pytest.mark.parametrize(
    ("changed", "named"),
    [({"isolation_level": "read_uncommitted"}, "isolation_level"), ({"api_version": "2.3"}, "2.3")],
)
def test_settings_that_exclude_each_other_are_one_line(changed: dict[str, str], named: str) -> None:
    """The embedded broker speaks 2.3; and only committed offsets tell what is out."""
    with pytest.raises(ValueError, match=rf"exactly_once needs .*{named}"):
        Kafka(exactly_once=True, **changed)  # type: ignore[arg-type]


# On real Kafka ------------------------------------------------------------------------------------


class Process:
    """A stream process in this one, whose parts can be taken away."""

    def __init__(self, settings: Settings) -> None:
        self.registry = SqlRegistry(settings.database)
        self.sink = KafkaSink(settings.kafka)
        self.source = KafkaSource(settings.kafka, settings.stream.topic)
        self.transactions = None
        if settings.kafka.exactly_once:
            self.transactions = KafkaTransactions(settings.kafka, self.source)
        self.streamer = Streamer(
            settings,
            self.source,
            self.sink,
            self.registry,
            owner="test",
            transactions=self.transactions,
        )
        self.source.subscribe(self.streamer)

    def end(self) -> None:
        """As the death of a process does, without another word to SQL."""
        with suppress(PipelineError):
            self.source.close()
        if self.transactions is not None:
            self.transactions.close()
        self.sink.close()
        self.registry.close()


@pytest.fixture
def ended() -> Iterator[list[Process]]:
    """Processes put here end with the test."""
    processes: list[Process] = []
    yield processes
    for process in processes:
        process.end()


@pytest.fixture
def topic(real_kafka: RealKafka, request: pytest.FixtureRequest) -> str:
    """Two partitions with a log each."""
    name = f"once{abs(hash(request.node.name))}"
    create_stream_topics(real_kafka.address, name, 2)
    return name


def on(kafka: RealKafka, settings: Settings, topic: str, **changed: Any) -> Settings:
    """The settings for a topic there; a silent member is thrown out soon."""
    facts = {"bootstrap_servers": kafka.address, "group_id": topic, "session_timeout_ms": 6000}
    return replace(
        settings,
        kafka=replace(settings.kafka, **facts, **changed),
        stream=replace(settings.stream, topic=topic),
    )


def read(settings: Settings) -> Published:
    """What a reader of committed transactions finds."""
    found = []
    for name in settings.stream.result_topics:
        reader = KafkaLog(settings.kafka, name, isolation="read_committed")
        found += [(name, r.value, r.headers) for step in reader.read() for r in step]
        reader.close()
    return Published(found)


def follow(processes: Sequence[Process], until: Callable[[], bool]) -> None:
    """They take turns; one that was fenced joins again, as `Streamer.run` has it do."""
    begun = time.monotonic()
    while not until():
        if time.monotonic() - begun > PATIENCE_S:
            pytest.fail("it takes too long")
        for process in processes:
            process.streamer.poll_once()


def reached(registry: SqlRegistry) -> int:
    """How far the checkpoints are, over both partitions."""
    with registry.engine.connect() as conn:
        return sum(conn.execute(select(t.checkpoints.c.next_offset)).scalars())


@pytest.mark.parametrize("exactly_once", [True, False])
def test_members_come_and_go_and_each_reading_is_scored_once(
    real_kafka: RealKafka,
    settings: Settings,
    topic: str,
    ended: list[Process],
    monkeypatch: pytest.MonkeyPatch,
    exactly_once: bool,
) -> None:
    """One begins, another joins, the first ends between publishing and SQL. In transactions each
    score is there once; without, the topic has second copies, and the reader drops them."""
    there = on(real_kafka, settings, topic, exactly_once=exactly_once)
    topics = Topics(real_kafka.address, "", lambda: topic)
    topics.fill(topic, {n: log(n)[: ROWS // 2] for n in range(2)})
    first = Process(there)
    bootstrap(there, first.registry)
    own = first.streamer.owned
    follow([first], lambda: sum(o.next_offset or 0 for o in own.values()) >= 200)
    second = Process(replace(there, kafka=replace(there.kafka, max_poll_records=70)))
    ended.append(second)
    follow([first, second], lambda: len(own) == 1 == len(second.streamer.owned))
    topics.fill(topic, {n: log(n)[ROWS // 2 :] for n in range(2)})

    def save(*_: Any, **__: Any) -> None:
        raise Killed

    monkeypatch.setattr(first.registry, "save", save)
    with suppress(Killed):
        follow([first], lambda: all((o.next_offset or 0) > ROWS // 2 for o in own.values()))
        first.streamer.checkpoint()
    first.end()

    def is_done() -> bool:
        found = second.streamer.owned.values()
        return len(found) == 2 and all(o.next_offset == ROWS for o in found)

    follow([second], is_done)
    second.streamer.checkpoint()
    assert reached(second.registry) == 2 * ROWS
    published = read(there)
    if exactly_once:
        published.check([0, 1])
        for number in range(2):
            assert scored(second.registry, number) == dict.fromkeys(range(ROWS), 1)
    else:
        assert any(published.offsets(number) != GOOD for number in range(2))
        once = Once()
        published.scores = [new for m in published.scores if (new := once.new(m)) is not None]
        assert [published.offsets(number) for number in range(2)] == [GOOD, GOOD]


def test_a_member_that_was_replaced_is_fenced_by_the_broker(
    real_kafka: RealKafka, settings: Settings, topic: str
) -> None:
    """Whatever it believes of its membership, its transaction is not seen; and one that knows that
    it is no member asks no broker. The producer is of use again afterwards."""
    there = on(real_kafka, settings, topic)
    said = Outgoing(topic=f"{topic}.events", key=b"k", value=b"{}")
    large = Outgoing(topic=f"{topic}.events", key=b"k", value=b"x" * 2_000_000)
    with (
        closing(KafkaSource(there.kafka, topic)) as source,
        closing(KafkaTransactions(there.kafka, source)) as transactions,
    ):
        source.subscribe(KeepingOwner())
        settle(source)
        transactions.commit([said], {0: (5, "by a member")})
        assert transactions.done([0, 1]) == {0: (5, "by a member")}
        stale = source.member()
        source.rejoin()
        with pytest.raises(StaleEpoch, match="no member of the group"):
            transactions.commit([said], {0: (9, "by nobody")})
        source.member = lambda: stale  # type: ignore[method-assign]
        with pytest.raises(TransactionLost, match="CommitFailedError") as caught:
            transactions.commit([said], {0: (9, "by a zombie")})
        assert len(str(caught.value).splitlines()) == 1
        assert transactions.done([0]) == {0: (5, "by a member")}
        del source.member
        settle(source)
        transactions.commit([said], {0: (7, "by a member")})
        assert transactions.done([0]) == {0: (7, "by a member")}
        with pytest.raises(SourceError, match="TooLarge"):
            transactions.commit([said, large], {0: (8, "")})
    assert len(read(there).boundaries) == 2


def settle(source: KafkaSource) -> None:
    """Poll until the group has rested for a while: it may share out again soon after a join."""
    generation, since = -1, time.monotonic()
    while generation < 0 or time.monotonic() - since < SETTLING_S:
        source.poll(0.1)
        if (found := source._consumer.group_metadata().generation_id) != generation:
            generation, since = found, time.monotonic()


def test_a_broker_that_is_too_old_is_one_line(
    real_kafka: RealKafka, settings: Settings, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By `doctor`, and at the start."""
    there = on(real_kafka, settings, topic, exactly_once=True)
    assert ("exactly once", True, "has transactions") in kafka_client.check(there.kafka, topic)
    for module in ("client", "transactions"):
        monkeypatch.setattr(f"pipeline.ingest.kafka_{module}.TRANSACTIONS_SINCE", (99, 0))
    (line,) = [c[2] for c in kafka_client.check(there.kafka, topic) if c[0] == "exactly once"]
    assert line == f"kafka.exactly_once needs Kafka 99.0 or newer at {real_kafka.address}: unset it"
    with (
        closing(KafkaSource(there.kafka, topic)) as source,
        pytest.raises(SettingsError) as caught,
    ):
        KafkaTransactions(there.kafka, source)
    assert str(caught.value) == line
