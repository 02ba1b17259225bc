"""Source and Sink over kafka-python; offsets are committed only when told."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import structlog
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.consumer.subscription_state import ConsumerRebalanceListener
from kafka.errors import KafkaError, KafkaTimeoutError
from kafka.structs import OffsetAndMetadata

from pipeline.config import Kafka
from pipeline.errors import SourceError
from pipeline.ports import Owner
from pipeline.records import Records

log = structlog.get_logger()

#: How long a broker may take to answer at all before we say so, in milliseconds.
ANSWER_MS = 5000
#: Longest wait for the log's ends, which only the lag gauges need, in milliseconds.
ENDS_MS = 1000
#: Longest wait between two attempts to reach a broker that is away, in milliseconds.
RECONNECT_MS = 1000
#: Longest wait of one `send`: the topic is not there, or the buffer is full, in milliseconds.
SEND_MS = 10_000
#: Longest wait of `flush` for acknowledgements, in seconds.
FLUSH_S = 60
#: The first protocol whose brokers are sure to know the idempotent producer; the embedded one
#: speaks 2.3.
IDEMPOTENT_SINCE = (2, 4)
#: Codec -> module that kafka-python needs for it.
CODECS = {"gzip": "zlib", "snappy": "snappy", "lz4": "lz4", "zstd": "zstandard"}

# Its failures reach us as exceptions; while a broker is away it logs dozens of lines a second.
logging.getLogger("kafka").setLevel(logging.CRITICAL)


class KafkaSource:
    """A member of a consumer group on one topic.

    Parameters
    ----------
    kafka
        Broker, group and fetch settings.
    topic
        What to follow; it is never created from here.

    Raises
    ------
    SourceError
        No broker answers within ANSWER_MS.
    """

    def __init__(self, kafka: Kafka, topic: str) -> None:
        self.kafka = kafka
        self.topic = topic
        self._listener: _Listener | None = None
        self._away = False
        with _translated(kafka):
            self._consumer = KafkaConsumer(
                **connection(kafka),
                group_id=kafka.group_id,
                enable_auto_commit=False,
                auto_offset_reset=kafka.auto_offset_reset,
                max_poll_records=kafka.max_poll_records,
                max_poll_interval_ms=kafka.max_poll_interval_ms,
                session_timeout_ms=kafka.session_timeout_ms,
                heartbeat_interval_ms=max(1, min(3000, kafka.session_timeout_ms // 3)),
                allow_auto_create_topics=False,
            )

    def subscribe(self, owner: Owner) -> None:
        """Join the group; `owner` hears of its partitions during `poll`.

        It is called while `poll` waits, from kafka-python's own thread: it may commit, but must
        not ask for the lag. What it raises, `poll` raises, and from then on nothing is polled.

        Raises
        ------
        SourceError
            There is no such topic. (Joining would have the broker make one, with its defaults.)
        """
        with _translated(self.kafka):
            if not self._consumer.partitions_for_topic(self.topic):
                raise SourceError(_no_topic(self.kafka, self.topic))
            self._listener = _Listener(self._consumer, owner)
            self._consumer.subscribe([self.topic], listener=self._listener)

    def poll(self, timeout_s: float) -> list[Records]:
        """What has been fetched, at most `max_poll_records`; SourceError if Kafka refuses."""
        listener = self._listener
        if listener is None:
            raise ValueError("poll before subscribe: nobody would own what comes")
        if listener.failure is not None:
            raise listener.failure
        with _translated(self.kafka, listener):
            self._remember_the_join()
            polled = self._consumer.poll(
                timeout_ms=int(timeout_s * 1000), max_records=self.kafka.max_poll_records
            )
            if listener.sought:
                self._check(listener.sought)
        return [
            Records(
                topic=self.topic,
                partition=partition.partition,
                offsets=[r.offset for r in records],
                keys=[r.key for r in records],
                values=[r.value for r in records],
                next_offset=records[-1].offset + 1,
            )
            for partition, records in polled.items()
            if records
        ]

    def _remember_the_join(self) -> None:
        """Have a join that an earlier poll began, and had no time to end, ended by the next one.

        kafka-python 3.0.12 joins anew when the topic's partitions change, but no longer knows
        why once the group's leader has read them: the partitions would stay revoked for ever.
        """
        coordinator = self._consumer._coordinator  # noqa: SLF001
        if coordinator.rejoining:
            coordinator.request_rejoin()

    def _check(self, sought: dict[TopicPartition, int]) -> None:
        """Say so if the log no longer (or not yet) has the offset that the owner wants next.

        Kafka then goes on at `auto_offset_reset` without a word.
        """
        wanted = dict(sought)
        sought.clear()
        try:
            firsts = self._consumer.beginning_offsets(list(wanted), timeout_ms=ENDS_MS)
            ends = self._consumer.end_offsets(list(wanted), timeout_ms=ENDS_MS)
        except KafkaTimeoutError:
            return
        for partition, offset in wanted.items():
            if not firsts[partition] <= offset <= ends[partition]:
                log.error(
                    "offset_not_in_log",
                    partition=partition.partition,
                    next_offset=offset,
                    first=firsts[partition],
                    end=ends[partition],
                    goes_on_at=self.kafka.auto_offset_reset,
                )

    def commit(self, next_offsets: Mapping[int, int]) -> None:
        """Tell the group how far each partition is done; for lag tools, so it does not wait."""
        offsets = {
            TopicPartition(self.topic, p): OffsetAndMetadata(offset, "", -1)
            for p, offset in next_offsets.items()
        }
        if offsets:
            with _translated(self.kafka):
                self._consumer.commit_async(offsets, callback=lambda *_: None)

    def lag(self) -> dict[int, int]:
        """Records still to come, for every assigned partition; empty if the broker is away."""
        assigned = list(self._consumer.assignment())
        if not assigned:
            return {}
        try:
            ends = self._consumer.end_offsets(assigned, timeout_ms=ENDS_MS)
            at = {p: self._consumer.position(p, timeout_ms=ENDS_MS) for p in assigned}
        except KafkaError as exc:
            self._note(away=True, why=str(exc))
            return {}
        self._note(away=False)
        return {p.partition: max(0, ends[p] - at[p]) for p in assigned if at[p] is not None}

    def _note(self, *, away: bool, **facts: str) -> None:
        """One line when the broker goes, one when it is back."""
        if away != self._away:
            self._away = away
            event = "broker_away" if away else "broker_back"
            log.warning(event, bootstrap_servers=self.kafka.bootstrap_servers, **facts)

    def close(self) -> None:
        """Leave the group at once, without another commit; the owner is not told."""
        if self._listener is not None:
            self._listener.closed = True
        with _translated(self.kafka):
            self._consumer.close(autocommit=False, timeout_ms=ANSWER_MS)


class KafkaSink:
    """A producer whose `flush` answers for everything sent before it.

    It is idempotent (a retry is not a second record) wherever the broker can be; see
    IDEMPOTENT_SINCE.

    Raises
    ------
    SourceError
        No broker answers within ANSWER_MS, or the codec's module is not installed.
    """

    def __init__(self, kafka: Kafka) -> None:
        self.kafka = kafka
        #: Records that were not acknowledged, since the start.
        self.failed = 0
        self._failures: list[BaseException] = []
        if not _importable(kafka.compression):
            raise SourceError(_install(kafka.compression))
        version = api_version(kafka)
        with _translated(kafka):
            self._producer = KafkaProducer(
                **connection(kafka),
                acks="all",
                enable_idempotence=version is None or version >= IDEMPOTENT_SINCE,
                compression_type=None if kafka.compression == "none" else kafka.compression,
                linger_ms=20,
                batch_size=256 * 1024,
                max_block_ms=SEND_MS,
            )

    def send(
        self,
        topic: str,
        *,
        key: bytes | None,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes]] = (),
    ) -> None:
        """Hand one record to the producer's own thread.

        kafka-python sends no record without key and value: such a one goes with an empty value.

        Raises
        ------
        SourceError
            The topic is not there, or the buffer stayed full for SEND_MS.
        """
        if key is None and value is None:
            value = b""
        try:
            with _translated(self.kafka):
                future = self._producer.send(topic, key=key, value=value, headers=list(headers))
        except SourceError as exc:
            raise SourceError(f"cannot send to {topic}: {exc}") from exc
        future.add_errback(self._failures.append)

    def flush(self) -> None:
        """Wait for every acknowledgement; SourceError if one is missing."""
        with _translated(self.kafka):
            self._producer.flush(timeout=FLUSH_S)
        failures, self._failures[:] = list(self._failures), []
        if failures:
            self.failed += len(failures)
            raise SourceError(
                f"{len(failures)} records were not acknowledged; the first: {_line(failures[0])}"
            )

    def close(self) -> None:
        """Flush, for a moment, and leave; SourceError if something was not acknowledged."""
        with _translated(self.kafka):
            try:
                self._producer.close(timeout=ANSWER_MS / 1000)
            except KafkaTimeoutError:
                # kafka-python leaves its thread behind, which might yet send what is called lost.
                self._producer._sender.force_close()  # noqa: SLF001
                self._producer.close(timeout=ANSWER_MS / 1000)
        if self._failures:
            self.failed += len(self._failures)
            raise SourceError(
                f"{len(self._failures)} records were not acknowledged; the first: "
                f"{_line(self._failures[0])}"
            )


class _Listener(ConsumerRebalanceListener):
    """Passes kafka-python's calls on to an Owner, and seeks where it wants to go on.

    kafka-python keeps only the text of what a listener raises, and would go on without the seek:
    so the exception is kept here, and the source polls no more.
    """

    def __init__(self, consumer: KafkaConsumer, owner: Owner) -> None:
        self.consumer = consumer
        self.owner = owner
        self.failure: Exception | None = None
        self.closed = False
        #: Offsets that the owner asked for and nobody has looked for in the log yet.
        self.sought: dict[TopicPartition, int] = {}

    def on_partitions_assigned(self, assigned: Sequence[TopicPartition]) -> None:
        where = self._tell(self.owner.assigned, assigned) or {}
        for partition in assigned:
            if partition.partition in where:
                self.consumer.seek(partition, where[partition.partition])
                self.sought[partition] = where[partition.partition]

    def on_partitions_revoked(self, revoked: Sequence[TopicPartition]) -> None:
        self._forget(revoked)
        self._tell(self.owner.revoked, revoked)

    def on_partitions_lost(self, lost: Sequence[TopicPartition]) -> None:
        self._forget(lost)
        self._tell(self.owner.lost, lost)

    def _forget(self, partitions: Sequence[TopicPartition]) -> None:
        for partition in partitions:
            self.sought.pop(partition, None)

    def _tell(
        self, method: Callable[[list[int]], Any], partitions: Sequence[TopicPartition]
    ) -> Any:
        if self.closed or not partitions:
            return None
        try:
            return method(sorted(p.partition for p in partitions))
        except Exception as exc:
            self.failure = exc
            raise


def api_version(kafka: Kafka) -> tuple[int, ...] | None:
    """The protocol that the settings name; None: ask the broker."""
    return tuple(int(part) for part in kafka.api_version.split(".")) if kafka.api_version else None


def connection(kafka: Kafka) -> dict[str, Any]:
    """What consumer, producer and admin client share."""
    options: dict[str, Any] = {
        "bootstrap_servers": [a.strip() for a in kafka.bootstrap_servers.split(",")],
        "client_id": "tidemark",
        "security_protocol": kafka.security_protocol,
        "bootstrap_timeout_ms": ANSWER_MS,
        "reconnect_backoff_max_ms": RECONNECT_MS,
    }
    if kafka.api_version:
        options["api_version"] = api_version(kafka)
    if kafka.sasl_mechanism:
        options["sasl_mechanism"] = kafka.sasl_mechanism
        options["sasl_plain_username"] = kafka.sasl_username
        options["sasl_plain_password"] = kafka.sasl_password
    if kafka.ssl_cafile:
        options["ssl_cafile"] = kafka.ssl_cafile
    return options


class GroupLag:
    """How far a consumer group is behind on a topic, asked from outside the group."""

    def __init__(self, kafka: Kafka, topic: str) -> None:
        self.kafka = kafka
        self.topic = topic
        with _translated(kafka):
            self._consumer = _consumer(kafka)
            numbers = self._consumer.partitions_for_topic(topic)
        self._partitions = [TopicPartition(topic, n) for n in sorted(numbers)]
        if not self._partitions:
            self.close()
            raise SourceError(_no_topic(kafka, topic))

    def records(self) -> int:
        """Records that the group has not committed, over all partitions."""
        with _translated(self.kafka):
            firsts = self._consumer.beginning_offsets(self._partitions, timeout_ms=ANSWER_MS)
            ends = self._consumer.end_offsets(self._partitions, timeout_ms=ANSWER_MS)
            done = {p: self._consumer.committed(p, timeout_ms=ANSWER_MS) for p in self._partitions}
        return sum(ends[p] - max(firsts[p], done[p] or 0) for p in self._partitions)

    def close(self) -> None:
        """Leave."""
        self._consumer.close(autocommit=False, timeout_ms=ANSWER_MS)


def check(kafka: Kafka, topic: str) -> list[tuple[str, bool, str]]:
    """(what, whether it is fine, what to do) for `tidemark doctor`; within about ANSWER_MS."""
    checks = [
        (f"codec {codec}", there := _importable(codec), "there" if there else _install(codec))
        for codec in CODECS
    ]
    there = find_spec("crc32c") is not None
    advice = "install crc32c: without it fetching is four times slower"
    checks.append(("crc32c", there, "there" if there else advice))
    try:
        with _translated(kafka):
            consumer = _consumer(kafka)
            try:
                partitions = consumer.partitions_for_topic(topic)
            finally:
                consumer.close(autocommit=False, timeout_ms=ANSWER_MS)
    except SourceError as exc:
        return [*checks, ("broker", False, str(exc))]
    checks.append(("broker", True, f"{kafka.bootstrap_servers} answers"))
    found = f"{topic} has {len(partitions)} partitions"
    missing = _no_topic(kafka, topic)
    return [*checks, ("topic", bool(partitions), found if partitions else missing)]


def _consumer(kafka: Kafka) -> KafkaConsumer:
    """A client that asks about the group and never joins it."""
    return KafkaConsumer(
        **connection(kafka),
        group_id=kafka.group_id,
        enable_auto_commit=False,
        request_timeout_ms=ANSWER_MS,
        session_timeout_ms=ANSWER_MS - 1,
        heartbeat_interval_ms=1000,
    )


def _importable(codec: str) -> bool:
    return codec == "none" or find_spec(CODECS[codec]) is not None


def _install(codec: str) -> str:
    return f"no codec {codec}: install {CODECS[codec]}, or set kafka.compression to another"


def _no_topic(kafka: Kafka, topic: str) -> str:
    return f"no topic {topic} at {kafka.bootstrap_servers}: create it, or set stream.topic"


def _line(exc: BaseException) -> str:
    """An exception's kind and the first line of its text."""
    name, text = type(exc).__name__, str(exc).partition("\n")[0]
    return text if text.startswith(name) else f"{name} {text}".rstrip()


@contextmanager
def _translated(kafka: Kafka, listener: _Listener | None = None) -> Iterator[None]:
    """Kafka's failures as one line that names the broker; an owner's failure as it is."""
    started = time.monotonic()
    try:
        yield
    except (KafkaError, OSError, AssertionError) as exc:
        if listener is not None and listener.failure is not None:
            raise listener.failure from None
        after = time.monotonic() - started
        raise SourceError(
            f"Kafka at {kafka.bootstrap_servers} (kafka.bootstrap_servers): "
            f"{_line(exc)} (after {after:.0f} s)"
        ) from exc
