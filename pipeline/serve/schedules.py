"""What happens by the clock, as people and programs are told: next times, last runs, what waits."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import msgspec

from pipeline.config import Schedule, Settings
from pipeline.errors import PipelineError
from pipeline.register.due import Timing
from pipeline.register.engine import moment
from pipeline.register.schedules import Entry, ScheduledRun
from pipeline.register.sql import SqlRegistry
from pipeline.serve.answers import iso

#: Times and runs that are told of each schedule.
NEXT, LAST = 5, 5


def listed(settings: Settings, registry: SqlRegistry) -> dict[str, Any]:
    """`schedules`, each with its next times and last runs; `held`, the requests that wait by rule.

    A schedule is as a scheduler runs it; one that none has seen yet, as the settings have it.
    """
    now = moment(registry.clock())
    known = {entry.definition.name: entry for entry in registry.schedules()}
    new = {each.name: each for each in settings.schedule if each.name not in known}
    told = [_told(registry, name, known.get(name), new.get(name), now) for name in known | new]
    held = [
        {"stream": stream.name, "request": number, "reason": reason, "because": why}
        for stream in registry.streams()
        for number, reason, why in registry.held(stream.id)
    ]
    return {"schedules": sorted(told, key=lambda each: str(each["name"])), "held": held}


def find(settings: Settings, registry: SqlRegistry, name: str) -> Schedule:
    """The schedule of a name: as a scheduler runs it, else as the settings have it.

    Raises
    ------
    PipelineError
        There is none.
    """
    found = {each.name: each for each in settings.schedule}
    entries = registry.schedules()
    found |= {each.definition.name: each.definition for each in entries if each.gone is None}
    if name not in found:
        known = ", ".join(sorted(found)) or "none yet"
        raise PipelineError(f"no schedule {name}; known: {known}")
    return found[name]


def _told(
    registry: SqlRegistry, name: str, entry: Entry | None, new: Schedule | None, now: datetime
) -> dict[str, Any]:
    definition = entry.definition if entry is not None else new
    paused = None
    if entry is not None and entry.paused is not None:
        paused = {
            "since": iso(entry.paused),
            "by": entry.paused_by,
            "because": entry.paused_because,
        }
    state = "not seen by a scheduler yet"
    if entry is not None:
        state = "gone" if entry.gone is not None else "paused" if paused else "active"
    runs = [_run(run) for run in registry.schedule_runs(name, LAST)]
    return {
        "name": name,
        "state": state,
        **msgspec.to_builtins(definition),
        "paused": paused,
        "next": _next(definition, now) if definition is not None and state == "active" else [],
        "runs": runs,
    }


def _next(definition: Schedule, now: datetime) -> list[str]:
    """By the clock on the wall of its zone, with the offset from UTC."""
    zone = ZoneInfo(definition.timezone)
    return [
        each.astimezone(zone).isoformat(timespec="seconds")
        for each in Timing(definition).following(now, NEXT)
    ]


def _run(run: ScheduledRun) -> dict[str, Any]:
    return {
        "due": iso(run.due),
        "actor": run.actor,
        "reason": run.reason,
        "started": iso(run.started),
        "finished": iso(run.finished),
        "ok": run.ok,
        "outcome": run.outcome,
        "request": run.request,
    }
