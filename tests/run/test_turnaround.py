from __future__ import annotations

import json
from typing import Any

import pytest

from pipeline.run.turnaround import loaded, turnaround


def at(second: float) -> str:
    return f"2026-03-01T12:00:{second:09.6f}+00:00"


def boundary(segment: int, version: int, *times: float) -> dict[str, Any]:
    """Recorded, requested and promoted at these seconds of a minute."""
    recorded, requested, promoted = map(at, times)
    told = {"recorded_at": recorded, "requested_at": requested, "promoted_at": promoted}
    return {"series": "pump", "segment": segment, "version": version} | told


def line(version: int, second: float) -> str:
    """As the stream process logs it."""
    moment = at(second).replace("+00:00", "Z")
    return json.dumps({"event": "champion_loaded", "version": version, "timestamp": moment})


def test_a_turnaround_ends_when_the_version_or_a_later_one_is_loaded() -> None:
    """Version 2: 6.5 - 1 = 5.5 s, 1.5 s of them after 5. Version 3 was never loaded, 4 was at 20:
    20 - 12 = 8 and 20 - 16 = 4. Version 5 was loaded before its promotion, by a process that had
    it already, and not since: left out. Medians of two are means: 6.75 and 2.75.
    """
    champions = loaded([line(1, 0.5), line(2, 6.5), line(4, 20.0), line(5, 30.0)])
    found = turnaround(
        [boundary(1, 2, 1, 5, 6), boundary(2, 3, 12, 16, 17), boundary(3, 5, 32, 34, 35)],
        champions,
    )
    assert [(b["version"], b["seconds"], b["from_request_s"]) for b in found["each"]] == [
        (2, 5.5, 1.5),
        (3, 8.0, 4.0),
    ]
    assert found["median_seconds"] == pytest.approx(6.75)
    assert found["median_from_request_s"] == pytest.approx(2.75)
    assert (found["largest_seconds"], found["largest_from_request_s"]) == (8.0, 4.0)


def test_without_a_champion_there_is_no_turnaround() -> None:
    """Nothing is said rather than 0 seconds."""
    found = turnaround([boundary(1, 2, 1, 5, 6)], [])
    assert found["each"] == []
    assert found["median_seconds"] is found["largest_from_request_s"] is None


def test_lines_that_say_nothing_of_a_champion_are_passed_over() -> None:
    """Another process's line, one cut off by its end, one without a version."""
    lines = ["Traceback", line(2, 3)[:-1], '{"event": "champion_loaded"}', line(3, 4)]
    assert [version for version, _ in loaded(lines)] == [3]
