"""Commands about the agreed envelope: limits inside which no person is asked."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.cli.shared import (
    Json,
    Reason,
    RequestId,
    StreamName,
    Who,
    do,
    opened_stream,
    print_json,
    who,
)
from pipeline.errors import PipelineError

app = typer.Typer(
    help="Limits agreed beforehand: a version outside of them waits for a person.",
    no_args_is_help=True,
)


@app.command()
def show(stream_name: StreamName = None, as_json: Json = False) -> None:
    """The limits that hold, as a file that `set` reads."""
    name, envelopes = _known(stream_name)
    if as_json:
        print_json({"stream": name, "envelope": envelopes[-1] if envelopes else None})
    elif not envelopes:
        typer.echo(f"# no envelope was agreed for {name}: everything is allowed")
    else:
        typer.echo(_file(name, envelopes[-1]), nl=False)


@app.command("set")
def set_(
    reason: Reason,
    actor: Who = None,
    file: Annotated[Path, typer.Option("--file", help="TOML file with the limits.")] = Path(
        "envelope.toml"
    ),
    request_id: RequestId = None,
    stream_name: StreamName = None,
    as_json: Json = False,
) -> None:
    """Agree on limits; an empty file takes all of them away."""
    from pipeline.register.envelope import parsed
    from pipeline.register.orders import Agree

    try:
        tree = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as exc:
        raise PipelineError(f"{file}: {exc.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise PipelineError(f"{file}: not TOML: {exc}") from None
    do(Agree(limits=parsed(tree)), who(actor, reason, request_id), stream_name, as_json)


@app.command()
def history(stream_name: StreamName = None, as_json: Json = False) -> None:
    """Every envelope that was agreed on, by whom and why."""
    name, envelopes = _known(stream_name)
    if as_json:
        print_json(envelopes)
    else:
        typer.echo("\n".join(_file(name, each) for each in envelopes) or "none yet")


def _known(stream_name: str | None) -> tuple[str, list[dict[str, Any]]]:
    """The stream's name, and all of its envelopes as plain data."""
    from pipeline.serve import answers

    with opened_stream(stream_name) as (_, registry, known):
        found = registry.envelopes(known.id)
    return known.name, [answers.envelope(each) for each in found]


def _file(name: str, envelope: dict[str, Any]) -> str:
    from pipeline.config import toml_value
    from pipeline.telemetry import printable

    who_, why = envelope["actor"], envelope["reason"]
    said = f"envelope {envelope['envelope']} of {name}, {envelope['set_at']} by {who_}: {why}"
    limits = dict(envelope["limits"])
    tasks = limits.pop("min_skill_of_task", {})
    lines = [f"# {printable(said)}"]
    lines += [f"{key} = {toml_value(value)}" for key, value in limits.items()]
    if tasks:
        lines += ["[min_skill_of_task]", *(f"{key} = {value}" for key, value in tasks.items())]
    return "\n".join(lines) + "\n"
