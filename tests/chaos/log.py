"""A seed in, an endless log of 64 series out: regimes that return, and all that a log can hold.

Round r gives every series its next reading, so a log that is fed in stages is one log however it
is cut. What is odd about it (readings sent twice, late, out of order or without a cell; records
that are no reading; series that begin late) is drawn from the seed too.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

PARTITIONS, SERIES, CHANNELS = 4, 64, 3
#: Time of the first reading, in seconds since 1970.
START = 1_767_225_600
#: Readings in a segment, the least and the most; the first holds a series' whole warm-up.
SHORTEST, LONGEST, FIRST = 260, 400, 200
#: Regimes that a series moves between: levels of its sensors, in deviations.
REGIMES = ((0.0, 0.0, 0.0), (6.0, 6.0, 6.0), (-5.0, 0.0, 4.0))
#: Series that begin late, and how many rounds apart.
LATE_SERIES, LATE_BY = 8, 25
#: Shares of the readings: sent twice, out of order, an hour late, without a cell; and of records
#: that are no reading, beside them.
TWICE, SWAPPED, LATE, HOLED, BAD = 0.01, 0.01, 0.005, 0.02, 0.003
#: What is no reading: (key is the series' own, value).
NO_READING = (
    (True, b"not json"),
    (True, b'{"time": 1767225600, "values": [1.0]}'),
    (True, b'{"values": [1.0, 2.0, 3.0]}'),
    (True, b""),
    (False, b'{"time": 1767225600, "values": [1.0, 2.0, 3.0]}'),
)


@dataclass(frozen=True, slots=True)
class Message:
    """One record for Kafka, and whether it is to end as a dead letter."""

    partition: int
    key: bytes | None
    value: bytes
    bad: bool = False


def messages(seed: int, number: int = SERIES) -> Iterator[list[Message]]:
    """One list a round, without end; of the first `number` series and the late ones."""
    late = range(SERIES - LATE_SERIES, SERIES)
    series = [_Series(seed, each) for each in (*range(number - LATE_SERIES), *late)]
    rng = np.random.default_rng([seed, SERIES])
    row = 0
    while True:
        yield [m for each in series if each.begins <= row for m in each.next(row, rng)]
        row += 1


class _Series:
    """What one series sends."""

    def __init__(self, seed: int, number: int) -> None:
        self.key = f"machine-{number}".encode()
        self.partition = number % PARTITIONS
        self.rng = np.random.default_rng([seed, number])
        self.begins = max(0, number - (SERIES - LATE_SERIES) + 1) * LATE_BY
        self.left = FIRST + int(self.rng.integers(SHORTEST))
        self.regime = 0
        self.held: Message | None = None

    def next(self, row: int, rng: np.random.Generator) -> Iterator[Message]:
        """This round's records."""
        if self.left == 0:
            others = [r for r in range(len(REGIMES)) if r != self.regime]
            self.regime = int(self.rng.choice(others))
            self.left = int(self.rng.integers(SHORTEST, LONGEST))
        self.left -= 1
        values = self.rng.normal(size=CHANNELS) + REGIMES[self.regime]
        odd = rng.random(5)
        if odd[0] < BAD:
            own, value = NO_READING[int(rng.integers(len(NO_READING)))]
            yield Message(self.partition, self.key if own else None, value, bad=True)
        time = START + row - (3600 if odd[1] < LATE else 0)
        message = Message(self.partition, self.key, _reading(time, values, odd[2] < HOLED))
        if self.held is None and odd[3] < SWAPPED:  # goes after the next one
            self.held = message
            return
        yield message
        if odd[4] < TWICE:
            yield message
        if self.held is not None:
            yield self.held
            self.held = None


def _reading(time: int, values: NDArray[np.float64], holed: bool) -> bytes:
    cells: list[float | None] = values.round(3).tolist()
    if holed:
        cells[time % CHANNELS] = None
    return json.dumps({"time": time, "values": cells}).encode()
