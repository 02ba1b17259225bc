"""Bytes in, columnar rows out; what is bad becomes a DeadLetter with a reason.

A message is one JSON object: `{"time": ..., "values": [...]}`, the same with values by channel
name, or many readings in one, `{"time": [...], "values": [[...], ...]}`. A whole poll is decoded
into columns at once; a bad record is found by halving, so it costs its neighbours next to nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from pipeline.config import Stream
from pipeline.ingest.message import QUOTED, Bad, Reader
from pipeline.records import Batch, DeadLetter, FloatArray, IntArray, Records

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
#: Microseconds in one unit of a numeric time.
UNITS = {"s": 1_000_000.0, "ms": 1_000.0, "us": 1.0}
#: Cells beyond this are not finite as float32.
LARGEST = float(np.finfo(np.float32).max)
#: (record, time, values) of each reading: (N,), (N,), (N, d).
Columns = tuple[IntArray, IntArray, NDArray[np.float64]]


class Decoder:
    """Decodes one topic's messages; `channels` are given, or those of the first good reading.

    Parameters
    ----------
    stream
        Where the series' name and the time come from.
    max_message_bytes
        A larger record is a dead letter.
    channels
        Names of the d sensors, in order; empty: not known yet. Readings without names then call
        theirs c0 ... c{d-1}; readings with names have them sorted.

    Raises
    ------
    SettingsError
        The series is to come from a field that is the reading's own.
    """

    def __init__(
        self, stream: Stream, max_message_bytes: int, channels: tuple[str, ...] = ()
    ) -> None:
        self.stream = stream
        self.max_message_bytes = max_message_bytes
        self.channels = channels
        self._names = _Names()
        field = stream.series.partition("field:")[2] or None
        self._reader = Reader(field, max_message_bytes)

    def decode(self, records: Records, now_us: int) -> tuple[Batch | None, list[DeadLetter]]:
        """Records of one poll as a batch (None if no reading is good) and the bad ones.

        now_us: microseconds since 1970 UTC, for the limit on times in the future. Each record
        becomes rows or exactly one dead letter; nothing that a record holds raises.
        """
        bad: dict[int, Bad] = {}
        latest = now_us + int(self.stream.max_future_s * 1e6)
        at, messages = self._parse(records.values, bad)
        at, messages, series = self._name(records, at, messages, bad)
        if not self.channels:
            at, messages = self._learn_channels(at, messages, latest, bad)
        columns = _join(self._columns(at, messages, bad))
        batch = None
        if columns is not None:
            columns = _plausible(columns, latest, bad)
            if len(columns[0]):
                batch = self._batch(records, series, columns)
        return batch, _letters(records, bad)

    # Bytes to messages ------------------------------------------------------------------------

    def _parse(
        self, values: Sequence[bytes | None], bad: dict[int, Bad]
    ) -> tuple[list[int], list[Any]]:
        """Positions and messages of the records that are JSON of the right types."""
        decode = self._reader.fast
        try:
            if max(map(len, values)) <= self.max_message_bytes:  # type: ignore[arg-type]
                return list(range(len(values))), [decode(v) for v in values]  # type: ignore[arg-type]
        except (msgspec.MsgspecError, TypeError, ValueError, RecursionError):
            pass
        at, messages = [], []
        for i, value in enumerate(values):
            try:
                messages.append(self._reader.read(value))
                at.append(i)
            except Bad as exc:
                bad[i] = exc
        return at, messages

    def _name(
        self, records: Records, at: list[int], messages: list[Any], bad: dict[int, Bad]
    ) -> tuple[list[int], list[Any], list[int]]:
        """`at` and `messages` without the records that name no series; each record's series."""
        source, names = self.stream.series, self._names
        if source == "topic":
            return at, messages, [names[records.topic.encode()]] * len(records)
        series = [0] * len(records)
        if source != "key":
            for i, message in zip(at, messages, strict=True):
                series[i] = names[str(message.series).encode()]
            return at, messages, series
        try:
            return at, messages, [names[key] for key in records.keys]  # type: ignore[index]
        except (KeyError, UnicodeDecodeError):
            pass
        for i in at:
            try:
                series[i] = names[records.keys[i]]  # type: ignore[index]
            except KeyError:
                bad[i] = Bad("key_missing", "no key to name the series (stream.series = key)")
            except UnicodeDecodeError:
                bad[i] = Bad("key_not_utf8", "the key is not UTF-8")
        good = [(i, m) for i, m in zip(at, messages, strict=True) if i not in bad]
        return [i for i, _ in good], [m for _, m in good], series

    # Messages to columns ----------------------------------------------------------------------

    def _learn_channels(
        self, at: list[int], messages: list[Any], latest: int, bad: dict[int, Bad]
    ) -> tuple[list[int], list[Any]]:
        """`at` and `messages` from the first that is good in every respect on: it decides.

        A bad one before it decides nothing, and is bad for what is wrong with itself.
        """
        for n, (i, message) in enumerate(zip(at, messages, strict=True)):
            self.channels = _channels_of(message.values)
            if not self.channels:
                bad[i] = Bad("wrong_shape", "values has no channel")
                continue
            columns = _join(self._columns([i], [message], bad))
            if columns is not None:
                _plausible(columns, latest, bad)
            if i not in bad:
                return at[n:], messages[n:]
        self.channels = ()
        return [], []

    def _columns(self, at: list[int], messages: list[Any], bad: dict[int, Bad]) -> list[Columns]:
        """Columns of the good messages, in one piece if all are good and of one form."""
        if not messages:
            return []
        try:
            counts, times, values = self._stack(messages)
        except Bad as exc:
            if len(messages) == 1:
                bad[at[0]] = exc
                return []
        else:
            return [(np.repeat(np.array(at, dtype=np.int64), counts), times, values)]
        return [
            piece
            for part in _parts(messages)
            for piece in self._columns([at[i] for i in part], [messages[i] for i in part], bad)
        ]

    def _stack(self, messages: list[Any]) -> tuple[IntArray | int, IntArray, NDArray[np.float64]]:
        """Readings in each message, times (N,) and values (N, d) of messages of one form."""
        first = messages[0]
        times: list[Any] = [m.time for m in messages]
        counts: IntArray | int = 1
        if isinstance(first.time, list) or _nested(first.values):
            lengths = _lengths(times)
            if isinstance(first.values, dict):
                rows = self._rows_by_name_of_many(messages, lengths)
            elif lengths != _lengths([m.values for m in messages]):
                raise Bad("wrong_length", "time and values differ in length")
            else:
                rows = list(chain.from_iterable([m.values for m in messages]))
            times, counts = list(chain.from_iterable(times)), np.array(lengths, dtype=np.int64)
        elif isinstance(first.values, dict):
            self._check_names(messages)
            rows = [[m.values.get(name) for name in self.channels] for m in messages]
        else:
            rows = [m.values for m in messages]
        values = self._matrix(rows)
        return counts, self._times(times), values

    def _check_names(self, messages: list[Any]) -> None:
        known = frozenset(self.channels)
        for message in messages:
            if not isinstance(message.values, dict) or not message.values:
                raise Bad("wrong_shape", "values has no channel")
            if not known.issuperset(message.values):
                name = min(message.values.keys() - known)
                raise Bad("unknown_channel", f"no channel {name[:QUOTED]!r} in the stream")

    def _rows_by_name_of_many(self, messages: list[Any], lengths: list[int]) -> list[Any]:
        """Rows of messages with a list for each channel; an absent channel is missing cells."""
        self._check_names(messages)
        rows: list[Any] = []
        for message, n in zip(messages, lengths, strict=True):
            if any(not isinstance(c, list) or len(c) != n for c in message.values.values()):
                raise Bad("wrong_length", "time and values differ in length")
            absent = [None] * n
            columns = [message.values.get(name, absent) for name in self.channels]
            rows += map(list, zip(*columns, strict=True))
        return rows

    def _matrix(self, rows: list[Any]) -> NDArray[np.float64]:
        """(N, d) of rows of numbers; None is NaN."""
        if set(map(type, rows)) != {list}:
            raise Bad("wrong_shape", "values is neither one reading nor a list of readings")
        widths = set(map(len, rows))
        if len(widths) != 1:
            raise Bad("ragged", "the readings have different numbers of channels")
        width, d = widths.pop(), len(self.channels)
        try:
            try:
                flat = np.fromiter(chain.from_iterable(rows), np.float64, len(rows) * width)
            except TypeError:  # a missing cell: the slower way knows None
                flat = np.array(rows, dtype=np.float64)
        except (TypeError, ValueError):
            raise Bad("wrong_shape", "a list where a number belongs") from None
        if width != d or flat.size != len(rows) * d:
            raise Bad("wrong_channels", f"{width} channels, the stream has {d}")
        return flat.reshape(len(rows), d)

    def _times(self, raw: list[Any]) -> IntArray:
        """(N,) microseconds; whether they are plausible is for later."""
        try:
            if isinstance(raw[0], datetime):
                return np.array([(t - EPOCH) // MICROSECOND for t in raw], dtype=np.int64)
            numbers = np.array(raw, dtype=np.float64)
        except (TypeError, ValueError):
            raise Bad("bad_time", "times of two kinds in one message") from None
        with np.errstate(over="ignore"):
            scaled = numbers * UNITS[self.stream.time_unit]
        if not (np.abs(scaled) < 2.0**62).all():
            raise Bad("bad_time", "a time is not finite, or absurd")
        return np.rint(scaled).astype(np.int64)

    # Columns to a batch -----------------------------------------------------------------------

    def _batch(self, records: Records, series: list[int], columns: Columns) -> Batch:
        """Group the readings by series, in the order of the log inside each."""
        record, times, values = columns
        ids = np.array(series, dtype=np.int64)[record]
        order = np.argsort(ids, kind="stable")
        sorted_ids = ids[order]
        starts = np.concatenate([[0], np.flatnonzero(np.diff(sorted_ids)) + 1, [len(ids)]])
        offsets = np.array(records.offsets, dtype=np.int64)[record]
        cells: FloatArray = values.astype(np.float32)[order]
        return Batch(
            topic=records.topic,
            partition=records.partition,
            series=tuple(self._names.text[i] for i in sorted_ids[starts[:-1]].tolist()),
            starts=starts.astype(np.int64),
            offsets=offsets[order],
            order=order.astype(np.int64),
            times=times[order],
            values=cells,
            next_offset=records.next_offset,
        )


class _Names(dict[bytes, int]):
    """Key -> number of the series; each key is decoded once. UnicodeDecodeError for a bad one."""

    def __init__(self) -> None:
        super().__init__()
        self.text: list[str] = []

    def __missing__(self, key: bytes) -> int:
        if key is None:
            raise KeyError(key)
        self.text.append(key.decode())
        self[key] = number = len(self.text) - 1
        return number


def _nested(values: Any) -> bool:
    """Whether values without names hold a list of readings, or nothing at all."""
    return isinstance(values, list) and (not values or isinstance(values[0], list))


def _channels_of(values: Any) -> tuple[str, ...]:
    """Names for the channels of a message that has them, or seems to."""
    if isinstance(values, dict):
        return tuple(sorted(values))
    row = values[0] if values and isinstance(values[0], list) else values
    return tuple(f"c{i}" for i in range(len(row)))


def _lengths(lists: list[Any]) -> list[int]:
    """Length of each list: the readings in each message."""
    if set(map(type, lists)) != {list}:
        raise Bad("wrong_length", "one of time and values is a list of readings, the other not")
    lengths = list(map(len, lists))
    if not all(lengths):
        raise Bad("empty_batch", "a message without a reading")
    return lengths


def _parts(messages: list[Any]) -> list[Sequence[int]]:
    """Messages that cannot be stacked: those of each form; if all are of one, its halves."""
    forms: dict[Any, list[int]] = {}
    for i, message in enumerate(messages):
        first = message.time[0] if isinstance(message.time, list) and message.time else message.time
        form = (type(message.values), type(message.time), type(first), _nested(message.values))
        forms.setdefault(form, []).append(i)
    if len(forms) > 1:
        return list(forms.values())
    half = len(messages) // 2
    return [range(half), range(half, len(messages))]


def _join(pieces: list[Columns]) -> Columns | None:
    """One piece, in the order of the log."""
    if len(pieces) < 2:
        return pieces[0] if pieces else None
    record, times, values = (np.concatenate(column) for column in zip(*pieces, strict=True))
    order = np.argsort(record, kind="stable")
    return record[order], times[order], values[order]


def _plausible(columns: Columns, latest: int, bad: dict[int, Bad]) -> Columns:
    """The columns without records that have a cell or a time that cannot be."""
    record, times, values = columns
    faults = (
        (times > latest, "time_in_future", "a time is further ahead than stream.max_future_s"),
        (times < 0, "time_before_1970", "a time lies before 1970"),
        ((np.abs(values) > LARGEST).any(axis=1), "infinite", "a value is not finite as float32"),
    )
    if not any(fault.any() for fault, _, _ in faults):
        return columns
    for fault, kind, reason in faults:
        bad.update((i, Bad(kind, reason)) for i in np.unique(record[fault]).tolist())
    keep = ~np.isin(record, list(bad))
    return record[keep], times[keep], values[keep]


def _letters(records: Records, bad: dict[int, Bad]) -> list[DeadLetter]:
    return [
        DeadLetter(
            topic=records.topic,
            partition=records.partition,
            offset=records.offsets[i],
            kind=exc.kind,
            reason=exc.reason,
            key=records.keys[i],
            value=records.values[i],
        )
        for i, exc in sorted(bad.items())
    ]
