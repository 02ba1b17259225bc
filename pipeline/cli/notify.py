"""Commands about who is told; `tidemark notify` alone is the process."""

from __future__ import annotations

from typing import Annotated

import typer

from pipeline.cli.shared import Json, print_json, read_settings

app = typer.Typer(help="Tell whoever wants to be told; ask how that goes.")

Supervised = Annotated[
    bool, typer.Option("--supervised", hidden=True, help="End when standard input closes.")
]


@app.callback(invoke_without_command=True)
def notify(context: typer.Context, supervised: Supervised = False) -> None:
    """Tell receivers ([[notify]] in the settings) and TOPIC.events, as `notify run` does."""
    if context.invoked_subcommand is None:
        run(supervised=supervised)


@app.command()
def run(supervised: Supervised = False) -> None:
    """Tell receivers ([[notify]] in the settings) and TOPIC.events what happens."""
    from pipeline.run.signals import stop_on_signals

    stop = stop_on_signals(supervised=supervised)
    from pipeline.run import processes

    processes.notify(read_settings(), stop)


@app.command("test")
def try_(
    rule: Annotated[str, typer.Argument(help="Name of the [[notify]].")], as_json: Json = False
) -> None:
    """Send a message to a receiver that says that it is a test, whatever the rule wants."""
    from pipeline.run.notify_report import try_out

    told = try_out(read_settings(quiet=True), rule)
    if as_json:
        print_json({"rule": rule, "id": told})
    else:
        typer.echo(f"{rule} took the message {told}")


@app.command("list")
def list_(as_json: Json = False) -> None:
    """Every rule and stream: what was told last, how far behind it is, and why."""
    from pipeline.run.notify_report import standing
    from pipeline.run.report import print_answer

    found = standing(read_settings(quiet=True))
    if as_json:
        print_json(found)
        return
    for each in found:
        print_answer(each)
    if not found:
        typer.echo("nobody is told: there is no [[notify]]")
