from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest
from kafka import KafkaConsumer, KafkaProducer
from kafka.admin import KafkaAdminClient
from kafka.errors import KafkaTimeoutError

from pipeline.config import Kafka
from pipeline.errors import RegistryError, SourceError
from pipeline.ingest import kafka_source
from pipeline.ingest.files import FileSource
from pipeline.ingest.kafka_client import GroupLag, connection
from pipeline.ingest.kafka_source import KafkaSource
from pipeline.ingest.memory import MemorySource, Message
from pipeline.ports import Owner, Source
from pipeline.records import Records
from tests.ingest.kafka_topics import PATIENCE_S, Topics
from tests.ingest.owners import KeepingOwner

#: Records that one poll gives at most: a partition takes several polls.
POLLED = 4
LOG: dict[int, list[Message]] = {
    partition: [(b"k%d" % (i % 2), b"%d-%d" % (partition, i)) for i in range(10)]
    for partition in (0, 1)
}
#: A key or a value may be absent, and the log of a partition is still its own.
LOG[1][3] = (None, b"no key")
LOG[1][4] = (b"k0", None)


@dataclass
class Opened:
    """A source with its owner, and what has been polled from it."""

    source: Source
    owner: KeepingOwner
    polls: list[list[Records]] = field(default_factory=list)

    def poll(self, timeout_s: float = 0.1) -> None:
        """Poll once; like any owner, ours knows how far it is if a partition comes back to it."""
        polled = self.source.poll(timeout_s)
        self.polls.append(polled)
        self.owner.where |= {records.partition: records.next_offset for records in polled}

    def poll_until(self, done: Callable[[], bool], timeout_s: float = 0.1) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not done():
            assert time.monotonic() < deadline, f"waited {PATIENCE_S} s; told: {self.owner.told}"
            self.poll(timeout_s)

    def drain(self, n: int) -> None:
        """Poll until `n` records are there, and once more."""
        self.poll_until(lambda: sum(map(len, self.records())) >= n)
        self.poll(0.3)

    def records(self) -> list[Records]:
        return [records for poll in self.polls for records in poll]

    def log(self) -> dict[int, list[tuple[int, bytes | None, bytes | None]]]:
        """(offset, key, value) of all that was polled, by partition, as it came."""
        found: dict[int, list[tuple[int, bytes | None, bytes | None]]] = {}
        for r in self.records():
            found.setdefault(r.partition, []).extend(zip(r.offsets, r.keys, r.values, strict=True))
        return found


class World:
    """A topic that outlives the sources that are opened on it."""

    def __init__(
        self,
        log: Mapping[int, Sequence[Message]],
        new: Callable[[], Source],
        commit: Callable[[Mapping[int, int]], None],
        committed: Callable[[], Mapping[int, int]],
    ) -> None:
        self.log = log
        self.new = new
        self.commit = commit
        self.committed = committed
        self._open: list[Source] = []

    def open(self, where: Mapping[int, int] | None = None, owner: Owner | None = None) -> Opened:
        opened = Opened(self.new(), KeepingOwner(where) if owner is None else owner)  # type: ignore[arg-type]
        self._open.append(opened.source)
        opened.source.subscribe(opened.owner)
        return opened

    def close(self, opened: Opened) -> None:
        self._open.remove(opened.source)
        opened.source.close()

    def close_all(self) -> None:
        for source in self._open:
            source.close()

    @property
    def size(self) -> int:
        return sum(map(len, self.log.values()))

    def tail(self, start: Mapping[int, int]) -> dict[int, list[Any]]:
        """The log from these offsets on; from the beginning where there is none."""
        return {
            partition: [(i, *m) for i, m in enumerate(messages)][start.get(partition, 0) :]
            for partition, messages in self.log.items()
        }


class RefusingOwner(KeepingOwner):
    def assigned(self, partitions: Sequence[int]) -> Mapping[int, int]:
        raise RegistryError("the database is away")


class SourceContract:
    """What `pipeline.ports.Source` promises; `new_world` is the only thing to say."""

    def new_world(self, request: pytest.FixtureRequest, tmp_path: Path) -> World:
        """A topic that holds a log."""
        raise NotImplementedError

    @pytest.fixture
    def world(self, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
        found = self.new_world(request, tmp_path)
        yield found
        found.close_all()

    def test_every_record_comes_once_in_the_order_of_its_partition(self, world: World) -> None:
        """Then the lag is 0, and a poll ends with nothing after its timeout."""
        opened = world.open()
        opened.drain(world.size)
        assert opened.log() == world.tail({})
        assert opened.source.lag() == dict.fromkeys(world.log, 0)
        assert opened.source.poll(0.01) == []

    def test_one_poll_gives_a_partition_at_most_once_and_says_where_it_ends(
        self, world: World
    ) -> None:
        """The next offset is what a checkpoint writes: one off is a record lost, or twice."""
        opened = world.open()
        opened.drain(world.size)
        for poll in opened.polls:
            partitions = [records.partition for records in poll]
            assert len(set(partitions)) == len(partitions)
            assert all(len(records) for records in poll)
        at = dict.fromkeys(world.log, 0)
        for records in opened.records():
            assert len(records) <= POLLED
            assert records.offsets[0] == at[records.partition]
            at[records.partition] = records.next_offset
        assert at == {partition: len(messages) for partition, messages in world.log.items()}

    def test_an_owner_hears_of_its_partitions_before_their_records(self, world: World) -> None:
        """Their state has to be there first; until then there is no lag to speak of."""
        opened = world.open()
        assert opened.source.lag() == {}
        opened.poll_until(lambda: bool(opened.records()))
        assert ("assigned", sorted(world.log)) in opened.owner.told

    def test_an_owner_without_an_offset_gets_the_log_from_its_beginning(self, world: World) -> None:
        """Whatever was read or committed: a database that is gone must not cost its readings."""
        world.commit(dict.fromkeys(world.log, 5))
        opened = world.open()
        opened.drain(world.size)
        assert opened.log() == world.tail({})

    def test_only_a_commit_moves_the_offsets(self, world: World) -> None:
        """Not reading, and not leaving.

        Nor is the owner told that it leaves: whoever closes has written the last checkpoint.
        """
        first = world.open()
        first.drain(world.size)
        first.source.commit({0: 7})
        first.poll_until(lambda: world.committed() == {0: 7})
        told = list(first.owner.told)
        world.close(first)
        assert first.owner.told == told
        assert world.committed() == {0: 7}

    def test_an_owner_s_own_offsets_win_over_those_committed(self, world: World) -> None:
        """State and offset are written together, so the checkpoint knows best: back and ahead."""
        world.commit(dict.fromkeys(world.log, 5))
        where = {partition: 3 if partition else 8 for partition in world.log}
        opened = world.open(where)
        opened.drain(world.size - sum(where.values()))
        assert opened.log() == world.tail(where)

    def test_lag_counts_what_is_still_to_come(self, world: World) -> None:
        """Records of the log less those polled, for every assigned partition."""
        opened = world.open()
        opened.poll_until(lambda: bool(opened.records()))
        polled = opened.log()
        assert opened.source.lag() == {
            partition: len(messages) - len(polled.get(partition, []))
            for partition, messages in world.log.items()
        }

    def test_what_an_owner_raises_comes_out_of_poll(self, world: World) -> None:
        """As it is: a database that is away is not a broker that is, and nothing is polled."""
        opened = world.open(owner=RefusingOwner())
        with pytest.raises(RegistryError, match="the database is away"):
            opened.poll_until(lambda: False)
        assert opened.records() == []
        with pytest.raises(RegistryError):
            opened.source.poll(0.1)


class TestMemorySource(SourceContract):
    def new_world(self, request: pytest.FixtureRequest, tmp_path: Path) -> World:
        source = MemorySource(LOG, max_poll_records=POLLED)
        return World(LOG, lambda: source, source.commit, lambda: source.committed)


class TestFileSource(SourceContract):
    def new_world(self, request: pytest.FixtureRequest, tmp_path: Path) -> World:
        path = tmp_path / "pump.csv"
        path.write_text("who,x\n" + "".join(f"k{i % 2},{i}\n" for i in range(10)))
        log: dict[int, list[Message]] = {
            0: [
                (b"k%d" % (i % 2), msgspec.json.encode({"time": float(i), "values": [float(i)]}))
                for i in range(10)
            ]
        }
        source = FileSource(path, series_column="who", max_poll_records=POLLED)
        return World(log, lambda: source, source.commit, lambda: source.committed)


def kafka_world(topics: Topics) -> World:
    topic = topics.filled(LOG)
    kafka = topics.kafka(topic, max_poll_records=POLLED)
    return World(
        LOG,
        lambda: KafkaSource(kafka, topic),
        lambda offsets: topics.commit(topic, offsets),
        lambda: topics.committed(topic),
    )


class TestKafkaSourceOnTheEmbeddedBroker(SourceContract):
    def new_world(self, request: pytest.FixtureRequest, tmp_path: Path) -> World:
        return kafka_world(request.getfixturevalue("embedded_topics"))


class TestKafkaSourceOnRealKafka(SourceContract):
    def new_world(self, request: pytest.FixtureRequest, tmp_path: Path) -> World:
        return kafka_world(request.getfixturevalue("real_topics"))


# What only some sources do ----------------------------------------------------------------------


def test_a_second_member_takes_a_partition_from_the_first(real_topics: Topics) -> None:
    """The first is told before, so that it can write its checkpoint; each goes on with one."""
    world = kafka_world(real_topics)
    first = world.open()
    first.drain(world.size)
    first.owner.told.clear()
    second = world.open()
    stop = threading.Event()
    beside = threading.Thread(target=lambda: poll_until_set(first, stop))
    beside.start()
    try:
        second.poll_until(lambda: sum(map(len, second.records())) >= 10)
    finally:
        stop.set()
        beside.join()
    revoked = [partitions for what, partitions in first.owner.told if what == "revoked"]
    assert revoked
    assert not any(what == "lost" for what, _ in first.owner.told)
    assert len(second.log()) == 1  # uncommitted, so its one partition comes from the start
    assert second.log().items() <= world.tail({}).items()
    world.close_all()


def poll_until_set(opened: Opened, stop: threading.Event) -> None:
    while not stop.is_set():
        opened.poll()


@pytest.mark.parametrize("timeout_s", [0.001, 0.01])
def test_polls_may_be_shorter_than_a_rebalance(real_topics: Topics, timeout_s: float) -> None:
    """A poll that ends while the group is being joined leaves the joining to the next one.

    kafka-python 3.0.12 forgets a second join, which new metadata asks for right after the first:
    the partitions stay revoked, and nothing comes ever after.
    """
    world = kafka_world(real_topics)
    opened = world.open()
    opened.poll_until(lambda: sum(map(len, opened.records())) >= world.size, timeout_s)
    assert opened.log() == world.tail({})
    world.close_all()


@pytest.mark.parametrize("timeout_s", [0.001, 0.5])
def test_partitions_that_a_topic_gets_later_are_followed(
    real_topics: Topics, monkeypatch: pytest.MonkeyPatch, timeout_s: float
) -> None:
    """The group is then joined anew, however short the polls are: none of its results is lost."""
    monkeypatch.setattr(kafka_source, "METADATA_MS", 100)
    world = kafka_world(real_topics)
    opened = world.open()
    opened.drain(world.size)
    topic = opened.source.topic  # type: ignore[attr-defined]
    admin = KafkaAdminClient(bootstrap_servers=real_topics.address)
    admin.create_partitions({topic: len(LOG) + 1})
    admin.close()
    real_topics.fill(topic, {len(LOG): LOG[0]})
    expected = world.size + len(LOG[0])
    opened.poll_until(lambda: sum(map(len, opened.records())) >= expected, timeout_s)
    assert set(opened.log()) == {*LOG, len(LOG)}
    world.close_all()


def test_new_records_come_to_a_source_that_waits(real_topics: Topics) -> None:
    """The lag rises and falls to 0 again; an open poll returns what arrives."""
    topic = real_topics.filled({0: [(b"k", b"first")]})
    source = KafkaSource(real_topics.kafka(topic), topic)
    opened = Opened(source, KeepingOwner())
    source.subscribe(opened.owner)
    opened.drain(1)
    real_topics.fill(topic, {1: [(b"k", b"second")]})
    opened.drain(2)
    assert opened.log() == {0: [(0, b"k", b"first")], 1: [(0, b"k", b"second")]}
    assert source.lag() == {0: 0, 1: 0}
    source.close()


@contextmanager
def transactions(topics: Topics, name: str) -> Iterator[KafkaProducer]:
    """A producer whose records come only once it commits."""
    producer = KafkaProducer(**connection(topics.kafka(name)), acks="all", transactional_id=name)
    try:
        producer.init_transactions()
        yield producer
    finally:
        producer.close()


@pytest.mark.parametrize(
    ("isolation", "come"),
    [
        ("read_committed", [b"first", b"last"]),
        ("read_uncommitted", [b"first", b"taken back", b"last"]),
    ],
)
def test_readings_of_an_aborted_transaction_do_not_come(
    real_topics: Topics, isolation: str, come: list[bytes]
) -> None:
    """Their producer has taken them back: those before and after it are all there is.

    What comes next lies behind the control records too, which nobody can be behind on.
    """
    topic = real_topics.new()
    with transactions(real_topics, topic) as producer:
        for value in (b"first", b"taken back", b"last"):
            producer.begin_transaction()
            producer.send(topic, key=b"k", value=value, partition=0)
            producer.flush()
            if value == b"taken back":
                producer.abort_transaction()
            else:
                producer.commit_transaction()
    source = KafkaSource(real_topics.kafka(topic, isolation_level=isolation), topic)
    opened = Opened(source, KeepingOwner())
    source.subscribe(opened.owner)
    opened.poll_until(lambda: bool(opened.records()) and source.lag() == {0: 0, 1: 0})
    assert [value for _, _, value in opened.log()[0]] == come
    assert opened.records()[-1].next_offset == 6  # three records, and a marker after each
    source.close()


def test_polling_what_nobody_owns_is_a_mistake(embedded_topics: Topics) -> None:
    """Without an owner there is no place for the state of what comes."""
    topic = embedded_topics.new()
    source = KafkaSource(embedded_topics.kafka(topic), topic)
    with pytest.raises(ValueError, match="subscribe"):
        source.poll(0.1)
    source.close()


def test_a_topic_that_is_not_there_is_named(real_topics: Topics) -> None:
    """Joining would have a broker make it, with one partition and no word to anybody."""
    source = KafkaSource(real_topics.kafka("nobody"), "misspelt")
    with pytest.raises(SourceError, match="no topic misspelt") as caught:
        source.subscribe(KeepingOwner())
    assert len(str(caught.value).splitlines()) == 1
    source.close()


def test_a_broker_that_is_not_there_is_one_line_with_its_address(nobody: Kafka) -> None:
    """The most common mistake of all: the answer has to say which address was tried."""
    with pytest.raises(SourceError, match=nobody.bootstrap_servers) as caught:
        KafkaSource(nobody, "readings")
    assert len(str(caught.value).splitlines()) == 1


# How far a group is behind ------------------------------------------------------------------------


def test_a_group_s_lag_is_what_it_has_not_committed(topics: Topics) -> None:
    """20 records less the offsets committed; a partition without a commit counts whole."""
    topic = topics.filled(LOG)
    lag = GroupLag(topics.kafka(topic), topic)
    assert lag.records() == 20
    topics.commit(topic, {0: 7})
    assert lag.records() == 13
    topics.commit(topic, {0: 10, 1: 10})
    assert lag.records() == 0
    topics.fill(topic, {1: [(b"k", b"new")]})
    assert lag.records() == 1
    lag.close()


def test_a_transaction_that_is_open_is_no_lag(real_topics: Topics) -> None:
    """Nobody can be behind on what nobody may read yet."""
    topic = real_topics.new()
    with transactions(real_topics, topic) as producer:
        producer.begin_transaction()
        producer.send(topic, key=b"k", value=b"x", partition=0)
        producer.flush()
        lag = GroupLag(real_topics.kafka(topic), topic)
        assert lag.records() == 0
        lag.close()
        producer.abort_transaction()


def test_a_lag_that_cannot_be_asked_for_leaves_nothing_open(
    embedded_topics: Topics, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else each attempt would cost a connection and a thread."""
    closed: list[KafkaConsumer] = []
    close = KafkaConsumer.close

    def closing(consumer: KafkaConsumer, **options: Any) -> None:
        closed.append(consumer)
        close(consumer, **options)

    def failing(consumer: KafkaConsumer, topic: str) -> None:
        raise KafkaTimeoutError

    monkeypatch.setattr(KafkaConsumer, "close", closing)
    monkeypatch.setattr(KafkaConsumer, "partitions_for_topic", failing)
    with pytest.raises(SourceError, match="KafkaTimeoutError"):
        GroupLag(embedded_topics.kafka("g"), "t")
    assert len(closed) == 1


def test_the_lag_on_a_topic_that_is_not_there_is_an_error(real_topics: Topics) -> None:
    """0 would look like a group that has done everything."""
    with pytest.raises(SourceError, match="no topic misspelt"):
        GroupLag(real_topics.kafka("nobody"), "misspelt")
