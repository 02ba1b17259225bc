"""Lines of the table in, a page in Markdown out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]

TITLES = {
    "streams": "Labelled streams",
    "covering": "Univariate series",
    "recurrence": "Regimes that come again",
    "stationary": "Nothing changes",
    "budget": "Budget",
    "delay": "A shift on all sensors",
    "robustness": "A broken sensor",
    "units": "Other units",
    "cost": "Cost at 8 sensors",
    "state": "State",
    "light": "The light profile",
}
#: Parts of one figure a cell: figures down, cases across.
ACROSS = ("stationary", "budget", "delay")


def page(rows: Sequence[Row], ablations: Sequence[Row], head: str, notes: Mapping[str, str]) -> str:
    """The whole page; notes: what a part's figures are, by part."""
    with_goal = [row for row in rows if row["verdict"]]
    missed = [row for row in with_goal if row["verdict"] == "MISSED"]
    parts = [head, "", f"Goals met: {len(with_goal) - len(missed)} of {len(with_goal)}."]
    if missed:
        parts += ["Missed:", ""]
        parts += [
            f"- {row['part']}, {row['case']}: {row['figure']} {_text(row['value'])}"
            f" (goal {row['goal']})"
            for row in missed
        ]
        parts += ["", "What was tried for them: [detection-tried.md](detection-tried.md)."]
    for part, title in TITLES.items():
        these = [row for row in rows if row["part"] == part]
        if these:
            table = _across(these) if part in ACROSS else _down(these)
            parts += ["", f"## {title}", "", notes[part], "", *table]
    if ablations:
        parts += ["", "## Without one part", "", notes["ablations"], "", *plain(ablations)]
    return "\n".join(parts) + "\n"


def _down(rows: Sequence[Row]) -> list[str]:
    """A line a row; columns that no row fills are left out."""
    names = [n for n in rows[0] if n != "part" and any(row[n] != "" for row in rows)]
    return plain([{name.replace("_", " "): row[name] for name in names} for row in rows])


def _across(rows: Sequence[Row]) -> list[str]:
    """A line a figure and a column a case; a figure that misses its goal is bold."""
    cases = list(dict.fromkeys(row["case"] for row in rows))
    lines: dict[str, dict[str, Any]] = {}
    for row in rows:
        line = lines.setdefault(row["figure"], {"figure": row["figure"], "goal": ""})
        line["goal"] = line["goal"] or row["goal"]
        cell = _text(row["value"])
        line[row["case"]] = f"**{cell}** missed" if row["verdict"] == "MISSED" else cell
        published = row["prototype, published in the design notes"]
        if published:
            name = f"{row['figure']}: prototype, published in the design notes"
            lines.setdefault(f"{row['figure']} published", {"figure": name, "goal": ""})[
                row["case"]
            ] = published
    return plain(
        [{"figure": "", "goal": "", **dict.fromkeys(cases, "")} | v for v in lines.values()]
    )


def plain(rows: Sequence[Row]) -> list[str]:
    """A table as its rows are."""
    names = list(rows[0])
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    return lines + ["| " + " | ".join(_text(row[n]) for n in names) + " |" for row in rows]


def _text(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) < 1 else f"{value:.4g}"
    return "**MISSED**" if value == "MISSED" else str(value)
