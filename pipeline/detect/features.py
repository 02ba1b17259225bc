"""Blocks in, whole-number means of the level and of the residual out."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.detect import echoes, signals
from pipeline.detect.blocks import Blocks
from pipeline.detect.evidence import BLOCKS
from pipeline.detect.fields import Fields
from pipeline.detect.piece import Means, Piece
from pipeline.detect.ring import UNIT, WHOLE, Ring, Whole, whole
from pipeline.records import IntArray

Array = NDArray[np.float64]

#: What is refreshed from time to time is refreshed at multiples of so many blocks.
STRIDE = 128
#: Where a sensor is missing, the mean of so many of its last means stands in.
FILL = 12


def means(fields: Fields, signal: str, piece: Piece, offset: Array | None) -> Means:
    """A signal's new means.

    offset: (NB, d) where the forecaster's centre is at each block.
    """
    blocks = _block_means(fields, signal, piece, offset)
    unit = BLOCKS[signal]
    if unit == 1:
        if len(piece.slots) == 1:
            return Means(piece.now, piece.size, blocks[None])
        index = np.minimum(np.arange(piece.most), piece.size[:, None] - 1)
        return Means(piece.now, piece.size, blocks[piece.row[:, None] + index])
    part = fields[f"{signal}_part"]
    total, count, part[piece.slots] = piece.sums(blocks, unit, part[piece.slots])
    rounded = ((total + unit // 2) // unit).astype(WHOLE[signal])
    return Means(piece.now // unit, count, rounded)


def _block_means(fields: Fields, signal: str, piece: Piece, offset: Array | None) -> Whole:
    """(NB, F) whole numbers."""
    blocks, holed = piece.blocks, piece.blocks.holed
    single = len(piece.slots) == 1
    at: Any = piece.slots[0] if single else piece.each
    each = piece.each[holed]
    readings, before = _spoken(fields, blocks, at)
    if signal == "level":
        location, scale = fields["location"][at], fields["scale"][at]
        if not single:
            location, scale = location[:, None], scale[:, None]
        rows: NDArray[Any] = signals.level(readings, location, scale)
        missing = blocks.missing[holed]
    else:
        fit = {
            name[4:]: fields[name][piece.slots[0]] if single else fields[name]
            for name in fields.fit
        }
        of = None if single else piece.each
        rows = signals.residual(readings, before, fit, of, offset, light=fields.light)
        missing = _untold(fields, blocks, each)
        if fields.few:
            rows, missing = _with_echoes(fields, piece, rows, missing)
    means = signals.block_means(rows)
    if holed.size:
        fill = fields[f"{signal}_fill"][each]
        means[holed] = signals.known_means(rows[holed], missing, fill)
    return whole(means, signal)


def _spoken(fields: Fields, blocks: Blocks, at: Any) -> tuple[Array, Array]:
    """Readings (NB, BLOCK, d) and the one before each block (NB, d): the location stands in for a
    sensor that has not spoken yet."""
    readings, before = blocks.readings, blocks.before
    if not blocks.holed.size:
        return readings, before
    if np.isnan(readings).any() or np.isnan(before).any():
        location = np.broadcast_to(fields["location"][at], before.shape)
        readings = np.where(np.isnan(readings), location[:, None], readings)
        before = np.where(np.isnan(before), location, before)
    return readings, before


def _untold(fields: Fields, blocks: Blocks, each: IntArray) -> NDArray[np.bool_]:
    """Features (H, BLOCK, F) of the residual that touch a missing sensor, of the blocks with holes.

    each: (H,) their series' slots.
    """
    if fields.light:
        pairs = np.zeros((len(each), 2, 0), dtype=np.int64)
    else:
        pairs = fields["fit_pairs"][each]
    untold = signals.features_of(
        signals.touched(blocks.missing[blocks.holed], blocks.before_missing[blocks.holed]),
        fields["live"][each],
        pairs,
    )
    d = blocks.before.shape[1]
    return untold[..., -d - 1 : -d] if fields.light else untold


def _with_echoes(
    fields: Fields, piece: Piece, rows: NDArray[Any], missing: NDArray[np.bool_]
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Features (NB, BLOCK, F) of the residual, and what is missing of them in blocks with holes
    (H, BLOCK, F), with the echoes.

    Where a sensor is missing its residual counts as 0 for the echoes that follow.
    """
    d, past, holed = piece.blocks.before.shape[1], fields["past"], piece.blocks.holed
    e = rows[..., d : 2 * d]
    gone = missing[..., d : 2 * d]
    if holed.size:
        e = e.copy()
        e[holed] = np.where(gone, np.float32(0), e[holed])
    made, past[piece.slots] = echoes.products(e, past[piece.slots], piece.size)
    silent = np.tile(gone, made.shape[2] // d)
    return echoes.between(rows, made, d), echoes.between(missing, silent, d)


def refresh(fields: Fields, signal: str, piece: Piece, new: Means, ring: Ring) -> None:
    """At a multiple of STRIDE: what stands in for missing sensors. The ring is without `new`."""
    edge = piece.end // STRIDE * STRIDE
    at = (edge > piece.now).nonzero()[0]
    if at.size:
        slots = piece.slots[at]
        number = (edge[at] // BLOCKS[signal] - FILL)[:, None] + np.arange(FILL)
        late = number - new.first[at, None]
        last = np.where(
            (late >= 0)[..., None],
            new.values[at[:, None], np.minimum(np.maximum(late, 0), new.values.shape[1] - 1)],
            ring.at(slots, number),
        )
        fields[f"{signal}_fill"][slots] = last.sum(axis=1, dtype=np.int64) * UNIT / FILL
