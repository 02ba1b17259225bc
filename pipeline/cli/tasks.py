"""Commands by which a person says what a regime is: normal, a fault, or to be ignored."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.shared import LAST, Json, Reason, RequestId, StreamName, Who, do, who

if TYPE_CHECKING:
    from pipeline.register.orders import Act, Mark

app = typer.Typer(
    help="Say what a regime is: what is not normal is never learned.", no_args_is_help=True
)

Number = Annotated[int, typer.Argument(help="Number of the task in its stream.", min=1, max=LAST)]
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
    reason: Reason,
    actor: Who = None,
    kind: Annotated[str | None, typer.Option("--kind", help="The same as of `mark`.")] = None,
    request_id: RequestId = None,
    stream_name: StreamName = None,
    as_json: Json = False,
) -> None:
    """Give a task a name; with --kind, say what it is in the same step."""
    from pipeline.register.orders import Mark

    order = Mark(task=number, name=name, kind=kind)
    _mark(order, who(actor, reason, request_id), stream_name, as_json)


@app.command()
def mark(
    number: Number,
    kind: Kind,
    reason: Reason,
    actor: Who = None,
    request_id: RequestId = None,
    stream_name: StreamName = None,
    as_json: Json = False,
) -> None:
    """Say what a task is. Only a normal one is learned; any word can be taken back."""
    from pipeline.register.orders import Mark

    order = Mark(task=number, kind=kind)
    _mark(order, who(actor, reason, request_id), stream_name, as_json)


def _mark(order: Mark, act: Act, stream_name: str | None, as_json: bool) -> None:
    facts = do(order, act, stream_name, as_json, lambda done: done.facts).facts
    if not as_json and facts["after"]["kind"] != "normal" and facts["learned_by"]:
        typer.echo(f"versions that have learned it: {', '.join(map(str, facts['learned_by']))}")
        typer.echo(f"one that has not: tidemark retrain --without-task {order.task}")
