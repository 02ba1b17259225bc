"""The command line: arguments in, one clear answer out; everything heavy is imported on use."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from pipeline.errors import PipelineError, SettingsError

if TYPE_CHECKING:
    from pipeline.config import Settings
    from pipeline.register.sql import SqlRegistry, Stream

app = typer.Typer(
    name="tidemark",
    help="Task boundaries on unlabelled sensor streams, models that keep what they learned, "
    "and a history that answers why.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
audit = typer.Typer(
    help="Ask the history: what was live, why, with which figures.", no_args_is_help=True
)
app.add_typer(audit, name="audit")

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")]
StreamName = Annotated[
    str | None, typer.Option("--stream", help="Stream to ask about; default: stream.topic.")
]
Supervised = Annotated[
    bool, typer.Option("--supervised", hidden=True, help="End when standard input closes.")
]


@dataclass(slots=True)
class Options:
    """What stands before the command."""

    config: Path | None = None
    debug: bool = False


options = Options()

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


def _failed(exc: Exception, code: int) -> int:
    if options.debug:
        raise exc
    typer.echo(f"tidemark: {exc}", err=True)
    return code


def _other(exc: Exception) -> int:
    """click's own usage errors keep their form; the rest is a fault of ours, in one line."""
    show, code = getattr(exc, "show", None), getattr(exc, "exit_code", 1)
    if show is not None:
        show()
        return int(code)
    if type(exc).__name__ == "Abort":
        typer.echo("interrupted", err=True)
        return 1
    return _failed(PipelineError(f"{type(exc).__name__}: {exc} (--debug shows where)"), 1)


def _settings() -> Settings:
    from pipeline.config import load
    from pipeline.telemetry import configure

    settings = load(options.config)
    configure(settings.run.log_format, debug=options.debug)
    return settings


def _print_json(answer: Any) -> None:
    import msgspec

    typer.echo(msgspec.json.format(msgspec.json.encode(answer)).decode())


# Processes ------------------------------------------------------------------------------------


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

    stop = stop_on_signals()
    from pipeline.run.demo import run_demo
    from pipeline.run.report import print_report

    report = run_demo(directory, stop, keep=keep, ready=None if as_json else print_report)
    if as_json:
        _print_json(report)


@app.command()
def run(supervised: Supervised = False) -> None:
    """Start stream, train and schedule, and keep them running."""
    from pipeline.run.signals import stop_on_signals

    stop = stop_on_signals(supervised=supervised)
    from pipeline.run.supervisor import supervise

    settings = _settings()
    supervise(options.config, stop, restart_limit=settings.run.restart_limit)


@app.command()
def stream(supervised: Supervised = False) -> None:
    """Follow the topic: score, detect, mark boundaries, checkpoint."""
    from pipeline.run.signals import stop_on_signals

    stop = stop_on_signals(supervised=supervised)
    from pipeline.run import processes

    processes.stream(_settings(), stop)


@app.command()
def train(supervised: Supervised = False) -> None:
    """Work consolidation requests off: train, gate, register."""
    from pipeline.run.signals import stop_on_signals

    stop = stop_on_signals(supervised=supervised)
    from pipeline.run import processes

    processes.train(_settings(), stop)


@app.command()
def schedule(supervised: Supervised = False) -> None:
    """Request retraining by the clock (schedule.retrain_cron)."""
    from pipeline.run.signals import stop_on_signals

    stop = stop_on_signals(supervised=supervised)
    from pipeline.run import processes

    processes.schedule(_settings(), stop)


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
        float | None, typer.Option("--rate", help="Readings a second; default: as fast as it goes.")
    ] = None,
    batch: Annotated[int, typer.Option("--batch", help="Readings in one message.", min=1)] = 1,
    max_lag: Annotated[
        int | None,
        typer.Option("--max-lag", help="Wait while the consumers are further behind, in records."),
    ] = None,
    as_json: Json = False,
    supervised: Supervised = False,
) -> None:
    """Send a recording to Kafka as JSON messages, keyed by series."""
    from pipeline.run.signals import stop_on_signals

    stop = stop_on_signals(supervised=supervised)
    from pipeline.run.progress import bar
    from pipeline.run.replay import replay as send

    settings = _settings()
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
            rate=rate,
            batch=batch,
            max_lag=max_lag,
            progress=progress,
        )
    if as_json:
        _print_json({"topic": topic, "readings": sent})
    else:
        typer.echo(f"{sent} readings sent to {topic}")


# Housekeeping ---------------------------------------------------------------------------------


@app.command()
def migrate(as_json: Json = False) -> None:
    """Bring the database's schema to head."""
    from pipeline.register.migrate import current_and_head, upgrade

    settings = _settings()
    upgrade(settings.database)
    current, head = current_and_head(settings.database)
    if as_json:
        _print_json({"current": current, "head": head})
    else:
        typer.echo(f"schema at {current} (head)")


@app.command()
def doctor(as_json: Json = False) -> None:
    """Check settings, broker and database, and say what to do."""
    from pipeline.run.doctor import examine

    checks = examine(options.config)
    if as_json:
        _print_json({"ok": all(c["ok"] for c in checks), "checks": checks})
    else:
        for check in checks:
            typer.echo(f"{'ok  ' if check['ok'] else 'FAIL'} {check['name']}: {check['message']}")
    if not all(check["ok"] for check in checks):
        raise typer.Exit(1)


@app.command()
def config(
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the table of the README instead.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Print every setting with its help and default, as a TOML file to start from."""
    from pipeline.config import as_markdown, as_toml, keys

    if as_json:
        _print_json(
            {f"{k.section}.{k.name}": {"default": k.default, "help": k.help} for k in keys()}
        )
    else:
        typer.echo(as_markdown() if markdown else as_toml(), nl=False)


@app.command()
def retrain(
    reason: Annotated[str, typer.Option("--reason", help="Why; kept for the audit.")],
    actor: Annotated[str, typer.Option("--actor", help="Who asks; kept for the audit.")],
    stream_name: StreamName = None,
    as_json: Json = False,
) -> None:
    """Ask for a consolidation by hand."""
    from pipeline.records import Request

    registry, known = _open(stream_name)
    number = registry.submit(Request(stream_id=known.id, reason="manual", actor=actor, note=reason))
    registry.close()
    if as_json:
        _print_json({"request": number, "stream": known.name})
    else:
        typer.echo(f"request {number} for {known.name}: a trainer will take it")


def _open(name: str | None) -> tuple[SqlRegistry, Stream]:
    from pipeline.register.sql import SqlRegistry

    settings = _settings()
    registry = SqlRegistry(settings.database)
    registry.check_schema()
    name = name or settings.stream.topic
    known = registry.stream(name)
    if known is None:
        names = ", ".join(s.name for s in registry.streams()) or "none yet"
        raise PipelineError(f"no stream {name}; known: {names}")
    return registry, known


# Audit ----------------------------------------------------------------------------------------


def _ask(question: Callable[[Any, str], Any], stream_name: str | None, as_json: bool) -> None:
    """Put one question to the history; an answer is a mapping or a list of them."""
    from pipeline.register.migrate import check_schema
    from pipeline.run.report import print_answer
    from pipeline.serve.lineage import Lineage

    settings = _settings()
    check_schema(settings.database)
    lineage = Lineage(settings.database)
    try:
        answer = question(lineage, stream_name or settings.stream.topic)
    finally:
        lineage.close()
    if as_json:
        _print_json(answer)
    else:
        print_answer(answer)


Time = Annotated[str, typer.Argument(help="ISO 8601 with zone, or `now`.")]
Number = Annotated[int, typer.Argument(help="Number of the version in its stream.", min=1)]


@audit.command("live-at")
def live_at(at: Time, stream_name: StreamName = None, as_json: Json = False) -> None:
    """Which version was live at a time."""
    from pipeline.run.times import parse_time

    when = parse_time(at)
    _ask(lambda lineage, name: lineage.live_at(name, when), stream_name, as_json)


@audit.command()
def why(number: Number, stream_name: StreamName = None, as_json: Json = False) -> None:
    """Why a version was trained: detector, statistic, offsets, or who asked."""
    _ask(lambda lineage, name: lineage.why(name, number), stream_name, as_json)


@audit.command("metrics-at")
def metrics_at(at: Time, stream_name: StreamName = None, as_json: Json = False) -> None:
    """Which figures the version had that was live at a time."""
    from pipeline.run.times import parse_time

    when = parse_time(at)
    _ask(lambda lineage, name: lineage.metrics_at(name, when), stream_name, as_json)


@audit.command()
def history(stream_name: StreamName = None, as_json: Json = False) -> None:
    """Every version with its parent, reason, figures and fate."""
    _ask(lambda lineage, name: lineage.history(name), stream_name, as_json)


@audit.command()
def lineage(number: Number, stream_name: StreamName = None, as_json: Json = False) -> None:
    """A version's parents, back to the bootstrap."""
    _ask(lambda lineage, name: lineage.lineage(name, number), stream_name, as_json)
