"""What the commands share: the options before them, options of their own, settings, JSON out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from pipeline.config import Settings
    from pipeline.register.sql import SqlRegistry, Stream

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")]
StreamName = Annotated[
    str | None, typer.Option("--stream", help="Stream to ask about; default: stream.topic.")
]


Actor = Annotated[str, typer.Option("--actor", help="Who asks; kept for the audit.")]
Reason = Annotated[str, typer.Option("--reason", help="Why; kept for the audit.")]


@dataclass(slots=True)
class Options:
    """What stands before the command."""

    config: Path | None = None
    debug: bool = False


options = Options()


def read_settings(*, quiet: bool = False) -> Settings:
    """The settings, with the log set up as they say; quiet: only what is wrong is logged."""
    from pipeline.config import load
    from pipeline.telemetry import configure

    settings = load(options.config)
    configure(settings.run.log_format, debug=options.debug, quiet=quiet)
    return settings


def open_stream(name: str | None) -> tuple[SqlRegistry, Stream]:
    """The registry, and the stream of that name (None: stream.topic); PipelineError without it."""
    from pipeline.errors import PipelineError
    from pipeline.register.sql import SqlRegistry

    settings = read_settings()
    registry = SqlRegistry(settings.database)
    registry.check_schema()
    name = name or settings.stream.topic
    known = registry.stream(name)
    if known is None:
        names = ", ".join(s.name for s in registry.streams()) or "none yet"
        raise PipelineError(f"no stream {name}; known: {names}")
    return registry, known


def print_json(answer: Any) -> None:
    """Print one JSON value, for people too."""
    import msgspec

    typer.echo(msgspec.json.format(msgspec.json.encode(answer)).decode())
