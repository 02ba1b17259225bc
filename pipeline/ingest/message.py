"""One record's bytes in, one message out, or the one thing that is wrong with it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from pipeline.errors import SettingsError

#: Every kind of bad record there is; dashboards count by them.
KINDS = frozenset(
    {
        *("tombstone", "empty", "too_large", "not_utf8", "not_json", "too_deep", "not_object"),
        *("key_missing", "key_not_utf8", "bad_key", "series_missing", "bad_series"),
        *("time_missing", "bad_time", "time_without_zone", "time_in_future", "time_before_1970"),
        *("values_missing", "bad_value", "infinite", "wrong_shape", "wrong_channels"),
        *("unknown_channel", "bad_channel", "ragged", "wrong_length", "empty_batch"),
        *("too_many_channels", "too_many_series", "unknown_label", "bad_label"),
    }
)
#: What a reason quotes of a record is cut here, in characters.
QUOTED = 40
#: A longer name of a series or channel is bad, in bytes of UTF-8.
LONGEST_NAME = 512

Instant = float | Annotated[datetime, Meta(tz=True)]
Cell = float | None
Row = list[Cell]
#: A class by name or number; a float for a whole number with a point, and for a bare NaN.
Label = str | int | float | None


class Bad(Exception):
    """One record's fault: a stable code and a sentence."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind
        self.reason = reason


def check_name(name: str, kind: str) -> None:
    """Raise Bad, of this kind, if a name cannot be kept: databases refuse NUL in a text."""
    if "\0" in name:
        raise Bad(kind, f"NUL in the name {name[:QUOTED]!r}")
    if (size := len(name.encode())) > LONGEST_NAME:
        raise Bad(kind, f"a name of {size} bytes, more than {LONGEST_NAME}")


class Reader:
    """Reads messages of one topic: time, values and, if a field is named for it, series and label.

    Parameters
    ----------
    field
        Field of the object that names the series; None: it is not in the message.
    max_bytes
        A larger record is bad.
    label
        Field with the label, or labels, which need not be there; empty: messages have none.

    Raises
    ------
    SettingsError
        The series is to come from a field that is the reading's own.
    """

    def __init__(self, field: str | None, max_bytes: int, label: str = "") -> None:
        self.field = field
        self.max_bytes = max_bytes
        self.label = label
        self._type = _message_type(field, label)
        #: Bytes to a message, with msgspec's own exceptions: for the many that are good.
        self.fast: Callable[[bytes], Any] = msgspec.json.Decoder(self._type).decode

    def read(self, value: bytes | None) -> Any:
        """One record's message.

        Raises
        ------
        Bad
            The record is not a message.
        """
        if value is None:
            raise Bad("tombstone", "the record has no value")
        if len(value) > self.max_bytes:
            raise Bad("too_large", f"{len(value)} bytes, more than {self.max_bytes}")
        if not value.strip():
            raise Bad("empty", "the record is empty")
        try:
            return self.fast(value)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            return self._read_carefully(value)

    def _read_carefully(self, value: bytes) -> Any:
        """What msgspec refused: right after all (Python's bare NaN, other ISO times), or why not.

        `json` takes NaN and Infinity; the latter is found with the numbers too large for float32.
        """
        tree = _tree(value)
        for name in ("time", "values"):
            if name not in tree:
                raise Bad(f"{name}_missing", f"the object has no {name}")
        if self.field is not None and self.field not in tree:
            raise Bad("series_missing", f"the object has no {self.field} to name the series")
        tree["time"] = _instants(tree["time"])
        if not isinstance(tree["values"], list | dict):
            raise Bad("wrong_shape", "values is neither a list nor an object")
        try:
            message = msgspec.convert(tree, self._type)
            _names_in(message, self.field).encode()
        except msgspec.ValidationError as exc:
            raise _explain(str(exc), self.label) from None
        except UnicodeEncodeError:
            raise Bad("not_utf8", "a name has half a surrogate pair") from None
        return message


def _message_type(field: str | None, label: str) -> Any:
    """A struct with the fields that the settings name."""
    fields: list[Any] = [
        ("time", Instant | list[Instant]),
        ("values", list[Cell | Row] | dict[str, Cell | Row]),
    ]
    if field in ("time", "values"):
        raise SettingsError(f"stream.series: field:{field} holds the reading, not a name")
    if field is not None:
        fields.append(("series", str | int, msgspec.field(name=field)))
    if label:
        fields.append(("label", Label | list[Label], msgspec.field(name=label, default=None)))
    return msgspec.defstruct("Message", fields, gc=False)


def _tree(value: bytes) -> dict[str, Any]:
    """A record's JSON object as Python reads it."""
    try:
        text = value.decode()
        tree = json.loads(text, parse_int=_integer)
    except UnicodeDecodeError as exc:
        raise Bad("not_utf8", f"byte {exc.start} is not UTF-8") from None
    except RecursionError:
        raise Bad("too_deep", "nested too deeply") from None
    except ValueError as exc:
        raise Bad("not_json", f"not JSON: {exc}") from None
    if not isinstance(tree, dict):
        raise Bad("not_object", f"a {type(tree).__name__}, not an object")
    return tree


def _integer(digits: str) -> int | float:
    """Beyond 64 bits a float: Python refuses to read very long integers, and we need none."""
    return int(digits) if len(digits) < 19 else float(digits)


def _instants(time: Any) -> Any:
    """A time, or a list of them, as number or datetime: ISO 8601 in all that Python reads."""
    return [_instant(t) for t in time] if isinstance(time, list) else _instant(time)


def _instant(time: Any) -> datetime | float:
    if isinstance(time, bool) or not isinstance(time, str | int | float):
        raise Bad("bad_time", f"time is a {type(time).__name__}, not a number or ISO 8601 text")
    if not isinstance(time, str):
        return time
    try:
        read = datetime.fromisoformat(time)
    except ValueError:
        raise Bad("bad_time", f"time is not ISO 8601: {time[:QUOTED]!r}") from None
    if read.tzinfo is None:
        raise Bad("time_without_zone", f"time has no zone: {time[:QUOTED]!r}")
    return read


def _names_in(message: Any, field: str | None) -> str:
    """All text that a message gives us to keep: its channels' names and its series'."""
    names = "".join(message.values) if isinstance(message.values, dict) else ""
    return names if field is None else f"{names}{message.series}"


def _explain(message: str, label: str) -> Bad:
    """msgspec's "Expected `float`, got `str` - at `$.values[2]`" as a kind and a sentence."""
    place = message.rpartition("`$.")[2]
    field = re.split(r"[\[`]", place, maxsplit=1)[0]
    if label and re.fullmatch(rf"{re.escape(label)}(\[[\d.]+\])?`", place):
        return Bad("bad_label", message)
    if field != "values":
        return Bad("bad_time" if field == "time" else "bad_series", message)
    if "got `array`" in message or "got `object`" in message:
        return Bad("wrong_shape", message)
    return Bad("infinite" if "out of range" in message else "bad_value", message)
