"""What happens by the clock, as tables for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from pipeline.run.report import screen
from pipeline.telemetry import printable


def print_schedules(answer: Mapping[str, Any]) -> None:
    """Schedules with their next times, their last runs, and the requests that wait by a rule."""
    if not answer["schedules"]:
        screen().print("nothing is scheduled: write a [[schedule]] into the settings")
    rows = [(each, each["next"], _state(each)) for each in answer["schedules"]]
    if rows:
        _print(
            "Schedules",
            ("schedule", "kind", "when", "state", "next"),
            [(e["name"], e["kind"], _when(e), state, "\n".join(at)) for e, at, state in rows],
        )
    runs = [(each["name"], run) for each in answer["schedules"] for run in each["runs"]]
    if runs:
        _print(
            "Last runs",
            ("schedule", "due", "by", "finished", "", "outcome"),
            [(name, run["due"], _by(run), run["finished"], *_went(run)) for name, run in runs],
        )
    if answer["held"]:
        _print(
            "Held back",
            ("stream", "request", "reason", "because"),
            [(e["stream"], e["request"], e["reason"], e["because"]) for e in answer["held"]],
        )


def _print(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column)
    for row in rows:
        table.add_row(*(Text(_printable(cell)) for cell in row))
    screen().print(table)


def _printable(cell: Any) -> str:
    """Line breaks are ours; whatever else a terminal would obey is not."""
    lines = "" if cell is None else str(cell)
    return "\n".join(map(printable, lines.split("\n")))


def _when(schedule: Mapping[str, Any]) -> str:
    when = f"{schedule['cron']} {schedule['timezone']}"
    if schedule["every_s"]:
        when = f"every {schedule['every_s']:g} s"
    return f"{when} + {schedule['jitter_s']:g} s" if schedule["jitter_s"] else when


def _state(schedule: Mapping[str, Any]) -> str:
    paused = schedule["paused"]
    if paused is None:
        return str(schedule["state"])
    return f"paused since {paused['since']} by {paused['by']}: {paused['because']}"


def _by(run: Mapping[str, Any]) -> str:
    return f"{run['actor']}: {run['reason']}" if run["reason"] else str(run["actor"])


def _went(run: Mapping[str, Any]) -> tuple[str, str]:
    if run["finished"] is None:
        return "", "under way" if run["started"] else "waits for a scheduler"
    return "ok" if run["ok"] else "FAILED", str(run["outcome"])
