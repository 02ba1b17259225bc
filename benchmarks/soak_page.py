"""Samples of a soak in; whether each figure is flat, what history takes, and the page, out."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks import result

#: Share of the readings that is warm-up, and what a figure may move afterwards.
WARM_UP, TOLERANCE = 0.25, 0.05
#: Parts of what follows that are compared.
PARTS = 10
#: The figures that have to be flat, with their units.
FLAT = {
    "resident memory": "MB",
    "file handles": "",
    "threads": "",
    "checkpoint": "MB",
    "SQLite pages that are no history": "MB",
    "write-ahead log": "MB",
}

Sample = dict[str, float]


def judged(name: str, samples: Sequence[Sample]) -> dict[str, Any]:
    """Whether a figure is flat: every tenth of what follows warm-up has the mean of all of it."""
    most = max(sample["readings"] for sample in samples)
    kept = [sample for sample in samples if sample["readings"] >= WARM_UP * most]
    values = np.array([sample[name] for sample in kept])
    mean = values.mean()
    parts = np.array([part.mean() for part in np.array_split(values, min(PARTS, len(values)))])
    away = float(np.abs(parts - mean).max() / mean) if mean else 0.0
    millions = np.array([sample["readings"] for sample in kept]) / 1e6
    slope = float(np.polyfit(millions, values, 1)[0]) if len(values) > 1 else 0.0
    return {
        "figure": f"{name}, {FLAT[name]}".rstrip(", "),
        "mean": round(float(mean), 3),
        "least": round(float(values.min()), 3),
        "most": round(float(values.max()), 3),
        "a tenth away, %": round(100 * away, 2),
        "% in a million": round(100 * slope / float(mean), 4) if mean else 0.0,
        "verdict": "flat" if away <= TOLERANCE else "GROWS OR FALLS",
    }


def growth(samples: Sequence[Sample]) -> dict[str, float]:
    """What history takes: boundaries from warm-up to the end, kB that each added; and what the
    processor has to do for a million readings in the second quarter and in the last.
    """
    most = max(sample["readings"] for sample in samples)
    first = next(sample for sample in samples if sample["readings"] >= WARM_UP * most)
    boundaries = samples[-1]["boundaries"] - first["boundaries"]
    megabytes = samples[-1]["history"] - first["history"]
    return {
        "boundaries": samples[-1]["boundaries"],
        "history, MB": round(samples[-1]["history"], 1),
        "kB of history a boundary": round(1000 * megabytes / max(boundaries, 1), 1),
        "processor seconds a million readings in the second quarter": _seconds(samples, 0.25),
        "in the last": _seconds(samples, 0.75),
    }


def _seconds(samples: Sequence[Sample], begin: float) -> float:
    """Processor seconds a million readings, in the quarter that begins there."""
    most = samples[-1]["readings"]
    some = [s for s in samples if begin * most <= s["readings"] <= (begin + 0.25) * most]
    took = some[-1]["processor seconds"] - some[0]["processor seconds"]
    return round(1e6 * took / max(some[-1]["readings"] - some[0]["readings"], 1), 2)


def page(rows: Sequence[Mapping[str, Any]], more: Mapping[str, Any]) -> str:
    """The figures as Markdown."""
    said = result.machine()
    head = (
        f"# Soak\n\nMade by `python -m benchmarks.soak {shlex.join(sys.argv[1:])}` on "
        f"{said['cpu']}, {said['cores']} cores, "
        f"Python {said['python']}, in {more['seconds']:,} s: {more['readings']:,} readings from "
        f"{more['source']}. The first quarter is warm-up; after it, the mean of every tenth has to "
        "lie within 5 % of the mean of all.\n"
    )
    grown = ", ".join(f"{name} {value:,}" for name, value in more["growth"].items())
    table = result.markdown(rows)
    return f"{head}\n{table}\n\nHistory grows with what happens, and is kept: {grown}.\n"
