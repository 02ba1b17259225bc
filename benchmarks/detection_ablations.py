"""A part of the detector switched off, F1 out: by settings, or by a constant of its modules."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from benchmarks import detection_data as data
from benchmarks.detection_parts import Rows, Track, rows_of
from benchmarks.detection_peers import boundaries
from benchmarks.detection_score import pooled
from pipeline import detect
from pipeline.config import Detect

#: Imported before anything is measured, so that all are of one moment.
MODULES = [
    importlib.import_module(f"{detect.__name__}.{found.name}")
    for found in pkgutil.iter_modules(detect.__path__)
]

Change = Callable[[Any], Any]
#: What is off -> settings, and constants with what each becomes.
ABLATIONS: dict[str, tuple[Detect, dict[str, Change]]] = {
    "nothing": (Detect(), {}),
    "settle rule (settle_after = 0)": (Detect(settle_after=0), {}),
    "river's watch (always open)": (Detect(watch=1 << 60), {}),
    "Welch floor": (
        Detect(),
        {"TESTS": lambda tests: tuple(replace(test, welch=0.0) for test in tests)},
    ),
    "centre following": (Detect(), {"FAR": lambda _: float("inf")}),
    "as-used history": (
        Detect(),
        {"TESTS": lambda tests: tuple(replace(test, used=0.0) for test in tests)},
    ),
}


def ablations(track: Track[Any], seeds: Sequence[int]) -> Rows:
    """F1 (pooled) and false alarms of each stream without each part."""
    names = [n for n in data.STREAMS if n != "AReM" or "../shared/data/arem" not in data.missing()]
    made = {name: [data.stream(name, seed) for seed in seeds] for name in names}
    return [
        {"without": what, **_cells(track, made, what, settings, changes)}
        for what, (settings, changes) in ABLATIONS.items()
    ]


def _cells(
    track: Track[Any],
    made: dict[str, list[data.Labelled]],
    what: str,
    settings: Detect,
    changes: dict[str, Change],
) -> dict[str, Any]:
    cells: dict[str, Any] = {}
    for name, each in made.items():
        try:
            with changed(changes):
                alarms = [
                    rows_of(boundaries(one.readings, settings))
                    for one in track(each, f"{name} without {what}")
                ]
        except LookupError as exc:
            cells |= {f"{name} F1": str(exc), f"{name} false": ""}
            continue
        score = pooled(each, alarms)
        cells |= {f"{name} F1": round(score.f1, 4), f"{name} false": score.false_alarms}
    return cells


@contextmanager
def changed(changes: dict[str, Change]) -> Iterator[None]:
    """Constants of the detector as they become, wherever a module knows them; LookupError if none.

    A module that imports a constant has a name of its own for it.
    """
    before = []
    for name, change in changes.items():
        holders = [m for m in MODULES if hasattr(m, name)]
        if not holders:
            raise LookupError(f"no constant {name}")
        for holder in holders:
            before.append((holder, name, getattr(holder, name)))
            setattr(holder, name, change(getattr(holder, name)))
    try:
        yield
    finally:
        for holder, name, value in before:
            setattr(holder, name, value)
