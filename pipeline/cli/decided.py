"""Questions to the history about who decided: acts of people, promotions and their envelopes."""

from __future__ import annotations

from typing import Any

import typer

from pipeline.cli.shared import Json, StreamName, opened_stream, print_json

app = typer.Typer()


@app.command()
def acts(stream_name: StreamName = None, as_json: Json = False) -> None:
    """Everything that people did to a stream: who, what, why, and what came of it."""
    from pipeline.serve.answers import iso

    with opened_stream(stream_name) as (_, registry, known):
        found = registry.acts(known.id)
    answer = [
        {
            "at": iso(done.at),
            "actor": act.actor,
            "act": what,
            "reason": act.reason,
            "changed": done.changed,
            "said": done.sentence,
            "request_id": act.request_id,
        }
        for act, what, done in found
    ]
    _show("Acts", ("at", "actor", "act", "reason", "said"), answer, as_json)


@app.command()
def promotions(stream_name: StreamName = None, as_json: Json = False) -> None:
    """Every promotion: by whom, why, and which envelope it was inside or outside of."""
    from pipeline.serve.answers import iso

    with opened_stream(stream_name) as (_, registry, known):
        found = registry.promotions(known.id)
    answer = [
        {
            "version": row.version,
            "live_from": iso(row.live_from),
            "live_until": iso(row.live_until),
            "by": row.actor,
            "because": row.reason,
            "envelope": held.envelope if held else None,
            "outside": [each.said for each in held.outside] if held else [],
        }
        for row, held in found
    ]
    columns = ("version", "live_from", "by", "because", "envelope", "outside")
    _show("Promotions", columns, answer, as_json)


def _show(
    title: str, columns: tuple[str, ...], answer: list[dict[str, Any]], as_json: bool
) -> None:
    from pipeline.run.report import print_rows

    if as_json:
        print_json(answer)
    else:
        print_rows(title, columns, answer)
