"""A backtest's answer in, figures for plotly out: each task's skill over the stream, and R."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipeline.run.backtest_report import Baseline, Report, Retention
from pipeline.run.baselines import CHAMPION

#: Lines that are drawn, and their colours (Okabe and Ito 2008).
DRAWN = {CHAMPION: "#111827", "naive": "#d55e00", "joint": "#0072b2"}
#: Tasks that are drawn, at most: the first ones.
TASKS = 12
#: Skills that are told apart; one below is drawn as one at the border.
LOW, HIGH = -1.0, 1.0
#: Heights in pixels: of a task's curves, between two, of a row of R; above and below all.
CURVES, GAP, ROW, ABOVE, BELOW = 92, 14, 26, 44, 44
#: From LOW to HIGH; 0 is the forecast of the mean.
SCALE = ((0.0, "#8c2d04"), (0.25, "#ec7014"), (0.5, "#fff7bc"), (0.75, "#41b6c4"), (1.0, "#0c2c84"))
FONT = {"family": "system-ui, sans-serif", "size": 11, "color": "#1f2937"}


def figures(report: Report) -> list[dict[str, Any]]:
    """The curves, if there is a line to draw, and R; none without a version."""
    found = []
    lines = {name: report.baselines[name] for name in DRAWN if name in report.baselines}
    if lines:
        found.append(curves(lines, report.rows))
    if report.retention is not None and report.retention.versions:
        found.append(matrix(report.retention))
    return found


def curves(lines: dict[str, Baseline], rows: int) -> dict[str, Any]:
    """One plot a task, below each other: skill of each line over the rows of the recording."""
    first = next(iter(lines.values()))
    tasks = first.tasks[:TASKS]
    inner = len(tasks) * (CURVES + GAP)
    data, axes, shapes, notes = [], {}, [], []
    for j, task in enumerate(tasks):
        number = "" if j == 0 else str(j + 1)
        high = 1 - j * (CURVES + GAP) / inner
        low = high - CURVES / inner
        axes[f"yaxis{number}"] = {
            "domain": [max(low, 0.0), high], "range": [LOW - 0.1, HIGH + 0.1], "fixedrange": True,
            "nticks": 3, "gridcolor": "#e5e7eb", "zerolinecolor": "#9ca3af", "anchor": "x",
        }  # fmt: skip
        data += [_curve(name, line, j, f"y{number}", rows) for name, line in lines.items()]
        came = first.rows[first.learned_at[j]]
        shapes.append(
            {
                "type": "line", "xref": "x", "yref": f"y{number} domain", "x0": came, "x1": came,
                "y0": 0, "y1": 1, "line": {"color": "#6b7280", "width": 1, "dash": "dot"},
            }
        )  # fmt: skip
        notes.append(_name(task, (low + high) / 2))
    layout = {
        "height": inner + ABOVE + BELOW,
        "margin": {"l": 110, "r": 16, "t": ABOVE, "b": BELOW},
        "xaxis": {
            "range": [0, rows], "title": {"text": "row"}, "gridcolor": "#e5e7eb",
            "anchor": "free", "position": 0, "zeroline": False,
        },
        "shapes": shapes, "annotations": notes, "font": FONT, "hovermode": "closest",
        "legend": {"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom"},
        **axes,
    }  # fmt: skip
    return {"data": data, "layout": layout}


def _curve(name: str, line: Baseline, j: int, axis: str, rows: int) -> dict[str, Any]:
    """Steps: a model answers until the next one is there."""
    skills = [row[j] for row in line.matrix]
    skills.append(skills[-1])
    return {
        "type": "scatter", "mode": "lines", "name": name, "legendgroup": name,
        "showlegend": j == 0, "yaxis": axis, "x": [*line.rows, rows],
        "y": [None if x is None else max(x, LOW) for x in skills],
        "text": _texts(skills), "hovertemplate": "%{text} after row %{x}",
        "line": {"shape": "hv", "width": 2, "color": DRAWN[name]},
    }  # fmt: skip


def _name(task: str, y: float) -> dict[str, Any]:
    return {
        "text": task, "showarrow": False, "xref": "paper", "yref": "paper", "x": 0, "y": y,
        "xanchor": "right", "yanchor": "middle", "xshift": -44, "font": {"size": 12},
    }  # fmt: skip


def matrix(kept: Retention) -> dict[str, Any]:
    """R as a heat map: a row a version, the first on top; a column a task."""
    clipped = [[None if x is None else max(x, LOW) for x in row] for row in kept.R]
    heat = {
        "type": "heatmap", "z": clipped, "zmin": LOW, "zmax": HIGH, "colorscale": SCALE,
        "x": kept.tasks, "y": [f"version {version}" for version in kept.versions],
        "text": [_texts(row) for row in kept.R], "texttemplate": "%{text}", "xgap": 2, "ygap": 2,
        "hovertemplate": "%{y} on %{x}: %{text}<extra></extra>",
        "colorbar": {"title": {"text": "skill"}, "thickness": 12},
    }  # fmt: skip
    layout = {
        "height": max(220, len(kept.versions) * ROW + ABOVE + BELOW),
        "margin": {"l": 110, "r": 16, "t": ABOVE, "b": BELOW},
        "xaxis": {"side": "top", "type": "category", "fixedrange": True},
        "yaxis": {"autorange": "reversed", "type": "category", "fixedrange": True},
        "font": FONT,
    }
    return {"data": [heat], "layout": layout}


def _texts(skills: Sequence[float | None]) -> list[str]:
    return ["" if x is None else f"{x:.2f}" for x in skills]
