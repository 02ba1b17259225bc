"""Answers of the audit that do not fit into `key: value` lines, for people to read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from pipeline.run.report import pairs, screen
from pipeline.telemetry import printable

Answer = Mapping[str, Any]
#: Characters of a hash that tell two apart, for people.
SHORT = 12


def print_data(answer: Answer) -> None:
    """What a version was made from, an artifact a line."""
    _say(answer, ("stream", "version", "parent", "readings", "replayed", "seed"))
    _say(answer, ("weights_sha256", "ewc_sha256", "settings_sha256"))
    columns = ("use", "task", "partition", "series", "segment", "readings", "offsets", "times")
    rows = []
    for use in ("learned", "held_out", "ended", "earlier"):
        for part in answer[use]:
            known = part["first_offset"] is not None
            rows.append(
                (
                    use,
                    *(part[name] for name in ("task", "partition", "series", "segment")),
                    part["readings"],
                    f"{part['first_offset']} to {part['last_offset']}" if known else None,
                    f"{part['since'] or 'its first'} to {part['until']}" if part["until"] else None,
                    part["sha256"][:SHORT],
                )
            )
    for part in answer["reservoirs"]:
        place = (None, part["partition"], *(None,) * 5)
        rows.append(("reservoir", *place, part["sha256"][:SHORT]))
    _table("Artifacts", (*columns, "sha256"), rows)


def print_decision(answer: Answer) -> None:
    """What the gate said, a task a line, and what became of it."""
    _say(answer, ("stream", "version", "decision", "decided_at", "by", "because", "thresholds"))
    _say(answer, ("gain", "envelope", "words", "live", "rolled_back"))
    rows = [
        (task, skill, answer["parent_skills"].get(task), *_interval(answer["changes"].get(task)))
        for task, skill in answer["skills"].items()
    ]
    _table("Skills", ("task", "skill", "parent", "change", "low", "high"), rows)
    entries = [
        (e["entry"], e["at"], e["kind"], e["by"], e["hash"][:SHORT]) for e in answer["ledger"]
    ]
    _table("Ledger", ("entry", "at", "kind", "by", "hash"), entries)


def print_refusals(answer: Answer) -> None:
    """Refused versions, one a line."""
    columns = ("version", "parent", "at", "trained_because", "asked_by", "by", "because")
    rows = [tuple(each[name] for name in columns) for each in answer["rejected"]]
    _table("Rejected", columns, rows)
    if answer["next"] is not None:
        screen().print(f"More: --after {answer['next']}", highlight=False)


def print_difference(answer: Answer) -> None:
    """Two versions beside each other."""
    one, two = (f"version {answer[name]}" for name in ("from", "to"))
    rows = [(name, each["from"], each["to"]) for name, each in answer["settings"].items()]
    _table("Settings that differ", ("setting", one, two), rows)
    figures = [
        (name, each["from"], each["to"], each["change"])
        for name, each in {**answer["metrics"], **answer["skills"]}.items()
    ]
    _table("Figures", ("figure", one, two, "change"), figures)
    data = [
        (use, len(each["only_from"]), len(each["only_to"]), each["both"])
        for use, each in answer["data"].items()
    ]
    _table("Artifacts", ("use", f"only {one}", f"only {two}", "both"), data)
    if answer["weights"] is None:
        screen().print(f"Weights: {printable(answer['weights_missing'])}", highlight=False)
        return
    columns = ("distance", "relative", "largest", "parameters")
    layers = [
        (name, *(layer[column] for column in columns))
        for name, layer in answer["weights"]["layers"].items()
    ]
    _table("Weights", ("layer", *columns), layers)
    if answer["weights"]["distance"] is not None:
        screen().print(f"  distance: {answer['weights']['distance']:.4g}", highlight=False)


def print_lineage(answer: Answer) -> None:
    """The version at the top, its parents below it; what else was made of each beside the line."""
    told = screen()
    for member in answer["chain"]:
        for other in reversed(member["others"]):
            told.print(f"│ ○ {other['version']}  {other['fate']}", highlight=False)
        decision = printable(member["decision"])
        line = f"● {member['version']}  {member['reason']}, {member['fate']}: {decision}"
        told.print(line, highlight=False, markup=False)


def _interval(change: Mapping[str, Any] | None) -> tuple[Any, ...]:
    return tuple((change or {}).get(name) for name in ("mean", "low", "high"))


def _say(answer: Answer, names: Sequence[str]) -> None:
    said = pairs({name: answer[name] for name in names})
    if said:
        screen().print(said, highlight=False, markup=False)


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Nothing, if there are no rows."""
    if not rows:
        return
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column.replace("_", " "))
    for row in rows:
        table.add_row(*(Text(_cell(value)) for value in row))
    screen().print(table)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else printable(str(value))
