"""The clock's settings in, what will be done by it and what came of it last out, for people."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from pipeline.config import Settings
from pipeline.register.listing import Listing
from pipeline.register.sql import SqlRegistry
from pipeline.run.scheduler import cron

#: Due times of each schedule that are told.
TOLD = 5


def upcoming(
    settings: Settings, registry: SqlRegistry, now: datetime | None = None
) -> list[dict[str, Any]]:
    """Every schedule with its next due times, ISO 8601 with zone; ready for JSON."""
    trigger = cron(settings)
    if trigger is None:
        return []
    times: list[datetime] = []
    after = now or datetime.now(UTC)
    while len(times) < TOLD and (due := trigger.get_next_fire_time(None, after)) is not None:
        times.append(due)
        after = due + timedelta(microseconds=1)
    return [
        {
            "name": "retrain",
            "kind": "retrain",
            "stream": settings.stream.topic,
            "when": f"{settings.schedule.retrain_cron} {settings.schedule.timezone}",
            "next": [time.isoformat() for time in times],
            "last": _last(settings.stream.topic, registry),
        }
    ]


def _last(name: str, registry: SqlRegistry) -> dict[str, Any] | None:
    """The newest request by the clock, and what came of it."""
    stream = registry.stream(name)
    if stream is None:
        return None
    only = {"reason": "schedule"}
    found = Listing(registry.engine).page(
        "requests", stream.id, after=None, limit=1, newest_first=True, only=only
    )
    return {"at": found[0]["due"], "outcome": found[0]["outcome"]} if found else None
