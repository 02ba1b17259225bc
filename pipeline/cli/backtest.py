"""The command that tries the line on a recording."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.shared import read_settings
from pipeline.errors import PipelineError

app = typer.Typer()

#: As an OUT: standard output.
STANDARD = Path("-")


class TruthKind(StrEnum):
    """What the truth column holds."""

    regimes = "regimes"
    changes = "changes"


class BaselineName(StrEnum):
    """What to train beside the champion."""

    frozen = "frozen"
    naive = "naive"
    replay_only = "replay_only"
    ewc_only = "ewc_only"
    joint = "joint"
    true_boundaries = "true_boundaries"
    none = "none"


@app.command()
def backtest(
    file: Annotated[Path, typer.Argument(help="Recording: CSV or Parquet.")],
    time_column: Annotated[
        str | None, typer.Option("--time-column", help="Column with the event time.")
    ] = None,
    series_column: Annotated[
        str | None, typer.Option("--series-column", help="Column that names the series.")
    ] = None,
    label_column: Annotated[
        str | None,
        typer.Option(
            "--label-column", help="Column with the labels of a classifier; default: stream.label."
        ),
    ] = None,
    drop: Annotated[
        list[str] | None, typer.Option("--drop", help="Column to leave out; may be repeated.")
    ] = None,
    truth_column: Annotated[
        str | None,
        typer.Option("--truth-column", help="Column with the truth; only the score reads it."),
    ] = None,
    truth_kind: Annotated[
        TruthKind,
        typer.Option("--truth-kind", help="Labels of regimes, or 1 at each change and else 0."),
    ] = TruthKind.regimes,
    tolerance: Annotated[
        int,
        typer.Option("--tolerance", help="Readings after a change in which an alarm hits.", min=1),
    ] = 240,
    seed: Annotated[
        int | None,
        typer.Option("--seed", help="Seed of everything random; default: learn.seed.", min=0),
    ] = None,
    json: Annotated[
        Path | None, typer.Option("--json", metavar="OUT", help="File for the answer; - prints it.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="OUT", help="File for a page to look at.")
    ] = None,
    baselines: Annotated[
        list[BaselineName] | None,
        typer.Option(
            "--baselines",
            help="A method to compare with; may be repeated; none: train the champion only. "
            "Default: all.",
        ),
    ] = None,
    no_train: Annotated[
        bool, typer.Option("--no-train", help="Find boundaries and tasks only; train no model.")
    ] = False,
) -> None:
    """Run the same stages over a recording: no Kafka, no daemon, a database thrown away."""
    from pipeline.run.signals import stop_on_signals

    stop = stop_on_signals()
    settings = read_settings(quiet=True)
    for out in (json, html):
        _check_out(out)
    if html is not None:
        _check_plotly()
    from pipeline.ingest.recording import Columns
    from pipeline.ingest.tables import open_table

    open_table(file)  # a file that cannot be read fails before anything heavy is imported
    from pipeline.run.backtest import Options
    from pipeline.run.backtest import backtest as run
    from pipeline.run.backtest_report import to_json
    from pipeline.run.progress import bar
    from pipeline.run.report import print_backtest

    columns = Columns(
        time=time_column,
        series=series_column,
        truth=truth_column,
        label=label_column,
        drop=tuple(drop or ()),
    )
    options = Options(
        columns=columns,
        truth_kind=truth_kind.value,
        tolerance=tolerance,
        seed=seed,
        train=not no_train,
        baselines=_names(baselines, truth_column),
        keep=html is not None,
    )
    with bar("backtest") as show:

        def told(done: int, total: int | None = None, what: str | None = None) -> None:
            if stop.is_set():
                raise KeyboardInterrupt
            show(done, total, what)

        result = run(file, settings, options, show=told)
    if html is not None:
        from pipeline.run.page import page

        _write(html, page(result).encode())
    if json == STANDARD:
        typer.echo(to_json(result.report).decode(), nl=False)
        return
    if json is not None:
        _write(json, to_json(result.report))
    print_backtest(result.report)


def _names(chosen: list[BaselineName] | None, truth: str | None) -> list[str]:
    """The baselines by name; none is none."""
    every = [name.value for name in BaselineName if name is not BaselineName.none]
    names = [name.value for name in chosen] if chosen else every
    if "none" in names and len(names) > 1:
        raise typer.BadParameter("none goes with no other", param_hint="--baselines")
    if chosen and "true_boundaries" in names and truth is None:
        raise typer.BadParameter("true_boundaries needs --truth-column", param_hint="--baselines")
    return [name for name in names if name != "none"]


def _check_plotly() -> None:
    from importlib.util import find_spec

    if find_spec("plotly") is None:
        raise PipelineError("--html needs plotly: pip install 'tidemark[plot]'")


def _check_out(out: Path | None) -> None:
    """Fail before the work, not after it."""
    if out is None or out == STANDARD:
        return
    if out.is_dir():
        raise PipelineError(f"{out}: is a directory")
    if not out.parent.is_dir():
        raise PipelineError(f"{out}: no such directory")


def _write(out: Path, content: bytes) -> None:
    try:
        out.write_bytes(content)
    except OSError as exc:
        raise PipelineError(f"{out}: {exc.strerror}") from None
