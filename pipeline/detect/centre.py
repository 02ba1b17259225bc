"""The forecaster's centre follows levels that have gone far from it, and stay there."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.detect import signals
from pipeline.detect.fields import Fields
from pipeline.detect.piece import Piece
from pipeline.detect.ring import UNIT
from pipeline.records import IntArray

Array = NDArray[np.float64]

#: The centre follows a mean of so many blocks that is so many scales away from it.
CENTRE, FAR = 24, 3.0
#: A level counts up to so many scales.
MOST = 1e6


def follow(fields: Fields, piece: Piece, levels: IntArray) -> tuple[IntArray, Array]:
    """(S, T) the block at which it moved last, as of each block, T = 1 if it does not move;
    and where it is (NB, d), or (1, d).

    levels: (NB, d), of `levels`.
    """
    part, slots = fields["centre_part"], piece.slots
    total, count, part[slots] = piece.sums(levels, CENTRE, part[slots])
    mean = total[:, : int(count.max())] * (UNIT / CENTRE)
    centre = fields["centre"][slots]
    far = np.abs(mean - centre[:, None]) > FAR
    far &= (np.arange(mean.shape[1]) < count[:, None])[..., None]
    if not far.any():
        return unmoved(fields, piece), centre if len(slots) == 1 else centre[piece.of]
    return _move(fields, piece, mean, count)


def unmoved(fields: Fields, piece: Piece) -> IntArray:
    """(S, 1) the block at which it moved last."""
    return np.asarray(fields["moved"][piece.slots][:, None])


def _move(fields: Fields, piece: Piece, mean: Array, count: IntArray) -> tuple[IntArray, Array]:
    """The same as `follow`, mean by mean (S, G, d), of which each series has `count` (S,)."""
    moved = np.repeat(unmoved(fields, piece), piece.most, axis=1)
    path = [fields["centre"][piece.slots]]
    for k in range(mean.shape[1]):
        far = (np.abs(mean[:, k] - path[-1]) > FAR) & (k < count)[:, None]
        path.append(np.where(far, mean[:, k], path[-1]))
        at = (piece.now // CENTRE + k + 1) * CENTRE
        late = np.arange(piece.most) >= (at - piece.now - 1)[:, None]
        moved = np.where(far.any(axis=1)[:, None] & late, at[:, None], moved)
    fields["centre"][piece.slots] = path[-1]
    fields["moved"][piece.slots] = moved[np.arange(len(piece.slots)), piece.size - 1]
    group = (piece.now[piece.of] + piece.rank) // CENTRE - (piece.now // CENTRE)[piece.of]
    return moved, np.stack(path, axis=1)[piece.of, group]


def levels(fields: Fields, piece: Piece) -> IntArray:
    """Block means (NB, d) in the forecaster's scales, as whole numbers of UNITs."""
    at = piece.slots if len(piece.slots) == 1 else piece.each
    z = signals.block_means(piece.blocks.readings)
    z -= fields["fit_location"][at]
    z /= fields["fit_scale"][at]
    if piece.blocks.holed.size:
        z[np.isnan(z)] = 0.0
    np.minimum(z, MOST, out=z)
    np.maximum(z, -MOST, out=z)
    z /= UNIT
    return np.asarray(np.rint(z, out=z), dtype=np.int64)
