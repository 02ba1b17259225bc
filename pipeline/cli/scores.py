"""The command that prints scores as they are published, each once."""

from __future__ import annotations

from contextlib import closing
from typing import Annotated

import typer

from pipeline.cli.shared import StreamName, read_settings

app = typer.Typer()


@app.command()
def scores(
    follow: Annotated[
        bool, typer.Option("--follow", help="Go on with what comes, until Ctrl-C.")
    ] = False,
    from_beginning: Annotated[
        bool, typer.Option("--from-beginning", help="With --follow: first what is there already.")
    ] = False,
    stream_name: StreamName = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object a message instead, a line each.")
    ] = False,
) -> None:
    """The scores of TOPIC.scores, second copies dropped: all that are there, or those to come."""
    from pipeline.run.signals import stop_on_signals

    stop = stop_on_signals()
    import msgspec

    from pipeline.ingest.kafka_log import KafkaLog
    from pipeline.run.scores import lines, read

    settings = read_settings(quiet=True)
    topic = f"{stream_name or settings.stream.topic}.scores"
    with closing(KafkaLog(settings.kafka, topic)) as log:
        found = read(log, follow=follow, from_beginning=from_beginning or not follow, stop=stop)
        for message in found:
            for line in [msgspec.json.encode(message)] if as_json else lines(message):
                typer.echo(line)
