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
from pipeline.records import Batch, DeadLetter, FloatArray, IntArray, Records

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
#: Microseconds in one unit of a numeric time.
UNITS = {"s": 1_000_000.0, "ms": 1_000.0, "us": 1.0}
#: Cells beyond this are not finite as float32.
LARGEST = float(np.finfo(np.float32).max)

Instant = float | Annotated[datetime, Meta(tz=True)]
Cell = float | None
Row = list[Cell]


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
        Names of the d sensors, in order; empty: not known yet.
    """

    def __init__(
        self, stream: Stream, max_message_bytes: int, channels: tuple[str, ...] = ()
    ) -> None:
        self.stream = stream
        self.max_message_bytes = max_message_bytes
        self.channels = channels
        self._names = _Names()
        self._message = _message_type(stream.series)
        self._decode = msgspec.json.Decoder(self._message).decode

    def decode(self, records: Records, now: int) -> tuple[Batch | None, list[DeadLetter]]:
        """Records of one poll as a batch (None if no reading is good) and the bad ones.

        now: microseconds since 1970 UTC, for the limit on times in the future. Never raises for
        what a record holds.
        """
        bad: dict[int, _Bad] = {}
        at, messages = self._parse(records.values, bad)
        at, series = self._name(records, at, messages, bad)
        columns = self._columns(at, messages, bad)
        if columns is None:
            return None, _letters(records, bad)
        record, times, values = columns
        keep = self._plausible(record, times, values, now, bad)
        if keep is not None:
            record, times, values = record[keep], times[keep], values[keep]
        if not len(record):
            return None, _letters(records, bad)
        batch = self._batch(records, series, record, times, values)
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
        if not value.strip():
            raise _Bad("empty", "the record is empty")
        if len(value) > self.max_message_bytes:
            raise _Bad("too_large", f"{len(value)} bytes, more than {self.max_message_bytes}")
        try:
            return self._decode(value)
        except msgspec.ValidationError as exc:
            raise _explain(str(exc)) from None
        except RecursionError:
            raise _Bad("not_json", "nested too deeply") from None
        except (msgspec.DecodeError, ValueError) as exc:
            return self._parse_lenient(value, str(exc))

    def _parse_lenient(self, value: bytes, why: str) -> Any:
        """Python's JSON has a bare NaN, which producers in Python send for a missing cell."""
        try:
            value.decode()
        except UnicodeDecodeError as exc:
            raise _Bad("not_utf8", f"byte {exc.start} is not UTF-8") from None
        try:
            return msgspec.convert(json.loads(value), self._message)
        except msgspec.ValidationError as exc:
            raise _explain(str(exc)) from None
        except (ValueError, RecursionError):
            raise _Bad("not_json", f"not JSON: {why}") from None

    def _name(
        self, records: Records, at: list[int], messages: list[Any], bad: dict[int, _Bad]
    ) -> tuple[list[int], list[int]]:
        """Each good record's series, as a number; records without one leave `at`, `messages`."""
        source, names = self.stream.series, self._names
        if source == "topic":
            return at, [names[records.topic.encode()]] * len(records)
        series = [0] * len(records)
        if source != "key":
            for i, message in zip(at, messages, strict=True):
                series[i] = names[str(message.series).encode()]
            return at, series
        try:
            return at, [names[key] for key in records.keys]  # type: ignore[index]
        except (KeyError, UnicodeDecodeError):
            pass
        kept = []
        for i in at:
            try:
                series[i] = names[records.keys[i]]  # type: ignore[index]
                kept.append(i)
            except KeyError:
                bad[i] = _Bad("key_missing", "no key to name the series (stream.series = key)")
            except UnicodeDecodeError:
                bad[i] = _Bad("key_not_utf8", "the key is not UTF-8")
        messages[:] = [m for i, m in zip(at, messages, strict=True) if i not in bad]
        return kept, series

    # Messages to columns ----------------------------------------------------------------------

    def _columns(
        self, at: list[int], messages: list[Any], bad: dict[int, _Bad]
    ) -> tuple[IntArray, IntArray, NDArray[np.float64]] | None:
        """(record, time, values) of each reading; a bad message is found by halving."""
        if not messages:
            return None
        try:
            counts, times, values = self._stack(messages)
        except _Bad as exc:
            if len(messages) == 1:
                bad[at[0]] = exc
                return None
        else:
            return np.repeat(np.array(at, dtype=np.int64), counts), times, values
        half = len(messages) // 2
        parts = [
            self._columns(at[part], messages[part], bad)
            for part in (slice(0, half), slice(half, None))
        ]
        good = [part for part in parts if part is not None]
        if not good:
            return None
        record, times, values = (np.concatenate(column) for column in zip(*good, strict=True))
        return record, times, values

    def _stack(self, messages: list[Any]) -> tuple[IntArray | int, IntArray, NDArray[np.float64]]:
        """Readings a message, times (N,) and values (N, d) of messages of one form."""
        first = messages[0]
        if isinstance(first.values, dict):
            rows, counts = self._rows_by_name(messages)
        elif first.values and isinstance(first.values[0], list):
            counts = [_length(m.values) for m in messages]
            rows = list(chain.from_iterable(m.values for m in messages))
        else:
            rows, counts = [m.values for m in messages], None
        times = self._times(messages, counts)
        values = self._matrix(rows)
        return (1 if counts is None else np.array(counts, dtype=np.int64)), times, values

    def _matrix(self, rows: list[Any]) -> NDArray[np.float64]:
        """(N, d); the first good reading decides d, if nothing else has."""
        try:
            values = np.array(rows, dtype=np.float64)
        except (ValueError, TypeError):
            raise _Bad("wrong_shape", "values are not rows of numbers of one length") from None
        if values.ndim != 2 or not values.shape[1]:
            raise _Bad("wrong_shape", "values is neither one reading nor a list of readings")
        if not self.channels:
            if np.isinf(values).any():  # a bad record decides nothing
                raise _Bad("infinite", "a value is not finite")
            self.channels = tuple(f"c{i}" for i in range(values.shape[1]))
        if values.shape[1] != len(self.channels):
            raise _Bad(
                "wrong_channels",
                f"{values.shape[1]} channels, the stream has {len(self.channels)}",
            )
        return values

    def _rows_by_name(self, messages: list[Any]) -> tuple[list[Any], list[int] | None]:
        """Values given by channel name; an absent channel is a missing cell."""
        if not self.channels:
            self.channels = _names_of(messages[0].values)
        known = set(self.channels)
        if any(not isinstance(m.values, dict) for m in messages):
            raise _Bad("wrong_shape", "values is neither one reading nor a list of readings")
        for message in messages:
            if unknown := message.values.keys() - known:
                raise _Bad("unknown_channel", f"no channel {sorted(unknown)[0]!r} in the stream")
        if not any(isinstance(m.time, list) for m in messages):
            return [[m.values.get(c) for c in self.channels] for m in messages], None
        rows, counts = [], []
        for message in messages:
            n = _length(message.time) if isinstance(message.time, list) else -1
            columns = [message.values.get(c, [None] * n) for c in self.channels]
            if any(not isinstance(c, list) or len(c) != n for c in columns):
                raise _Bad("wrong_length", "time and values differ in length")
            rows += list(zip(*columns, strict=True))
            counts.append(n)
        return rows, counts

    def _times(self, messages: list[Any], counts: list[int] | None) -> IntArray:
        """(N,) microseconds."""
        raw: list[Any] = [m.time for m in messages]
        if counts is not None:
            if any(
                not isinstance(t, list) or len(t) != n for t, n in zip(raw, counts, strict=True)
            ):
                raise _Bad("wrong_length", "time and values differ in length")
            raw = list(chain.from_iterable(raw))
        try:
            if any(isinstance(t, list) for t in raw[:1]):
                raise _Bad("wrong_length", "time and values differ in length")
            if isinstance(raw[0], datetime):
                return np.array([(t - EPOCH) // MICROSECOND for t in raw], dtype=np.int64)
            scaled = np.array(raw, dtype=np.float64) * UNITS[self.stream.time_unit]
        except (TypeError, ValueError):
            raise _Bad("bad_time", "times of two kinds, or a list where one belongs") from None
        if not (np.abs(scaled) < 2.0**62).all():
            raise _Bad("bad_time", "a time is not finite, or absurd")
        return np.rint(scaled).astype(np.int64)

    # Columns to a batch -----------------------------------------------------------------------

    def _plausible(
        self,
        record: IntArray,
        times: IntArray,
        values: NDArray[np.float64],
        now: int,
        bad: dict[int, _Bad],
    ) -> NDArray[np.bool_] | None:
        """Rows of records with finite cells and possible times; None: all of them."""
        latest = now + int(self.stream.max_future_s * 1e6)
        wrong_cell = (np.abs(values) > LARGEST).any(axis=1)
        wrong_time = (times < 0) | (times > latest)
        if not (wrong_cell.any() or wrong_time.any()):
            return None
        for i in np.unique(record[wrong_time]).tolist():
            bad[i] = _Bad("bad_time", "a time before 1970, or further ahead than max_future_s")
        for i in np.unique(record[wrong_cell]).tolist():
            bad[i] = _Bad("infinite", "a value is not finite as float32")
        return ~np.isin(record, list(bad))

    def _batch(
        self,
        records: Records,
        series: list[int],
        record: IntArray,
        times: IntArray,
        values: NDArray[np.float64],
    ) -> Batch:
        """Group the readings by series, in the order of the log inside each."""
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


def _message_type(series: str) -> Any:
    """A struct with the fields that the settings name."""
    fields: list[Any] = [
        ("time", Instant | list[Instant]),
        ("values", list[Cell | Row] | dict[str, Cell | Row]),
    ]
    if series.startswith("field:"):
        name = series.removeprefix("field:")
        fields.append(("series", str | int, msgspec.field(name=name)))
    return msgspec.defstruct("Message", fields)


def _explain(message: str) -> _Bad:
    """msgspec's "Expected `float`, got `str` - at `$.values[2]`" as a kind and a sentence."""
    if "missing required field" in message:
        field = message.split("`")[1]
        return _Bad(f"{field}_missing", message)
    if "`$.time" in message:
        return _Bad("bad_time", message)
    if "`$.values" in message:
        return _Bad("bad_value", message)
    return _Bad("wrong_shape", message)


def _length(items: Sequence[Any]) -> int:
    if not items:
        raise _Bad("wrong_shape", "a message without a reading")
    return len(items)


def _names_of(values: dict[str, Any]) -> tuple[str, ...]:
    if not values:
        raise _Bad("wrong_shape", "values has no channel")
    return tuple(sorted(values))


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
