"""Commands about what happens by the clock; `tidemark schedule` alone is the process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.cli.shared import (
    Actor,
    Json,
    Reason,
    Supervised,
    options,
    print_json,
    read_settings,
)

if TYPE_CHECKING:
    from pipeline.config import Schedule, Settings
    from pipeline.register.sql import SqlRegistry

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

    with _opened() as (settings, registry):
        answer = listed(settings, registry)
    if as_json:
        print_json(answer)
    else:
        print_schedules(answer)


@app.command("run-now")
def run_now(name: Name, actor: Actor, reason: Reason, as_json: Json = False) -> None:
    """Ask for a run without waiting for the clock, also of a schedule that is paused."""

    def order(registry: SqlRegistry, found: Schedule) -> dict[str, Any]:
        from pipeline.serve.answers import iso

        asked = registry.run_schedule_now(found, actor=actor, reason=reason)
        return {"asked": iso(asked.due)}

    _steer(name, as_json, order, lambda _: "a scheduler will do it")


@app.command()
def pause(name: Name, actor: Actor, reason: Reason, as_json: Json = False) -> None:
    """Have nothing done by a schedule until it is resumed."""

    def order(registry: SqlRegistry, found: Schedule) -> dict[str, Any]:
        return {"changed": registry.pause_schedule(found, actor=actor, reason=reason)}

    _steer(name, as_json, order, lambda done: "paused" if done else "paused already")


@app.command()
def resume(name: Name, actor: Actor, reason: Reason, as_json: Json = False) -> None:
    """Have a schedule count again, from now on: what was due meanwhile is not made up for."""

    def order(registry: SqlRegistry, found: Schedule) -> dict[str, Any]:
        return {"changed": registry.resume_schedule(found.name, actor=actor, reason=reason)}

    _steer(name, as_json, order, lambda done: "goes on" if done else "was not paused")


def _steer(
    name: str,
    as_json: bool,
    order: Callable[[SqlRegistry, Schedule], dict[str, Any]],
    say: Callable[[Any], str],
) -> None:
    """Give an order about the schedule of a name, and say what came of it."""
    from pipeline.serve.schedules import find

    with _opened() as (settings, registry):
        answer = order(registry, find(settings, registry, name))
    if as_json:
        print_json({"schedule": name} | answer)
    else:
        typer.echo(f"{name}: {say(answer.get('changed'))}")


@contextmanager
def _opened() -> Iterator[tuple[Settings, SqlRegistry]]:
    from pipeline.register.sql import SqlRegistry

    settings = read_settings()
    registry = SqlRegistry(settings.database)
    try:
        registry.check_schema()
        yield settings, registry
    finally:
        registry.close()
