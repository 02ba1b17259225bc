"""Settings in, one running process out: each role wired to its adapters, ended by a signal."""

from __future__ import annotations

import gc
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from uuid import uuid4

import structlog

from pipeline.config import Settings, deciding
from pipeline.errors import PipelineError
from pipeline.outage import Outage
from pipeline.register.sql import SqlRegistry
from pipeline.run.service import serving

log = structlog.get_logger()

#: A transaction in which nothing is asked for so long is ended, however short leases are: a busy
#: machine may leave a process waiting for its turn. In seconds.
LEAST_IDLE_S = 5.0
#: Every container's process may be number 1, on machines that were set up with one name.
LIFE = uuid4().hex[:6]


def owner_name(role: str) -> str:
    """Who writes: role, host, process; a lease is held by this name, and two must not share it."""
    return f"{role}@{socket.gethostname()}:{os.getpid()}-{LIFE}"


def stream(settings: Settings, stop: threading.Event) -> None:
    """Follow the topic until `stop` is set."""
    from pipeline.detect.detectors import check
    from pipeline.ingest.kafka_sink import KafkaSink
    from pipeline.ingest.kafka_source import KafkaSource
    from pipeline.ingest.kafka_transactions import KafkaTransactions
    from pipeline.model.kinds import check as check_model
    from pipeline.run.stream import Streamer
    from pipeline.telemetry import Metrics

    _pin_threads(settings)
    check(settings.detect.detectors, settings.detect.error_channel)
    check_model(settings.score, len(settings.stream.channels), settings.stream.label)
    metrics = Metrics(settings.stream.topic)
    metrics.serve(settings.run.metrics_host, settings.run.metrics_port)
    with ExitStack() as stack:
        service, stop = stack.enter_context(serving(settings, stop, "stream"))
        broker = Outage("broker", settings.run.outage_limit_s, stop)
        registry = stack.enter_context(_registry(settings, stop, "stream"))
        sink = broker.ask(lambda: KafkaSink(settings.kafka, broker))
        stack.push(_closing(sink.close))
        source = broker.ask(lambda: KafkaSource(settings.kafka, settings.stream.topic, broker))
        stack.push(_closing(source.close))
        transactions = None
        if settings.kafka.exactly_once:
            transactions = broker.ask(lambda: KafkaTransactions(settings.kafka, source, broker))
            stack.callback(transactions.close)
        registry.outage.pause = broker.pause = source.idle
        streamer = Streamer(
            settings,
            source,
            sink,
            registry,
            owner=owner_name("stream"),
            transactions=transactions,
            metrics=metrics,
            alive=service.alive,
        )
        log.info("stream_started", topic=settings.stream.topic)
        streamer.run(stop.is_set, service.ready)
    log.info("stream_stopped")


def train(settings: Settings, stop: threading.Event) -> None:
    """Work requests off until `stop` is set."""
    from pipeline.model.kinds import check
    from pipeline.run.trainer import Trainer

    _pin_threads(settings)
    check(settings.score, len(settings.stream.channels), settings.stream.label)
    with (
        serving(settings, stop, "train") as (service, stop),
        _registry(settings, stop, "train") as registry,
    ):
        log.info("train_started")
        service.ready()
        Trainer(settings, registry, owner=owner_name("train")).run(stop)
    log.info("train_stopped")


def schedule(settings: Settings, stop: threading.Event, config: Path | None = None) -> None:
    """Do what is due until `stop` is set; config: the file in which schedules may change."""
    from pipeline.run.reloading import Reloading
    from pipeline.run.scheduler import Scheduler

    changed = Reloading(config, settings).schedules
    with (
        serving(settings, stop, "schedule") as (service, stop),
        _registry(settings, stop, "schedule") as registry,
    ):
        scheduler = Scheduler(settings, registry, owner=owner_name("schedule"), changed=changed)
        log.info("schedule_started")
        service.ready()
        scheduler.run(stop)
    log.info("schedule_stopped")


def notify(settings: Settings, stop: threading.Event) -> None:
    """Tell whoever wants to be told, until `stop` is set."""
    from pipeline.run.notifier import Notifier

    with (
        serving(settings, stop, "notify") as (service, stop),
        _registry(settings, stop, "notify") as registry,
    ):
        log.info("notify_started", rules=[rule.name for rule in settings.notify])
        service.ready()
        Notifier(settings, registry, owner=owner_name("notify"), stop=stop).run()
    log.info("notify_stopped")


def serve(settings: Settings, stop: threading.Event) -> None:
    """Answer over HTTP until `stop` is set.

    Raises
    ------
    SettingsError
        Anybody could come in, or the address is not to be had.
    """
    from pipeline.serve.http import server
    from pipeline.serve.http.app import create

    with ExitStack() as stack:
        service, stop = stack.enter_context(serving(settings, stop, "serve"))
        registry = stack.enter_context(_registry(settings, stop, "serve"))
        app = create(settings, registry, stop=stop)
        server.check(settings.serve, registry.outage.ask(app.state.house.tokens.all))
        listener = stack.enter_context(server.listen(settings.serve))
        host, port = listener.getsockname()[:2]
        scheme = "https" if settings.serve.tls_cert else "http"
        log.info("serve_started", address=f"{scheme}://{host}:{port}/")
        gc.collect()
        gc.freeze()  # what is there now stays; nobody waits for an answer while it is gone through
        stack.callback(gc.unfreeze)
        server.run(app, settings.serve, listener, stop, service.ready)
    log.info("serve_stopped")


def _closing(close: Callable[[], None]) -> Callable[..., None]:
    """An exit that closes; if something has failed already, that is what is told."""

    def leave(kind: object, failure: BaseException | None, trace: object) -> None:
        try:
            close()
        except PipelineError:
            if failure is None:
                raise

    return leave


@contextmanager
def _registry(settings: Settings, stop: threading.Event, role: str) -> Iterator[SqlRegistry]:
    """The registry at head, held against migrations before its schema is looked at; an outage of
    its database is waited out."""
    outage = Outage("database", settings.run.outage_limit_s, stop)
    registry = SqlRegistry(settings.database, outage=outage)
    try:
        registry.run_as(owner_name(role), max(settings.run.lease_s, LEAST_IDLE_S))
        registry.check_schema()
        registry.note_settings(role, settings.stream.topic, deciding(settings), owner_name(role))
        yield registry
    finally:
        registry.close()


def _pin_threads(settings: Settings) -> None:
    """A stated number of threads: torch's own choice fights the other processes for cores."""
    import torch

    torch.set_num_threads(settings.score.threads)
