"""Commands that say who may ask over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.shared import Actor, Json, Reason, print_json, read_settings

if TYPE_CHECKING:
    from pipeline.register.tokens import TokenBook

app = typer.Typer(help="Say who may ask over HTTP, and what they may do.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="Of who has it; stands in the ledger as the actor.")]


class Role(StrEnum):
    """What a token lets in to; each may do all that the ones before it may."""

    reader = "reader"
    operator = "operator"
    approver = "approver"


@app.command()
def add(
    name: Name,
    actor: Actor,
    reason: Reason,
    role: Annotated[Role, typer.Option("--role", help="What it lets in to.")] = Role.reader,
    as_json: Json = False,
) -> None:
    """Make a token, and print it: only here, and only once."""
    with _book() as book:
        token = book.add(name, role.value, actor=actor, reason=reason)
    if as_json:
        print_json({"name": name, "role": role.value, "token": token})
    else:
        typer.echo(token)
        typer.echo("it is kept nowhere: note it now", err=True)


@app.command()
def revoke(name: Name, actor: Actor, reason: Reason, as_json: Json = False) -> None:
    """Let nobody in with a token from now on."""
    with _book() as book:
        book.revoke(name, actor=actor, reason=reason)
    if as_json:
        print_json({"name": name, "revoked": True})
    else:
        typer.echo(f"the token {name} lets nobody in any more")


@app.command("list")
def list_(as_json: Json = False) -> None:
    """Every token that there ever was: name, role, who made it, and whether it is good."""
    from pipeline.run.report import print_answer
    from pipeline.serve.answers import iso

    with _book() as book:
        found = [
            {
                "name": token.name,
                "role": token.role,
                "made_by": token.actor,
                "created": iso(token.created),
                "revoked": iso(token.revoked),
            }
            for token in book.all()
        ]
    if as_json:
        print_json(found)
        return
    for each in found:
        print_answer(each)
    if not found:
        typer.echo("none yet")


@contextmanager
def _book() -> Iterator[TokenBook]:
    from pipeline.register.engine import connect
    from pipeline.register.migrate import check_schema
    from pipeline.register.tokens import TokenBook

    settings = read_settings()
    check_schema(settings.database)
    engine = connect(settings.database)
    try:
        yield TokenBook(engine)
    finally:
        engine.dispose()
