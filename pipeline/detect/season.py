"""Readings in, the same without their season out: one harmonic, whose period is learned.

The period is sought in what the forecaster does not explain, which is white where levels wander;
the forecaster is linear, so that the harmonic of the readings follows. All moves at fixed blocks.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from pipeline.detect.fields import Fields
from pipeline.detect.piece import Piece
from pipeline.detect.ring import UNIT
from pipeline.detect.signals import BLOCK
from pipeline.records import IntArray

Array = NDArray[np.float64]
Complex = NDArray[np.complex128]

#: Blocks in a mean residual, and readings.
GROUP = 8
ROWS = GROUP * BLOCK
#: It is kept in steps of so many deviations, as a whole number of this size at most.
LEAST, MOST = 0.01, 127
#: The period is sought again after so many more readings, and so many times as many.
MORE, TIMES = 1500, 1.25
#: A period is of so many means at least, and there are so many of it in what is kept.
SHORTEST, CYCLES = 2.5, 3.5
#: The spectrum is that of so many times the length, filled up with zeros.
PADDING = 8
#: A season is so many times the median of the spectrum at up to so many times its period or
#: frequency, and more where few sensors have a say.
PEAK, NOISY, NEAR = 4.5, 20.0, 3.0
#: And it is alike in so many parts of what is kept: this cosine, of any two.
PARTS, ALIKE = 4, 0.8
#: Later than any mean.
NEVER = np.iinfo(np.int64).max
#: The harmonic is that of about so many readings.
MEMORY = 6000


def remove(fields: Fields, piece: Piece, levels: IntArray, centre: Array) -> Piece:
    """The same readings without the season; the piece itself where no series has one.

    levels: (NB, d) block means in the forecaster's scales, in UNITs. centre: (NB, d) or (1, d).
    """
    season = _follow(fields, piece, levels, centre)
    if season is None:
        return piece
    blocks = piece.blocks
    readings, before = blocks.readings - season[:, 1:], blocks.before - season[:, 0]
    return replace(piece, blocks=replace(blocks, readings=readings, before=before))


def _follow(fields: Fields, piece: Piece, levels: IntArray, centre: Array) -> Array | None:
    """The season (NB, 1 + BLOCK, d) in the sensors' units, of the reading before each block and of
    its own; None where no series has one."""
    slots, first = piece.slots, piece.now // GROUP
    means, count = _residuals(fields, piece, levels, centre)
    learns = first + count >= fields["season_due"][slots]
    if not learns.any() and not fields["season_cycle"][slots].any():
        _keep(fields, slots, first, count, means)
        return None
    wave, path, begin = fields["season_wave"][slots], [], 0
    while begin < means.shape[1]:
        due = fields["season_due"][slots] - first
        due = np.where((due > begin) & (due <= count), due, NEVER)
        end = int(due.min(initial=means.shape[1]))
        angle = _turns(fields, slots, first, np.arange(begin, end), count)
        waves = _waves(means[:, begin:end].astype(np.float64) * LEAST, angle, wave)
        path.append(_stage(fields, slots, waves[:, :-1]))
        wave = waves[:, -1].copy()
        for i in np.flatnonzero(due == end).tolist():
            _keep(fields, slots[[i]], first[[i]], np.array([end]), means[[i]])
            wave[i] = _learn(fields, int(slots[i]), int(first[i]) + end, wave[i])
        begin = end
    path.append(_stage(fields, slots, wave[:, None]))
    fields["season_wave"][slots] = wave
    _keep(fields, slots, first, count, means)
    cycles, seen = (np.concatenate(parts, axis=1) for parts in zip(*path, strict=True))
    return _rows(piece, first, cycles, seen)


def _residuals(
    fields: Fields, piece: Piece, levels: IntArray, centre: Array
) -> tuple[NDArray[np.int8], IntArray]:
    """What the forecaster does not explain, in the mean of GROUP blocks (S, G, d), in LEASTs; and
    how many of them each series has.

    Over n readings the sum of z_t - z_{t-1} A is S (I - A) + (z_n - z_0) A, S that of z.
    """
    slots, part, begin = piece.slots, fields["season_part"], fields["season_from"]
    total, count, part[slots] = piece.sums(levels, GROUP, part[slots])
    most = int(count.max(initial=0))
    if not most:
        return np.zeros((len(slots), 0, levels.shape[1]), dtype=np.int8), count
    last = (piece.now // GROUP * GROUP + GROUP - 1 - piece.now)[:, None] + GROUP * np.arange(most)
    row = piece.row[:, None] + np.minimum(last, piece.size[:, None] - 1)
    location, scale = fields["fit_location"][slots], fields["fit_scale"][slots]
    z = (piece.blocks.readings[row, -1] - location[:, None]) / scale[:, None]
    z = np.nan_to_num(z, nan=0.0)
    edges = np.concatenate([begin[slots][:, None], z], axis=1)
    reached = edges[np.arange(len(slots)), count]
    mean = total[:, :most] * (UNIT / GROUP)
    mean -= centre[0] if len(centre) == 1 else centre[row]
    moved = (edges[:, 1:] - edges[:, :-1]) / ROWS - mean
    explained = np.matmul(moved[:, :, None], fields["fit_coefficients"][slots][:, None])[:, :, 0]
    r = mean + explained - fields["fit_intercept"][slots][:, None]
    r /= fields["fit_residual"][slots][:, None] * LEAST
    begin[slots] = reached
    return np.rint(np.clip(r, -MOST, MOST)).astype(np.int8), count


def _keep(
    fields: Fields, slots: IntArray, first: IntArray, count: IntArray, means: NDArray[np.int8]
) -> None:
    """The last of `count` (S,) means (S, G, d), numbered from `first` (S,) on."""
    kept = fields["season_means"]
    size, rank = kept.shape[1], np.arange(means.shape[1])
    s, k = ((rank < count[:, None]) & (rank >= count[:, None] - size)).nonzero()
    kept[slots[s], (first[s] + k) % size] = means[s, k]


def _turns(
    fields: Fields, slots: IntArray, first: IntArray, which: IntArray, count: IntArray
) -> Complex:
    """The mean of exp(i angle) over the readings of means `which` (G,), of those that are numbered
    from `first` (S,) on and `count` (S,): (S, G), 0 where there is none or no season."""
    cycle = fields["season_cycle"][slots][:, None]
    turns = _turn(first[:, None] + which, cycle)
    return np.where((which < count[:, None]) & (cycle > 0), turns, 0.0)


def _turn(number: IntArray, cycle: Array) -> Complex:
    """The mean of exp(i angle) over the readings of mean `number`, at `cycle` cycles a reading."""
    middle = number * ROWS + (ROWS - 1) / 2
    size = np.sinc(cycle * ROWS) / np.sinc(cycle)
    return np.asarray(size * np.exp(2j * np.pi * (middle * cycle % 1.0)))


def _waves(x: Array, angle: Complex, wave: Complex) -> Complex:
    """The harmonic (S, d) of mean residuals x (S, G, d), before each and after the last."""
    path = [wave]
    step = angle.conj()[..., None]
    for k in range(x.shape[1]) if angle.any() else ():
        error = x[:, k] - (path[-1] * angle[:, k, None]).real
        path.append(path[-1] + 2 * ROWS / MEMORY * error * step[:, k])
    path += [path[-1]] * (x.shape[1] + 1 - len(path))
    return np.stack(path, axis=1)


def _stage(fields: Fields, slots: IntArray, waves: Complex) -> tuple[Array, Complex]:
    """Cycles a reading (S, G), and harmonics of the residuals (S, G, d) as they are in the
    readings, in the sensors' units."""
    cycles = np.repeat(fields["season_cycle"][slots][:, None], waves.shape[1], axis=1)
    seen = np.matmul(waves[:, :, None], fields["season_response"][slots][:, None])
    return cycles, np.asarray(seen[:, :, 0])


def _rows(piece: Piece, first: IntArray, cycles: Array, waves: Complex) -> Array | None:
    """The season of every reading: a block's is as of the last whole mean before it."""
    if not cycles.any():
        return None
    number = piece.now[piece.of] + piece.rank
    at = piece.of, number // GROUP - first[piece.of]
    t = number[:, None] * BLOCK + np.arange(-1, BLOCK)
    angle = 2 * np.pi * (t * cycles[at][:, None] % 1.0)
    wave = waves[at][:, None]
    season = wave.real * np.cos(angle)[..., None]
    season -= wave.imag * np.sin(angle)[..., None]
    return np.asarray(season)


# Learning -------------------------------------------------------------------------------------


def _learn(fields: Fields, slot: int, end: int, wave: Complex) -> Complex:
    """The harmonic (d,) of a series after `end` means, and its period if there is a new one."""
    rows = end * ROWS
    fields["season_due"][slot] = -(-int(max(rows + MORE, rows * TIMES)) // ROWS)
    kept = fields["season_means"][slot]
    numbers = np.arange(max(0, end - len(kept)), end)
    found = find(kept[numbers % len(kept)] * LEAST, numbers)
    if found is None:
        return wave
    cycle, wave = found
    fields["season_cycle"][slot] = cycle
    respond(fields, slot)
    return wave


def respond(fields: Fields, slot: int) -> None:
    """What a series' forecaster and period make of a harmonic of the residuals."""
    a, residual = fields["fit_coefficients"][slot], fields["fit_residual"][slot]
    turn = np.exp(-2j * np.pi * fields["season_cycle"][slot])
    response = np.linalg.inv(np.eye(len(a)) - turn * a)
    fields["season_response"][slot] = residual[:, None] * response * fields["fit_scale"][slot]


def find(means: Array, numbers: IntArray) -> tuple[float, Complex] | None:
    """Cycles a reading, and the harmonic (d,), of mean residuals (n, d) with these numbers (n,);
    None if there is no season."""
    n = len(means)
    x = means - means.mean(axis=0)
    power = np.abs(np.fft.rfft(x, PADDING * n, axis=0)) ** 2 / np.maximum(x.var(axis=0), 1e-12)
    spectrum = power.mean(axis=1)
    frequency = np.arange(len(spectrum)) / (PADDING * n)
    meant = (frequency >= CYCLES / n) & (frequency <= 1 / SHORTEST)
    best = int(np.argmax(np.where(meant, spectrum, 0.0)))
    if not meant[best]:  # nothing moves
        return None
    near = meant & (frequency > frequency[best] / NEAR) & (frequency < frequency[best] * NEAR)
    if spectrum[best] < (PEAK + NOISY / means.shape[1]) * np.median(spectrum[near]):
        return None
    cycle = float(frequency[best]) / ROWS
    edges = np.linspace(0, n, PARTS + 1).astype(int)
    parts = np.stack([_harmonic(x[a:b], numbers[a:b], cycle) for a, b in pairwise(edges)])
    alike = (parts @ parts.conj().T).real
    sizes = np.sqrt(np.diag(alike))
    if (alike < ALIKE * np.outer(sizes, sizes)).any():
        return None
    return cycle, _harmonic(x, numbers, cycle)


def _harmonic(x: Array, numbers: IntArray, cycle: float) -> Complex:
    """The harmonic (d,) that fits means (n, d) best."""
    turn = _turn(numbers, np.array(cycle))
    columns = np.stack([turn.real, -turn.imag, np.ones(len(x))], axis=1)
    real, imaginary, _ = np.linalg.lstsq(columns, x, rcond=None)[0]
    return np.asarray(real + 1j * imaginary)
