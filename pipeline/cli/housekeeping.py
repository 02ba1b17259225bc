"""Commands that prepare and check: schema, settings, whether all is there; and two by hand."""

from __future__ import annotations

from typing import Annotated

import typer

from pipeline.cli.shared import (
    Actor,
    Json,
    Reason,
    StreamName,
    open_stream,
    options,
    print_json,
    read_settings,
)
from pipeline.errors import PipelineError

app = typer.Typer()


@app.command()
def migrate(as_json: Json = False) -> None:
    """Bring the database's schema to head."""
    from pipeline.register.migrate import current_and_head, upgrade

    settings = read_settings()
    upgrade(settings.database)
    current, head = current_and_head(settings.database)
    if as_json:
        print_json({"current": current, "head": head})
    else:
        typer.echo(f"schema at {current} (head)")


@app.command()
def doctor(as_json: Json = False) -> None:
    """Check settings, broker and database, and say what to do."""
    from pipeline.run.doctor import examine

    checks = examine(options.config)
    if as_json:
        print_json({"ok": all(c["ok"] for c in checks), "checks": checks})
    else:
        for check in checks:
            typer.echo(f"{'ok  ' if check['ok'] else 'FAIL'} {check['name']}: {check['message']}")
    failed = {check["name"] for check in checks if not check["ok"]}
    if failed:
        raise typer.Exit(2 if "settings" in failed else 1)


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
        print_json(
            {f"{k.section}.{k.name}": {"default": k.default, "help": k.help} for k in keys()}
        )
    else:
        typer.echo(as_markdown() if markdown else as_toml(), nl=False)


@app.command()
def retrain(
    reason: Reason,
    actor: Actor,
    without_task: Annotated[
        int | None,
        typer.Option(
            "--without-task", min=1, help="Number of a task that the version may not have learned."
        ),
    ] = None,
    stream_name: StreamName = None,
    as_json: Json = False,
) -> None:
    """Ask for a consolidation by hand."""
    from pipeline.records import Request

    registry, known = open_stream(stream_name)
    answer: dict[str, object] = {"stream": known.name}
    if without_task is not None:
        base = registry.unaware(known.id, without_task)
        answer |= {"without_task": without_task, "from_version": base.number if base else None}
    request = Request(
        stream_id=known.id, reason="manual", actor=actor, note=reason, without_task=without_task
    )
    answer = {"request": registry.submit(request)} | answer
    registry.close()
    if as_json:
        print_json(answer)
        return
    typer.echo(f"request {answer['request']} for {known.name}: a trainer will take it")
    if without_task is not None:
        base_ = answer["from_version"]
        scratch = "scratch: no version that is kept has not learned it"
        begin = scratch if base_ is None else f"version {base_}"
        typer.echo(f"without task {without_task}, from {begin}")


@app.command()
def rollback(
    reason: Annotated[str, typer.Option("--reason", help="Why; kept for the audit.")],
    actor: Annotated[str, typer.Option("--actor", help="Who decides; kept for the audit.")],
    to: Annotated[
        int | None,
        typer.Option("--to", help="Version to go back to; default: the champion before.", min=1),
    ] = None,
    stream_name: StreamName = None,
    as_json: Json = False,
) -> None:
    """Take the champion's promotion back: an earlier champion is champion again."""
    from pipeline.register.rollback import WATCH
    from pipeline.serve.answers import iso

    if actor in ("", WATCH):
        raise PipelineError(f"--actor {actor!r} is nobody's name: say who decides")
    registry, known = open_stream(stream_name)
    back = registry.roll_back(known.id, to=to, actor=actor, reason=reason)
    registry.close()
    if as_json:
        answer = {"version": back.version, "to": back.to, "at": iso(back.time)}
        print_json({"stream": known.name} | answer)
    else:
        typer.echo(
            f"version {back.to} of {known.name} is champion again, in place of "
            f"{back.version}: the stream scores with it from its next poll on"
        )
