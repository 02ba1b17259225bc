"""Settings in, a broker, a database and processes out, all real, that can be hurt one by one."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from msgspec.structs import replace
from sqlalchemy import make_url

from pipeline.config import (
    Database,
    Detect,
    Gate,
    Kafka,
    Learn,
    Run,
    Schedule,
    Score,
    Settings,
    Stream,
    as_toml,
)
from pipeline.register.migrate import upgrade
from tests.brokers import RealKafka, create_stream_topics
from tests.chaos.log import CHANNELS, PARTITIONS
from tests.chaos.member import Member
from tests.chaos.plan import GUEST, MEMBERS, SESSION_S
from tests.chaos.proxy import Proxy, Target
from tests.databases import new_database, patiently, pgserver, server_directory, turn_off

TOPIC = "chaos"
#: A server is given so long to come up, in seconds.
START_S = 90.0


def settings(brokers: str, database: Database, group: str, seed: int) -> Settings:
    """What both runs have in common: short sessions and leases, small models, no limit that a busy
    machine could reach."""
    return Settings(
        kafka=Kafka(
            bootstrap_servers=brokers,
            group_id=group,
            session_timeout_ms=int(1000 * SESSION_S),
            max_poll_interval_ms=60_000,
            max_poll_records=500,
            assignment="cooperative-sticky" if seed % 2 else "range",
        ),
        stream=Stream(topic=TOPIC, channels=tuple(f"c{i}" for i in range(CHANNELS))),
        database=database,
        score=Score(window=8, hidden=8),
        detect=Detect(warm_up=60, fit_after=100, settle_after=60),
        learn=Learn(
            adapt_after=64,
            refine_after=0,
            segment_capacity=200,
            reservoir_capacity=200,
            fisher_rows=200,
            epochs=2,
            max_seconds=3600.0,
        ),
        gate=Gate(bootstrap=100),
        run=Run(
            checkpoint_interval_s=1.0,
            poll_timeout_s=0.2,
            lease_s=SESSION_S,
            max_attempts=1_000_000,
            log_format="json",
        ),
        schedule=(Schedule(name="minutely", cron="* * * * *"),),
    )


class Postgres:
    """A server whose processes may be ended at once; what was committed outlives that."""

    def __init__(self, data: Path) -> None:
        self.server = pgserver().get_server(data, cleanup_mode="stop", start=False)
        patiently(self.server.start)
        url = self.server.get_uri().replace("postgresql://", "postgresql+psycopg://")
        self.url = make_url(url).render_as_string(hide_password=False)
        turn_off(self.url, "fsync")  # what is written outlives the server, not the machine

    def socket(self) -> Target:
        return str(self.server.get_postmaster_info().socket_path)

    def shut_down_at_once(self) -> None:
        """As `pg_ctl stop -m immediate`: no checkpoint, every connection gone."""
        pid = self.server.get_pid()
        os.kill(pid, signal.SIGQUIT)
        deadline = time.monotonic() + START_S
        while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
            time.sleep(0.02)

    def pids(self) -> list[int]:
        """The server's processes, the one that starts the others first."""
        pid = self.server.get_pid()
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text()
        return [pid, *map(int, children.split())]

    def start(self) -> None:
        """Come back."""
        patiently(self.server.ensure_postgres_running)

    def stop(self) -> None:
        self.server.cleanup()


class Cast:
    """Everything that runs, each in a directory's own files; ended by id on the way out.

    Parameters
    ----------
    directory
        Where data, settings and the processes' logs go.
    exactly_once
        Whether results go out in Kafka transactions.
    """

    def __init__(self, directory: Path, seed: int, *, exactly_once: bool) -> None:
        self.directory = directory
        self.seed = seed
        self.exactly_once = exactly_once
        self._stack = ExitStack()
        self._hands = ThreadPoolExecutor(1, "server")
        self._coming: Future[None] | None = None

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.to_broker = stack.enter_context(Proxy(self._broker_target))
            self.broker = RealKafka(self.directory / "kafka", proxy=self.to_broker.port)
            stack.enter_context(self.broker)
            data = server_directory()
            stack.callback(shutil.rmtree, data, ignore_errors=True)
            self.postgres = Postgres(data)
            stack.callback(self.postgres.stop)
            self.to_database = stack.enter_context(Proxy(lambda: self.postgres.socket()))
            create_stream_topics(self.broker.address, TOPIC, PARTITIONS)
            #: As the comparison reaches it, past the proxy.
            self.database = new_database(self.postgres.url)
            upgrade(self.database)
            self.members = self._members()
            stack.callback(self._end)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def settings(self, group: str, database: Database, *, proxied: bool = False) -> Settings:
        """Of a run as that group, with or without the proxies in between."""
        brokers = f"127.0.0.1:{self.to_broker.port}" if proxied else self.broker.address
        return settings(brokers, database, group, self.seed)

    def start(self) -> None:
        """All but the guest."""
        for name in MEMBERS:
            self.members[name].start()

    def settle(self) -> None:
        """Wait for a server that comes back; raises what it raised that starts it."""
        coming, self._coming = self._coming, None
        if coming is not None:
            coming.result()

    def come_back(self, start: Callable[[], None]) -> None:
        """A server starts, while the next blows fall."""
        self._coming = self._hands.submit(start)

    def hold(self, pids: Sequence[int], seconds: float) -> None:
        """A server stands still, while the next blows fall."""
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)

        def go_on() -> None:
            time.sleep(seconds)
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

        self.come_back(go_on)

    def _broker_target(self) -> Target:
        return "127.0.0.1", self.broker.behind

    def _members(self) -> dict[str, Member]:
        url = make_url(self.database.url)
        proxied = url.set(host="127.0.0.1", port=self.to_database.port, query={})
        database = Database(url=proxied.render_as_string(hide_password=False))
        config = self.directory / "chaos.toml"
        members = self.settings("chaos", database, proxied=True)
        kafka = replace(members.kafka, exactly_once=self.exactly_once)
        self.settings_of_members = replace(members, kafka=kafka)
        config.write_text(as_toml(self.settings_of_members))
        return {name: Member(name, config) for name in (*MEMBERS, GUEST)}

    def _end(self) -> None:
        with suppress(KeyboardInterrupt, Exception):  # said where it was raised first
            self.settle()
        for member in self.members.values():
            member.resume()
            member.kill()
