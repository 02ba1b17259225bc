"""Commands about what happens by the clock; `tidemark schedule` alone is the process."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.shared import (
    Json,
    Reason,
    RequestId,
    Supervised,
    Who,
    opened,
    options,
    print_json,
    read_settings,
    who,
)

if TYPE_CHECKING:
    from pipeline.register.orders import Act, Order

app = typer.Typer(help="Do what is due by the clock, ask about it, steer it.")

Name = Annotated[str, typer.Argument(help="Name of the [[schedule]].")]


@app.callback(invoke_without_command=True)
def schedule(context: typer.Context, supervised: Supervised = False) -> None:
    """Do what is due by the clock ([[schedule]] in the settings)."""
    if context.invoked_subcommand is not None:
        return
    from pipeline.run.signals import stop_on_signals

    stop = stop_on_signals(supervised=supervised)
    from pipeline.run import processes

    processes.schedule(read_settings(), stop, options.config)


@app.command("list")
def list_(as_json: Json = False) -> None:
    """Every schedule: its next five times, its last runs; and what is held back."""
    from pipeline.run.schedules_report import print_schedules
    from pipeline.serve.schedules import listed

    with opened() as (settings, registry):
        answer = listed(settings, registry)
    if as_json:
        print_json(answer)
    else:
        print_schedules(answer)


@app.command("run-now")
def run_now(
    name: Name,
    reason: Reason,
    actor: Who = None,
    request_id: RequestId = None,
    as_json: Json = False,
) -> None:
    """Ask for a run without waiting for the clock, also of a schedule that is paused."""
    from pipeline.register.orders import RunSchedule

    _steer(name, RunSchedule, who(actor, reason, request_id), as_json)


@app.command()
def pause(
    name: Name,
    reason: Reason,
    actor: Who = None,
    request_id: RequestId = None,
    as_json: Json = False,
) -> None:
    """Have nothing done by a schedule until it is resumed."""
    from pipeline.register.orders import PauseSchedule

    _steer(name, PauseSchedule, who(actor, reason, request_id), as_json)


@app.command()
def resume(
    name: Name,
    reason: Reason,
    actor: Who = None,
    request_id: RequestId = None,
    as_json: Json = False,
) -> None:
    """Have a schedule count again, from now on: what was due meanwhile is not made up for."""
    from pipeline.register.orders import ResumeSchedule

    _steer(name, ResumeSchedule, who(actor, reason, request_id), as_json)


def _steer(name: str, kind: Callable[..., Order], act: Act, as_json: bool) -> None:
    """Give an order about the schedule of a name, and say what came of it."""
    from pipeline.serve.schedules import find

    with opened() as (settings, registry):
        done = registry.act(None, kind(schedule=find(settings, registry, name)), act)
    if not as_json:
        typer.echo(done.sentence)
    elif "due" in done.facts:
        print_json({"schedule": name, "asked": done.facts["due"]})
    else:
        print_json({"schedule": name, "changed": done.changed})
