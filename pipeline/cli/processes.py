"""Commands that start what runs: the demo, the processes of production, a replay."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.shared import Json, Supervised, options, print_json, read_settings

app = typer.Typer()

#: What is left of a trainer that had to be ended.
TRAIN_LEFT = "a request that it held is taken by another trainer once its lease is over"
#: The demo ends a `run` that ends children.
DEMO_LIMIT_S = 15.0


@app.command()
def demo(
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave everything running to look at, until Ctrl-C.")
    ] = False,
    directory: Annotated[
        Path, typer.Option("--directory", help="Where its database, recording and settings go.")
    ] = Path("tidemark-demo"),
    as_json: Json = False,
) -> None:
    """Real shuttle readings through the whole line, from Kafka bytes to an audited version."""
    from pipeline.run.signals import stop_on_signals

    stop = stop_on_signals(limit_s=DEMO_LIMIT_S)
    from pipeline.run.demo import run_demo
    from pipeline.run.report import print_report

    report = run_demo(directory, stop, keep=keep, ready=None if as_json else print_report)
    if as_json:
        print_json(report)


@app.command()
def run(supervised: Supervised = False) -> None:
    """Start stream, train, schedule, notify (and serve, if serve.in_run); keep them running."""
    from pipeline.run.signals import PARENT_LIMIT_S, stop_on_signals

    stop = stop_on_signals(supervised=supervised, limit_s=PARENT_LIMIT_S)
    from pipeline.outage import Outage
    from pipeline.register.migrate import check_schema
    from pipeline.run.service import serving
    from pipeline.run.supervisor import ROLES, supervise

    settings = read_settings()
    roles = (*ROLES, "serve") if settings.serve.in_run else ROLES
    with serving(settings, stop, "run") as (_, stop):
        database = Outage("database", settings.run.outage_limit_s, stop)
        # else every child says the same, again and again
        database.ask(lambda: check_schema(settings.database))
        supervise(options.config, stop, settings.run, roles=roles, debug=options.debug)


@app.command()
def train(supervised: Supervised = False) -> None:
    """Work consolidation requests off: train, gate, register."""
    from pipeline.run.signals import stop_on_signals

    stop = stop_on_signals(supervised=supervised, left=TRAIN_LEFT)
    from pipeline.run import processes

    processes.train(read_settings(), stop)


@app.command()
def serve(supervised: Supervised = False) -> None:
    """Answer over HTTP: audit, versions, events, actions, predictions, metrics."""
    from importlib.util import find_spec

    from pipeline.errors import PipelineError
    from pipeline.run.signals import stop_on_signals

    if find_spec("fastapi") is None or find_spec("uvicorn") is None:
        raise PipelineError("serve needs fastapi and uvicorn: pip install 'tidemark[serve]'")
    stop = stop_on_signals(supervised=supervised)
    from pipeline.run import processes

    processes.serve(read_settings(), stop)


def _above_zero(rate: float | None) -> float | None:
    if rate is not None and not rate > 0:
        raise typer.BadParameter(f"{rate:g} is not above 0.")
    return rate


@app.command()
def replay(
    file: Annotated[Path, typer.Argument(help="Recording: CSV or JSON lines.")],
    topic: Annotated[str, typer.Option("--topic", help="Topic to send it to.")],
    series_column: Annotated[
        str | None, typer.Option("--series-column", help="Column that names the series (the key).")
    ] = None,
    time_column: Annotated[
        str | None, typer.Option("--time-column", help="Column with the event time.")
    ] = None,
    drop: Annotated[
        list[str] | None, typer.Option("--drop", help="Column to leave out; may be repeated.")
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(
            "--rate",
            help="Readings a second; default: as fast as it goes.",
            callback=_above_zero,
        ),
    ] = None,
    batch: Annotated[int, typer.Option("--batch", help="Readings in one message.", min=1)] = 1,
    max_lag: Annotated[
        int | None,
        typer.Option(
            "--max-lag", help="Wait while the consumers are further behind, in records.", min=0
        ),
    ] = None,
    as_json: Json = False,
    supervised: Supervised = False,
) -> None:
    """Send a recording to Kafka as JSON messages, keyed by series."""
    from pipeline.run.signals import stop_on_signals

    stop = stop_on_signals(supervised=supervised)
    from pipeline.run.progress import bar
    from pipeline.run.replay import replay as send

    settings = read_settings()
    with bar("replay") as show:

        def progress(done: int, total: int | None = None) -> None:
            if stop.is_set():
                raise KeyboardInterrupt
            show(done, total)

        sent = send(
            file,
            kafka=settings.kafka,
            topic=topic,
            series_column=series_column,
            time_column=time_column,
            drop=tuple(drop or ()),
            label=settings.stream.label,
            rate=rate,
            batch=batch,
            max_lag=max_lag,
            progress=progress,
        )
    if as_json:
        print_json({"topic": topic, "readings": sent})
    else:
        typer.echo(f"{sent} readings sent to {topic}")
