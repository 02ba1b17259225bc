"""Bytes in, columnar rows out; what is bad becomes a DeadLetter with a reason.

A message is one JSON object: `{"time": ..., "values": [...]}`, the same with values by channel
name, or many readings in one, `{"time": [...], "values": [[...], ...]}`. A whole poll is decoded
into columns at once; a bad record is found by halving, so it costs its neighbours next to nothing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from pipeline.config import Stream
from pipeline.errors import SettingsError
from pipeline.records import Batch, DeadLetter, FloatArray, IntArray, Records

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
#: Microseconds in one unit of a numeric time.
UNITS = {"s": 1_000_000.0, "ms": 1_000.0, "us": 1.0}
#: Cells beyond this are not finite as float32.
LARGEST = float(np.finfo(np.float32).max)
#: What a dead letter quotes of a record is cut here, in characters.
QUOTED = 40

#: Every `DeadLetter.kind` there is.
KINDS = frozenset(
    "tombstone empty too_large not_utf8 not_json too_deep not_object "
    "key_missing key_not_utf8 series_missing bad_series "
    "time_missing bad_time time_without_zone time_in_future time_before_1970 "
    "values_missing bad_value infinite wrong_shape ragged wrong_channels unknown_channel "
    "wrong_length empty_batch".split()
)

Instant = float | Annotated[datetime, Meta(tz=True)]
Cell = float | None
Row = list[Cell]
#: (record, time, values) of each reading: (N,), (N,), (N, d).
Columns = tuple[IntArray, IntArray, NDArray[np.float64]]


class _Bad(Exception):
    """One record's fault: a stable code and a sentence."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind
        self.reason = reason


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
        self._field = stream.series.partition("field:")[2] or None
        self._message = _message_type(self._field)
        self._decode = msgspec.json.Decoder(self._message).decode

    def decode(self, records: Records, now_us: int) -> tuple[Batch | None, list[DeadLetter]]:
        """Records of one poll as a batch (None if no reading is good) and the bad ones.

        now_us: microseconds since 1970 UTC, for the limit on times in the future. Each record
        becomes rows or exactly one dead letter; nothing that a record holds raises.
        """
        bad: dict[int, _Bad] = {}
        latest = now_us + int(self.stream.max_future_s * 1e6)
        at, messages = self._parse(records.values, bad)
        at, messages, series = self._name(records, at, messages, bad)
        if not self.channels:
            self._learn_channels(messages, latest)
        columns = _join(self._columns(at, messages, bad))
        batch = None
        if columns is not None:
            columns = _plausible(columns, latest, bad)
            if len(columns[0]):
                batch = self._batch(records, series, columns)
        return batch, _letters(records, bad)

    # Bytes to messages ------------------------------------------------------------------------

    def _parse(
        self, values: Sequence[bytes | None], bad: dict[int, _Bad]
    ) -> tuple[list[int], list[Any]]:
        """Positions and messages of the records that are JSON of the right types."""
        decode = self._decode
        try:
            if max(map(len, values)) <= self.max_message_bytes:  # type: ignore[arg-type]
                return list(range(len(values))), [decode(v) for v in values]  # type: ignore[arg-type]
        except (msgspec.MsgspecError, TypeError, ValueError, RecursionError):
            pass
        at, messages = [], []
        for i, value in enumerate(values):
            try:
                messages.append(self._parse_one(value))
                at.append(i)
            except _Bad as exc:
                bad[i] = exc
        return at, messages

    def _parse_one(self, value: bytes | None) -> Any:
        if value is None:
            raise _Bad("tombstone", "the record has no value")
        if len(value) > self.max_message_bytes:
            raise _Bad("too_large", f"{len(value)} bytes, more than {self.max_message_bytes}")
        if not value.strip():
            raise _Bad("empty", "the record is empty")
        try:
            return self._decode(value)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            return self._parse_carefully(value)

    def _parse_carefully(self, value: bytes) -> Any:
        """What msgspec refused: right after all (Python's bare NaN, other ISO times), or why not.

        `json` takes NaN and Infinity; the latter is found with the numbers too large for float32.
        """
        tree = _tree(value)
        for name in ("time", "values"):
            if name not in tree:
                raise _Bad(f"{name}_missing", f"the object has no {name}")
        if self._field is not None and self._field not in tree:
            raise _Bad("series_missing", f"the object has no {self._field} to name the series")
        tree["time"] = _instants(tree["time"])
        if not isinstance(tree["values"], list | dict):
            raise _Bad("wrong_shape", "values is neither a list nor an object")
        try:
            message = msgspec.convert(tree, self._message)
            _names_in(message, self._field).encode()
        except msgspec.ValidationError as exc:
            raise _explain(str(exc)) from None
        except UnicodeEncodeError:
            raise _Bad("not_utf8", "a name has half a surrogate pair") from None
        return message

    def _name(
        self, records: Records, at: list[int], messages: list[Any], bad: dict[int, _Bad]
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
                bad[i] = _Bad("key_missing", "no key to name the series (stream.series = key)")
            except UnicodeDecodeError:
                bad[i] = _Bad("key_not_utf8", "the key is not UTF-8")
        good = [(i, m) for i, m in zip(at, messages, strict=True) if i not in bad]
        return [i for i, _ in good], [m for _, m in good], series

    # Messages to columns ----------------------------------------------------------------------

    def _learn_channels(self, messages: list[Any], latest: int) -> None:
        """The first message that is good in every respect decides; a bad one decides nothing."""
        for message in messages:
            self.channels = _channels_of(message.values)
            bad: dict[int, _Bad] = {}
            columns = _join(self._columns([0], [message], bad))
            if columns is not None:
                _plausible(columns, latest, bad)
            if self.channels and not bad:
                return
        self.channels = ()

    def _columns(self, at: list[int], messages: list[Any], bad: dict[int, _Bad]) -> list[Columns]:
        """Columns of the good messages, in one piece if all are good and of one form."""
        if not messages:
            return []
        try:
            counts, times, values = self._stack(messages)
        except _Bad as exc:
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
                raise _Bad("wrong_length", "time and values differ in length")
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
                raise _Bad("wrong_shape", "values has no channel")
            if not known.issuperset(message.values):
                name = min(message.values.keys() - known)
                raise _Bad("unknown_channel", f"no channel {name[:QUOTED]!r} in the stream")

    def _rows_by_name_of_many(self, messages: list[Any], lengths: list[int]) -> list[Any]:
        """Rows of messages with a list for each channel; an absent channel is missing cells."""
        self._check_names(messages)
        rows: list[Any] = []
        for message, n in zip(messages, lengths, strict=True):
            if any(not isinstance(c, list) or len(c) != n for c in message.values.values()):
                raise _Bad("wrong_length", "time and values differ in length")
            absent = [None] * n
            columns = [message.values.get(name, absent) for name in self.channels]
            rows += map(list, zip(*columns, strict=True))
        return rows

    def _matrix(self, rows: list[Any]) -> NDArray[np.float64]:
        """(N, d) of rows of numbers; None is NaN."""
        if set(map(type, rows)) != {list}:
            raise _Bad("wrong_shape", "values is neither one reading nor a list of readings")
        widths = set(map(len, rows))
        if len(widths) != 1:
            raise _Bad("ragged", "the readings have different numbers of channels")
        width, d = widths.pop(), len(self.channels)
        try:
            try:
                flat = np.fromiter(chain.from_iterable(rows), np.float64, len(rows) * width)
            except TypeError:  # a missing cell: the slower way knows None
                flat = np.array(rows, dtype=np.float64)
        except (TypeError, ValueError):
            raise _Bad("wrong_shape", "a list where a number belongs") from None
        if width != d or flat.size != len(rows) * d:
            raise _Bad("wrong_channels", f"{width} channels, the stream has {d}")
        return flat.reshape(len(rows), d)

    def _times(self, raw: list[Any]) -> IntArray:
        """(N,) microseconds; whether they are plausible is for later."""
        try:
            if isinstance(raw[0], datetime):
                return np.array([(t - EPOCH) // MICROSECOND for t in raw], dtype=np.int64)
            numbers = np.array(raw, dtype=np.float64)
        except (TypeError, ValueError):
            raise _Bad("bad_time", "times of two kinds in one message") from None
        with np.errstate(over="ignore"):
            scaled = numbers * UNITS[self.stream.time_unit]
        if not (np.abs(scaled) < 2.0**62).all():
            raise _Bad("bad_time", "a time is not finite, or absurd")
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


def _message_type(field: str | None) -> Any:
    """A struct with the fields that the settings name."""
    fields: list[Any] = [
        ("time", Instant | list[Instant]),
        ("values", list[Cell | Row] | dict[str, Cell | Row]),
    ]
    if field in ("time", "values"):
        raise SettingsError(f"stream.series: field:{field} holds the reading, not a name")
    if field is not None:
        fields.append(("series", str | int, msgspec.field(name=field)))
    return msgspec.defstruct("Message", fields, gc=False)


def _tree(value: bytes) -> dict[str, Any]:
    """A record's JSON object as Python reads it."""
    try:
        text = value.decode()
        tree = json.loads(text, parse_int=_integer)
    except UnicodeDecodeError as exc:
        raise _Bad("not_utf8", f"byte {exc.start} is not UTF-8") from None
    except RecursionError:
        raise _Bad("too_deep", "nested too deeply") from None
    except ValueError as exc:
        raise _Bad("not_json", f"not JSON: {exc}") from None
    if not isinstance(tree, dict):
        raise _Bad("not_object", f"a {type(tree).__name__}, not an object")
    return tree


def _integer(digits: str) -> int | float:
    """Beyond 64 bits a float: Python refuses to read very long integers, and we need none."""
    return int(digits) if len(digits) < 19 else float(digits)


def _instants(time: Any) -> Any:
    """A time, or a list of them, as number or datetime: ISO 8601 in all that Python reads."""
    return [_instant(t) for t in time] if isinstance(time, list) else _instant(time)


def _instant(time: Any) -> datetime | float:
    if isinstance(time, bool) or not isinstance(time, str | int | float):
        raise _Bad("bad_time", f"time is a {type(time).__name__}, not a number or ISO 8601 text")
    if not isinstance(time, str):
        return time
    try:
        read = datetime.fromisoformat(time)
    except ValueError:
        raise _Bad("bad_time", f"time is not ISO 8601: {time[:QUOTED]!r}") from None
    if read.tzinfo is None:
        raise _Bad("time_without_zone", f"time has no zone: {time[:QUOTED]!r}")
    return read


def _names_in(message: Any, field: str | None) -> str:
    """All text that a message gives us to keep: its channels' names and its series'."""
    names = "".join(message.values) if isinstance(message.values, dict) else ""
    return names if field is None else f"{names}{message.series}"


def _explain(message: str) -> _Bad:
    """msgspec's "Expected `float`, got `str` - at `$.values[2]`" as a kind and a sentence."""
    if "`$.values" not in message:
        return _Bad("bad_time" if "`$.time" in message else "bad_series", message)
    if "got `array`" in message or "got `object`" in message:
        return _Bad("wrong_shape", message)
    return _Bad("infinite" if "out of range" in message else "bad_value", message)


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
        raise _Bad("wrong_length", "one of time and values is a list of readings, the other not")
    lengths = list(map(len, lists))
    if not all(lengths):
        raise _Bad("empty_batch", "a message without a reading")
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


def _plausible(columns: Columns, latest: int, bad: dict[int, _Bad]) -> Columns:
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
        bad.update((i, _Bad(kind, reason)) for i in np.unique(record[fault]).tolist())
    keep = ~np.isin(record, list(bad))
    return record[keep], times[keep], values[keep]


def _letters(records: Records, bad: dict[int, _Bad]) -> list[DeadLetter]:
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
