"""The same streams with `detect.profile = "light"`: what a smaller state costs in F1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks import detection_data as data
from benchmarks.detection_cost import cost_of, state_of
from benchmarks.detection_goals import COST, F1, FALSE, STATE, row
from benchmarks.detection_parts import Rows, Track, rows_of
from benchmarks.detection_peers import boundaries
from benchmarks.detection_score import pooled
from pipeline.config import Detect

PROFILES = {"light": Detect(profile="light"), "default": Detect()}


def light(track: Track[Any], seeds: Sequence[int]) -> Rows:
    """F1 and false alarms of each stream, bytes and microseconds, of both profiles."""
    lines = []
    for name in data.STREAMS:
        if name == "AReM" and "../shared/data/arem" in data.missing():
            continue
        made = [data.stream(name, seed) for seed in track(seeds, f"{name}: making")]
        for profile, settings in PROFILES.items():
            found = [
                rows_of(boundaries(one.readings, settings))
                for one in track(made, f"{name}, {profile}")
            ]
            score = pooled(made, found)
            lines += [
                row("light", name, f"{F1}, {profile}", score.f1),
                row("light", name, f"{FALSE}, {profile}", score.false_alarms),
            ]
    for profile, settings in PROFILES.items():
        lines += [
            row("light", "8 sensors", f"{STATE}, {profile}", state_of(settings)),
            row("light", "one series, polls of 500", f"{COST}, {profile}", cost_of(settings)),
        ]
    return lines
