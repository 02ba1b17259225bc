"""Labelled streams and recordings in ../shared in; readings and true boundaries out.

What is not there is not downloaded: `missing` names it.
"""

from __future__ import annotations

import csv
import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

SHARED = Path(__file__).parents[2] / "shared"
#: What settings were chosen on, and what is reported.
CHOSEN, REPORTED = range(20), range(60, 80)
#: Rows after a boundary in which an alarm hits it.
TOLERANCE = {
    "AReM": 240,
    "synthetic": 500,
    "hard": 500,
    "settling": 500,
    "SKAB": 60,
    "occupancy": 60,
}
STREAMS = ("AReM", "synthetic", "hard", "settling")
#: Rows before which nothing is scored: every method looks at them first.
WARM_UP = 300
#: SKAB's first change lies at row 557-578 in 31 of 34 runs: up to so many rows are taken from
#: the start, at random, once with each seed.
SKAB_TRIM, SKAB_SEEDS = 200, (0, 1, 2)
#: `Light` gives the answer away.
ROOM = ("Temperature", "Humidity", "CO2", "HumidityRatio")


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelled:
    """A series with its true boundaries."""

    name: str
    #: (N, d)
    readings: Array
    #: First row of each new regime.
    truth: tuple[int, ...]
    tolerance: int
    #: (N,) regime of each row; empty where the recording does not say.
    regimes: NDArray[np.int64]


def module(path: Path) -> ModuleType:
    """A Python file outside of the repository, as a module; FileNotFoundError without it."""
    spec = importlib.util.spec_from_file_location(f"shared_{path.stem}", path)
    if spec is None or spec.loader is None or not path.exists():
        raise FileNotFoundError(path)
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


@cache
def generators() -> Any:
    """../shared/bench/streams.py; SystemExit with one line without it."""
    try:
        return module(SHARED / "bench" / "streams.py")
    except FileNotFoundError:
        raise SystemExit(
            "bench-detection: ../shared/bench/streams.py is not there; it makes the streams"
        ) from None


def prototype() -> Any | None:
    """../shared/prototypes/detector.py, or None."""
    try:
        return module(SHARED / "prototypes" / "detector.py")
    except FileNotFoundError:
        return None


def missing() -> list[str]:
    """Recordings that are not there."""
    wanted = ("arem", "skab", "occupancy", "tssb", "utsa")
    return [f"../shared/data/{name}" for name in wanted if not (SHARED / "data" / name).is_dir()]


def stream(name: str, seed: int) -> Labelled:
    """One of STREAMS: order (AReM) or seed `seed`."""
    make = generators()
    if name == "AReM":
        readings, task = make.arem(seed, SHARED / "data" / "arem")
    else:
        readings, task = getattr(make, name)(seed)
    return Labelled(
        name=f"{name} {seed}",
        readings=readings,
        truth=tuple(make.boundaries(task)),
        tolerance=TOLERANCE[name],
        regimes=task,
    )


def trimmed(
    runs: Sequence[tuple[str, Array, Sequence[int]]], seed: int, tolerance: int
) -> list[Labelled]:
    """Runs (name, readings, change points) without up to SKAB_TRIM rows at their start.

    A change point that then lies within the first WARM_UP rows is not scored.
    """
    rng = np.random.default_rng(seed)
    made = []
    for name, readings, points in runs:
        cut = int(rng.integers(0, SKAB_TRIM))
        truth = tuple(k - cut for k in points if k - cut > WARM_UP)
        made.append(
            Labelled(
                name=f"{name} from {cut}",
                readings=readings[cut:],
                truth=truth,
                tolerance=tolerance,
                regimes=np.zeros(0, dtype=np.int64),
            )
        )
    return made


@cache
def skab() -> tuple[tuple[str, Array, tuple[int, ...]], ...]:
    """The 34 labelled runs in the order of their folders and names, as text."""
    root = SHARED / "data" / "skab"
    folders = [root / folder for folder in ("other", "valve1", "valve2")]
    runs = []
    for path in (p for folder in folders for p in sorted(folder.glob("*.csv"))):
        _, *rows = csv.reader(path.open(), delimiter=";")
        cells = np.array([[float(c) if c else np.nan for c in row[1:]] for row in rows])
        points = tuple(np.flatnonzero(cells[:, -1] > 0).tolist())
        runs.append((f"{path.parent.name}/{path.stem}", cells[:, :-2], points))
    return tuple(runs)


def occupancy() -> list[Labelled]:
    """Three recordings of one room, each a series of its own."""
    made = []
    for path in sorted((SHARED / "data" / "occupancy").glob("*.txt")):
        header, *rows = csv.reader(path.open())
        shift = len(rows[0]) - len(header)  # a column without a name
        columns = [header.index(name) + shift for name in ROOM]
        occupied = np.array([int(row[-1]) for row in rows])
        made.append(
            Labelled(
                name=path.stem,
                readings=np.array([[float(row[c]) for c in columns] for row in rows]),
                truth=tuple((np.flatnonzero(np.diff(occupied)) + 1).tolist()),
                tolerance=TOLERANCE["occupancy"],
                regimes=occupied,
            )
        )
    return made


def univariate() -> Iterator[Labelled]:
    """TSSB's and UTSA's series, as many as are there."""
    for folder in (SHARED / "data" / "tssb" / "tssb" / "datasets", SHARED / "data" / "utsa"):
        described = folder / "desc.txt"
        for row in csv.reader(described.open()) if described.exists() else ():
            path = folder / f"{row[0]}.txt"
            if path.exists():
                yield Labelled(
                    name=row[0],
                    readings=np.loadtxt(path).reshape(-1, 1),
                    truth=tuple(int(cell) for cell in row[2:] if cell and "." not in cell),
                    tolerance=0,
                    regimes=np.zeros(0, dtype=np.int64),
                )


NOISES = ("i.i.d.", "AR(1) .9", "sine + noise", "t3")
#: Rows of the sine, and the deviation of the noise on it.
PERIOD, ON_SINE = 500, 0.3


def noise(kind: str, seed: int, rows: int, sensors: int) -> Array:
    """(rows, sensors) of a stationary stream, one of NOISES."""
    rng = np.random.default_rng(seed)
    if kind == "t3":
        return rng.standard_t(3, size=(rows, sensors))
    x = rng.normal(size=(rows, sensors))
    if kind == "AR(1) .9":
        for t in range(1, rows):
            x[t] = 0.9 * x[t - 1] + np.sqrt(1 - 0.9**2) * x[t]
    if kind == "sine + noise":
        phase = rng.random(sensors) * 2 * np.pi
        x = np.sin(2 * np.pi * np.arange(rows)[:, None] / PERIOD + phase) + ON_SINE * x
    return x
