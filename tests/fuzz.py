"""Mutated messages through decode: none raises, each is rows or exactly one dead letter.

`make fuzz MESSAGES=1000000` prints what was done and writes it to `build/fuzz.json`; a short form
runs with the tests. The same seed makes the same messages.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from pipeline.config import Stream
from pipeline.ingest.decode import LARGEST, LAST, Decoder
from pipeline.ingest.message import KINDS
from pipeline.records import Batch, DeadLetter, Records
from pipeline.run.messages import iso

CHANNELS = ("a", "b")
CLASSES = ("idle", "busy", "0")
#: What a decoder may be set to.
STREAMS: tuple[dict[str, Any], ...] = (
    {},
    {"series": "topic", "time_unit": "us"},
    {"series": "field:id", "time_unit": "ms"},
    {"label": "state"},
    {"series": "field:id", "label": "state", "max_channels": 3},
)
#: Good messages of every form, at least for one of the decoders.
CORPUS: tuple[bytes, ...] = tuple(
    json.dumps(body | more, ensure_ascii=ascii_only).encode()
    for body in (
        {"time": 1767225600.25, "values": [1.5, -2]},
        {"time": "2026-01-01T00:00:00.000001+01:00", "values": {"a": 1e-3, "b": None}},
        {"time": [1, 2, 3], "values": [[1, 2], [None, 4], [5, 6]]},
        {"time": ["2026-01-01T00:00:00Z", "20260101T000001Z"], "values": {"b": [1, 2]}},
        {"values": {"a": 0.1}, "time": 0, "note": {"x": [{}, 'é\\"\u2603']}},
    )
    for more in (
        {"id": "pump é"},
        {"id": 7, "state": "busy"},
        {"id": "p", "state": ["idle", 1, None]},
    )
    for ascii_only in (True, False)
)
#: What a mutation puts somewhere: JSON's own words, numbers at the edges, bytes that are no text.
WORDS: tuple[bytes, ...] = (
    *(
        b"null",
        b"true",
        b"NaN",
        b"-Infinity",
        b"[]",
        b"{}",
        b'""',
        b"[[]]",
        b'{"a":1}',
        b"0",
        b"-1",
    ),
    *(b"1e400", b"1e38", b"3.5e38", b"-0.0", b"1e-400", b"9" * 19, b"-9223372036854775809"),
    *(b"18446744073709551616", b"9" * 5000, b"0x10", b"01", b"1.", b".5", b"1e15"),
    *(
        b'"\\ud800"',
        b'"\\u0000"',
        b"\xff",
        b"\xc3",
        b"\xed\xa0\x80",
        b"\xef\xbb\xbf",
        b"\x00",
        b"\n",
    ),
    *(
        b'"9999-12-31T23:59:60Z"',
        b'"0001-01-01T00:00:00Z"',
        b'"2026-01-01T00:00:00"',
        b'"2026-W01"',
    ),
    *(b'"2026-01-01T00:00:00+23:59:59.999999"', b'"NaN"', b"[" * 2000, b'{"a":' * 1200),
    *(b'"time"', b'"values"', b'"id"', b'"state"', b'"a"', b'"b"', b'"c"', b",", b":", b'"', b"\\"),
    *(b"[", b"]", b"{", b"}", b" ", b"[1,2],", b'"time":1,', b'"values":[1,2],', b'"id":"q",'),
)
KEYS = (b"k", b"k", b"q", "ü".encode(), b"", b"\xff", b"a\x00b", b"x" * 600, None)
WRITTEN = (1_767_225_600_000, -1, 0, 2**62, 253_402_300_800_000)


def mutated(draw: Random) -> bytes | None:
    """A message of the corpus after a few changes to its bytes; sometimes none, sometimes noise."""
    if (luck := draw.random()) < 0.02:
        return None if luck < 0.005 else draw.randbytes(draw.randrange(40))
    text = bytearray(draw.choice(CORPUS))
    for _ in range(min(int(draw.expovariate(0.7)), 12)):
        draw.choice(CHANGES)(draw, text)
    return bytes(text)


def _flip(draw: Random, text: bytearray) -> None:
    if text:
        text[draw.randrange(len(text))] ^= 1 << draw.randrange(8)


def _put(draw: Random, text: bytearray) -> None:
    at = draw.randrange(len(text) + 1)
    text[at:at] = draw.choice(WORDS)


def _replace(draw: Random, text: bytearray) -> None:
    at, end = _span(draw, text)
    text[at:end] = draw.choice(WORDS)


def _delete(draw: Random, text: bytearray) -> None:
    at, end = _span(draw, text)
    del text[at:end]


def _repeat(draw: Random, text: bytearray) -> None:
    at, end = _span(draw, text)
    text[at:at] = text[at:end]


def _splice(draw: Random, text: bytearray) -> None:
    other = draw.choice(CORPUS)
    text[draw.randrange(len(text) + 1) :] = other[draw.randrange(len(other)) :]


def _word(draw: Random, text: bytearray) -> None:
    """One of the message's own values is another one: it stays JSON, most often."""
    ends = [i for i, byte in enumerate(text) if byte in b",]}"]
    if ends:
        end = draw.choice(ends)
        begin = max(text.rfind(mark, 0, end) for mark in (b",", b"[", b":", b"{")) + 1
        text[begin:end] = draw.choice(WORDS)


CHANGES: tuple[Callable[[Random, bytearray], None], ...] = (
    *(_flip, _put, _replace, _delete, _repeat, _splice),
    *(_word, _word, _word),
)


def _span(draw: Random, text: bytearray) -> tuple[int, int]:
    at = draw.randrange(len(text) + 1)
    return at, min(len(text), at + int(draw.expovariate(0.2)))


def fuzz(messages: int, seed: int) -> dict[str, Any]:
    """Decode so many; what became of them.

    Raises
    ------
    AssertionError
        A record became nothing, two things, or something that no later stage can take.
    """
    draw, done, told = Random(seed), 0, Counter[str]()
    while done < messages:
        stream = Stream(**draw.choice(STREAMS))
        decoder = Decoder(stream, 20_000, draw.choice(((), CHANNELS)), CLASSES)
        for _ in range(draw.randrange(1, 8)):
            values = [mutated(draw) for _ in range(draw.choice((1, 2, 8, 64, 300)))]
            records = records_of(values, done, draw)
            try:
                batch, letters = decoder.decode(records)
                check(records, batch, letters)
            except Exception as exc:
                exc.add_note(f"{stream}, {list(records.values)!r:.2000}")
                raise
            done += len(records)
            told.update(letter.kind for letter in letters)
            told["rows"] += len(records) - len(letters)
    return {"messages": done, "seed": seed, "exceptions": 0, "became": dict(told.most_common())}


def records_of(values: list[bytes | None], first: int = 0, draw: Random | None = None) -> Records:
    """One poll; drawn: some keys and timestamps are bad, too."""
    n, odds = len(values), (90, 90, *[1] * (len(KEYS) - 2))
    return Records(
        topic="readings",
        partition=0,
        offsets=range(first, first + n),
        keys=draw.choices(KEYS, odds, k=n) if draw else KEYS[:1] * n,
        values=values,
        written=draw.choices(WRITTEN, (96, 1, 1, 1, 1), k=n) if draw else (),
        next_offset=first + n,
    )


def check(records: Records, batch: Batch | None, letters: list[DeadLetter]) -> None:
    """Each record is rows or one dead letter with a reason, and rows are what stages expect."""
    bad = [letter.offset for letter in letters]
    good = set() if batch is None else set(batch.offsets.tolist())
    assert sorted(chain(good, bad)) == list(records.offsets)
    assert all(letter.kind in KINDS and letter.reason.encode() for letter in letters)
    if batch is None:
        return
    assert len(batch.series) == len(set(batch.series)) == len(batch.starts) - 1
    assert all(name.encode() is not None and "\0" not in name for name in batch.series)
    assert (np.diff(batch.starts) > 0).all()
    assert batch.values.dtype == np.float32
    assert (np.isnan(batch.values) | (np.abs(batch.values) <= LARGEST)).all()
    assert 0 <= batch.times.min() <= batch.times.max() <= LAST
    assert iso(int(batch.times.max()))
    if batch.labels is not None:
        assert set(batch.labels[~np.isnan(batch.labels)].tolist()) <= set(range(len(CLASSES)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--json", type=Path, default=Path("build/fuzz.json"))
    args = parser.parse_args()
    started = time.monotonic()
    found = fuzz(args.messages, args.seed)
    args.json.parent.mkdir(parents=True, exist_ok=True)
    args.json.write_text(json.dumps(found, indent=1) + "\n")
    for what, count in {k: v for k, v in found.items() if k != "became"}.items():
        print(f"{what:20} {count:>10,}")  # noqa: T201
    for kind, count in found["became"].items():
        print(f"  {kind:18} {count:>10,}")  # noqa: T201
    print(f"{'seconds':20} {time.monotonic() - started:>10.0f}")  # noqa: T201


if __name__ == "__main__":
    main()
