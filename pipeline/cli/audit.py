"""Commands that ask the history: the nine questions of the audit, and lists of what there is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer

from pipeline.cli.shared import (
    LAST,
    LAST_OFFSET,
    Json,
    Number,
    StreamName,
    print_json,
    read_settings,
)

app = typer.Typer(
    help="Ask the history: what was live, why, with which figures.", no_args_is_help=True
)

Time = Annotated[str, typer.Argument(help="ISO 8601 with zone, or `now`.")]


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
    when = _read(at)
    ask(lambda audit, name: audit.live_at(name, when), stream_name, as_json)


@app.command()
def why(number: Number, stream_name: StreamName = None, as_json: Json = False) -> None:
    """Why a version was trained: detector, statistic, sensors, offsets, or who asked."""
    ask(lambda audit, name: audit.why(name, number), stream_name, as_json)


@app.command()
def data(number: Number, stream_name: StreamName = None, as_json: Json = False) -> None:
    """What a version was made from: offsets, times, readings per task, hashes, replay."""
    from pipeline.run.audit_report import print_data

    ask(lambda audit, name: audit.data(name, number), stream_name, as_json, print_data)


@app.command("metrics-at")
def metrics_at(at: Time, stream_name: StreamName = None, as_json: Json = False) -> None:
    """Which figures the version had that was live at a time."""
    when = _read(at)
    ask(lambda audit, name: audit.metrics_at(name, when), stream_name, as_json)


@app.command()
def decided(number: Number, stream_name: StreamName = None, as_json: Json = False) -> None:
    """What the gate said of a version, by which thresholds and figures, and what came after."""
    from pipeline.run.audit_report import print_decision

    ask(lambda audit, name: audit.decided(name, number), stream_name, as_json, print_decision)


@app.command()
def rejected(
    start: Annotated[
        str | None, typer.Option("--from", help="Refused then or later; ISO 8601 with zone.")
    ] = None,
    end: Annotated[str | None, typer.Option("--to", help="Refused before; likewise.")] = None,
    after: Annotated[
        int | None, typer.Option("--after", help="Go on behind this version.", min=1, max=LAST)
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", help="Versions, at most.", min=1, max=LAST)
    ] = 100,
    stream_name: StreamName = None,
    as_json: Json = False,
) -> None:
    """What was tried and refused, in a range of time."""
    from pipeline.run.audit_report import print_refusals

    between = [None if at is None else _read(at) for at in (start, end)]
    ask(
        lambda audit, name: audit.rejected(name, *between, after=after, limit=limit),
        stream_name,
        as_json,
        print_refusals,
    )


@app.command()
def scored(
    topic: Annotated[str, typer.Argument(help="Topic, which is the stream's name.")],
    partition: Annotated[int, typer.Argument(help="Partition of the record.", min=0, max=LAST)],
    offset: Annotated[int, typer.Argument(help="Offset of the record.", min=0, max=LAST_OFFSET)],
    as_json: Json = False,
) -> None:
    """Which version scored a reading."""
    ask(lambda audit, name: audit.scored(name, partition, offset), topic, as_json)


@app.command()
def diff(
    number: Number,
    other: Annotated[int, typer.Argument(help="Number of the other version.", min=1, max=LAST)],
    stream_name: StreamName = None,
    as_json: Json = False,
) -> None:
    """How two versions differ: settings, data, figures, the weights' distance per layer."""
    from pipeline.run.audit_report import print_difference

    ask(lambda audit, name: audit.diff(name, number, other), stream_name, as_json, print_difference)


@app.command()
def lineage(number: Number, stream_name: StreamName = None, as_json: Json = False) -> None:
    """A version's parents back to the bootstrap, and what else was made of each, as a tree."""
    from pipeline.run.audit_report import print_lineage

    ask(lambda audit, name: audit.lineage(name, number), stream_name, as_json, print_lineage)


@app.command()
def history(stream_name: StreamName = None, as_json: Json = False) -> None:
    """Every version with its parent, reason, figures and fate."""
    ask(lambda lineage, name: lineage.history(name), stream_name, as_json)


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


def _read(at: str) -> int:
    from pipeline.serve.times import parse_time

    return parse_time(at)
