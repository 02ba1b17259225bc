"""A backtest's result in, one page to look at out: everything is in the file, nothing is fetched.

plotly's script travels in its package (the extra `plot`). What a recording says (names, labels) is
escaped wherever it lands, and the page forbids itself every network.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

import msgspec

from pipeline.run import comparison, curves
from pipeline.run.backtest import Result
from pipeline.run.backtest_report import Found, Report
from pipeline.run.chart import COLOURS, LEAST, MOST, TOTAL, drawn, figure
from pipeline.telemetry import printable


def page(result: Result) -> str:
    """The page."""
    from plotly.offline import get_plotlyjs

    report = result.report
    chosen = drawn(report)
    points = max(LEAST, min(MOST, TOTAL // (len(chosen) * len(report.sensors))))
    figures = [figure(name, result, points) for name in chosen]
    return _PAGE.format(
        title=_html(report.file),
        style=_STYLE,
        facts=_facts(report),
        score=_score(report),
        chooser=_chooser(chosen, report),
        legend=_legend(result),
        kept=_kept(kept := curves.figures(report)),
        tables=_tables(report),
        data=_for_script(figures),
        curves=_for_script(kept),
        plotly=get_plotlyjs(),
        script=_SCRIPT,
    )


def _facts(report: Report) -> str:
    packages = report.versions_of
    return _html(
        f"{report.rows:,} readings of {len(report.sensors)} sensors in {len(report.series)} "
        f"series; {report.rates.readings_per_s:,.0f} readings a second; seed {report.seed}; "
        f"tidemark {packages.tidemark}, river {packages.river}, torch {packages.torch}, "
        f"numpy {packages.numpy}"
    )


def _score(report: Report) -> str:
    """The score beside the periodic control; without a truth, how much was found."""
    found = report.detection
    if found is None:
        return _cards([(str(len(report.boundaries)), "boundaries found; no truth was given")])
    delay = "none" if found.median_delay is None else f"{found.median_delay:g}"
    error = "none" if found.median_location_error is None else f"{found.median_location_error:g}"
    cards = [
        (f"{found.f1:.3f}", "F1"),
        (f"{found.periodic_control.f1:.3f}", "F1 of as many alarms, evenly spaced"),
        (f"{found.precision:.3f}", "precision"),
        (f"{found.recall:.3f}", "recall"),
        (f"{found.hits} of {found.true_boundaries}", f"found within {found.tolerance} readings"),
        (str(found.false_alarms), f"false alarms; {found.false_per_10000:.2f} in 10,000 readings"),
        (delay, "median delay, readings"),
        (error, "median error of location, readings"),
    ]
    if found.recurrence_accuracy is not None:
        cards.append((f"{found.recurrence_accuracy:.0%}", "new or known regime told rightly"))
    return _cards(cards)


def _cards(cards: Iterable[tuple[str, str]]) -> str:
    return "".join(f"<div><b>{_html(a)}</b><span>{_html(b)}</span></div>" for a, b in cards)


def _chooser(names: Sequence[str], report: Report) -> str:
    if len(report.series) == 1:
        return ""
    options = "".join(f'<option value="{k}">{_html(name)}</option>' for k, name in enumerate(names))
    left = len(report.series) - len(names)
    note = f" {left} more with fewer boundaries are not drawn." if left else ""
    return f'<label>Series <select id="series">{options}</select></label>{note}'


def _legend(result: Result) -> str:
    parts = ["<i class='line'></i> boundary found"]
    if any(b.end_row is not None and b.end_row > b.boundary_row for b in result.report.boundaries):
        parts.append("<i class='veil'></i> until the change was complete")
    if result.truth is not None:
        parts.append("<i class='line true'></i> true boundary")
    parts += [
        f"<i style='background:{colour}'></i> task {task.task}"
        for task, colour in zip(result.report.tasks, COLOURS, strict=False)
    ]
    if not result.report.tasks:
        parts.append("segments in two greys, in turn")
    return " &nbsp; ".join(parts) + " &nbsp; Drag to zoom, double-click for the whole."


def _tables(report: Report) -> str:
    boundaries = [
        (
            b.series, f"{b.boundary_row:,}", f"{b.detected_row:,}",
            "going on" if b.end_row is None else f"{b.end_row:,}", _task(b),
            f"{b.signal} {b.statistic:.2f} > {b.threshold:.2f}", ", ".join(b.detectors), b.text,
        )
        for b in report.boundaries
    ]  # fmt: skip
    found = ("series", "row", "noticed", "complete", "task", "signal", "detectors", "what happened")
    parts = [_table("Boundaries", found, boundaries)]
    events = [(e.series, f"{e.row:,}", e.sensor, e.kind, e.text) for e in report.events]
    parts.append(_table("Events", ("series", "row", "sensor", "kind", "what happened"), events))
    versions = [
        (str(v.version), f"{v.row:,}", v.trigger, v.status, v.decision) for v in report.versions
    ]
    made = ("version", "after row", "reason", "fate", "decision")
    parts.append(_table("Versions", made, versions))
    parts.append(_lines(report))
    settings = [
        (f"{section}.{key}", str(value))
        for section, keys in report.settings.items()
        for key, value in keys.items()
    ]
    return "".join(parts) + _table("Settings", ("key", "value"), settings, closed=True)


#: What the curves and R are, above each.
_CAPTIONS = (
    "Skill on each task over the recording: 1 - MSE / variance on what is held out of it at the "
    "end, 0 for who forecasts its mean; all methods on the same requests. Dotted: the task came "
    "up. Below -1 it is drawn at -1.",
    "R: skill of each version that was live on each task, as measured when it was made",
)


def _kept(figures: Sequence[Mapping[str, Any]]) -> str:
    """Where the curves and R are drawn."""
    captions = _CAPTIONS[-len(figures) :] if figures else ()
    return "".join(
        f"<p class='caption'>{_html(text)}</p><div class='kept'></div>" for text in captions
    )


def _lines(report: Report) -> str:
    """The champion beside the baselines; whether replay was needed, and what detection costs."""
    found = _table(comparison.CAPTION, comparison.TITLES, comparison.table(report.baselines))
    said = [comparison.verdict(report.baselines)]
    if report.detection_cost is not None:
        said.append(comparison.cost(report.detection_cost))
    return found + "".join(f"<p>{_html(text)}</p>" for text in said if text is not None)


def _task(boundary: Found) -> str:
    if boundary.task is None:
        return ""
    return f"{boundary.task} again" if boundary.recurrence else f"{boundary.task} (new)"


def _table(
    title: str, titles: Sequence[str], rows: Sequence[Sequence[str]], *, closed: bool = False
) -> str:
    """A table under a heading that opens and closes it; nothing without rows."""
    if not rows:
        return ""
    head = "".join(f"<th>{_html(name)}</th>" for name in titles)
    body = "".join(
        "<tr>" + "".join(f"<td>{_html(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return (
        f"<details{'' if closed else ' open'}><summary>{_html(title)} ({len(rows)})</summary>"
        f"<div class='scroll'><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        "</div></details>"
    )


def _html(text: str) -> str:
    """Text for HTML, whoever wrote it."""
    return escape(printable(text))


def _for_script(value: Any) -> str:
    """JSON that nothing in it can end or escape from, inside a script element."""
    text = msgspec.json.encode(value).decode()
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


_STYLE = """
body{font:14px/1.45 system-ui,sans-serif;color:#1f2937;margin:0 auto;max-width:1500px;padding:20px}
h1{font-size:20px;margin:0 0 4px}p{margin:4px 0;color:#4b5563}
.cards{display:flex;flex-wrap:wrap;gap:10px;margin:14px 0}
.cards div{border:1px solid #d1d5db;border-radius:8px;padding:8px 12px;max-width:170px}
.cards b{display:block;font-size:20px}.cards span{font-size:12px;color:#4b5563}
.legend{font-size:12px}.legend i{display:inline-block;width:14px;height:12px;border-radius:2px;
vertical-align:-2px}.legend i.line{width:0;margin:0 4px;
border-left:2px solid #111827;border-radius:0}
.legend i.veil{background:#111827;opacity:.25;border-right:2px dashed #6b7280}
.legend i.true{border-left:2px dotted #1a7f37}
details{margin:14px 0}summary{font-weight:600;cursor:pointer}.scroll{overflow-x:auto}
.caption{margin-top:22px}
table{border-collapse:collapse;font-size:13px;margin-top:6px}
th,td{text-align:left;padding:4px 10px;border-bottom:1px solid #e5e7eb;vertical-align:top}
td{white-space:nowrap}td:last-child{white-space:normal;overflow-wrap:anywhere}
select{font:inherit;max-width:300px}
"""

_SCRIPT = """
const figures = JSON.parse(document.getElementById("figures").textContent);
const chart = document.getElementById("chart");
const buttons = ["zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d", "toImage"];
const config = {responsive: true, displaylogo: false, modeBarButtons: [buttons]};
function draw(k) { Plotly.react(chart, figures[k].data, figures[k].layout, config); }
const chooser = document.getElementById("series");
if (chooser) chooser.addEventListener("change", () => draw(Number(chooser.value)));
draw(0);
const kept = JSON.parse(document.getElementById("curves").textContent);
document.querySelectorAll(".kept").forEach((place, k) => {
  Plotly.newPlot(place, kept[k].data, kept[k].layout, config);
});
"""

_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; \
script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>tidemark backtest: {title}</title><style>{style}</style></head><body>
<h1>{title}</h1><p>{facts}</p>
<div class="cards">{score}</div>
<p>{chooser}</p><p class="legend">{legend}</p>
<div id="chart"></div>
{kept}
{tables}
<script type="application/json" id="figures">{data}</script>
<script type="application/json" id="curves">{curves}</script>
<script>{plotly}</script>
<script>{script}</script>
</body></html>
"""
