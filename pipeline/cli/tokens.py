"""Commands that say who may ask over HTTP."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from pipeline.cli.shared import Json, Reason, RequestId, Who, opened, print_json, who

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
    reason: Reason,
    actor: Who = None,
    role: Annotated[Role, typer.Option("--role", help="What it lets in to.")] = Role.reader,
    request_id: RequestId = None,
    as_json: Json = False,
) -> None:
    """Make a token, and print it: only here, and only once."""
    from pipeline.register.orders import AddToken

    order, act = AddToken(name=name, role=role.value), who(actor, reason, request_id)
    with opened() as (_, registry):
        done = registry.act(None, order, act)
    token = done.token or None
    if as_json:
        print_json({"name": name, "role": role.value, "token": token})
    elif token:
        typer.echo(token)
        typer.echo("it is kept nowhere: note it now", err=True)
    else:
        typer.echo(done.sentence, err=True)


@app.command()
def revoke(
    name: Name,
    reason: Reason,
    actor: Who = None,
    request_id: RequestId = None,
    as_json: Json = False,
) -> None:
    """Let nobody in with a token from now on."""
    from pipeline.register.orders import RevokeToken

    act = who(actor, reason, request_id)
    with opened() as (_, registry):
        done = registry.act(None, RevokeToken(name=name), act)
    if as_json:
        print_json({"name": name, "revoked": True})
    else:
        typer.echo(done.sentence)


@app.command("list")
def list_(as_json: Json = False) -> None:
    """Every token that there ever was: name, role, who made it, and whether it is good."""
    from pipeline.register.tokens import TokenBook
    from pipeline.run.report import print_answer
    from pipeline.serve import answers

    with opened() as (_, registry):
        found = [answers.token(each) for each in TokenBook(registry.engine).all()]
    if as_json:
        print_json(found)
        return
    for each in found:
        print_answer(each)
    if not found:
        typer.echo("none yet")
