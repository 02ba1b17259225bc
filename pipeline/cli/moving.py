"""Commands that keep the database safe, and move it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.cli.shared import Json, Reason, Who, name_of, print_json, read_settings
from pipeline.errors import PipelineError

if TYPE_CHECKING:
    from threading import Event

    from pipeline.register.files import Contents
    from pipeline.run.progress import Show

app = typer.Typer()

File = Annotated[Path, typer.Argument(help="File of the backup.")]
Force = Annotated[bool, typer.Option("--force", help="Write over what is there.")]


@app.command()
def backup(file: File, force: Force = False, as_json: Json = False) -> None:
    """Copy the SQLite database to a file, examined, while the system runs."""
    from pipeline.run.signals import stop_on_signals

    stop = stop_on_signals()
    from pipeline.register.files import backup as save
    from pipeline.run.progress import bar

    settings = read_settings(quiet=True)
    with bar("backup") as show:
        found = save(settings.database, file, force=force, progress=_told(stop, show))
    _tell(file, found, as_json, "backed up to")


@app.command()
def restore(
    file: File,
    reason: Reason,
    actor: Who = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Make the SQLite database what a backup holds; nobody from before it can write any more."""
    from pipeline.run.signals import stop_on_signals

    stop = stop_on_signals()
    from pipeline.register.files import restore as bring_back
    from pipeline.register.migrate import head
    from pipeline.run.progress import bar

    settings = read_settings(quiet=True)
    with bar("restore") as show:
        found = bring_back(
            settings.database,
            file,
            actor=name_of(actor),
            reason=reason,
            force=force,
            progress=_told(stop, show),
        )
    _tell(file, found, as_json, "restored from")
    if found.revision != head() and not as_json:
        typer.echo(f"schema at {found.revision}, head is {head()}: run `tidemark migrate`")


@app.command()
def copy(
    to: Annotated[str, typer.Option("--to", help="SQLAlchemy URL of an empty database.")],
    as_json: Json = False,
) -> None:
    """Copy the whole history to another database, such as SQLite's to PostgreSQL, and verify it."""
    from pipeline.run.signals import stop_on_signals

    stop = stop_on_signals()
    from msgspec.structs import replace

    from pipeline.register.engine import connect
    from pipeline.register.moving import copy as move
    from pipeline.run.progress import bar

    settings = read_settings(quiet=True)
    target = replace(settings.database, url=to)
    try:
        connect(target).dispose()
    except PipelineError as exc:
        raise PipelineError(str(exc).replace("database.url", "--to")) from None
    with bar("copy") as show:
        written = move(settings.database, target, _told(stop, show))
    if as_json:
        tables = {name: {"rows": n, "hash": value} for name, (n, value) in written.items()}
        print_json({"tables": tables})
        return
    for name, (rows, value) in written.items():
        typer.echo(f"{name:<16} {rows:>12,} rows  {value[:16]}")
    typer.echo("the same on both sides; now set database.url to the new one")


def _told(stop: Event, show: Show) -> Any:
    """Progress that ends the work when a signal came."""

    def told(done: int, total: int, what: str | None = None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        show(done, total, what)

    return told


def _tell(file: Path, found: Contents, as_json: bool, what: str) -> None:
    import msgspec

    if as_json:
        print_json({"file": str(file)} | msgspec.to_builtins(found))
        return
    typer.echo(f"{what} {file}: {found.bytes:,} bytes, schema {found.revision}")
    typer.echo(f"{found.entries:,} entries in the ledger, the last {found.head}")
