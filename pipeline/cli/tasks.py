"""Commands by which a person says what a regime is: normal, a fault, or to be ignored."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from pipeline.cli.shared import Actor, Json, Reason, StreamName, open_stream, print_json

app = typer.Typer(
    help="Say what a regime is: what is not normal is never learned.", no_args_is_help=True
)

Number = Annotated[int, typer.Argument(help="Number of the task in its stream.", min=1)]
Kind = Annotated[str, typer.Option("--kind", help="normal, fault or ignore.")]


@app.command("list")
def list_(stream_name: StreamName = None, as_json: Json = False) -> None:
    """Every task: what it is, where it was seen, and which versions have learned it."""
    from pipeline.cli.audit import ask
    from pipeline.run.report import print_tasks

    ask(lambda lineage, name: lineage.tasks(name), stream_name, as_json, print_tasks)


@app.command()
def show(number: Number, stream_name: StreamName = None, as_json: Json = False) -> None:
    """One task, with its segments and all that people said of it."""
    from pipeline.cli.audit import ask

    ask(lambda lineage, name: lineage.task(name, number), stream_name, as_json)


@app.command("name")
def name_(
    number: Number,
    name: Annotated[str, typer.Argument(help='What to call it; "" takes the name away.')],
    actor: Actor,
    reason: Reason,
    kind: Annotated[str | None, typer.Option("--kind", help="The same as of `mark`.")] = None,
    stream_name: StreamName = None,
    as_json: Json = False,
) -> None:
    """Give a task a name; with --kind, say what it is in the same step."""
    _mark(stream_name, number, as_json, name=name, kind=kind, actor=actor, reason=reason)


@app.command()
def mark(
    number: Number,
    kind: Kind,
    actor: Actor,
    reason: Reason,
    stream_name: StreamName = None,
    as_json: Json = False,
) -> None:
    """Say what a task is. Only a normal one is learned; any word can be taken back."""
    _mark(stream_name, number, as_json, kind=kind, actor=actor, reason=reason)


def _mark(stream_name: str | None, number: int, as_json: bool, **what: Any) -> None:
    import msgspec

    registry, known = open_stream(stream_name)
    try:
        marked = registry.mark(known.id, number, **what)
    finally:
        registry.close()
    if as_json:
        print_json({"stream": known.name} | msgspec.to_builtins(marked))
        return
    said = f'"{marked.after["name"]}"' if marked.after["name"] else "without a name"
    typer.echo(f"task {number} of {known.name}: {marked.after['kind']}, {said}")
    if marked.after["kind"] != "normal" and marked.learned_by:
        typer.echo(f"versions that have learned it: {', '.join(map(str, marked.learned_by))}")
        typer.echo(f"one that has not: tidemark retrain --without-task {number}")
