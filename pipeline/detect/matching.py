"""Alarms against known drifts: precision, recall, delay, and the periodic control."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
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
    met = pairs(alarms, drifts, rows, tolerance)
    return Match(
        hits=len(met),
        false_alarms=len(alarms) - len(met),
        missed=len(drifts) - len(met),
        delays=tuple(alarms[a] - drifts[d] for d, a in met),
    )


def pairs(
    alarms: Sequence[int], drifts: Sequence[int], rows: int, tolerance: int
) -> list[tuple[int, int]]:
    """(drift, alarm) of each hit as places in the two lists, by the rule of `match`.

    >>> pairs([14, 12, 90], [10, 50, 80], rows=100, tolerance=20)
    [(0, 1), (2, 2)]
    """
    order = sorted(range(len(alarms)), key=lambda a: alarms[a])
    ends = [*drifts, rows][1:]
    met = []
    for d, (drift, end) in enumerate(zip(drifts, ends, strict=True)):
        until = min(drift + tolerance, end)
        at = bisect_left(order, drift, key=lambda a: alarms[a])
        if at < len(order) and alarms[order[at]] < until:
            met.append((d, order[at]))
    return met


def pool(matches: Iterable[Match]) -> Match:
    """Several series as one: their hits, misses and false alarms together."""
    every = list(matches)
    return Match(
        hits=sum(m.hits for m in every),
        false_alarms=sum(m.false_alarms for m in every),
        missed=sum(m.missed for m in every),
        delays=tuple(delay for m in every for delay in m.delays),
    )


def periodic(alarms: int, rows: int) -> list[int]:
    """The control: as many alarms, evenly spaced."""
    return [int((i + 0.5) * rows / alarms) for i in range(alarms)]
