"""structlog and Prometheus, set up once: one line per thing that happened, with its facts."""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from pipeline.errors import SettingsError


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
