"""Brokers for tests and benchmarks: real Apache Kafka, and whether there is one."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from kafka import KafkaAdminClient
from kafka.admin import NewTopic
from kafka.errors import KafkaError

SHARED = Path(__file__).parents[2] / "shared" / "kafka"
START_S = 60


def kafka_home() -> Path | None:
    """Where the jars are: KAFKA_HOME, or beside the checkout; None if there is no Kafka."""
    for home in (os.environ.get("KAFKA_HOME"), SHARED):
        if home and (Path(home) / "libs").is_dir() and shutil.which("java"):
            return Path(home)
    return None


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


class RealKafka:
    """One KRaft broker on loopback, its data in `directory`; a killed one comes back with it."""

    def __init__(self, directory: Path, **settings: str) -> None:
        home = kafka_home()
        if home is None:
            raise FileNotFoundError("no Apache Kafka: set KAFKA_HOME to an unpacked release")
        self.directory = directory
        self.port, controller = free_port(), free_port()
        self.address = f"127.0.0.1:{self.port}"
        directory.mkdir(parents=True, exist_ok=True)
        self.properties = directory / "server.properties"
        self.properties.write_text(
            "\n".join(
                f"{name}={value}"
                for name, value in (
                    _properties(directory, self.port, controller) | settings
                ).items()
            )
        )
        self._java = [
            "java", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1",
            "-Dlog4j2.level=ERROR", "-cp", str(home / "libs" / "*"),
        ]  # fmt: skip
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        if not (self.directory / "logs" / "meta.properties").exists():
            subprocess.run(
                [*self._java, "kafka.tools.StorageTool", "format", "-t", "4L6g3nShT-eMCtK--X86sw",
                 "-c", str(self.properties)],
                check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
        with (self.directory / "broker.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*self._java, "kafka.Kafka", str(self.properties)], stdout=log, stderr=log
            )
        deadline = time.monotonic() + START_S
        while not _answers(self.address):
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise TimeoutError((self.directory / "broker.log").read_text()[-2000:])
            time.sleep(0.1)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(30)


def create_topic(address: str, name: str, partitions: int) -> None:
    admin = KafkaAdminClient(bootstrap_servers=address)
    try:
        admin.create_topics([NewTopic(name, partitions, 1)])
    finally:
        admin.close()


def _answers(address: str) -> bool:
    host, _, port = address.partition(":")
    try:
        socket.create_connection((host, int(port)), 0.2).close()
        KafkaAdminClient(
            bootstrap_servers=address, bootstrap_timeout_ms=500, request_timeout_ms=1000
        ).close()
    except (OSError, KafkaError):
        return False
    return True


def _properties(directory: Path, port: int, controller: int) -> dict[str, str]:
    return {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.quorum.voters": f"1@127.0.0.1:{controller}",
        "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}",
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "PLAINTEXT",
        "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
        "log.dirs": str(directory / "logs"),
        "offsets.topic.replication.factor": "1",
        "offsets.topic.num.partitions": "4",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        "share.coordinator.state.topic.replication.factor": "1",
        "share.coordinator.state.topic.min.isr": "1",
        "group.initial.rebalance.delay.ms": "0",
    }
