"""Settings in, one running process out: each role wired to its adapters, ended by a signal."""

from __future__ import annotations

import os
import socket
import threading

import structlog

from pipeline.config import Settings
from pipeline.register.sql import SqlRegistry

log = structlog.get_logger()


def owner_name(role: str) -> str:
    """Who writes: role, host, process."""
    return f"{role}@{socket.gethostname()}:{os.getpid()}"


def stream(settings: Settings, stop: threading.Event) -> None:
    """Follow the topic until `stop` is set."""
    from pipeline.detect.detectors import check
    from pipeline.ingest.kafka_sink import KafkaSink
    from pipeline.ingest.kafka_source import KafkaSource
    from pipeline.model.kinds import check as check_model
    from pipeline.run.stream import Streamer
    from pipeline.telemetry import Metrics

    _pin_threads(settings)
    check(settings.detect.detectors, settings.detect.error_channel)
    check_model(settings.score, len(settings.stream.channels), settings.stream.label)
    registry = _registry(settings)
    source = KafkaSource(settings.kafka, settings.stream.topic)
    sink = KafkaSink(settings.kafka)
    metrics = Metrics()
    metrics.serve(settings.run.metrics_port)
    try:
        streamer = Streamer(
            settings, source, sink, registry, owner=owner_name("stream"), metrics=metrics
        )
        log.info("stream_started", topic=settings.stream.topic)
        streamer.run(stop.is_set)
    finally:
        source.close()
        sink.close()
        registry.close()
    log.info("stream_stopped")


def train(settings: Settings, stop: threading.Event) -> None:
    """Work requests off until `stop` is set."""
    from pipeline.model.kinds import check
    from pipeline.run.trainer import Trainer

    _pin_threads(settings)
    check(settings.score, len(settings.stream.channels), settings.stream.label)
    registry = _registry(settings)
    try:
        log.info("train_started")
        Trainer(settings, registry, owner=owner_name("train")).run(stop)
    finally:
        registry.close()
    log.info("train_stopped")


def schedule(settings: Settings, stop: threading.Event) -> None:
    """Request what is due until `stop` is set."""
    from pipeline.run.scheduler import Scheduler

    registry = _registry(settings)
    try:
        log.info("schedule_started")
        Scheduler(settings, registry, owner=owner_name("schedule")).run(stop)
    finally:
        registry.close()
    log.info("schedule_stopped")


def _registry(settings: Settings) -> SqlRegistry:
    registry = SqlRegistry(settings.database)
    registry.check_schema()
    return registry


def _pin_threads(settings: Settings) -> None:
    """A stated number of threads: torch's own choice fights the other processes for cores."""
    import torch

    torch.set_num_threads(settings.score.threads)
