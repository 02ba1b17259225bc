"""structlog and Prometheus, set up once: one line per thing that happened, with its facts."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from typing import Any, NamedTuple

import structlog
from prometheus_client import CONTENT_TYPE_LATEST as EXPOSITION
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
    start_http_server,
)
from prometheus_client.core import GaugeMetricFamily

from pipeline.errors import SettingsError

__all__ = ["EXPOSITION", "Metrics", "Shown", "configure", "exposition", "printable"]


def configure(log_format: str, *, debug: bool = False, quiet: bool = False) -> None:
    """Send log lines to standard error, as `json` or for people (`console`).

    `auto`: for people on a terminal, JSON elsewhere. quiet: warnings and worse only.
    """
    level = logging.DEBUG if debug else logging.WARNING if quiet else logging.INFO
    console = log_format == "console" or (log_format == "auto" and sys.stderr.isatty())
    renderer: Any = (
        structlog.dev.ConsoleRenderer() if console else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            *([_printable] if console else []),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO if debug else logging.WARNING, format="%(message)s"
    )


def printable(text: str) -> str:
    """Text without control characters: what a stranger wrote must not steer a terminal."""
    return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")


def _printable(_: Any, __: str, facts: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for name, value in facts.items():
        if isinstance(value, str) and name != "exception":
            facts[name] = printable(value)
    return facts


class Metrics:
    """What a stream process counts, on a Prometheus registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.readings = Counter(
            "tidemark_readings", "Readings taken through the stages", registry=self.registry
        )
        self.boundaries = Counter(
            "tidemark_boundaries", "Task boundaries marked", registry=self.registry
        )
        self.dead_letters = Counter(
            "tidemark_dead_letters", "Bad records, by kind", ["kind"], registry=self.registry
        )
        self.lag = Gauge(
            "tidemark_lag_records",
            "Records still to come, by partition",
            ["partition"],
            registry=self.registry,
        )
        self.checkpoint_seconds = Histogram(
            "tidemark_checkpoint_seconds", "Time that a checkpoint takes", registry=self.registry
        )

    def forget_lag(self, partition: int) -> None:
        """Show none for a partition that is somebody else's now."""
        self.lag.remove(str(partition))

    def serve(self, port: int) -> None:
        """Answer on loopback; 0 means not at all.

        Raises
        ------
        SettingsError
            The port is somebody else's.
        """
        if not port:
            return
        try:
            start_http_server(port, addr="127.0.0.1", registry=self.registry)
        except OSError as exc:
            raise SettingsError(f"run.metrics_port: {port}: {exc.strerror}") from None


class Shown(NamedTuple):
    """A gauge that is asked for and kept nowhere: what it is, and the names of its labels."""

    help: str
    labels: tuple[str, ...] = ()


def exposition(
    gauges: Mapping[str, Shown], samples: Iterable[tuple[str, tuple[str, ...], float]]
) -> bytes:
    """Samples (gauge, labels, value) in Prometheus' text format, each gauge as `tidemark_NAME`."""
    families = {
        name: GaugeMetricFamily(f"tidemark_{name}", shown.help, labels=shown.labels)
        for name, shown in gauges.items()
    }
    for name, labels, value in samples:
        families[name].add_metric(labels, value)
    registry = CollectorRegistry()
    registry.register(_Once(families.values()))
    return generate_latest(registry)


class _Once:
    """Families that were made already, as a collector."""

    def __init__(self, families: Iterable[GaugeMetricFamily]) -> None:
        self.families = families

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """All of them."""
        return iter(self.families)
