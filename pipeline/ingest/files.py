"""Source over recordings: CSV or JSON lines in, the messages that a producer would send out."""

from __future__ import annotations

import csv
import math
from codecs import BOM_UTF8
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec

from pipeline.errors import SourceError
from pipeline.ingest.memory import MemorySource, Message

#: Endings of files with one JSON object a line.
JSON_LINES = {".jsonl", ".ndjson", ".json"}


def read_recording(
    path: Path,
    *,
    series_column: str | None = None,
    time_column: str | None = None,
    drop: tuple[str, ...] = (),
    label: str = "",
) -> Iterator[tuple[str, dict[str, Any]]]:
    """(series, message) of each row, one at a time; the file is never held whole.

    A cell that is empty is missing; one that is not a finite number stays text, for the decoder to
    judge. Without a time column a message has no `time`. JSON lines are messages already.

    label: the field with the labels, as text; the column of that name has them, if there is one.

    Raises
    ------
    SourceError
        The file is not there, cannot be read, has no rows, lacks a column that was named, or has no
        use for it.
    """
    try:
        if path.suffix in JSON_LINES:
            _check_options(path, series_column, time_column, drop)
            yield from _read_json_lines(path, series_column)
        else:
            yield from _read_csv(path, series_column, time_column, drop, label)
    except OSError as exc:
        raise SourceError(f"{path}: {exc.strerror}") from None
    except UnicodeDecodeError as exc:
        raise SourceError(f"{path}: not UTF-8 at byte {exc.start}") from None


class FileSource(MemorySource):
    """A recording as one partition of a topic; for runs without a broker.

    Rows without a time column are one second apart, from 1970 on.
    """

    def __init__(
        self,
        path: Path,
        *,
        topic: str = "readings",
        series_column: str | None = None,
        time_column: str | None = None,
        drop: tuple[str, ...] = (),
        max_poll_records: int = 5000,
    ) -> None:
        rows = read_recording(path, series_column=series_column, time_column=time_column, drop=drop)
        messages: list[Message] = [
            (series.encode(), msgspec.json.encode({"time": float(i)} | message))
            for i, (series, message) in enumerate(rows)
        ]
        super().__init__({0: messages}, topic=topic, max_poll_records=max_poll_records)


def _check_options(
    path: Path, series_column: str | None, time_column: str | None, drop: tuple[str, ...]
) -> None:
    """Refuse what could only be ignored: JSON lines are messages, with a time of their own."""
    if time_column is not None:
        raise SourceError(f"{path}: JSON lines have no time column; each has its `time`")
    if drop:
        raise SourceError(f"{path}: JSON lines have no column to drop")
    if series_column in ("time", "values"):
        raise SourceError(f"{path}: {series_column!r} holds the reading, not a series' name")


def _read_csv(
    path: Path,
    series_column: str | None,
    time_column: str | None,
    drop: tuple[str, ...],
    label: str,
) -> Iterator[tuple[str, dict[str, Any]]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file)
        rows = _rows(reader, path)
        header = next(rows, [])
        named = [c for c in (series_column, time_column, *drop) if c is not None]
        if absent := [c for c in named if c not in header]:
            raise SourceError(f"{path}: no column {absent[0]!r}; there are {', '.join(header)}")
        first = next(rows, None)
        if first is None:
            raise SourceError(f"{path}: no rows")
        label_at = header.index(label) if label in header and label not in named else None
        values = [i for i, name in enumerate(header) if name not in named and i != label_at]
        series_at = header.index(series_column) if series_column else None
        time_at = header.index(time_column) if time_column else None
        for row in chain([first], rows):
            if len(row) != len(header):
                raise SourceError(f"{path}: line {reader.line_num} has {len(row)} cells")
            message: dict[str, Any] = {"values": [_number(row[i]) for i in values]}
            if time_at is not None:
                message["time"] = _number(row[time_at])
            if label_at is not None:
                message[label] = row[label_at].strip() or None
            yield row[series_at] if series_at is not None else path.stem, message


def _rows(reader: Any, path: Path) -> Iterator[list[str]]:
    """The lines that are not blank."""
    try:
        for row in reader:
            if row and not (len(row) == 1 and row[0].isspace()):
                yield row
    except csv.Error as exc:
        raise SourceError(f"{path}: line {reader.line_num}: {exc}") from None


def _read_json_lines(path: Path, series_column: str | None) -> Iterator[tuple[str, dict[str, Any]]]:
    empty = True
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if number == 1:
                line = line.removeprefix(BOM_UTF8)
            if not line.strip():
                continue
            empty = False
            try:
                message = msgspec.json.decode(line, type=dict[str, Any])
            except msgspec.MsgspecError as exc:
                raise SourceError(f"{path}: line {number}: {exc}") from None
            series = message.pop(series_column, None) if series_column else path.stem
            if series is None:
                raise SourceError(f"{path}: line {number}: no field {series_column!r}")
            yield str(series), message
    if empty:
        raise SourceError(f"{path}: no rows")


def _number(cell: str) -> float | str | None:
    """None if empty; text if not a finite number as other programs write it."""
    if not cell.strip():
        return None
    try:
        value = float(cell)
    except ValueError:
        return cell
    return value if math.isfinite(value) and cell.isascii() and "_" not in cell else cell
