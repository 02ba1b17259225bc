"""A short form of `make fuzz`."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pipeline.ingest.decode import Decoder
from pipeline.ingest.message import KINDS
from tests.fuzz import CHANNELS, STREAMS, Stream, check, fuzz, records_of


def test_every_mutated_message_becomes_rows_or_one_dead_letter() -> None:
    """20,000 of a fixed seed; nearly every kind of fault that a single record can have is there."""
    found = fuzz(20_000, seed=7)
    became = found["became"]
    assert sum(became.values()) == found["messages"] >= 20_000
    assert became["rows"] > 4000
    assert len(KINDS & became.keys()) >= 24


@pytest.mark.parametrize("value", [b'{"time": 1, "values": [1, 2]}', b"{"])
def test_a_record_that_is_lost_or_counted_twice_is_noticed(value: bytes) -> None:
    """Else the fuzzer would find nothing, whatever decode did."""
    records = records_of([value, b"["])
    batch, letters = Decoder(Stream(**STREAMS[0]), 1000, CHANNELS).decode(records)
    check(records, batch, letters)
    for wrong in (letters[1:], [*letters, letters[-1]], [replace(letters[0], kind="odd")]):
        with pytest.raises(AssertionError):
            check(records, batch, wrong)
