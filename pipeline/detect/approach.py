"""What a series did since a boundary in, when it arrived out: at once, by a ramp or exponentially.

The levels since then are kept in a few sums over so many blocks each; when they are full, every two
become one. Sums of whole numbers are exact, so any cut of a stream into polls gives the same.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.detect.evidence import BLOCKS
from pipeline.detect.fields import Fields
from pipeline.detect.piece import View
from pipeline.detect.signals import BLOCK

Array = NDArray[np.float64]

#: Lengths of a ramp, and time constants, that are tried between the shortest and what there is.
LENGTHS = 48
#: A change has arrived when less than this share of it is left.
LEFT = 0.05
#: A change took time if that explains so much more than if it came at once, in squared errors.
BETTER = 6.0
#: Levels are summed in steps of so many deviations: 2,048 of the largest fit into 32 bits.
STEP = 2.0**-8
#: Features of the residual that tell, those that changed most.
FEATURES = 8
#: Means of the residual before a boundary, at least and at most.
LEAST, MOST = 6, 60


def begin(fields: Fields, slot: int, where: int, before: Array, sigma: Array) -> None:
    """A transition of a series begins at a block.

    before: (d,) level until then. sigma: (d,) what the levels are measured by.
    """
    fields["opened"][slot], fields["told"][slot] = where, where
    fields["cell_width"][slot] = 1
    fields["cells"][slot], fields["cell_places"][slot] = 0, 0
    fields["cell_before"][slot], fields["cell_sigma"][slot] = before, sigma


def add(fields: Fields, slot: int, upto: int, levels: Array, places: NDArray[np.int64]) -> None:
    """Blocks told <= k < upto: their level (n, d), and offset and time (n, 2) of their first."""
    opened, told = int(fields["opened"][slot]), int(fields["told"][slot])
    cells, first = fields["cells"][slot], fields["cell_places"][slot]
    width = int(fields["cell_width"][slot])
    size = len(cells)
    while upto - opened > size * width:
        width *= 2
        for kept, merged in ((cells, cells[::2] + cells[1::2]), (first, first[::2])):
            kept[: size // 2], kept[size // 2 :] = merged.copy(), 0
    number = np.arange(told, upto) - opened
    np.add.at(cells, number // width, np.rint(levels / STEP).astype(np.int32))
    begins = number % width == 0
    first[number[begins] // width] = places[begins]
    fields["cell_width"][slot], fields["told"][slot] = width, upto


def end(fields: Fields, view: View, upto: int) -> float:
    """Blocks from its beginning until the one series arrives, by what it did until block `upto`."""
    slot = int(view.slots[0])
    if not fields["by_level"][slot]:
        arrived = _residual(fields, view, upto)
        if arrived is not None:
            return min(arrived, float(upto - fields["opened"][slot]))
    width = int(fields["cell_width"][slot])
    count = max((upto - int(fields["opened"][slot])) // width, 1)
    x = fields["cells"][slot][:count] * (STEP / width) - fields["cell_before"][slot]
    x = np.asarray(x / fields["cell_sigma"][slot], dtype=np.float64)
    return arrival((np.arange(count) + 0.5) * width, x, width * BLOCK)


def _residual(fields: Fields, view: View, upto: int) -> float | None:
    """Blocks until the residual's features arrived; None if what was before is not known."""
    unit, slot = BLOCKS["residual"], int(view.slots[0])
    if "residual" not in view.means:
        return None
    first, last = -(-int(fields["opened"][slot]) // unit), upto // unit
    low = max(first - MOST, int(fields["told"][slot]) // unit - view.rings["residual"].size, 0)
    if min(first - low, last - first) < LEAST:
        return None
    stretch = view.stretch("residual")
    before, x = stretch.means(0, low, first), stretch.means(0, first, last)
    late = x[-len(x) // 2 :].mean(axis=0)
    sigma = np.maximum(before.std(axis=0, ddof=1) * np.sqrt(unit * BLOCK), 1e-3)
    top = np.argsort(-np.abs(late - before.mean(axis=0)) / sigma, kind="stable")[:FEATURES]
    x = np.asarray((x - before.mean(axis=0))[:, top] / sigma[top], dtype=np.float64)
    return arrival((np.arange(len(x)) + 0.5) * unit, x, unit * BLOCK)


def arrival(t: NDArray[np.floating[Any]], x: NDArray[np.floating[Any]], weight: int) -> float:
    """When changes x (n, k), in sigmas of one reading, arrive at where they go; at times t (n,).

    Each is c_k s(t): the shape s is a step, a ramp or an exponential, the c_k are fitted by least
    squares, and the shape is the one that leaves least, if it is much less than with the step.
    """
    lengths = np.geomspace(max(t[0] * 2, 1.0), max(t[-1] * 2, 2.0), LENGTHS)
    late = t[:, None] / lengths
    shapes = np.concatenate([np.ones((len(t), 1)), np.clip(late, 0, 1), -np.expm1(-late)], axis=1)
    arrived = np.concatenate([[0.0], (1 - LEFT) * lengths, -np.log(LEFT) * lengths])
    explained = ((x.T @ shapes) ** 2).sum(axis=0) / (shapes**2).sum(axis=0) * weight
    best = int(explained.argmax())
    if explained[best] < explained[0] + BETTER:
        return 0.0
    return float(arrived[best])
