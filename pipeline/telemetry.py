"""structlog and Prometheus, set up once: one line per thing that happened, with its facts."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np
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
from pipeline.records import FloatArray

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
    """What a process that follows a stream counts, on a Prometheus registry of its own.

    Parameters
    ----------
    stream
        Name that every metric has as a label, as those of `tidemark serve` do.
    """

    def __init__(self, stream: str) -> None:
        self.stream = stream
        self.registry = CollectorRegistry()
        self.readings = self._counter("readings", "Readings taken through the stages")()
        self.boundaries = self._counter("boundaries", "Task boundaries marked")()
        self.alarms = self._counter(
            "alarms", "Alarms of river's detectors, which propose boundaries", "detector"
        )
        self.dead_letters = self._counter("dead_letters", "Bad records, by kind", "kind")
        self.lag = Gauge(
            "tidemark_lag_records",
            "Records still to come, by partition",
            ["stream", "partition"],
            registry=self.registry,
        )
        self.checkpoint_seconds = Histogram(
            "tidemark_checkpoint_seconds",
            "Time that a checkpoint takes",
            ["stream"],
            registry=self.registry,
        ).labels(stream)
        self._scored = self._counter("scored_readings", "Readings that have a score")()
        self._loss = self._counter(
            "live_loss", "Sum of the champion's scores; by scored_readings, its live loss"
        )()

    def _counter(self, name: str, shown: str, *labels: str) -> Callable[..., Counter]:
        """A counter's child by its labels but the stream."""
        made = Counter(f"tidemark_{name}", shown, ["stream", *labels], registry=self.registry)
        return partial(made.labels, self.stream)

    def score(self, scores: FloatArray) -> None:
        """Take the champion's scores (N,) in; NaN: a reading has none."""
        known = scores[np.isfinite(scores)]
        self._scored.inc(len(known))
        self._loss.inc(float(known.sum(dtype=np.float64)))

    def take_lag(self, partition: int, records: int) -> None:
        """Show how far behind a partition is."""
        self.lag.labels(self.stream, str(partition)).set(records)

    def forget_lag(self, partition: int) -> None:
        """Show none for a partition that is somebody else's now."""
        self.lag.remove(self.stream, str(partition))

    def serve(self, host: str, port: int) -> None:
        """Answer whoever asks there, without a token; port 0 means not at all.

        Raises
        ------
        SettingsError
            The address is not ours, or the port is somebody else's.
        """
        if not port:
            return
        try:
            start_http_server(port, addr=host, registry=self.registry)
        except (OSError, UnicodeError) as exc:  # the latter of a name that is none
            why = getattr(exc, "strerror", None) or exc
            raise SettingsError(
                f"run.metrics_host, run.metrics_port: {host}:{port}: {why}"
            ) from None


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
