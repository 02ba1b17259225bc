"""A backtest's result in, figures for plotly out: sensors over time, regimes and boundaries.

plotly reads some tags in what it shows, so names, labels and sentences are escaped.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.records import FloatArray, IntArray
from pipeline.run.backtest import Result, Tape
from pipeline.run.backtest_report import Found, Report
from pipeline.run.truth import Truth
from pipeline.telemetry import printable

#: Points of a sensor in one figure, at most and at least, and of the whole page, about.
MOST, LEAST, TOTAL = 10_000, 1_000, 240_000
#: Series that are drawn, at most: those with the most boundaries.
SERIES = 12
#: Colours of regimes, told apart by people who see few (Okabe and Ito 2008, then lighter ones).
COLOURS = (
    "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#b8a900", "#7f7f7f",
    "#8c6bb1", "#66c2a5", "#a6761d", "#e78ac3",
)  # fmt: skip
NEUTRAL = ("#c8ccd2", "#8d96a3")
#: Heights in pixels: of a sensor, of a strip of regimes, between two, above and below all.
SENSOR, STRIP, GAP, ABOVE, BELOW = 92, 22, 14, 34, 44
#: A name is cut here beside the chart.
SHOWN = 18


def thin(values: FloatArray, points: int) -> IntArray:
    """Rows of `values` (n,) to draw, about `points` of them: each bucket's least and largest.

    All of them if there are no more than that; the row of a bucket without a value stands for its
    gap.
    """
    n = len(values)
    if n <= points:
        return np.arange(n)
    size = -(-n // max(points // 2, 1))
    buckets = -(-n // size)
    padded = np.full(buckets * size, np.nan)
    padded[:n] = values
    table = padded.reshape(buckets, size)
    low = np.where(np.isnan(table), np.inf, table).argmin(axis=1)
    high = np.where(np.isnan(table), -np.inf, table).argmax(axis=1)
    first = np.arange(buckets) * size
    return np.unique(np.concatenate([first + low, first + high]))


# Figures --------------------------------------------------------------------------------------


def drawn(report: Report) -> list[str]:
    """The series to draw, in their order; those with most boundaries if they are too many."""
    count = dict.fromkeys(report.series, 0)
    for boundary in report.boundaries:
        count[boundary.series] += 1
    chosen = set(sorted(count, key=lambda name: -count[name])[:SERIES])
    return [name for name in report.series if name in chosen]


def figure(name: str, result: Result, points: int) -> dict[str, Any]:
    """Data and layout for plotly: strips of regimes above, a sensor below the other."""
    report, tape = result.report, result.tapes[name]
    x, kind = _axis(tape, timed=result.has_times)
    values = np.concatenate(tape.values)
    mine = [b for b in report.boundaries if b.series == name]
    strips = _strips(name, result, mine, len(x))
    height = ABOVE + BELOW + len(strips) * (STRIP + 6) + len(report.sensors) * (SENSOR + GAP)
    plan = _Plan(height, x)
    for title, pieces in strips:
        plan.strip(title, pieces)
    top = plan.at
    events = [e for e in report.events if e.series == name]
    for j, sensor in enumerate(report.sensors):
        here = [e for e in events if e.sensor == sensor]
        plan.sensor(sensor, values[:, j], points, [(e.row, e.text) for e in here])
    plan.bands(strips[-1][1], top)
    for row in _true_rows(name, result.truth):
        plan.line(row, top, "#1a7f37", "dot")
    for boundary in mine:
        plan.line(boundary.boundary_row, top, "#111827", "solid")
        if boundary.end_row is not None and boundary.end_row > boundary.boundary_row:
            plan.transition(boundary.boundary_row, boundary.end_row, top)
    return plan.figure(kind)


def _axis(tape: Tape, *, timed: bool) -> tuple[NDArray[np.float64], str]:
    """Where each reading lies: milliseconds if times run forward, else its row."""
    times = np.concatenate(tape.times)
    if timed and (np.diff(times) >= 0).all() and times[-1] > times[0]:
        return times / 1000.0, "date"
    return np.arange(len(times), dtype=np.float64), "linear"


#: (first row, end row, colour, what to say) of each stretch of a series.
Pieces = list[tuple[int, int, str, str]]


def _strips(
    name: str, result: Result, mine: Sequence[Found], rows: int
) -> list[tuple[str, Pieces]]:
    """The true regimes, if they are known by name, and those found."""
    strips = []
    if result.truth is not None:
        strips.append(("true", _true_pieces(name, result.truth, rows)))
    tasks = {(s.series, s.first_row): t.task for t in result.report.tasks for s in t.segments}
    firsts = [0, *(b.boundary_row for b in mine)]
    found: Pieces = []
    for k, (first, end) in enumerate(zip(firsts, [*firsts[1:], rows], strict=True)):
        task = tasks.get((name, first))
        colour = NEUTRAL[k % 2] if task is None else COLOURS[(task - 1) % len(COLOURS)]
        label = f"segment {k}" if task is None else f"task {task}"
        text = mine[k - 1].text if k else "the beginning"
        found.append((first, end, colour, f"{label}: {text}"))
    strips.append(("found", found))
    return strips


def _true_pieces(name: str, truth: Truth, rows: int) -> Pieces:
    labels, known = truth.of(name), truth.regimes()
    firsts = [0, *_true_rows(name, truth)]
    pieces: Pieces = []
    for k, (first, end) in enumerate(zip(firsts, [*firsts[1:], rows], strict=True)):
        if truth.kind == "regimes":
            code = int(labels[first])
            pieces.append((first, end, COLOURS[code % len(COLOURS)], f"true: {known[code]}"))
        else:
            pieces.append((first, end, NEUTRAL[k % 2], f"true: regime {k + 1}"))
    return pieces


def _true_rows(name: str, truth: Truth | None) -> list[int]:
    return truth.drifts()[name] if truth is not None else []


class _Plan:
    """One figure, drawn from the top down; heights in pixels, plotly's in shares of the whole."""

    def __init__(self, height: int, x: NDArray[np.float64]) -> None:
        self.height = height
        self.x = x
        self.inner = height - ABOVE - BELOW
        #: Share of the plot that is still free, from below.
        self.at = 1.0
        self.traces: list[dict[str, Any]] = []
        self.axes: dict[str, Any] = {}
        self.shapes: list[dict[str, Any]] = []
        self.notes: list[dict[str, Any]] = []

    def strip(self, title: str, pieces: Pieces) -> None:
        """Regimes as colours in a line of their own."""
        axis, low, high = self._axis(title, STRIP, 6)
        self.axes[_long(axis)] |= {"range": [0, 1], "visible": False}
        for first, end, colour, _ in pieces:
            self._rectangle(first, end, low, high, colour, 0.9)
        self.traces.append(
            {
                "type": "scatter", "mode": "markers", "yaxis": axis, "showlegend": False,
                "x": [self._x((first + end) // 2) for first, end, _, _ in pieces],
                "y": [0.5] * len(pieces), "text": [_plain(text) for *_, text in pieces],
                "hovertemplate": "%{text}<extra></extra>",
                "marker": {"color": "#ffffff", "size": 7, "line": {"width": 1, "color": "#111"}},
            }
        )  # fmt: skip

    def sensor(
        self, name: str, values: FloatArray, points: int, events: Sequence[tuple[int, str]]
    ) -> None:
        """One sensor over time, with what happened to it."""
        axis, _, _ = self._axis(name, SENSOR, GAP)
        self.axes[_long(axis)] |= {"fixedrange": True, "nticks": 3, "gridcolor": "#e5e7eb"}
        rows = thin(values, points)
        self.traces.append(
            {
                "type": "scatter", "mode": "lines", "yaxis": axis, "showlegend": False,
                "name": _plain(name), "x": [round(v, 3) for v in self.x[rows].tolist()],
                "y": [_short(v) for v in values[rows].tolist()],
                "line": {"width": 1, "color": "#1f3a5f"}, "connectgaps": False,
                "hovertemplate": "%{y}<extra>" + _plain(name) + "</extra>",
            }
        )  # fmt: skip
        if events:
            known = values[np.isfinite(values)]
            middle = float(np.median(known)) if len(known) else 0.0
            self.traces.append(
                {
                    "type": "scatter", "mode": "markers", "yaxis": axis, "showlegend": False,
                    "x": [self._x(row) for row, _ in events], "y": [middle] * len(events),
                    "text": [_plain(text) for _, text in events],
                    "hovertemplate": "%{text}<extra></extra>",
                    "marker": {"symbol": "triangle-up", "size": 11, "color": "#c2410c"},
                }
            )  # fmt: skip

    def bands(self, pieces: Pieces, top: float) -> None:
        """The found regimes again, faintly, behind every sensor."""
        for first, end, colour, _ in pieces:
            self._rectangle(first, end, 0.0, top, colour, 0.13)

    def line(self, row: int, top: float, colour: str, dash: str) -> None:
        """A boundary, through every sensor."""
        x = self._x(row)
        self.shapes.append(
            {
                "type": "line", "xref": "x", "yref": "paper", "x0": x, "x1": x, "y0": 0, "y1": top,
                "line": {"color": colour, "width": 1.5, "dash": dash},
            }
        )  # fmt: skip

    def transition(self, first: int, end: int, top: float) -> None:
        """How long a boundary's change took: a veil over every sensor, a line at its end."""
        self._rectangle(first, end, 0.0, top, "#111827", 0.16)
        self.line(end, top, "#6b7280", "dash")

    def figure(self, kind: str) -> dict[str, Any]:
        """What plotly draws."""
        layout = {
            "height": self.height,
            "margin": {"l": 204, "r": 16, "t": ABOVE, "b": BELOW},
            "xaxis": {
                "type": kind, "anchor": "free", "position": 0, "zeroline": False,
                "gridcolor": "#e5e7eb",
                "range": [self._x(0), self._x(len(self.x) - 1)],
                "title": {"text": "row" if kind == "linear" else "time (UTC)"},
                "showspikes": True, "spikemode": "across", "spikethickness": 1, "spikedash": "dot",
            },
            "shapes": self.shapes,
            "annotations": self.notes,
            "plot_bgcolor": "rgba(0,0,0,0)",
            "paper_bgcolor": "#ffffff",
            "hovermode": "closest",
            "hoverlabel": {"align": "left", "namelength": 40},
            "font": {"family": "system-ui, sans-serif", "size": 11, "color": "#1f2937"},
            **self.axes,
        }  # fmt: skip
        return {"data": self.traces, "layout": layout}

    def _axis(self, title: str, pixels: int, gap: int) -> tuple[str, float, float]:
        """A new axis of so many pixels, its name on the left: (name, low, high)."""
        high = self.at
        low = max(0.0, high - pixels / self.inner)
        self.at = max(0.0, low - gap / self.inner)
        number = len(self.axes) + 1
        axis = "y" if number == 1 else f"y{number}"
        self.axes[_long(axis)] = {"domain": [low, high], "zeroline": False, "anchor": "x"}
        cut = title if len(title) <= SHOWN else f"{title[: SHOWN - 1]}…"
        self.notes.append(
            {
                "text": _plain(cut), "hovertext": _plain(title), "showarrow": False,
                "xref": "paper", "yref": "paper", "x": 0, "y": (low + high) / 2,
                "xanchor": "right", "yanchor": "middle", "xshift": -68, "font": {"size": 12},
            }
        )  # fmt: skip
        return axis, low, high

    def _rectangle(
        self, first: int, end: int, low: float, high: float, colour: str, opacity: float
    ) -> None:
        self.shapes.append(
            {
                "type": "rect", "xref": "x", "yref": "paper", "layer": "below",
                "x0": self._x(first), "x1": self._x(end), "y0": low, "y1": high,
                "fillcolor": colour, "opacity": opacity, "line": {"width": 0},
            }
        )  # fmt: skip

    def _x(self, row: int) -> float:
        return float(self.x[min(max(row, 0), len(self.x) - 1)])


def _long(axis: str) -> str:
    """Plotly's `y2` in the layout: `yaxis2`."""
    return f"yaxis{axis[1:]}"


def _short(value: float) -> float | None:
    """Six digits are more than a screen shows; a gap for what is missing."""
    return float(f"{value:.6g}") if np.isfinite(value) else None


def _plain(text: str) -> str:
    """Text for plotly, which reads some tags: none is left."""
    return escape(printable(text), quote=False)
