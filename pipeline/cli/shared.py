"""What the commands share: the options before them, options of their own, settings, JSON out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from pipeline.config import Settings
    from pipeline.register.orders import Act, Done, Order
    from pipeline.register.sql import SqlRegistry, Stream

#: No version, task or partition has a higher number, and no record a higher offset.
LAST, LAST_OFFSET = 2**31 - 1, 2**62

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")]
Supervised = Annotated[
    bool, typer.Option("--supervised", hidden=True, help="End when standard input closes.")
]
StreamName = Annotated[
    str | None, typer.Option("--stream", help="Stream to ask about; default: stream.topic.")
]
Number = Annotated[
    int, typer.Argument(help="Number of the version in its stream.", min=1, max=LAST)
]
Who = Annotated[
    str | None,
    typer.Option("--actor", help="Who decides; kept for the audit. Default: the login name."),
]
Reason = Annotated[str, typer.Option("--reason", help="Why; kept for the audit.")]
RequestId = Annotated[
    str | None,
    typer.Option("--request-id", help="The same id again does nothing, and gets the same answer."),
]


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


@contextmanager
def opened() -> Iterator[tuple[Settings, SqlRegistry]]:
    """Settings and registry, for what is of no one stream."""
    from pipeline.register.sql import SqlRegistry

    settings = read_settings()
    registry = SqlRegistry(settings.database)
    try:
        registry.check_schema()
        yield settings, registry
    finally:
        registry.close()


@contextmanager
def opened_stream(name: str | None) -> Iterator[tuple[Settings, SqlRegistry, Stream]]:
    """The same, and the stream of that name (None: stream.topic); PipelineError without it."""
    from pipeline.errors import PipelineError

    with opened() as (settings, registry):
        name = name or settings.stream.topic
        known = registry.stream(name)
        if known is None:
            names = ", ".join(s.name for s in registry.streams()) or "none yet"
            raise PipelineError(f"no stream {name}; known: {names}")
        yield settings, registry, known


def name_of(actor: str | None) -> str:
    """Who decides: by default the login's name; PipelineError if that is nobody's."""
    from getpass import getuser

    from pipeline.errors import PipelineError
    from pipeline.register.orders import person

    if actor is not None:
        return person(actor)
    try:
        return person(getuser())
    except (KeyError, OSError, ImportError):  # a number without a name, as in a container
        raise PipelineError("this login has no name: say who decides (--actor)") from None


def who(actor: str | None, reason: str, request_id: str | None) -> Act:
    """Who does something, and why; PipelineError if the login has no name."""
    from pipeline.register.orders import Act

    actor = name_of(actor)
    if request_id is None:
        return Act(actor=actor, reason=reason)
    return Act(actor=actor, reason=reason, request_id=request_id)


def do(
    order: Order,
    act: Act,
    stream_name: str | None,
    as_json: bool,
    answer: Callable[[Done], dict[str, Any]] | None = None,
) -> Done:
    """Give an order and say what came of it.

    answer: the facts for --json; by default those of the act, with its time.
    """
    from pipeline.serve.answers import iso
    from pipeline.telemetry import printable

    with opened_stream(stream_name) as (_, registry, known):
        done = registry.act(known.id, order, act)
    if as_json:
        facts = answer(done) if answer else {**done.facts, "at": iso(done.at)}
        print_json({"stream": known.name, **facts})
    else:
        typer.echo(printable(done.sentence))
    return done


def print_json(answer: Any) -> None:
    """Print one JSON value, for people too."""
    import msgspec

    typer.echo(msgspec.json.format(msgspec.json.encode(answer)).decode())
