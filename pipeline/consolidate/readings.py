"""A segment's readings; the windows to train on and to measure with that are cut from them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from pipeline.errors import ArtifactCorrupt
from pipeline.records import FloatArray, IntArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Readings:
    """Consecutive readings of one segment, from its first on."""

    values: FloatArray  # (n, d)
    offsets: IntArray  # (n,)

    def to_bytes(self) -> bytes:
        """safetensors; equal readings, equal bytes."""
        arrays = {"offsets": self.offsets, "values": self.values}
        return save({name: np.ascontiguousarray(a) for name, a in arrays.items()})

    @classmethod
    def from_bytes(cls, content: bytes) -> Readings:
        """What `to_bytes` made; ArtifactCorrupt for anything else."""
        try:
            arrays = load(content)
            return cls(values=arrays["values"], offsets=arrays["offsets"])
        except (SafetensorError, KeyError, ValueError) as exc:
            raise ArtifactCorrupt(f"not a segment's readings: {exc}") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Windows:
    """Forecast windows: W readings and the next one, which is to be forecast."""

    values: FloatArray  # (k, W + 1, d)
    #: (k, 2) offsets of the first and the last reading.
    offsets: IntArray

    def __len__(self) -> int:
        return len(self.values)


def split(readings: Readings, window: int, held_out: float) -> tuple[Windows, Windows]:
    """Windows to train on and windows held out, of one segment: no reading is in both.

    Runs of rows alternate: one held-out run of two windows' length, then as many training rows as
    the share `held_out` asks for. A window never crosses the end of a run.
    """
    train, held, _ = _first_rows(len(readings.values), window, held_out)
    return _windows(readings, window, train), _windows(readings, window, held)


def halves(readings: Readings, window: int, held_out: float) -> tuple[Windows, Windows]:
    """The held-out windows of `split` in two, by turns a run each: no reading is in both."""
    _, held, run = _first_rows(len(readings.values), window, held_out)
    even = run % 2 == 0
    return _windows(readings, window, held[even]), _windows(readings, window, held[~even])


def held_out_windows(window: int) -> int:
    """Windows in one held-out run: those beyond share no reading with them."""
    return _held_out_run(window) - window


def _first_rows(rows: int, window: int, held_out: float) -> tuple[IntArray, IntArray, IntArray]:
    """First rows of the windows to train on, of those held out, and the number of their runs."""
    run = _held_out_run(window)
    period = max(round(run / held_out), run + window + 1)
    row = np.arange(rows - window)
    phase, last = row % period, (row + window) % period
    inside = last - phase == window
    held = row[inside & (last < run)]
    return row[inside & (phase >= run)], held, held // period


def _held_out_run(window: int) -> int:
    """Rows of a held-out run."""
    return 2 * (window + 1)


def _windows(readings: Readings, window: int, first: IntArray) -> Windows:
    rows = first[:, None] + np.arange(window + 1)
    return Windows(values=readings.values[rows], offsets=readings.offsets[rows[:, [0, -1]]])
