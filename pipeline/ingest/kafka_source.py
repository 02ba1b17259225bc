"""Source over kafka-python: a member of a consumer group that commits only when told."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import structlog
from kafka import KafkaConsumer, TopicPartition
from kafka.consumer.subscription_state import ConsumerRebalanceListener
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.coordinator.assignors.range import RangePartitionAssignor
from kafka.errors import NoOffsetForPartitionError, OffsetOutOfRangeError
from kafka.structs import OffsetAndMetadata

from pipeline.config import Kafka
from pipeline.errors import BrokerAway, MadeAnew, SourceError, StaleEpoch
from pipeline.ingest.kafka_client import (
    ANSWER_MS,
    ASKED_AGAIN_MS,
    CODECS,
    FAREWELL_MS,
    client,
    importable,
    no_topic,
    partitions,
    reach,
    translated,
)
from pipeline.outage import Outage
from pipeline.ports import Owner
from pipeline.records import Gap, Records

log = structlog.get_logger()

#: Longest wait for the log's ends, which only the lag gauges need, in milliseconds.
ENDS_MS = 1000
#: How long a topic that is made anew, or has more partitions, may go unseen, in milliseconds.
METADATA_MS = 60_000
#: How long a poll may be deaf to everything else, in seconds.
SLICE_S = 0.5
ASSIGNORS = {"range": RangePartitionAssignor, "cooperative-sticky": CooperativeStickyAssignor}


class KafkaSource:
    """A member of a consumer group on one topic.

    Parameters
    ----------
    kafka
        Broker, group and fetch settings.
    topic
        What to follow; it is never created from here.
    outage
        How long to poll a broker that is away; by default not at all.

    Raises
    ------
    SourceError
        No broker answers within ANSWER_MS.
    """

    def __init__(self, kafka: Kafka, topic: str, outage: Outage | None = None) -> None:
        self.kafka = kafka
        self.topic = topic
        self.outage = outage or Outage("broker")
        self._listener: _Listener | None = None
        self._topic_id: str | None = None
        for codec in CODECS:
            if not importable(codec):
                log.warning("codec_missing", codec=codec, install=CODECS[codec])
        with translated(kafka):
            reach(kafka, within_ms=ASKED_AGAIN_MS if self.outage.limit_s else None)
            self._consumer = client(
                KafkaConsumer,
                kafka,
                group_id=kafka.group_id,
                group_instance_id=kafka.group_instance_id or None,
                partition_assignment_strategy=[ASSIGNORS[kafka.assignment]],
                enable_auto_commit=False,
                auto_offset_reset="none",
                isolation_level=kafka.isolation_level,
                max_poll_records=kafka.max_poll_records,
                fetch_max_bytes=kafka.fetch_max_bytes,
                max_partition_fetch_bytes=kafka.max_partition_fetch_bytes,
                metadata_max_age_ms=METADATA_MS,
                max_poll_interval_ms=kafka.max_poll_interval_ms,
                session_timeout_ms=kafka.session_timeout_ms,
                heartbeat_interval_ms=max(1, min(3000, kafka.session_timeout_ms // 3)),
                allow_auto_create_topics=False,
            )

    def topic_id(self) -> str | None:
        """Kafka's id of the topic, as last heard; None where brokers are older than 2.8."""
        found = self._consumer._cluster.topic_id(self.topic)  # noqa: SLF001
        return str(found) if found else None

    def starts(self) -> dict[int, int]:
        """The beginning or the end of every partition, as `auto_offset_reset` says."""
        return self.outage.ask(self._starts)

    def _starts(self) -> dict[int, int]:
        self._require()
        earliest = self.kafka.auto_offset_reset == "earliest"
        with translated(self.kafka):
            ask = self._consumer.beginning_offsets if earliest else self._consumer.end_offsets
            numbers = sorted(self._partitions())
            found = ask([TopicPartition(self.topic, n) for n in numbers], timeout_ms=ANSWER_MS)
        return {partition.partition: offset for partition, offset in found.items()}

    def subscribe(self, owner: Owner) -> None:
        """Join the group; `owner` hears of its partitions during `poll`.

        `assigned` is called once `poll` has waited, and may take its time. `revoked` and `lost` are
        called while `poll` or `idle` waits, from kafka-python's own thread: they may commit, but
        must not ask for the lag. What the owner raises, `poll` raises, and from then on nothing is
        polled.

        Raises
        ------
        SourceError
            There is no such topic. (Joining would have the broker make one, with its defaults.)
        BrokerAway
            The broker does not say, for longer than it is waited for.
        """
        self.outage.ask(self._require)
        with translated(self.kafka):
            self._topic_id = self.topic_id()
            self._listener = _Listener(self._consumer, owner)
            self._consumer.subscribe([self.topic], listener=self._listener)

    def _require(self) -> None:
        with translated(self.kafka):
            within_ms = ASKED_AGAIN_MS if self.outage.limit_s else None
            there = partitions(self.kafka, [self.topic], within_ms=within_ms)[self.topic]
            if there:  # known before the join: without it, a group's leader shares nothing out
                self._partitions()
        if not there:
            raise SourceError(f"{no_topic(self.kafka, self.topic)}, or set stream.topic")

    def _partitions(self) -> set[int]:
        """As `partitions_for_topic`, which waits without end if the broker goes meanwhile."""
        consumer, cluster = self._consumer, self._consumer._cluster  # noqa: SLF001
        if not cluster.partitions_for_topic(self.topic):
            cluster.need_all_topic_metadata = True
            try:
                consumer._net.run(  # noqa: SLF001
                    consumer._manager.wait_for,  # noqa: SLF001
                    cluster.request_update(),
                    ANSWER_MS,
                )
            finally:
                cluster.need_all_topic_metadata = False
        return cluster.partitions_for_topic(self.topic) or set()

    def poll(self, timeout_s: float) -> list[Records]:
        """What has been fetched, at most `max_poll_records`.

        Raises
        ------
        SourceError
            Kafka refuses, or has what comes next no longer and `out_of_range` is `fail`.
        MadeAnew
            The topic is not the one that was subscribed to, or shorter than it was.
        """
        listener = self._listener
        if listener is None:
            raise ValueError("poll before subscribe: nobody would own what comes")
        if listener.failure is not None:
            raise listener.failure
        try:
            polled = self._wait(timeout_s)
        except SourceError as exc:
            if listener.failure is not None:
                raise listener.failure from None
            if not isinstance(exc, BrokerAway):
                raise
            self._note(exc)
            time.sleep(min(timeout_s, SLICE_S))
            return []
        if polled:
            self.outage.over()
        now = self.topic_id()
        self._topic_id = self._topic_id or now  # the first answers may not have come at `subscribe`
        if now not in (None, self._topic_id):
            raise MadeAnew(self.topic, f"its id is {now}, and was {self._topic_id}")
        self._take_over(listener)
        return [
            Records(
                topic=self.topic,
                partition=partition.partition,
                offsets=[r.offset for r in records],
                keys=[r.key for r in records],
                values=[r.value for r in records],
                written=[r.timestamp for r in records],
                next_offset=self._next(partition, records[-1].offset + 1),
            )
            for partition, records in polled.items()
            if records
        ]

    def _wait(self, timeout_s: float) -> dict[TopicPartition, list[Any]]:
        """In slices: new partitions, and being told to stop, are not left waiting."""
        until = time.monotonic() + timeout_s
        while True:
            left = until - time.monotonic()
            polled = self._fetch(max(0.0, min(left, SLICE_S)))
            if polled or left <= SLICE_S or self._waiting() or self.outage.stop.is_set():
                return polled

    def _note(self, exc: BrokerAway) -> None:
        """Nothing was taken: an owner that is told to stop may still keep what it has."""
        if not self.outage.stop.is_set():
            self.outage.note(exc)

    def _fetch(self, timeout_s: float) -> dict[TopicPartition, list[Any]]:
        with translated(self.kafka):
            self._remember_the_join()
            self._consumer.resume(*self._consumer.paused() - self._waiting())
            try:
                polled: dict[TopicPartition, list[Any]] = self._consumer.poll(
                    timeout_ms=int(timeout_s * 1000), max_records=self.kafka.max_poll_records
                )
            except NoOffsetForPartitionError:  # assigned, and our listener was not told yet
                return {}
            except OffsetOutOfRangeError as exc:
                self._go_on(*exc.args)
                return {}
        return polled

    def _next(self, partition: TopicPartition, least: int) -> int:
        """Where reading goes on: control records, and what compaction left out, lie behind."""
        state = self._consumer._subscription.assignment.get(partition)  # noqa: SLF001
        position = state.position if state is not None else None
        return max(least, position.offset) if position is not None else least

    def _go_on(self, wanted: Mapping[TopicPartition, int]) -> None:
        """Decide what becomes of partitions whose log does not have the offset that comes next."""
        firsts = self._consumer.beginning_offsets(list(wanted), timeout_ms=ANSWER_MS)
        ends = self._consumer.end_offsets(list(wanted), timeout_ms=ANSWER_MS)
        for partition, offset in wanted.items():
            first, end = firsts[partition], ends[partition]
            if offset > end:
                number = partition.partition
                how = f"partition {number} ends at offset {end}, before the checkpoint's {offset}"
                raise MadeAnew(self.topic, how)
            if offset < first:
                self._skip(partition, offset, first, end)

    def _skip(self, partition: TopicPartition, offset: int, first: int, end: int) -> None:
        """Go on behind a gap, once the owner has kept it."""
        policy, listener = self.kafka.out_of_range, self._listener
        if policy == "fail" or listener is None:
            raise SourceError(
                f"partition {partition.partition} of {self.topic} begins at offset {first}, and "
                f"{offset} comes next: up to {first - offset} records are out of retention (fewer "
                "where transactions or compaction left holes); to go on without them set "
                "kafka.out_of_range = earliest or latest"
            )
        at = first if policy == "earliest" else end
        gap = Gap(first_offset=offset, end_offset=at, went_on=policy)
        listener.owner.skipped(partition.partition, gap)
        if partition in self._consumer.assignment():
            self._consumer.seek(partition, at)

    def _waiting(self) -> set[TopicPartition]:
        """Partitions that nobody has taken over yet."""
        return set(self._listener.waiting) if self._listener else set()

    def _take_over(self, listener: _Listener) -> None:
        """Tell the owner of its new partitions, and seek to where it wants to go on."""
        fresh = self._waiting()
        if not fresh:
            return
        where = listener.tell(listener.owner.assigned, fresh) or {}
        with translated(self.kafka):
            for partition in fresh & set(listener.waiting):
                listener.waiting.discard(partition)
                if partition.partition in where:
                    self._consumer.seek(partition, where[partition.partition])
                fresh.discard(partition)
        if fresh:  # gone while the owner took them over
            listener.tell(listener.owner.lost, fresh)

    def idle(self, seconds: float) -> None:
        """Stay in the group and take no record: the owner waits for something else.

        He can write nothing meanwhile: what is revoked, he is told, is lost.
        """
        until = time.monotonic() + seconds
        listener = self._listener
        if listener is not None:
            self._consumer.pause(*self._consumer.assignment())
            listener.idle = True
            try:
                with translated(self.kafka):
                    self._consumer.poll(timeout_ms=int(seconds * 1000))
            except BrokerAway:
                pass
            finally:
                listener.idle = False
        time.sleep(max(0.0, until - time.monotonic()))

    def rejoin(self) -> None:
        """Leave the group; the next poll joins anew, as a new member that has nothing."""
        coordinator = self._consumer._coordinator  # noqa: SLF001
        with translated(self.kafka):
            coordinator.maybe_leave_group(timeout_ms=ANSWER_MS)
        coordinator.rejoining = False

    def _remember_the_join(self) -> None:
        """Have a join that an earlier poll began, and had no time to end, ended by the next one.

        kafka-python 3.0.12 joins anew when the topic's partitions change, but no longer knows
        why once the group's leader has read them: the partitions would stay revoked for ever.
        """
        coordinator = self._consumer._coordinator  # noqa: SLF001
        if coordinator.rejoining:
            coordinator.request_rejoin()

    def commit(self, next_offsets: Mapping[int, int]) -> None:
        """Tell the group how far each partition is done; for lag tools, so it does not wait."""
        offsets = {
            TopicPartition(self.topic, p): OffsetAndMetadata(offset, "", -1)
            for p, offset in next_offsets.items()
        }
        if offsets:
            with translated(self.kafka):
                self._consumer.commit_async(offsets, callback=lambda *_: None)

    def member(self) -> Any:
        """What proves to the broker that this process is a member of the group (KIP-447).

        Raises
        ------
        StaleEpoch
            It is none. (The broker takes whoever names no generation for a stranger to the group,
            and lets him.)
        """
        found = self._consumer.group_metadata()
        if found.generation_id < 0 or not found.member_id:
            raise StaleEpoch("this process is no member of the group any more")
        return found

    def committed(self, partitions: Sequence[int]) -> dict[int, tuple[int, str]]:
        """The group's offsets and what was noted beside them, once no transaction is pending that
        may change them (KIP-447)."""
        with translated(self.kafka):
            found = {
                n: self._consumer.committed(
                    TopicPartition(self.topic, n), metadata=True, timeout_ms=ANSWER_MS
                )
                for n in partitions
            }
        return {n: (each.offset, each.metadata or "") for n, each in found.items() if each}

    def lag(self) -> dict[int, int]:
        """Records still to come, for every assigned partition; empty if the broker is away.

        Raises
        ------
        BrokerAway
            For longer than it is waited for.
        """
        assigned = list(self._consumer.assignment() - self._waiting())
        some = assigned or [TopicPartition(self.topic, 0)]
        try:
            with translated(self.kafka):
                ends = self._consumer.end_offsets(some, timeout_ms=ENDS_MS)
                at = {p: self._consumer.position(p, timeout_ms=ENDS_MS) for p in assigned}
        except BrokerAway as exc:
            self._note(exc)
            return {}
        self.outage.over()
        return {p.partition: max(0, ends[p] - at[p]) for p in assigned if at[p] is not None}

    def close(self) -> None:
        """Leave the group at once, without another commit; the owner is not told."""
        if self._listener is not None:
            self._listener.closed = True
        within_ms = FAREWELL_MS if self.outage.stop.is_set() else ANSWER_MS
        with translated(self.kafka):
            self._consumer.close(autocommit=False, timeout_ms=within_ms)


class _Listener(ConsumerRebalanceListener):
    """Passes kafka-python's calls on to an Owner; new partitions wait, paused, for `_take_over`.

    A partition that the owner has no offset for starts at its beginning, whatever the group has
    committed: without a place of its own at once, kafka-python would look that up, and might find
    it after the owner has said another.

    kafka-python keeps only the text of what a listener raises, and would go on without the seek:
    so the exception is kept here, and the source polls no more.
    """

    def __init__(self, consumer: KafkaConsumer, owner: Owner) -> None:
        self.consumer = consumer
        self.owner = owner
        self.failure: Exception | None = None
        self.closed = False
        #: Whether the owner is in the midst of something else.
        self.idle = False
        #: Assigned, and not taken over yet.
        self.waiting: set[TopicPartition] = set()

    def on_partitions_assigned(self, assigned: Sequence[TopicPartition]) -> None:
        if not assigned:  # kafka-python would take that for all there are
            return
        self.consumer.pause(*assigned)
        self.consumer.seek_to_beginning(*assigned)
        self.waiting |= set(assigned)

    def on_partitions_revoked(self, revoked: Sequence[TopicPartition]) -> None:
        self.waiting -= set(revoked)
        self.tell(self.owner.lost if self.idle else self.owner.revoked, revoked)

    def on_partitions_lost(self, lost: Sequence[TopicPartition]) -> None:
        self.waiting -= set(lost)
        self.tell(self.owner.lost, lost)

    def tell(
        self, method: Callable[[list[int]], Any], partitions: Collection[TopicPartition]
    ) -> Any:
        if self.closed or not partitions:
            return None
        try:
            return method(sorted(p.partition for p in partitions))
        except Exception as exc:
            self.failure = exc
            raise
