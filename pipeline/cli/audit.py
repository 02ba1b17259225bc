"""Commands that ask the history: what was live, why, with which figures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer

from pipeline.cli.shared import Json, StreamName, print_json, read_settings

app = typer.Typer(
    help="Ask the history: what was live, why, with which figures.", no_args_is_help=True
)

Time = Annotated[str, typer.Argument(help="ISO 8601 with zone, or `now`.")]
Number = Annotated[int, typer.Argument(help="Number of the version in its stream.", min=1)]


def ask(
    question: Callable[[Any, str], Any],
    stream_name: str | None,
    as_json: bool,
    show: Callable[[Any], None] | None = None,
) -> None:
    """Put one question to the history; an answer is a mapping or a list of them.

    show: prints it for people; None: as one answer, or as versions.
    """
    from pipeline.register.migrate import check_schema
    from pipeline.run.report import print_answer
    from pipeline.serve.lineage import Lineage

    settings = read_settings()
    check_schema(settings.database)
    lineage = Lineage(settings.database)
    try:
        answer = question(lineage, stream_name or settings.stream.topic)
    finally:
        lineage.close()
    if as_json:
        print_json(answer)
    else:
        (show or print_answer)(answer)


@app.command("live-at")
def live_at(at: Time, stream_name: StreamName = None, as_json: Json = False) -> None:
    """Which version was live at a time."""
    from pipeline.run.times import parse_time

    when = parse_time(at)
    ask(lambda lineage, name: lineage.live_at(name, when), stream_name, as_json)


@app.command()
def why(number: Number, stream_name: StreamName = None, as_json: Json = False) -> None:
    """Why a version was trained: detector, statistic, offsets, or who asked."""
    ask(lambda lineage, name: lineage.why(name, number), stream_name, as_json)


@app.command("metrics-at")
def metrics_at(at: Time, stream_name: StreamName = None, as_json: Json = False) -> None:
    """Which figures the version had that was live at a time."""
    from pipeline.run.times import parse_time

    when = parse_time(at)
    ask(lambda lineage, name: lineage.metrics_at(name, when), stream_name, as_json)


@app.command()
def history(stream_name: StreamName = None, as_json: Json = False) -> None:
    """Every version with its parent, reason, figures and fate."""
    ask(lambda lineage, name: lineage.history(name), stream_name, as_json)


@app.command()
def lineage(number: Number, stream_name: StreamName = None, as_json: Json = False) -> None:
    """A version's parents, back to the bootstrap."""
    ask(lambda lineage, name: lineage.lineage(name, number), stream_name, as_json)


@app.command()
def card(number: Number, stream_name: StreamName = None, as_json: Json = False) -> None:
    """Everything about a version on one page: why, on what, how, how good, what became of it."""
    from pipeline.serve.card import page

    ask(
        lambda lineage, name: lineage.card(name, number),
        stream_name,
        as_json,
        lambda found: typer.echo(page(found), nl=False),
    )


@app.command()
def events(stream_name: StreamName = None, as_json: Json = False) -> None:
    """Every sensor that fell silent, repeats one value or is back; records that were lost."""
    from pipeline.run.report import print_events

    ask(lambda lineage, name: lineage.events(name), stream_name, as_json, print_events)
