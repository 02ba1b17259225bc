"""What a run left in SQL, beside the truth and the baselines: as data, and as tables to read."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any

import msgspec
import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.config import Settings
from pipeline.consolidate.transfer import error_matrix, transfer
from pipeline.detect.explain import told
from pipeline.detect.matching import match
from pipeline.records import Change
from pipeline.register.sql import SqlRegistry
from pipeline.run import baselines, comparison
from pipeline.run.backtest_report import Baseline, Detection, Report
from pipeline.run.progress import bar
from pipeline.run.shuttle import CHANNELS, SEGMENTS, SERIES, Recording
from pipeline.run.turnaround import Loaded, turnaround
from pipeline.serve.lineage import Lineage
from pipeline.serve.times import parse_time
from pipeline.telemetry import printable

#: An alarm so many readings after a true boundary still finds it.
TOLERANCE = 60
#: Long lists of hashes, for machines: `--json` has them.
ONLY_JSON = ("inputs",)


def report(
    settings: Settings, registry: SqlRegistry, recording: Recording, champions: Loaded
) -> dict[str, Any]:
    """The demo's answer; the truth enters here, and nowhere before."""
    name = settings.stream.topic
    stream = registry.stream(name)
    lineage = Lineage(settings.database)
    try:
        history = lineage.history(name)
        numbers = {task.id: task.number for task in registry.tasks(stream.id)} if stream else {}
        with bar("baselines") as show:
            lines = baselines.compare(settings, registry, stream.id if stream else 0, show=show)
        told = comparison.summaries(lines, numbers, trained_s(history))
        return {
            "arranged": _arranged(recording),
            "boundaries": _boundaries(lineage.boundaries(name), recording),
            "turnaround": turnaround(lineage.turnarounds(name), champions),
            "versions": history,
            "retention": retention(lineage.matrix(name), comparison.first_row(told)),
            "baselines": msgspec.to_builtins(told),
            "audit": _audit(lineage, name, history),
        }
    finally:
        lineage.close()


def _arranged(recording: Recording) -> dict[str, Any]:
    return {
        "recording": "Statlog (Shuttle) as river bundles it: real readings, no order in time",
        "arrangement": "series of segments, normal and anomalous in turn; each reading once",
        "readings": recording.rows,
        "series": list(SERIES),
        "segments": list(SEGMENTS),
    }


def _boundaries(found: Sequence[Mapping[str, Any]], recording: Recording) -> dict[str, Any]:
    rows = sum(SEGMENTS)
    by_series = {name: [b for b in found if b["series"] == name] for name in SERIES}
    matches = {
        name: match([b["detected_row"] for b in mine], recording.boundaries, rows, TOLERANCE)
        for name, mine in by_series.items()
    }
    delays = sorted(d for m in matches.values() for d in m.delays)
    return {
        "tolerance_readings": TOLERANCE,
        "true": {name: list(recording.boundaries) for name in SERIES},
        "true_count": len(SERIES) * len(recording.boundaries),
        "found": list(found),
        "hits": sum(m.hits for m in matches.values()),
        "false": sum(m.false_alarms for m in matches.values()),
        "missed": sum(m.missed for m in matches.values()),
        "median_delay_readings": delays[len(delays) // 2] if delays else None,
    }


def retention(matrix: Sequence[Mapping[str, Any]], frozen: Mapping[str, float]) -> dict[str, Any]:
    """R over the versions that became champion, and its summaries; `frozen`: the first one's."""
    live = [row for row in matrix if row["status"] in ("champion", "retired")]
    if not live:
        return {"tasks": [], "versions": [], "R": []}
    rows = [(row["skills"], row["parent_skills"]) for row in live]
    tasks = sorted({task for skills, _ in rows for task in skills}, key=_number)
    r, learned = error_matrix(tasks, rows, frozen)
    kept = transfer(r, learned)
    return {
        "tasks": tasks,
        "versions": [row["version"] for row in live],
        "R": [[None if np.isnan(x) else float(x) for x in row] for row in r],
        "average": kept.average,
        "forgetting": kept.forgetting,
        "backward_transfer": kept.backward,
        "forward_transfer": kept.forward,
        "learning_curve_area": kept.area,
    }


def trained_s(history: Sequence[Mapping[str, Any]]) -> float:
    """How long all versions were trained together, in seconds."""
    return float(sum(version["metrics"].get("seconds", 0.0) for version in history))


def _number(task: str) -> int:
    return int(task.removeprefix("task "))


def _audit(lineage: Lineage, name: str, history: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Three questions about the last version that became champion."""
    live = [v for v in history if v["live"]]
    if not live:
        return {}
    last = live[-1]
    at = parse_time(last["live"][0]["from"])
    return {
        "live-at": lineage.live_at(name, at),
        "why": lineage.why(name, last["version"]),
        "metrics-at": lineage.metrics_at(name, at),
    }


# To read --------------------------------------------------------------------------------------


def print_report(answer: Mapping[str, Any]) -> None:
    """The demo's answer as tables on standard output."""
    console = screen()
    _print_boundaries(console, answer)
    _print_turnaround(console, answer["turnaround"])
    _print_versions(console, answer["versions"])
    _print_retention(console, answer)
    for question, reply in answer["audit"].items():
        console.print(f"\n[bold]tidemark audit {question}[/bold]")
        console.print(pairs(reply), highlight=False, markup=False)
    console.print(f"\n{answer['seconds']} s")


def print_backtest(report: Report) -> None:
    """A backtest's answer as tables on standard output."""
    console = screen()
    sensors = "sensor" if len(report.sensors) == 1 else "sensors"
    console.print(
        f"{report.file}: {report.rows:,} readings of {len(report.sensors)} {sensors} in "
        f"{len(report.series)} series, {report.rates.readings_per_s:,.0f} readings a second",
        highlight=False,
        markup=False,
    )
    _print_found(console, report)
    if report.versions:
        _print_trained(console, report)
        kept = msgspec.to_builtins(report.retention)
        _print_retention(
            console, {"retention": kept, "baselines": msgspec.to_builtins(report.baselines)}
        )
    if report.detection_cost is not None:
        console.print(comparison.cost(report.detection_cost), highlight=False)
    if report.detection is not None:
        console.print(_score(report.detection), highlight=False, markup=False)


def _print_found(console: Console, report: Report) -> None:
    table = Table(title="Boundaries", title_justify="left")
    columns = ("series", "row", "noticed", "complete", "task", "signal", "detectors")
    for column in (*columns, "what happened"):
        table.add_column(column)
    for b in report.boundaries:
        again = "" if not b.recurrence else " again"
        table.add_row(
            Text(printable(b.series)),
            f"{b.boundary_row:,}",
            f"{b.detected_row:,}",
            "going on" if b.end_row is None else f"{b.end_row:,}",
            "" if b.task is None else f"{b.task}{again}",
            f"{b.signal} {b.statistic:.2f} > {b.threshold:.2f}",
            ", ".join(b.detectors),
            Text(printable(b.text)),
        )
    console.print(table)
    if report.calibration.expected:
        expected = median(report.calibration.expected.values())
        console.print(
            f"Expected false boundaries in a million readings: {expected:.1f} (median series), "
            f"{report.calibration.budget:g} allowed",
            highlight=False,
        )


def _print_trained(console: Console, report: Report) -> None:
    table = Table(title="Versions", title_justify="left")
    for column in ("version", "after row", "reason", "fate", "seconds", "decision"):
        table.add_column(column)
    for v in report.versions:
        table.add_row(
            str(v.version),
            f"{v.row:,}",
            v.trigger,
            v.status,
            f"{v.seconds:.1f}",
            Text(printable(v.decision)),
        )
    console.print(table)


def _score(score: Detection) -> str:
    delay = "" if score.median_delay is None else f", median delay {score.median_delay:g} readings"
    right = score.recurrence_accuracy
    tasks = "" if right is None else f" New or known regime: right in {right:.0%}."
    return (
        f"{score.hits} of {score.true_boundaries} true boundaries found within "
        f"{score.tolerance} readings, {score.false_alarms} false alarms{delay}\n"
        f"precision {score.precision:.3f}, recall {score.recall:.3f}, F1 {score.f1:.3f}\n"
        f"As many alarms, evenly spaced: F1 {score.periodic_control.f1:.3f}.{tasks}"
    )


def print_answer(answer: Any) -> None:
    """One audit answer: `key: value` lines, or a table of several."""
    console = screen()
    if isinstance(answer, Mapping):
        console.print(pairs(answer), highlight=False, markup=False)
    else:
        _print_versions(console, answer)


def print_events(events: Sequence[Mapping[str, Any]]) -> None:
    """What happened to sensors and to the log, as a table."""
    table = Table(title="Events", title_justify="left")
    columns = ("at", "partition", "series", "sensor", "event", "row", "offset")
    for column in columns:
        table.add_column(column)
    for event in events:
        if event["event"] == "records_lost":
            event = {**event, "offset": f"{event['first_offset']} to {event['end_offset'] - 1}"}
        table.add_row(*(Text(printable(str(event.get(column, "")))) for column in columns))
    screen().print(table)


def print_tasks(tasks: Sequence[Mapping[str, Any]]) -> None:
    """The tasks of a stream, as a table."""
    table = Table(title="Tasks", title_justify="left")
    for column in ("task", "kind", "name", "segments", "waiting", "learned by", "since"):
        table.add_column(column)
    for task in tasks:
        table.add_row(
            str(task["task"]),
            task["kind"],
            Text(printable(task["name"] or "")),
            str(task["segments"]),
            f"{task['waiting']} requests" if task["waiting"] else "",
            ", ".join(map(str, task["learned_by"])),
            task["since"],
        )
    screen().print(table)


def print_rows(title: str, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Answers as a table, a column a key."""
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column.replace("_", " "))
    for row in rows:
        cells = (row[column] for column in columns)
        table.add_row(*(Text("" if cell is None else _short(cell)) for cell in cells))
    screen().print(table)


def screen() -> Console:
    """As wide as the terminal; wide enough for the tables where there is none."""
    return Console() if sys.stdout.isatty() else Console(width=140)


def _print_boundaries(console: Console, answer: Mapping[str, Any]) -> None:
    found, arranged = answer["boundaries"], answer["arranged"]
    console.print(
        f"[bold]Recording[/bold]: {arranged['recording']}; arranged by us as "
        f"{len(arranged['series'])} {arranged['arrangement']}."
    )
    table = Table(title="Boundaries: found (row of detection) beside true", title_justify="left")
    for column in ("series", "true", "found", "detected after", "signal", "detectors", "moved"):
        table.add_column(column)
    for name, true in found["true"].items():
        for b in (b for b in found["found"] if b["series"] == name):
            near = [t for t in true if t <= b["detected_row"] < t + TOLERANCE]
            table.add_row(
                name,
                str(near[0]) if near else "none",
                str(b["boundary_row"]),
                f"{b['detected_row'] - near[0]} readings" if near else "",
                f"{b['signal']} {b['statistic']:.2f} > {b['threshold']:.2f}",
                ", ".join(b["detectors"]),
                "; ".join(
                    told(each, CHANNELS) for each in msgspec.convert(b["sensors"], list[Change])
                ),
            )
    console.print(table)
    console.print(
        f"{found['hits']} of {found['true_count']} true boundaries found within "
        f"{found['tolerance_readings']} readings, {found['false']} false ones; "
        "nobody told the pipeline where they are."
    )


def _print_turnaround(console: Console, found: Mapping[str, Any]) -> None:
    """Nothing, if no boundary led to a champion."""
    if not found["each"]:
        return
    each = ", ".join(f"{b['seconds']:.1f} (version {b['version']})" for b in found["each"])
    console.print(
        f"Boundary to new champion scoring, in seconds: median {found['median_seconds']:.1f}, "
        f"largest {found['largest_seconds']:.1f}; from when there were readings enough to learn: "
        f"median {found['median_from_request_s']:.1f}, "
        f"largest {found['largest_from_request_s']:.1f}. Each: {each}.",
        highlight=False,
    )


def _print_versions(console: Console, versions: Sequence[Mapping[str, Any]]) -> None:
    table = Table(title="Versions", title_justify="left")
    for column in ("version", "parent", "reason", "fate", "skills", "loss", "decision"):
        table.add_column(column)
    for v in versions:
        loss = v["metrics"]
        table.add_row(
            str(v["version"]),
            str(v["parent"] or ""),
            Text(printable(v["reason"])),
            v["fate"],
            _skills(v["skills"]),
            f"{loss.get('loss_before', 0):.2f} to {loss.get('loss_after', 0):.2f}",
            Text(printable(v["decision"])),
        )
    console.print(table)


def _print_retention(console: Console, answer: Mapping[str, Any]) -> None:
    kept = answer["retention"]
    table = Table(
        title="R: skill (1 - MSE / variance) of each champion on each task's held-out readings",
        title_justify="left",
    )
    lines = answer["baselines"]
    # a task that only rejected versions learned is in the lines alone
    tasks = {*kept["tasks"], *(task for line in lines.values() for task in line["tasks"])}
    columns = sorted(tasks, key=_number)
    for title in ("after", *columns):
        table.add_column(title)
    for version, row in zip(kept["versions"], kept["R"], strict=True):
        skills = dict(zip(kept["tasks"], row, strict=True))
        table.add_row(f"version {version}", *(comparison.figure(skills.get(t)) for t in columns))
    table.add_section()
    for name, line in lines.items():
        cells = [comparison.figure(line["skills"].get(task)) for task in columns]
        table.add_row(f"{name}, at the end", *cells)
    console.print(table)
    _print_lines(console, msgspec.convert(answer["baselines"], dict[str, Baseline]))


def _print_lines(console: Console, lines: Mapping[str, Baseline]) -> None:
    """The champion beside every baseline; whether replay was worth it."""
    if not lines:
        return
    table = Table(title=comparison.CAPTION, title_justify="left")
    for column in comparison.TITLES:
        table.add_column(column)
    for row in comparison.table(lines):
        table.add_row(*row)
    console.print(table)
    if (sentence := comparison.verdict(lines)) is not None:
        console.print(sentence, highlight=False)


def _skills(skills: Mapping[str, float]) -> str:
    return ", ".join(f"{task} {value:.2f}" for task, value in skills.items())


def pairs(answer: Mapping[str, Any]) -> str:
    """An answer as `key: value` lines, what is empty left out."""
    told = {key: value for key, value in answer.items() if value and key not in ONLY_JSON}
    return "\n".join(f"  {key}: {_short(value)}" for key, value in told.items())


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {_short(v)}" for k, v in value.items())
    if isinstance(value, Iterable) and not isinstance(value, str):
        return "; ".join(map(_short, value))
    return printable(str(value))
