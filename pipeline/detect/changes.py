"""A located boundary in, what changed of which sensors out: the plainest explanation.

A level that moved explains whatever else its sensor does; what the forecaster leaves over of the
others says how their spreads, correlations and dynamics changed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.detect import spreads
from pipeline.detect.evidence import BLOCKS, TESTS
from pipeline.detect.fields import Fields
from pipeline.detect.piece import View
from pipeline.detect.search import Crossing
from pipeline.detect.signals import BLOCK
from pipeline.detect.spreads import Likely
from pipeline.records import Change

Array = NDArray[np.float64]

#: Blocks on either side of a boundary that levels are taken from, at least.
AROUND = 12
#: Means of the residual that are taken before a boundary at most, and on either side at least.
MOST, LEAST = 60, 3
#: A change is told if it is so many of its own errors, and so large in the common currency.
SURE, LARGE = 4.0, 0.2
#: A level that moved by so many of its errors explains that what is left over of it did.
HINT = 2.0
#: Changes that are told, at most.
TOLD = 4


@dataclass(frozen=True, slots=True)
class Scene:
    """A crossing of one series, and the boundary that it was located at."""

    fields: Fields
    view: View
    crossing: Crossing
    #: Blocks at which the segment before begins, and the new one.
    since: int
    where: int
    #: (d,) what the levels are measured by.
    sigma: Array

    def field(self, name: str) -> NDArray[Any]:
        """What is known of the series."""
        return np.asarray(self.fields[name][int(self.view.slots[0])])

    def means(self, signal: str, low: int, high: int) -> Array:
        """Means low <= k < high of a signal, (n, F), of those that its ring reaches back to."""
        reach = self.crossing.block // BLOCKS[signal] - self.view.rings[signal].size
        return self.view.stretch(signal).means(0, max(low, reach, 0), high)


def changes(scene: Scene) -> tuple[Change, ...]:
    """What changed, the largest change first; at least the likeliest."""
    likely = list(_levels(scene))
    moved = [change.channel for _, change in filter(_told, likely)]
    likely += _left_over(scene, moved)
    told = [change for _, change in filter(_told, likely)]
    told = told or [max(likely, key=lambda pair: pair[0])[1]]
    return tuple(map(_rounded, sorted(told, key=lambda change: -change.effect)[:TOLD]))


def _told(likely: Likely) -> bool:
    z, change = likely
    return z >= SURE and change.effect >= LARGE


def _rounded(change: Change) -> Change:
    """With the digits that say something."""
    told = (change.change, change.before, change.after)
    by, before, after = (float(f"{value:.5g}") for value in told)
    return replace(change, change=by, before=before, after=after)


def _levels(scene: Scene) -> Iterator[Likely]:
    """Every sensor's level, in its unit."""
    block, where = scene.crossing.block, scene.where
    around = max(AROUND, (block - where) // 2)
    before = scene.means("level", where - around, where)
    after = scene.means("level", max(where, block - around), block)
    one, other = before.mean(axis=0), after.mean(axis=0)
    error = scene.sigma * np.sqrt((1 / len(before) + 1 / len(after)) / BLOCK)
    z = np.abs(other - one) / error
    if (left := _mean_moved(scene)) is not None:
        z = np.where(z >= HINT, np.maximum(z, left), z)
    location, scale = scene.field("location"), scene.field("scale")
    for j, change in enumerate((other - one).tolist()):
        yield (
            float(z[j]),
            Change(
                kind="level",
                channel=j,
                change=change,
                before=float(location[j] + scale[j] * one[j]),
                after=float(location[j] + scale[j] * other[j]),
            ),
        )


def _left_over(scene: Scene, moved: list[int]) -> list[Likely]:
    """Spreads, correlations and dynamics of the sensors whose level did not move."""
    block, where, unit = scene.crossing.block, scene.where, BLOCKS["residual"]
    first, last = -(-where // unit), block // unit
    low = max(first - MOST, -(-scene.since // unit))
    if scene.fields.light or "residual" not in scene.view.means:
        return []
    if min(first - low, last - first) < LEAST:
        return []
    d = len(scene.sigma)
    still = np.ones(d, dtype=np.bool_)
    still[moved] = False
    around = spreads.Around(
        residual=(scene.means("residual", low, first), scene.means("residual", first, last)),
        level=(scene.means("level", scene.since, where), scene.means("level", where, block)),
        fit={name[4:]: scene.field(name) for name in scene.fields.fit},
        still=still,
    )
    found = list(spreads.likely(around))
    if not moved and (mean := _mean_moved(scene)) is not None:
        j = int(mean.argmax())
        found.append((float(mean[j]), spreads.dynamics(around, j)))
    return found


def _mean_moved(scene: Scene) -> Array | None:
    """(d,) by how many sigmas the mean of what is left over moved, if that was looked at."""
    d = len(scene.sigma)
    if scene.fields.light or TESTS[scene.crossing.test].signal == "level":
        return None
    return scene.crossing.z[d : 2 * d]
