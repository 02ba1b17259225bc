"""Commands by which a person decides: each has an actor, a reason, and an entry of the ledger."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from pipeline.cli.shared import (
    LAST,
    Json,
    Number,
    Reason,
    RequestId,
    StreamName,
    Who,
    do,
    opened,
    print_json,
    who,
)

app = typer.Typer()


@app.command()
def promote(
    number: Number,
    reason: Reason,
    actor: Who = None,
    request_id: RequestId = None,
    stream_name: StreamName = None,
    as_json: Json = False,
) -> None:
    """Make a version champion, whatever the gate said of it."""
    from pipeline.register.orders import Promote

    do(Promote(version=number), who(actor, reason, request_id), stream_name, as_json)


@app.command()
def rollback(
    reason: Reason,
    actor: Who = None,
    to: Annotated[
        int | None,
        typer.Option(
            "--to", min=1, max=LAST, help="Version to go back to; default: the champion before."
        ),
    ] = None,
    request_id: RequestId = None,
    stream_name: StreamName = None,
    as_json: Json = False,
) -> None:
    """Take the champion's promotion back: an earlier champion is champion again."""
    from pipeline.register.orders import RollBack

    do(RollBack(to=to), who(actor, reason, request_id), stream_name, as_json)


@app.command()
def approve(
    number: Number,
    reason: Reason,
    actor: Who = None,
    request_id: RequestId = None,
    stream_name: StreamName = None,
    as_json: Json = False,
) -> None:
    """Make a version champion that waits, as it is outside of the agreed envelope."""
    from pipeline.register.orders import Approve

    do(Approve(version=number), who(actor, reason, request_id), stream_name, as_json)


@app.command()
def refuse(
    number: Number,
    reason: Reason,
    actor: Who = None,
    request_id: RequestId = None,
    stream_name: StreamName = None,
    as_json: Json = False,
) -> None:
    """Refuse a version that waits, as it is outside of the agreed envelope."""
    from pipeline.register.orders import Refuse

    do(Refuse(version=number), who(actor, reason, request_id), stream_name, as_json)


@app.command()
def retrain(
    reason: Reason,
    actor: Who = None,
    without_task: Annotated[
        int | None,
        typer.Option(
            "--without-task", min=1, max=LAST,
            help="Number of a task that the version may not have learned.",
        ),
    ] = None,
    request_id: RequestId = None,
    stream_name: StreamName = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Ask for a consolidation by hand."""
    from pipeline.register.orders import Retrain

    order = Retrain(without_task=without_task)
    act = who(actor, reason, request_id)
    done = do(order, act, stream_name, as_json, lambda done: done.facts)
    if without_task is not None and not as_json:
        base = done.facts["from_version"]
        scratch = "scratch: no version that is kept has not learned it"
        begin = scratch if base is None else f"version {base}"
        typer.echo(f"without task {without_task}, from {begin}")


@app.command()
def pause(
    reason: Reason,
    actor: Who = None,
    request_id: RequestId = None,
    stream_name: StreamName = None,
    as_json: Json = False,
) -> None:
    """Train nothing and ask for nothing by the clock; scoring goes on."""
    from pipeline.register.orders import Pause

    do(Pause(), who(actor, reason, request_id), stream_name, as_json)


@app.command()
def resume(
    reason: Reason,
    actor: Who = None,
    request_id: RequestId = None,
    stream_name: StreamName = None,
    as_json: Json = False,
) -> None:
    """End a pause: what was asked for meanwhile is trained."""
    from pipeline.register.orders import Resume

    do(Resume(), who(actor, reason, request_id), stream_name, as_json)


def _days(text: str) -> int:
    if (found := re.fullmatch(r"(\d{1,6})d", text)) is None:
        raise typer.BadParameter(f"{text!r} is no number of days, such as 365d.")
    return int(found[1])


@app.command()
def prune(
    reason: Annotated[str, typer.Option("--reason", help="Why; kept for the audit.")] = "retention",
    keep: Annotated[
        int | None,
        typer.Option(
            "--keep", parser=_days, metavar="DAYS",
            help="Keep what was used in so many days, as 365d; default: audit.min_keep_days.",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    actor: Who = None,
    request_id: RequestId = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Let old readings and weights go, of all streams, and what is like them; decisions stay."""
    from pipeline.run.pruning import order

    act = who(actor, reason, request_id)
    with opened() as (settings, registry):
        wanted = order(settings, keep)
        if dry_run:
            found = registry.prunable(wanted)
            facts, said = found.facts, f"would be pruned: {found.sentence}"
        else:
            done = registry.act(None, wanted, act)
            facts, said = done.facts, done.sentence
    if as_json:
        print_json({"dry_run": dry_run, **facts})
    else:
        typer.echo(said)
