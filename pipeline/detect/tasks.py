"""Fingerprints: is this regime new, or task k again? Pure: the registry decides in which order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import fields as names_of
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from pipeline.detect.evidence import cube_root
from pipeline.detect.signals import BLOCK
from pipeline.records import FloatArray

Array = NDArray[np.float64]

#: A regime further from every known one is new: statistics on one series, and the units' distance
#: from one series to another.
NEW_FROM, NEW_FROM_ELSEWHERE = 3.2, 1.0
#: The root mean square of so many largest z of residual features, and of levels.
LARGEST, LARGEST_LEVELS = 8, 3
#: So many readings of a level are worth one of an independent level.
WORTH = 50
#: A level that differs by less than this, in robust scales, is the same.
SAME_LEVEL = 0.25
#: Deviations of a level that differ by this factor are of two regimes.
OTHER_DEVIATION = 3.0
#: What is said of a task by its kind.
SAID = {
    "normal": "",
    "fault": "fault",
    "ignore": "ignored",
    "asked": "not learned until somebody says what it is",
}
#: A variance that is as good as none.
TINY = 1e-12


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Fingerprint:
    """What a segment looks like; NaN where a sensor said too little.

    All but `units` is in its own series' coordinates, and compared within that series only: each
    series has references of its own.
    """

    #: Readings behind the residual's and the level's.
    rows: int
    level_rows: int
    #: (F,) mean of the residual features, and variance of their means times the readings in one.
    mean: Array
    variance: Array
    #: (d,) where the forecaster's centre was: residuals of two centres do not compare.
    centre: Array
    #: (d,) mean of the levels in robust scales, and variance of their means times WORTH.
    level: Array
    level_variance: Array
    #: (2, d) location and deviation of the levels in the sensors' units.
    units: Array

    def to_json(self) -> str:
        """As text, NaN as null; `from_json` gives the same bits back."""
        parts = {part.name: getattr(self, part.name) for part in names_of(self)}
        plain = {n: v.tolist() if isinstance(v, np.ndarray) else v for n, v in parts.items()}
        return msgspec.json.encode(plain, order="sorted").decode()

    @classmethod
    def from_json(cls, text: str) -> Fingerprint:
        """What `to_json` wrote."""
        plain: dict[str, Any] = msgspec.json.decode(text)
        arrays = {n: np.array(v, dtype=float) for n, v in plain.items() if isinstance(v, list)}
        return cls(**plain | arrays)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Known:
    """A task as one series knows it: by its own fingerprint, or from elsewhere by its units."""

    own: Fingerprint | None
    units: Array


def in_units(readings: FloatArray) -> Array:
    """Location and deviation (2, d) of the means of BLOCK readings each (n, d).

    A missing cell counts for nothing; a sensor without any cell has NaN.
    """
    x = np.asarray(readings[: len(readings) // BLOCK * BLOCK], dtype=np.float64)
    x = x.reshape(-1, BLOCK, x.shape[1])
    known = np.isfinite(x)
    counts = known.sum(axis=1)
    means = np.where(known, x, 0.0).sum(axis=1) / np.maximum(counts, 1)
    weight = counts > 0
    n = np.maximum(weight.sum(axis=0), 1)
    location = (means * weight).sum(axis=0) / n
    deviation = np.sqrt((((means - location) ** 2) * weight).sum(axis=0) / n)
    return np.where(weight.any(axis=0), np.stack([location, deviation]), np.nan)


def nearest(
    units: Array, known: Mapping[int, Known], own: Fingerprint | None = None
) -> tuple[int | None, float]:
    """The known task that a segment is, or None for a new one; and the distance to the nearest.

    Distances are in borders: from 1 on a regime is another one. Tasks that the series has shown
    itself come first; only if it is none of those, the ones that only others showed count, by what
    compares between series, the `units`. own: without it all are compared so.

    >>> import numpy as np
    >>> cold, hot = np.array([[20.0], [1.0]]), np.array([[80.0], [1.0]])
    >>> known = {1: Known(own=None, units=cold), 2: Known(own=None, units=hot)}
    >>> nearest(np.array([[20.3], [1.1]]), known)[0]
    1
    >>> nearest(np.array([[50.0], [1.0]]), known)[0] is None
    True
    """
    here: dict[int, float] = {}
    elsewhere: dict[int, float] = {}
    for task, each in known.items():
        if own is not None and each.own is not None:
            here[task] = distance(own, each.own) / NEW_FROM
        else:
            elsewhere[task] = apart(units, each.units) / NEW_FROM_ELSEWHERE
    least = float("inf")
    for distances in (here, elsewhere):
        best = min(distances, key=lambda task: distances[task], default=None)
        if best is not None:
            if distances[best] < 1:
                return best, distances[best]
            least = min(least, distances[best])
    return None, least


def distance(a: Fingerprint, b: Fingerprint) -> float:
    """The largest of several statistics; what says nothing in one of the two counts in none.

    Of residual features `z = |delta| / sqrt(max(v_a, v_b) (1/n_a + 1/n_b))`: the root mean square
    of the largest, and the white ones jointly. Of levels the same, with SAME_LEVEL^2 added under
    the root. With another centre residuals say nothing, and the levels' deviations stand in.
    """
    d = len(a.level)
    v = np.maximum(a.level_variance, b.level_variance) * _rows(a.level_rows, b.level_rows)
    levels = _rms(np.abs(a.level - b.level) / np.sqrt(v + SAME_LEVEL**2), LARGEST_LEVELS)
    if not (np.array_equal(a.centre, b.centre) and a.rows and b.rows):
        return max(levels, _deviations(a, b))
    v = np.maximum(a.variance, b.variance) * _rows(a.rows, b.rows)
    z = np.abs(a.mean - b.mean) / np.sqrt(v + TINY)
    white = z[-d:][~np.isnan(z[-d:])]
    together = float(cube_root(np.square(white).mean(), white.size)) if white.size else 0.0
    return max(levels, _rms(z[:-d], LARGEST), together)


def _deviations(a: Fingerprint, b: Fingerprint) -> float:
    """Of the levels' deviations: NEW_FROM where they differ by the factor OTHER_DEVIATION."""
    least = SAME_LEVEL**2 * WORTH
    ratio = np.log((a.level_variance + least) / (b.level_variance + least)) / 2
    return _rms(np.abs(ratio) * (NEW_FROM / np.log(OTHER_DEVIATION)), LARGEST_LEVELS)


def _rows(a: int, b: int) -> float:
    """1/n_a + 1/n_b."""
    return 1 / max(a, 1) + 1 / max(b, 1)


def _rms(z: Array, largest: int) -> float:
    """Root mean square of the largest that are not NaN; 0 without any."""
    top = np.sort(z[~np.isnan(z)])[-largest:]
    return float(np.sqrt(np.square(top).mean())) if top.size else 0.0


def merge(a: Fingerprint, b: Fingerprint) -> Fingerprint:
    """The two as one, by their rows; residuals of another centre do not mix: the later one's, `b`,
    stay, if it has any."""
    same = np.array_equal(a.centre, b.centre)
    later = b if b.rows else a
    w = b.rows / max(a.rows + b.rows, 1)
    u = b.level_rows / max(a.level_rows + b.level_rows, 1)
    return Fingerprint(
        rows=a.rows + b.rows if same else later.rows,
        level_rows=a.level_rows + b.level_rows,
        mean=_mix(a.mean, b.mean, w) if same else later.mean,
        variance=_mix(a.variance, b.variance, w) if same else later.variance,
        centre=later.centre,
        level=_mix(a.level, b.level, u),
        level_variance=_mix(a.level_variance, b.level_variance, u),
        units=_mix(a.units, b.units, u),
    )


def _mix(a: Array, b: Array, share: float) -> Array:
    """`share` of b; where only one is known, that one."""
    mixed = (1 - share) * a + share * b
    return np.where(np.isnan(mixed), np.where(np.isnan(b), a, b), mixed)


def apart(a: Array, b: Array) -> float:
    """Root mean square over sensors of a change of location and of deviation, in the units (2, d).

    location: |a - b| by the larger deviation; deviation: the logarithm of their ratio. A sensor
    that is silent in either counts for nothing.
    """
    both = ~(np.isnan(a[0]) | np.isnan(b[0]))
    a, b = a[:, both], b[:, both]
    tiny = np.maximum(np.maximum(np.abs(a[0]), np.abs(b[0])) * 1e-6, 1e-12)
    scale_a, scale_b = np.maximum(a[1], tiny), np.maximum(b[1], tiny)
    shift = np.abs(a[0] - b[0]) / np.maximum(scale_a, scale_b)
    spread = np.log(scale_a / scale_b)
    return float(np.sqrt((shift**2 + spread**2).mean())) if both.any() else 0.0


def titled(task: int, kind: str, name: str | None, *, recurrence: bool) -> str:
    """A segment's task in a clause, with what people said of it.

    >>> titled(4, "fault", "bearing", recurrence=True)
    'task 4 again: fault "bearing"'
    >>> titled(5, "asked", None, recurrence=False)
    'new task 5: not learned until somebody says what it is'
    """
    what = f"task {task} again" if recurrence else f"new task {task}"
    said = " ".join(filter(None, (SAID[kind], f'"{name}"' if name else "")))
    return f"{what}: {said}" if said else what


def told(
    task: int,
    recurrence: bool,
    distance: float | None,
    kind: str = "normal",
    name: str | None = None,
) -> str:
    """What a segment was named, in one sentence.

    >>> told(2, True, 0.412)
    'It is task 2 again (distance 0.41, new from 1 on).'
    >>> told(5, False, 2.3)
    'It is new task 5 (distance 2.30, new from 1 on).'
    >>> told(5, False, None)
    'It is new task 5.'
    >>> told(4, True, 0.4, "fault", "bearing")
    'It is task 4 again: fault "bearing" (distance 0.40, new from 1 on).'
    """
    what = titled(task, kind, name, recurrence=recurrence)
    near = "" if distance is None else f" (distance {distance:.2f}, new from 1 on)"
    return f"It is {what}{near}."
