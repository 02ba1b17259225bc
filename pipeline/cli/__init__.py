"""The command line: arguments in, one clear answer out; everything heavy is imported on use.

`processes` starts what runs, `scores` prints what it publishes, `backtest` tries it on a recording,
`housekeeping` prepares and checks, `acting` decides by hand, `envelope` says what may be decided
without a person, `moving` keeps and moves the database, `audit` and `decided` ask the history,
`proof` has it prove itself, `streams` follows the topic and lists streams, `tasks` says what
regimes are, `dead_letters` goes through what could not be read, `tokens` says who may ask by HTTP,
`schedules` what happens by the clock, `notify` tells whoever wants to be told.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from pipeline.cli import (
    acting,
    audit,
    backtest,
    dead_letters,
    decided,
    envelope,
    housekeeping,
    moving,
    notify,
    processes,
    proof,
    schedules,
    scores,
    streams,
    tasks,
    tokens,
)
from pipeline.cli.shared import options
from pipeline.errors import PipelineError, SettingsError

app = typer.Typer(
    name="tidemark",
    help="Task boundaries on unlabelled sensor streams, models that keep what they learned, "
    "and a history that answers why.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(processes.app)
app.add_typer(scores.app)
app.add_typer(backtest.app)
app.add_typer(housekeeping.app)
app.add_typer(acting.app)
app.add_typer(moving.app)
app.add_typer(streams.app, name="stream")
app.add_typer(envelope.app, name="envelope")
audit.app.add_typer(decided.app)
audit.app.add_typer(proof.app)
app.add_typer(audit.app, name="audit")
app.add_typer(schedules.app, name="schedule")
app.add_typer(tasks.app, name="task")
app.add_typer(dead_letters.app, name="dlq")
app.add_typer(tokens.app, name="token")
app.add_typer(notify.app, name="notify")

#: What typer answers for Ctrl-C; to whoever called us it is a failure like any other.
INTERRUPTED = 130


def _print_version(wanted: bool) -> None:
    if wanted:
        import pipeline

        typer.echo(f"tidemark {pipeline.__version__}")
        raise typer.Exit


@app.callback()
def before(
    config: Annotated[
        Path | None, typer.Option("--config", help="TOML file; else $TIDEMARK_CONFIG.")
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Tracebacks and more log lines.")] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version and end.", is_eager=True, callback=_print_version
        ),
    ] = False,
) -> None:
    """Keep the options that every command shares."""
    options.config, options.debug = config, debug


def main() -> NoReturn:
    """Run one command; every failure is one line, every exit code 0, 1 or 2."""
    try:
        _check(sys.argv)
        code = app(standalone_mode=False)
    except SettingsError as exc:
        code = _failed(exc, 2)
    except PipelineError as exc:
        code = _failed(exc, 1)
    except KeyboardInterrupt:
        code = INTERRUPTED
    except Exception as exc:
        code = _other(exc)
    if code == INTERRUPTED:
        typer.echo("interrupted", err=True)
        code = 1
    sys.exit(code if isinstance(code, int) else 0)


def _check(arguments: Sequence[str]) -> None:
    """SettingsError if one is no text: it could be neither kept nor printed."""
    for each in arguments:
        try:
            each.encode()
        except UnicodeEncodeError:
            raise SettingsError(f"an argument is not UTF-8: {each!r}") from None


def _failed(exc: Exception, code: int) -> int:
    """Say what went wrong in one line, with --debug where; the exit code either way."""
    if options.debug:
        from traceback import print_exception

        print_exception(exc)
    else:
        from pipeline.telemetry import printable

        typer.echo(f"tidemark: {printable(_in_one_line(exc))}", err=True)
        for line in getattr(exc, "lines", ()):
            typer.echo(f"  | {line}", err=True)
    return code


def _in_one_line(exc: Exception) -> str:
    """The first line says what; those of a database go on with SQL and its parameters."""
    first = str(exc).strip().partition("\n")[0]
    if isinstance(exc, PipelineError):
        return first
    name = type(exc).__name__
    return f"{name}: {first} (--debug shows where)" if first else f"{name} (--debug shows where)"


def _other(exc: Exception) -> int:
    """click's own usage errors keep their form; the rest is a fault of ours, in one line."""
    show, code = getattr(exc, "show", None), getattr(exc, "exit_code", 1)
    if show is not None:
        show()
        return int(code)
    if type(exc).__name__ == "Abort":
        typer.echo("interrupted", err=True)
        return 1
    return _failed(exc, 1)
