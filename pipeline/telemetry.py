"""structlog and Prometheus, set up once: one line per thing that happened, with its facts."""

from __future__ import annotations

import logging
import sys
from typing import Any

import structlog

from pipeline.config import Run


def configure(run: Run, *, debug: bool = False) -> None:
    """Send log lines to standard error: for people on a terminal, as JSON elsewhere."""
    console = run.log_format == "console" or (run.log_format == "auto" and sys.stderr.isatty())
    renderer: Any = (
        structlog.dev.ConsoleRenderer() if console else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.DEBUG if debug else logging.INFO
        ),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO if debug else logging.WARNING, format="%(message)s"
    )
