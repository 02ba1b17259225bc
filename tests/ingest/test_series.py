from __future__ import annotations

import itertools
import json
from collections.abc import Mapping

import pytest

from pipeline.config import Stream
from pipeline.ingest.decode import Decoder
from pipeline.ingest.message import KINDS
from pipeline.ingest.series import admit
from pipeline.records import Batch, Records

#: Two readings in each message; its key, its offset less 10.
KEYS = [b"b", b"a", b"b", b"c", b"a", b"d", b"c", b"b"]


def polled(keys: list[bytes], first: int = 10) -> tuple[Records, Batch]:
    values = [
        json.dumps({"time": [i, i], "values": [[i], [i + 0.5]]}).encode()
        for i in range(first, first + len(keys))
    ]
    records = Records(
        topic="readings",
        partition=3,
        offsets=range(first, first + len(keys)),
        keys=keys,
        values=values,
        next_offset=first + len(keys),
    )
    batch, letters = Decoder(Stream(), 1000, ("x",)).decode(records)
    assert letters == []
    assert batch is not None
    return records, batch


def admitted(batch: Batch | None) -> dict[str, list[tuple[int, float]]]:
    """(offset, value) of each series' readings."""
    if batch is None:
        return {}
    cells = zip(batch.offsets.tolist(), batch.values[:, 0].tolist(), strict=True)
    rows = list(cells)
    return {
        name: rows[start:end]
        for name, (start, end) in zip(batch.series, itertools.pairwise(batch.starts), strict=True)
    }


def test_the_first_names_in_the_log_are_the_ones_that_stay() -> None:
    """b and a come first; each record of c and d is one dead letter, as it came."""
    records, batch = polled(KEYS)
    kept, letters = admit(batch, records, {}, 2)
    assert kept is not None
    assert admitted(kept) == {
        "b": [(o, o + half) for o in (10, 12, 17) for half in (0, 0.5)],
        "a": [(o, o + half) for o in (11, 14) for half in (0, 0.5)],
    }
    assert (kept.topic, kept.partition, kept.next_offset) == ("readings", 3, 18)
    assert kept.order.tolist() == [0, 1, 4, 5, 14, 15, 2, 3, 8, 9]
    assert [(x.offset, x.key) for x in letters] == [(13, b"c"), (15, b"d"), (16, b"c")]
    assert [x.value for x in letters] == [records.values[i] for i in (3, 5, 6)]
    assert {x.kind for x in letters} == {"too_many_series"} <= KINDS


@pytest.mark.parametrize("most", [4, 10])
def test_as_many_as_are_allowed_pass_as_they_are(most: int) -> None:
    """The common case costs a look at the names."""
    records, batch = polled(KEYS)
    assert admit(batch, records, {}, most) == (batch, [])


@pytest.mark.parametrize("known", [{"c": 0, "d": 1}, {"c": 0, "d": 1, "e": 2}])
def test_names_that_are_known_stay_and_count(known: Mapping[str, int]) -> None:
    """Also where the limit has been lowered since: their state is there."""
    records, batch = polled(KEYS)
    kept, letters = admit(batch, records, known, 2)
    assert set(admitted(kept)) == {"c", "d"}
    assert [x.offset for x in letters] == [10, 11, 12, 14, 17]


def test_no_batch_is_left_when_no_name_stays() -> None:
    """A batch without readings is none."""
    records, batch = polled([b"x", b"y"])
    kept, letters = admit(batch, records, {"a": 0}, 1)
    assert kept is None
    assert [x.offset for x in letters] == [10, 11]
