"""A benchmark's figures in; its table on standard output and build/bench-NAME.json out."""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

BUILD = Path(__file__).parent.parent / "build"


def machine() -> dict[str, Any]:
    """What the figures were made on."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0].partition(":")[2].strip() if names else model
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "system": platform.system(),
    }


def told_machine() -> str:
    """The same in a page's words, with how busy it is."""
    found = machine()
    load = ", ".join(f"{mean:.1f}" for mean in os.getloadavg())
    return (
        f"{found['cores']} cores ({found['cpu']}), Python {found['python']}, "
        f"load of the last 1, 5 and 15 minutes {load}"
    )


def write(
    name: str,
    rows: Sequence[Mapping[str, Any]],
    *,
    seeds: Sequence[int],
    compared: Sequence[str],
    as_json: bool = False,
    as_markdown: bool = False,
    **more: Any,
) -> None:
    """Print the rows as a table (or as Markdown, or all as JSON) and keep them with how they were
    made.

    compared: distributions whose versions belong to the figures.
    """
    result = {
        "name": name,
        "command": f"make bench-{name}" + arguments(),
        "seeds": list(seeds),
        "versions": {package: version(package) for package in compared},
        "machine": machine(),
        "figures": list(rows),
        **more,
    }
    BUILD.mkdir(exist_ok=True)
    (BUILD / f"bench-{name}.json").write_text(json.dumps(result, indent=2) + "\n")
    if as_json:
        print(json.dumps(result))
    elif as_markdown:
        print(markdown(rows))
    else:
        print_table(name, rows)


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """A table for a page."""
    lines = [[c.replace("_", " ") for c in rows[0]], ["---"] * len(rows[0])]
    lines += [[f"{v:.3g}" if isinstance(v, float) else str(v) for v in r.values()] for r in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def arguments() -> str:
    """What make was given, to be said again."""
    return f' ARGS="{shlex.join(sys.argv[1:])}"' if sys.argv[1:] else ""


def print_table(name: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """The rows on standard output."""
    table = Table(title=name)
    for column in rows[0]:
        table.add_column(column.replace("_", " "))
    for row in rows:
        table.add_row(*(f"{v:.3g}" if isinstance(v, float) else str(v) for v in row.values()))
    Console(width=160).print(table)
