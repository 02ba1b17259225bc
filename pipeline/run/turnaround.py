"""Boundaries and what the log says of champions in; seconds from one to the other out."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from statistics import median
from typing import Any

#: When a version, by number, was loaded: it scores from the poll on that came just before.
Loaded = Sequence[tuple[int, datetime]]


def loaded(lines: Iterable[str]) -> Loaded:
    """Of a process's JSON log; a line that is none of it is passed over."""
    found = []
    for line in lines:
        if "champion_loaded" in line:
            try:
                entry = json.loads(line)
                found.append((int(entry["version"]), datetime.fromisoformat(entry["timestamp"])))
            except (ValueError, KeyError, TypeError):
                continue
    return found


def turnaround(boundaries: Iterable[Mapping[str, Any]], champions: Loaded) -> dict[str, Any]:
    """Seconds until the version that learned what a boundary began, or a later one, scored.

    `seconds` from the boundary, `from_request_s` from when there were readings enough to ask; a
    boundary whose version was not loaded any more is left out.
    """
    each = []
    for b in boundaries:
        promoted = datetime.fromisoformat(b["promoted_at"])
        times = [at for version, at in champions if version >= b["version"] and at >= promoted]
        if times:
            each.append(
                {
                    "series": b["series"],
                    "segment": b["segment"],
                    "version": b["version"],
                    "seconds": _seconds(b["recorded_at"], min(times)),
                    "from_request_s": _seconds(b["requested_at"], min(times)),
                }
            )
    return {"each": each} | {
        f"{name}_{key}": round(summary(e[key] for e in each), 3) if each else None
        for key in ("seconds", "from_request_s")
        for name, summary in (("median", median), ("largest", max))
    }


def _seconds(start: str, end: datetime) -> float:
    return round((end - datetime.fromisoformat(start)).total_seconds(), 3)
