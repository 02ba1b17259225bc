"""Rows of the database in, answers out: plain data with ISO 8601 times, ready for JSON."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from msgspec.json import decode

from pipeline.detect.explain import explain
from pipeline.errors import PipelineError
from pipeline.records import Boundary, Change

Answer = dict[str, Any]
#: In UTC, as all is here; without saying so it is told quicker.
EPOCH = datetime(1970, 1, 1, tzinfo=UTC).replace(tzinfo=None)


def iso(time: int | None) -> str | None:
    """Microseconds since 1970 UTC as ISO 8601 with zone."""
    if time is None:
        return None
    try:
        told = (EPOCH + timedelta(microseconds=time)).isoformat(timespec="microseconds")
    except OverflowError:
        raise PipelineError(
            f"{time} is no time in microseconds: its year is not 1 to 9999"
        ) from None
    return f"{told}+00:00"


def live(stream: str, at: int, row: Any) -> Answer:
    """Who was live at a time, since when and why; row: as `queries.live` has it."""
    return {
        "stream": stream,
        "at": iso(at),
        "version": row.number,
        "sha256": row.sha256,
        "live_from": iso(row.live_from),
        "live_until": iso(row.live_until),
        "promoted_by": row.actor,
        "because": row.reason,
    }


def why(
    stream: str,
    version: Any,
    boundary_: Answer | None,
    taken_along: Sequence[Answer],
    roll_backs: Sequence[Answer],
) -> Answer:
    """What a version was trained for, what the gate said of it, and whether it was left."""
    return {
        "stream": stream,
        "version": version.number,
        "trained_because": version.trained_because,
        "actor": version.actor,
        "note": version.note,
        "request": version.request_id,
        "requested_at": iso(version.requested),
        "due": iso(version.due),
        "boundary": boundary_,
        "task": version.task,
        "task_kind": version.task_kind,
        "task_name": version.task_name,
        "without_task": version.without_task,
        "taken_along": list(taken_along),
        "parent": version.parent,
        "inputs": decode(version.inputs),
        "status": version.status,
        "decision": version.decision,
        "rolled_back": list(roll_backs),
    }


def taken_along(request: Any, channels: Sequence[str]) -> Answer:
    """A request that another one took along, as `queries.reasons` has it."""
    return {
        "request": request.request,
        "reason": request.reason,
        "actor": request.actor,
        "note": request.note,
        "boundary": explained(request, channels),
    }


def explained(request: Any, channels: Sequence[str]) -> Answer | None:
    """A request's boundary with a sentence that says what happened; None if it is of none."""
    if request.boundary_row is None:
        return None
    return boundary(request, channels) | {"sentence": sentence(request, channels)}


def sentence(row: Any, channels: Sequence[str]) -> str:
    """What happened at a boundary, to which sensors, and the test that crossed."""
    names = [name for name in Boundary.__dataclass_fields__ if name not in ("sensors", "detectors")]
    found = Boundary(
        **{name: getattr(row, name) for name in names},
        detectors=tuple(decode(row.detectors)),
        sensors=tuple(Change(**change) for change in decode(row.sensors)),
    )
    said = f"{explain(found, channels)} {row.signal} {row.statistic:.2f} > {row.threshold:.2f}"
    if row.task is None:
        return said
    return f"{said}; task {row.task}{' again' if row.recurrence else ', new'}"


def version(
    row: Any,
    lives: Sequence[Any],
    metrics: dict[str, float],
    skills: dict[str, float],
    roll_backs: Sequence[Answer],
) -> Answer:
    """A version in one line of the history."""
    return {
        "version": row.number,
        "parent": row.parent,
        "reason": row.trained_because,
        "fate": row.status,
        "decision": row.decision,
        "created": iso(row.created),
        "live": [{"from": iso(p.live_from), "until": iso(p.live_until)} for p in lives],
        "sha256": row.sha256,
        "metrics": metrics,
        "skills": skills,
        "rolled_back": list(roll_backs),
    }


def roll_back(entry: Any, facts: Answer, to: int) -> Answer:
    """When a version was left, by whom and why, and which one came back; facts: its entry's."""
    return {
        "at": iso(entry.at),
        "by": entry.actor,
        "because": facts["reason"],
        "to": to,
    }


def ancestor(row: Any, parent: int | None, others: Sequence[Any]) -> Answer:
    """A version in a lineage, and the versions made of it that are not in it."""
    return {
        "version": row.number,
        "parent": parent,
        "reason": row.reason,
        "fate": row.status,
        "decision": row.decision,
        "created": iso(row.created),
        "sha256": row.sha256,
        "others": [{"version": other.other, "fate": other.other_fate} for other in others],
    }


def boundary(row: Any, channels: Sequence[str]) -> Answer:
    """Where a segment began, the test that said so, and the sensors that moved, by name."""
    return {
        "partition": row.partition,
        "series": row.series,
        "segment": row.segment,
        "boundary_row": row.boundary_row,
        "detected_row": row.detected_row,
        "boundary_offset": row.boundary_offset,
        "detected_offset": row.detected_offset,
        "boundary_at": iso(row.boundary_time),
        "detected_at": iso(row.detected_time),
        "end_row": row.end_row,
        "end_offset": row.end_offset,
        "end_at": iso(row.end_time),
        "signal": row.signal,
        "statistic": row.statistic,
        "threshold": row.threshold,
        "detectors": decode(row.detectors),
        "sensors": [_moved(change, channels) for change in decode(row.sensors)],
        "task": row.task,
        "task_kind": row.task_kind,
        "task_name": row.task_name,
        "recurrence": row.recurrence,
        "distance": row.distance,
    }


def _moved(change: Answer, channels: Sequence[str]) -> Answer:
    """What changed of a sensor, or between two."""
    other = change["other"]
    names = {
        "sensor": channels[change["channel"]],
        "other_sensor": None if other is None else channels[other],
    }
    return names | change


def turnaround(row: Any) -> Answer:
    """From a boundary to the champion that knows what came after it."""
    return {
        "series": row.series,
        "segment": row.segment,
        "version": row.number,
        "recorded_at": iso(row.recorded),
        "requested_at": iso(row.created),
        "promoted_at": iso(row.promoted),
    }


def segment(row: Any) -> Answer:
    """A segment, and the task that it was named: new, or known from another segment."""
    return {
        "series": row.series,
        "segment": row.segment,
        "task": row.number,
        "task_kind": row.kind,
        "task_name": row.name,
        "recurrence": row.recurrence,
        "distance": row.distance,
        "final": row.final,
    }


def task(row: Any, learned_by: Sequence[int]) -> Answer:
    """A task in one line: what people said of it, and what it has been to the stream."""
    return {
        "task": row.number,
        "kind": row.kind,
        "name": row.name,
        "since": iso(row.created),
        "segments": row.segments,
        "waiting": row.waiting,
        "learned_by": list(learned_by),
    }


def place(row: Any) -> Answer:
    """A segment that has shown a task."""
    names = ("partition", "series", "segment", "recurrence", "final")
    return {name: getattr(row, name) for name in names}


def said(row: Any) -> Answer:
    """What a person said of a task: an entry of the ledger."""
    entry = decode(row.entry)
    return {
        "at": iso(row.at),
        "actor": row.actor,
        "reason": entry["reason"],
        "before": entry["before"],
        "after": entry["after"],
    }


def metrics(rows: Sequence[Any]) -> dict[str, float]:
    """A version's figures by name."""
    return {row.name: row.value for row in rows}


def skills(rows: Sequence[Any]) -> dict[str, float]:
    """A version's row of R, by task number."""
    return {f"task {row.number}": row.skill for row in rows}


def parent_skills(rows: Sequence[Any]) -> dict[str, float]:
    """The same of its parent, on the same readings, where that was measured."""
    known = (row for row in rows if row.parent_skill is not None)
    return {f"task {row.number}": row.parent_skill for row in known}


def gap(row: Any) -> Answer:
    """Records that Kafka had no longer when they were to be read."""
    return {
        "event": "records_lost",
        "partition": row.partition,
        "first_offset": row.first_offset,
        "end_offset": row.end_offset,
        "went_on": row.went_on,
        "at": iso(row.recorded),
    }


def event(row: Any) -> Answer:
    """What happened to a sensor."""
    return {
        "event": row.kind,
        "sensor": decode(row.channels)[row.channel],
        "partition": row.partition,
        "series": row.series,
        "row": row.row,
        "offset": row.offset,
        "at": iso(row.time),
    }


def token(row: Any) -> Answer:
    """A `tokens.Token`."""
    return {
        "name": row.name,
        "role": row.role,
        "made_by": row.actor,
        "created": iso(row.created),
        "revoked": iso(row.revoked),
    }


def envelope(row: Any) -> Answer:
    """Limits that were agreed on, as `envelopes.Envelope` has them."""
    return {
        "envelope": row.number,
        "limits": msgspec.to_builtins(row.limits, str_keys=True),
        "set_at": iso(row.created),
        "actor": row.actor,
        "reason": row.reason,
    }


def waiting(row: Any, held: Any) -> Answer:
    """A version that waits for a word, and the `envelopes.Judgement` that let it wait."""
    return {
        "version": row.version,
        "made_at": iso(row.created),
        "because": row.decision,
        **held.told(),
    }
