"""Alarms against known drifts: precision, recall, delay, and the periodic control."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """How the alarms of one series met its true drifts."""

    hits: int
    false_alarms: int
    missed: int
    #: Readings from each drift that was hit to its alarm.
    delays: tuple[int, ...]

    @property
    def precision(self) -> float:
        """Share of the alarms that are hits; 0 without an alarm."""
        return self.hits / max(self.hits + self.false_alarms, 1)

    @property
    def recall(self) -> float:
        """Share of the drifts that are hit; 0 without a drift."""
        return self.hits / max(self.hits + self.missed, 1)

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall."""
        return 2 * self.hits / max(2 * self.hits + self.false_alarms + self.missed, 1)

    @property
    def median_delay(self) -> float | None:
        """None without a hit."""
        return median(self.delays) if self.delays else None


def match(alarms: Sequence[int], drifts: Sequence[int], rows: int, tolerance: int) -> Match:
    """An alarm hits drift k if it is the first in [k, min(k + tolerance, next drift)).

    Every other alarm is false. All are rows of one series of `rows` readings.

    >>> match([12, 14, 90], [10, 50], rows=100, tolerance=20)
    Match(hits=1, false_alarms=2, missed=1, delays=(2,))
    """
    ends = [*drifts, rows][1:]
    delays = []
    for drift, end in zip(drifts, ends, strict=True):
        inside = [a for a in alarms if drift <= a < min(drift + tolerance, end)]
        if inside:
            delays.append(min(inside) - drift)
    hits = len(delays)
    return Match(
        hits=hits,
        false_alarms=len(alarms) - hits,
        missed=len(drifts) - hits,
        delays=tuple(delays),
    )


def periodic(alarms: int, rows: int) -> list[int]:
    """The control: as many alarms, evenly spaced."""
    return [int((i + 0.5) * rows / alarms) for i in range(alarms)]
