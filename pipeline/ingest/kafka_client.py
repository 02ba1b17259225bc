"""What Source and Sink over kafka-python share, and what is asked of a broker beside them."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, TypeVar

from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from kafka.errors import KafkaError, KafkaTimeoutError
from kafka.net.compat import KafkaNetClient

from pipeline.config import TRANSACTIONS_SINCE, Kafka
from pipeline.errors import BrokerAway, SourceError

#: How long a broker may take to answer at all before we say so, in milliseconds.
ANSWER_MS = 5000
#: The same for whoever asks again anyway, and looks in between whether to stop.
ASKED_AGAIN_MS = 500
#: Longest farewell to a broker, in milliseconds: a process that is told to stop has a few seconds.
FAREWELL_MS = 500
#: Longest wait between two attempts to reach a broker that is away, in milliseconds.
RECONNECT_MS = 1000
#: Codec -> module that kafka-python needs for it.
CODECS = {"gzip": "zlib", "snappy": "snappy", "lz4": "lz4", "zstd": "zstandard"}

Client = TypeVar("Client")

# Its failures reach us as exceptions; while a broker is away it logs dozens of lines a second.
logging.getLogger("kafka").setLevel(logging.CRITICAL)


def api_version(kafka: Kafka) -> tuple[int, ...] | None:
    """The protocol that the settings name; None: ask the broker."""
    return kafka.protocol or None


def client(kind: Callable[..., Client], kafka: Kafka, **more: Any) -> Client:
    """A consumer, producer or admin client; whatever kafka-python raises if it cannot be made.

    It would leave its thread and a socket behind then, again at each attempt in an outage.
    """
    nets: list[KafkaNetClient] = []

    def net(**options: Any) -> KafkaNetClient:
        nets.append(KafkaNetClient(**options))
        return nets[-1]

    try:
        return kind(**connection(kafka) | more, kafka_client=net)
    except BaseException:
        for each in nets:
            each.close()
            each._net.stop()  # noqa: SLF001
        raise


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
    files = ("ssl_cafile", "ssl_certfile", "ssl_keyfile", "ssl_password")
    options |= {name: value for name in files if (value := getattr(kafka, name))}
    if not kafka.ssl_check_hostname:
        options["ssl_check_hostname"] = False
    return options


def reach(kafka: Kafka, *, within_ms: int | None = None) -> None:
    """Wait for a broker to take a connection; OSError if none does within ANSWER_MS, or less.

    With kafka.api_version set, kafka-python asks nobody at first, and then waits without end.
    """
    until = time.monotonic() + (ANSWER_MS if within_ms is None else within_ms) / 1000
    addresses = [a.strip().rpartition(":") for a in kafka.bootstrap_servers.split(",")]
    while True:
        for host, _, port in addresses:
            try:
                socket.create_connection((host.strip("[]"), int(port)), timeout=1).close()
            except OSError as exc:
                failure = exc
            else:
                return
        if time.monotonic() > until:
            raise failure
        time.sleep(RECONNECT_MS / 10_000)


class GroupLag:
    """How far a consumer group is behind on a topic, asked from outside the group."""

    def __init__(self, kafka: Kafka, topic: str) -> None:
        self.kafka = kafka
        self.topic = topic
        with translated(kafka):
            reach(kafka)
            self._consumer = _consumer(kafka)
        try:
            self._partitions = self._known_partitions()
        except BaseException:
            self.close()
            raise

    def _known_partitions(self) -> list[TopicPartition]:
        with translated(self.kafka):
            numbers = self._consumer.partitions_for_topic(self.topic)
        if not numbers:
            raise SourceError(f"{no_topic(self.kafka, self.topic)}, or set stream.topic")
        return [TopicPartition(self.topic, n) for n in sorted(numbers)]

    def records(self) -> int:
        """Records that the group has not committed, over all partitions."""
        with translated(self.kafka):
            firsts = self._consumer.beginning_offsets(self._partitions, timeout_ms=ANSWER_MS)
            ends = self._consumer.end_offsets(self._partitions, timeout_ms=ANSWER_MS)
            done = {p: self._consumer.committed(p, timeout_ms=ANSWER_MS) for p in self._partitions}
        return sum(ends[p] - max(firsts[p], done[p] or 0) for p in self._partitions)

    def close(self) -> None:
        """Leave."""
        self._consumer.close(autocommit=False, timeout_ms=ANSWER_MS)


def check(kafka: Kafka, topic: str, results: Sequence[str] = ()) -> list[tuple[str, bool, str]]:
    """(what, whether it is fine, what to do) for `tidemark doctor`; within about ANSWER_MS.

    topic: with the readings. results: topics that what is found goes to.
    """
    checks = [
        (f"codec {codec}", there := importable(codec), "there" if there else install(codec))
        for codec in CODECS
    ]
    there = find_spec("crc32c") is not None
    advice = "install crc32c: without it fetching is four times slower"
    checks.append(("crc32c", there, "there" if there else advice))
    try:
        with translated(kafka):
            numbers = partitions(kafka, (topic, *results))
            new = not kafka.exactly_once or _version(kafka) >= TRANSACTIONS_SINCE
    except SourceError as exc:
        return [*checks, ("broker", False, str(exc))]
    checks.append(("broker", True, f"{kafka.bootstrap_servers} answers"))
    if kafka.exactly_once:
        checks.append(("exactly once", new, "has transactions" if new else too_old(kafka)))
    for name, members in numbers.items():
        what, advice = _advice(topic, name)
        found = f"{name} has {len(members)} partitions"
        missing = f"{no_topic(kafka, name)}, {advice}"
        checks.append((what, bool(members), found if members else missing))
    return checks


def partitions(
    kafka: Kafka, topics: Sequence[str], *, within_ms: int | None = None
) -> dict[str, set[int]]:
    """Topic -> its partitions, none of one that is not there; Kafka's own error if it is away.

    By a client of its own: kafka-python's consumer and producer wait for a broker that is away, the
    one without end, the other until it says that there is no such topic.
    """
    reach(kafka, within_ms=within_ms)
    admin = client(KafkaAdminClient, kafka, request_timeout_ms=ANSWER_MS)
    try:
        told = admin.describe_topics(list(topics))
    finally:
        admin.close()
    return {each["name"]: {p["partition_index"] for p in each["partitions"]} for each in told}


def _version(kafka: Kafka) -> tuple[int, ...]:
    """The newest protocol that kafka-python and the broker both speak."""
    consumer = _consumer(kafka)
    try:
        found: tuple[int, ...] = consumer.config["api_version"]
    finally:
        consumer.close(autocommit=False, timeout_ms=ANSWER_MS)
    return found


def _advice(topic: str, name: str) -> tuple[str, str]:
    """What the check of a topic is called, and what may be done besides creating it."""
    if name == topic:
        return "topic", "or set stream.topic"
    return f"topic {name}", "unless the broker makes topics by itself"


def _consumer(kafka: Kafka) -> KafkaConsumer:
    """A client that asks about topics and the group, makes none and never joins it."""
    return client(
        KafkaConsumer,
        kafka,
        group_id=kafka.group_id,
        enable_auto_commit=False,
        isolation_level=kafka.isolation_level,
        allow_auto_create_topics=False,
        request_timeout_ms=ANSWER_MS,
        session_timeout_ms=ANSWER_MS - 1,
        heartbeat_interval_ms=1000,
    )


def importable(codec: str) -> bool:
    """Whether kafka-python finds what it needs for the codec."""
    return codec == "none" or find_spec(CODECS[codec]) is not None


def install(codec: str) -> str:
    """What to do about a codec that is not importable."""
    return f"no codec {codec}: install {CODECS[codec]}, or set kafka.compression to another"


def no_topic(kafka: Kafka, topic: str) -> str:
    """What to do about a topic that is not there."""
    return f"no topic {topic} at {kafka.bootstrap_servers}: create it"


def first_line(exc: BaseException) -> str:
    """An exception's kind and the first line of its text."""
    name, text = type(exc).__name__, str(exc).partition("\n")[0]
    return text if text.startswith(name) else f"{name} {text}".rstrip()


def too_old(kafka: Kafka) -> str:
    """What to do about a broker that has no transactions, or none that fence."""
    since = ".".join(map(str, TRANSACTIONS_SINCE))
    return f"kafka.exactly_once needs Kafka {since} or newer at {kafka.bootstrap_servers}: unset it"


@contextmanager
def translated(kafka: Kafka) -> Iterator[None]:
    """Kafka's failures as a SourceError of one line that names the broker.

    Raises
    ------
    BrokerAway
        It may answer another time; kafka-python says so of most failures that pass.
    """
    started = time.monotonic()
    try:
        yield
    except (KafkaError, OSError, AssertionError) as exc:
        after = time.monotonic() - started
        kind = BrokerAway if _passing(exc) else SourceError
        raise kind(
            f"Kafka at {kafka.bootstrap_servers} (kafka.bootstrap_servers): "
            f"{first_line(exc)} (after {after:.0f} s)"
        ) from exc


def _passing(exc: BaseException) -> bool:
    away = (OSError, KafkaTimeoutError)
    return isinstance(exc, away) or getattr(exc, "retriable", False)
