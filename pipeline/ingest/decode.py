"""Bytes in, columnar rows out; what is bad becomes a DeadLetter with a reason.

A message is one JSON object: `{"time": ..., "values": [...]}`, the same with values by channel
name, or many readings in one, `{"time": [...], "values": [[...], ...]}`; with `stream.label` also
with the readings' labels. A whole poll is decoded into columns at once. If that fails, records of
another form, width or label are sorted out first and looked at one by one; what is left is found
by halving.
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
from pipeline.ingest.labels import Labels
from pipeline.ingest.message import QUOTED, Bad, Reader, check_name
from pipeline.ingest.series import group
from pipeline.records import Batch, DeadLetter, IntArray, Records

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
#: Microseconds in one unit of a numeric time.
UNITS = {"s": 1_000_000.0, "ms": 1_000.0, "us": 1.0}
#: Cells beyond this are not finite as float32.
LARGEST = float(np.finfo(np.float32).max)
#: No time is later, whatever the log says of it: 9999-12-31T00:00Z, in microseconds. Python's end.
LAST = 253_402_214_400_000_000
#: Names of series that are remembered from one poll to the next, about.
REMEMBERED = 50_000
#: (record, time, values) of each reading: (N,), (N,), (N, d); labels are a last column of values.
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
    classes
        Names that the labels are of, if `stream.label` is set.

    Raises
    ------
    SettingsError
        The series is to come from a field that is the reading's own.
    """

    def __init__(
        self,
        stream: Stream,
        max_message_bytes: int,
        channels: tuple[str, ...] = (),
        classes: tuple[str, ...] = (),
    ) -> None:
        self.stream = stream
        self.max_message_bytes = max_message_bytes
        self.channels = channels
        field = stream.series.partition("field:")[2] or None
        self._names = _Names("bad_series" if field else "bad_key")
        self._reader = Reader(field, max_message_bytes, stream.label)
        self._labels = Labels(classes) if stream.label else None

    def decode(self, records: Records) -> tuple[Batch | None, list[DeadLetter]]:
        """Records of one poll as a batch (None if no reading is good) and the bad ones.

        Each record becomes rows or exactly one dead letter; nothing that a record holds raises.
        What it becomes hangs on the log alone: a time lies in the future if it is
        `stream.max_future_s` after the log says that its record was written, whenever it is read.
        """
        bad: dict[int, Bad] = {}
        if len(self._names) > REMEMBERED:
            self._names = _Names(self._names.kind)
        latest = _latest(records, self.stream.max_future_s)
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
                bad[i] = exc.with_traceback(None)
        return at, messages

    def _name(
        self, records: Records, at: list[int], messages: list[Any], bad: dict[int, Bad]
    ) -> tuple[list[int], list[Any], list[int]]:
        """`at` and `messages` without the records that name no series; each record's series."""
        source, names = self.stream.series, self._names
        if source == "topic":
            return at, messages, [names[records.topic.encode()]] * len(records)
        keys = records.keys if source == "key" else _fields(at, messages, len(records))
        try:
            return at, messages, [names[key] for key in keys]  # type: ignore[index]
        except Bad:
            pass
        series = [0] * len(records)
        for i in at:
            try:
                series[i] = names[keys[i]]  # type: ignore[index]
            except Bad as exc:
                bad[i] = exc.with_traceback(None)
        good = [(i, m) for i, m in zip(at, messages, strict=True) if i not in bad]
        return [i for i, _ in good], [m for _, m in good], series

    # Messages to columns ----------------------------------------------------------------------

    def _learn_channels(
        self, at: list[int], messages: list[Any], latest: IntArray, bad: dict[int, Bad]
    ) -> tuple[list[int], list[Any]]:
        """`at` and `messages` from the first that is good in every respect on: it decides.

        A bad one before it decides nothing, and is bad for what is wrong with itself.
        """
        for n, (i, message) in enumerate(zip(at, messages, strict=True)):
            self.channels = _channels_of(message.values)
            try:
                self._check_channels()
            except Bad as exc:
                bad[i] = exc.with_traceback(None)
                continue
            columns = _join(self._columns([i], [message], bad))
            if columns is not None:
                _plausible(columns, latest, bad)
            if i not in bad:
                return at[n:], messages[n:]
        self.channels = ()
        return [], []

    def _check_channels(self) -> None:
        """Raise Bad if these cannot be the channels of a stream."""
        if not self.channels:
            raise Bad("wrong_shape", "values has no channel")
        if (n := len(self.channels)) > (most := self.stream.max_channels):
            raise Bad("too_many_channels", f"{n} channels, more than {most} (stream.max_channels)")
        for name in self.channels:
            check_name(name, "bad_channel")

    def _columns(self, at: list[int], messages: list[Any], bad: dict[int, Bad]) -> list[Columns]:
        """Columns of the good messages, in one piece if all are good and of one form."""
        if not messages:
            return []
        try:
            counts, times, values = self._stack(messages)
        except Bad as exc:
            if len(messages) == 1:
                bad[at[0]] = exc.with_traceback(None)
                return []
        else:
            return [(np.repeat(np.array(at, dtype=np.int64), counts), times, values)]
        return [
            piece
            for part in self._parts(messages)
            for piece in self._columns([at[i] for i in part], [messages[i] for i in part], bad)
        ]

    def _parts(self, messages: list[Any]) -> list[Sequence[int]]:
        """Messages that cannot be stacked: those of each form, or the halves of those of one.

        One that does not fit the channels or classes, whatever else it holds, is a part by itself.
        """
        channels, d, labels = frozenset(self.channels), len(self.channels), self._labels
        forms: dict[Any, list[int]] = {}
        alone: list[Sequence[int]] = []
        for i, message in enumerate(messages):
            time, values = message.time, message.values
            labelled = labels is None or labels.fits(message.label, time)
            if labelled and _fits(values, channels, d):
                first = time[0] if type(time) is list and time else time
                form = (type(values), type(time), type(first), _nested(values))
                forms.setdefault(form, []).append(i)
            else:
                alone.append((i,))
        parts = [*forms.values(), *alone]
        if len(parts) > 1:
            return parts
        half = len(messages) // 2
        return [range(half), range(half, len(messages))]

    def _stack(self, messages: list[Any]) -> tuple[IntArray | int, IntArray, NDArray[np.float64]]:
        """Readings in each message, times (N,) and values (N, d) of messages of one form."""
        first, lengths = messages[0], None
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
        if self._labels is not None:
            labels = self._labels.column([m.label for m in messages], lengths)
            values = np.column_stack([values, labels])
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
        if width != d:
            raise _wrong_width(rows, width, d)
        try:
            try:
                flat = np.fromiter(chain.from_iterable(rows), np.float64, len(rows) * width)
            except TypeError:  # a missing cell: the slower way knows None
                flat = np.array(rows, dtype=np.float64)
        except (TypeError, ValueError):
            raise Bad("wrong_shape", "a list where a number belongs") from None
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
        d = len(self.channels)
        cells = values.astype(np.float32)
        return group(
            topic=records.topic,
            partition=records.partition,
            ids=np.array(series, dtype=np.int64)[record],
            names=self._names.text,
            offsets=np.array(records.offsets, dtype=np.int64)[record],
            times=times,
            values=cells[:, :d],
            next_offset=records.next_offset,
            labels=None if self._labels is None else cells[:, d],
        )


class _Names(dict[bytes, int]):
    """Key -> number of the series; each key is decoded once.

    Raises Bad for one that names no series: of this `kind`, if the name cannot be kept.
    """

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.text: list[str] = []

    def __missing__(self, key: bytes) -> int:
        if key is None:
            raise Bad("key_missing", "no key to name the series (stream.series = key)")
        try:
            name = key.decode()
        except UnicodeDecodeError:
            raise Bad("key_not_utf8", "the key is not UTF-8") from None
        check_name(name, self.kind)
        self.text.append(name)
        self[key] = number = len(self.text) - 1
        return number


def _fields(at: list[int], messages: list[Any], n: int) -> list[bytes]:
    """(n,) names in the messages, as keys; empty where there is no message."""
    keys = [b""] * n
    for i, message in zip(at, messages, strict=True):
        keys[i] = str(message.series).encode()
    return keys


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


def _fits(values: Any, channels: frozenset[str], d: int) -> bool:
    """Whether a message's values have the stream's channels, by name or by number."""
    if isinstance(values, dict):
        return bool(values) and channels.issuperset(values)
    if _nested(values):
        return all(type(row) is list and len(row) == d for row in values)
    return len(values) == d


def _wrong_width(rows: list[Any], width: int, d: int) -> Bad:
    """What is wrong with rows of another width than the stream's."""
    if any(type(cell) is list for cell in chain.from_iterable(rows)):
        return Bad("wrong_shape", "a list where a number belongs")
    return Bad("wrong_channels", f"{width} channels, the stream has {d}")


def _join(pieces: list[Columns]) -> Columns | None:
    """One piece, in the order of the log."""
    if len(pieces) < 2:
        return pieces[0] if pieces else None
    record, times, values = (np.concatenate(column) for column in zip(*pieces, strict=True))
    order = np.argsort(record, kind="stable")
    return record[order], times[order], values[order]


def _latest(records: Records, ahead_s: float) -> IntArray:
    """(n,) latest time that each record may tell, in microseconds."""
    if not len(records.written):
        return np.full(len(records), LAST)
    written = np.array(records.written, dtype=np.int64)
    known = np.where(written < 0, LAST, np.minimum(written, LAST // 1000) * 1000)
    latest: IntArray = np.minimum(known + int(ahead_s * 1e6), LAST)
    return latest


def _plausible(columns: Columns, latest: IntArray, bad: dict[int, Bad]) -> Columns:
    """The columns without records that have a cell or a time that cannot be.

    latest: (n,) latest time of each record of the poll.
    """
    record, times, values = columns
    ahead = "a time lies further after the record's own than stream.max_future_s"
    faults = (
        (times > latest[record], "time_in_future", ahead),
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
