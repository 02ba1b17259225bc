"""Messages of TOPIC.scores in, each reading's score once out: second copies dropped or trimmed."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from typing import Any

#: (partition, series) -> (offset of the last record seen, how many of its readings were).
Positions = dict[tuple[int, str], tuple[int, int]]


class Once:
    """Takes of each message the readings above the highest seen of its series and partition.

    After a crash the readings since the last checkpoint are published again, cut into other
    messages: one that was seen is dropped, one that overlaps is trimmed.

    Parameters
    ----------
    positions
        `positions` of an earlier reader, to go on as if it had never stopped; kept with whatever
        it made of the scores, in one transaction.
    """

    def __init__(self, positions: Mapping[tuple[int, str], tuple[int, int]] | None = None) -> None:
        self.positions: Positions = dict(positions or {})

    def new(self, message: Mapping[str, Any]) -> dict[str, Any] | None:
        """The message without what has been seen; None if that is all of it.

        message: decoded, as `pipeline.run.messages.score_messages` makes them; its lists have one
        entry a reading, in the order of the log.
        """
        offsets: Sequence[int] = message["offsets"]
        whose = (message["partition"], message["series"])
        start = self._seen(whose, offsets, message["place"])
        if start == len(offsets):
            return None
        last = bisect_left(offsets, offsets[-1])
        self.positions[whose] = (offsets[-1], _place(message, last) + len(offsets) - last)
        cut = {name: part[start:] for name, part in message.items() if isinstance(part, list)}
        return {**message, **cut, "place": _place(message, start)}

    def _seen(self, whose: tuple[int, str], offsets: Sequence[int], place: int) -> int:
        """How many readings at the message's head were seen; place: that of the first of them."""
        if whose not in self.positions:
            return 0
        offset, of_record = self.positions[whose]
        low, high = bisect_left(offsets, offset), bisect_right(offsets, offset)
        before = of_record - (place if low == 0 else 0)
        return low + max(0, min(before, high - low))


def _place(message: Mapping[str, Any], row: int) -> int:
    """How many readings of the record at `row` came before that row."""
    offsets = message["offsets"]
    first = bisect_left(offsets, offsets[row])
    place: int = message["place"] if first == 0 else 0
    return place + row - first
