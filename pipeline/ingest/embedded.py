"""A Kafka-protocol broker inside a process: librdkafka's mock cluster, for the demo and the tests.

It is never a store. It keeps nothing on disk, drops acknowledged records without a word past 5 MiB
or 100,000 batches a partition, has no transactions and no TLS, and speaks protocol 2.3 to
kafka-python. Whoever sends to it waits for the consumer.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pipeline.errors import SourceError

WARNING = "embedded broker for demos and tests: in memory, drops what is over 5 MiB a partition"
_PRODUCER = 0


class MockCluster:
    """One mock broker on a loopback port, for as long as this object lives.

    Parameters
    ----------
    topics
        Name -> number of partitions.
    """

    def __init__(self, topics: Mapping[str, int]) -> None:
        self._rdkafka = lib = _library()
        error = ctypes.create_string_buffer(256)
        conf = lib.rd_kafka_conf_new()  # quiet: it is never asked to connect anywhere
        lib.rd_kafka_conf_set(conf, b"log_level", b"2", error, len(error))
        self._client = lib.rd_kafka_new(_PRODUCER, conf, error, len(error))
        if not self._client:
            raise SourceError(f"embedded broker: {error.value.decode()}")
        self._cluster = lib.rd_kafka_mock_cluster_new(self._client, 1)
        try:
            self._create(topics)
        except BaseException:
            self.close()
            raise
        self.address = lib.rd_kafka_mock_cluster_bootstraps(self._cluster).decode()

    def _create(self, topics: Mapping[str, int]) -> None:
        if not self._cluster:
            raise SourceError("embedded broker: no mock cluster can be made")
        create = self._rdkafka.rd_kafka_mock_topic_create
        for name, partitions in topics.items():
            if create(self._cluster, name.encode(), partitions, 1):
                raise SourceError(f"embedded broker: topic {name} cannot be made")

    def close(self) -> None:
        """End the broker; what it held is gone."""
        if self._cluster:
            self._rdkafka.rd_kafka_mock_cluster_destroy(self._cluster)
        self._rdkafka.rd_kafka_destroy(self._client)


class EmbeddedBroker:
    """The mock cluster in a process of its own, which ends with this one.

    Examples
    --------
    >>> with EmbeddedBroker({"readings": 4}) as broker:
    ...     broker.address.partition(":")[0]
    '127.0.0.1'
    """

    def __init__(self, topics: Mapping[str, int]) -> None:
        self.topics = topics
        self.address = ""
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        command = [sys.executable, "-P", "-m", "pipeline.ingest.embedded"]
        for name, partitions in self.topics.items():
            command += ["--topic", f"{name}:{partitions}"]
        self._process = subprocess.Popen(  # noqa: S603
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        try:
            self.address = self._read_address(self._process)
        except BaseException:
            self._end(self._process)
            raise
        return self

    def _read_address(self, process: subprocess.Popen[bytes]) -> str:
        line = process.stdout.readline() if process.stdout else b""
        if not line:
            raise SourceError(f"the embedded broker ended with code {process.wait()}")
        try:
            return str(json.loads(line)["address"])
        except (ValueError, KeyError, TypeError):
            raise SourceError(f"the embedded broker gave no address: {line!r}") from None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process is not None:
            self._end(self._process)

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        process.terminate()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe:
                pipe.close()


def _library() -> Any:
    """librdkafka as the confluent-kafka wheel carries it, with the types that ctypes must know."""
    import confluent_kafka

    folder = Path(confluent_kafka.__file__).parent
    found = [*folder.parent.glob("confluent_kafka.libs/librdkafka*"), *folder.glob(".dylibs/*rdk*")]
    if not found:
        raise SourceError("confluent-kafka carries no librdkafka here: use a real broker")
    lib = ctypes.CDLL(str(found[0]))
    pointer = ctypes.c_void_p
    lib.rd_kafka_conf_new.restype = pointer
    lib.rd_kafka_conf_set.argtypes = [
        pointer,
        ctypes.c_char_p,
        ctypes.c_char_p,
        ctypes.c_char_p,
        ctypes.c_size_t,
    ]
    lib.rd_kafka_new.restype = pointer
    lib.rd_kafka_new.argtypes = [ctypes.c_int, pointer, ctypes.c_char_p, ctypes.c_size_t]
    lib.rd_kafka_mock_cluster_new.restype = pointer
    lib.rd_kafka_mock_cluster_new.argtypes = [pointer, ctypes.c_int]
    lib.rd_kafka_mock_topic_create.argtypes = [pointer, ctypes.c_char_p, ctypes.c_int, ctypes.c_int]
    lib.rd_kafka_mock_cluster_bootstraps.restype = ctypes.c_char_p
    lib.rd_kafka_mock_cluster_bootstraps.argtypes = [pointer]
    lib.rd_kafka_mock_cluster_destroy.argtypes = [pointer]
    lib.rd_kafka_destroy.argtypes = [pointer]
    return lib


def main() -> None:
    """Run until SIGTERM or until standard input closes; the first line out is the address."""
    parser = argparse.ArgumentParser(description=WARNING)
    parser.add_argument("--topic", action="append", default=[], metavar="NAME:PARTITIONS")
    args = parser.parse_args()
    topics = {name: int(n) for name, _, n in (t.rpartition(":") for t in args.topic)}
    cluster = MockCluster(topics)
    sys.stdout.write(json.dumps({"address": cluster.address, "warning": WARNING}) + "\n")
    sys.stdout.flush()
    while sys.stdin.buffer.read(1024):
        continue
    cluster.close()


if __name__ == "__main__":
    main()
