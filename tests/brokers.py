"""Brokers for tests and benchmarks: a real Apache Kafka of one node, started from its jars.

The jars come from `KAFKA_HOME` or, beside this checkout, `../shared/kafka`; Java 17 runs them.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from kafka import KafkaAdminClient
from kafka.admin import NewTopic
from kafka.errors import KafkaError

from pipeline.config import Kafka, Stream
from pipeline.ingest.kafka_client import client

#: Longest wait for a broker's first answer, in seconds.
START_S = 180.0
CLUSTER_ID = "4L6g3nShT-eMCtK--X86sw"
JAVA = ("java", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}{more}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}{through}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT
log.dirs={data}/logs
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
log.cleaner.backoff.ms=200
auto.create.topics.enable=false
"""


def kafka_home() -> Path | None:
    """Where Kafka's `libs/` lies, if there is one and Java to run it."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "kafka"
    home = Path(os.environ.get("KAFKA_HOME") or beside)
    return home if (home / "libs").is_dir() and shutil.which("java") else None


def free_ports(n: int) -> list[int]:
    """Loopback ports that nobody listens on."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(n)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


class RealKafka:
    """One KRaft broker on loopback; its data lives in `data` and outlives `kill` and `start`.

    Parameters
    ----------
    data
        A directory of its own.
    proxy
        Port that clients which come through `behind` are told to come through; None: there are
        none.
    """

    def __init__(self, data: Path, proxy: int | None = None) -> None:
        self.data = data
        self.proxy = proxy
        self.port, self.controller, self.behind = free_ports(3)
        self.address = f"127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Format the data on first use, run the broker, wait until it answers."""
        self.data.mkdir(parents=True, exist_ok=True)
        properties = self.data / "server.properties"
        properties.write_text(self._properties())
        if not (self.data / "logs" / "meta.properties").exists():
            self._java("kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c", properties)
        with (self.data / "broker.log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command("kafka.Kafka", properties),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            self._wait()
        except BaseException:
            self.kill()
            raise

    def _properties(self) -> str:
        more, through = "", ""
        if self.proxy is not None:
            more = f",PROXIED://127.0.0.1:{self.behind}"
            through = f",PROXIED://127.0.0.1:{self.proxy}"
        return PROPERTIES.format(
            port=self.port, controller=self.controller, data=self.data, more=more, through=through
        )

    def stop(self) -> None:
        """SIGTERM; SIGKILL if it has not gone after ten seconds."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self.kill()
        self._process = None

    @property
    def pid(self) -> int:
        """Of the broker's process; RuntimeError if there is none."""
        if self._process is None:
            raise RuntimeError("the broker does not run")
        return self._process.pid

    def kill(self) -> None:
        """SIGKILL, as a power cut would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _wait(self) -> None:
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            if self._process is None or self._process.poll() is not None:
                raise RuntimeError(f"Kafka ended: {(self.data / 'broker.log').read_text()[-2000:]}")
            if _answers(self.address):
                return
            time.sleep(0.1)
        raise RuntimeError(f"Kafka gave no answer on {self.address} within {START_S} s")

    def _java(self, *arguments: object) -> None:
        subprocess.run(self._command(*arguments), check=True, capture_output=True, timeout=START_S)

    def _command(self, *arguments: object) -> list[str]:
        home = kafka_home()
        if home is None:
            raise RuntimeError("no Kafka: set KAFKA_HOME to an unpacked release, and install Java")
        logging = home / "log4j2.yaml"
        options = [f"-Dlog4j2.configurationFile={logging}"] if logging.exists() else []
        return [*JAVA, *options, "-cp", f"{home / 'libs'}/*", *map(str, arguments)]


def _answers(address: str) -> bool:
    """Whether a broker tells its topics; with short timeouts, as a young one may not answer."""
    with suppress(OSError):
        socket.create_connection(_split(address), timeout=1).close()
        with suppress(KafkaError):
            admin = _admin(address, timeout_ms=2000)
            try:
                admin.list_topics()
                return True
            finally:
                admin.close()
    return False


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host, int(port)


def _admin(address: str, timeout_ms: int = 10_000) -> KafkaAdminClient:
    within = {"request_timeout_ms": timeout_ms, "bootstrap_timeout_ms": timeout_ms}
    return client(KafkaAdminClient, Kafka(bootstrap_servers=address), **within)


def create_topic(
    address: str, name: str, partitions: int, config: dict[str, str] | None = None
) -> None:
    """Make a topic with one replica; `config` as Kafka's topic settings."""
    admin = _admin(address)
    try:
        topic = NewTopic(name, partitions, 1, topic_configs=config or {})
        admin.create_topics([topic])
    finally:
        admin.close()


def create_stream_topics(address: str, name: str, partitions: int) -> None:
    """Make a topic, and those of one partition that a stream's results go to."""
    create_topic(address, name, partitions)
    for result in Stream(topic=name).result_topics:
        create_topic(address, result, 1)
