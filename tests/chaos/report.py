"""What a run was and found in; a table for people, JSON and Markdown out."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

#: Behind the tables in Markdown: what depends on time, and what becomes of it.
TIMING = Path(__file__).with_name("timing.md")


def write(path: Path, result: dict[str, Any]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n")


def print_table(result: dict[str, Any], *, as_json: bool = False) -> None:
    if as_json:
        sys.stdout.write(json.dumps(result) + "\n")
        return
    console = Console()
    for title, rows in _tables(result):
        table = Table(*title)
        for row in rows:
            table.add_row(*row)
        console.print(table)
    console.print(_sentence(result), highlight=False)
    for line in result["differences"]:
        console.print(f"  {line}", highlight=False, markup=False)
    if result["differences"]:
        console.print(f"Logs: {result['logs']}", highlight=False)


def as_markdown(result: dict[str, Any]) -> str:
    more = " ARGS=--exactly-once" if result["exactly_once"] else ""
    lines = [
        "# Nothing lost, nothing counted twice",
        "",
        f"`make chaos KILLS={result['kills']} SEED={result['seed']}{more}`: {_sentence(result)}",
    ]
    for title, rows in _tables(result):
        lines += ["", f"| {' | '.join(title)} |", "|---|---:|"]
        lines += [f"| {' | '.join(row)} |" for row in rows]
    lines += ["", *(f"* {line}" for line in result["differences"])]
    return "\n".join(lines).rstrip() + "\n\n" + TIMING.read_text()


def _sentence(result: dict[str, Any]) -> str:
    seconds, idle = result["seconds"], result["blows_without_progress"]
    return (
        f"{result['kills']} blows in {seconds['blows']:.0f} s, {result['records']:,} records, "
        f"{len(result['differences'])} differences. Before {idle} of the blows "
        "no checkpoint had moved since the one before."
    )


def _tables(result: dict[str, Any]) -> Iterator[tuple[tuple[str, str], list[tuple[str, str]]]]:
    yield ("what was done", "times"), [(k, f"{n:,}") for k, n in result["done"].items()]
    yield ("what people asked for", "times"), [(k, f"{n:,}") for k, n in result["asked"].items()]
    yield ("what the log held", "number"), [(k, f"{n:,}") for k, n in result["log"].items()]
    yield ("what was compared", "number"), [(k, f"{n:,}") for k, n in result["compared"].items()]
