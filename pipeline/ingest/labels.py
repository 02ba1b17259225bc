"""Labels as messages and recordings have them in, numbers of classes out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain, repeat
from math import nan
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.ingest.message import QUOTED, Bad


class Labels(dict[Any, float]):
    """Label -> number of its class, NaN of what is not labelled; Bad for one that is of no class.

    A class goes by its name, or by its number in `classes`, as number or as text.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        super().__init__()
        self[None] = nan
        for number in range(len(classes)):
            self[number] = self[str(number)] = number
        self.update((name, number) for number, name in enumerate(classes))

    def __missing__(self, label: Any) -> float:
        if label != label:  # a bare NaN
            return nan
        raise Bad("unknown_label", f"the label {repr(label)[:QUOTED]} is none of score.classes")

    def column(self, said: Sequence[Any], lengths: Sequence[int] | None) -> NDArray[np.float64]:
        """(N,) of messages with a reading each and its label, or with `lengths` readings each and
        a list of labels; None: none of a message's readings is labelled.

        Raises
        ------
        Bad
            A label is of no class, or there are more or fewer than readings.
        """
        if lengths is not None:
            said = list(chain.from_iterable(map(_of_many, said, lengths)))
        try:
            return np.fromiter(map(self.__getitem__, said), np.float64, len(said))
        except TypeError:  # a list is no key
            raise Bad("wrong_length", "a list of labels for one reading") from None

    def fits(self, said: Any, times: Any) -> bool:
        """Whether these are labels of a message with these times."""
        try:
            self.column([said], [len(times)] if isinstance(times, list) else None)
        except Bad:
            return False
        return True


def _of_many(said: Any, readings: int) -> Iterable[Any]:
    """The labels of one message's readings."""
    if said is None:
        return repeat(None, readings)
    if not isinstance(said, list) or len(said) != readings:
        raise Bad("wrong_length", "there are not as many labels as readings")
    return said
