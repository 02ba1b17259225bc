"""`tidemark stream`: the process that follows the topic; and which streams there are."""

from __future__ import annotations

import typer

from pipeline.cli.shared import Json, Supervised, opened, print_json, read_settings

app = typer.Typer(help="Follow the topic: score, detect, mark boundaries, checkpoint.")

#: What is left of a stream that had to be ended.
STREAM_LEFT = "what came since the last checkpoint will be read again"


@app.callback(invoke_without_command=True)
def stream(context: typer.Context, supervised: Supervised = False) -> None:
    """Follow the topic: score, detect, mark boundaries, checkpoint."""
    if context.invoked_subcommand is not None:
        return
    from pipeline.run.signals import stop_on_signals

    stop = stop_on_signals(supervised=supervised, left=STREAM_LEFT)
    from pipeline.run import processes

    processes.stream(read_settings(), stop)


@app.command("list")
def list_(as_json: Json = False) -> None:
    """Every stream: its champion, whether it is paused, and which versions wait for a word."""
    from pipeline.run.report import print_rows
    from pipeline.serve.answers import iso

    answer = []
    with opened() as (_, registry):
        for each in registry.streams():
            champion, pause = registry.champion(each.id), each.pause
            told = None
            if pause is not None:
                told = {"since": iso(pause.since), "by": pause.actor, "because": pause.reason}
            waiting = [row.version for row, _ in registry.waiting(each.id)]
            answer.append(
                {
                    "stream": each.name,
                    "channels": each.channels,
                    "champion": champion.number if champion else None,
                    "paused": told,
                    "waiting": waiting,
                }
            )
    if as_json:
        print_json(answer)
    else:
        print_rows("Streams", ("stream", "champion", "paused", "waiting"), answer)
