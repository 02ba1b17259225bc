"""A recording in, whole batches out: CSV or Parquet, read in chunks of columns.

No message is made of a reading and no Python runs for each: a backtest is as quick as its stages.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import SourceError
from pipeline.ingest.decode import EPOCH, MICROSECOND, UNITS
from pipeline.ingest.labels import Labels
from pipeline.ingest.message import Bad, check_name
from pipeline.ingest.series import group
from pipeline.ingest.tables import Column, open_table
from pipeline.records import Batch, FloatArray, IntArray
from pipeline.telemetry import printable

#: Cells that other programs write where nothing was measured, in lower case.
MISSING = frozenset({"", "na", "n/a", "nan", "null", "none"})
#: Lines of CSV taken at once: more of them at once cost more each.
LINES = 2000
#: Microseconds: 9,999 years are not reached.
LATEST = 250_000_000_000_000_000
#: A time stands for a second where there is no column of times.
SECOND = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """Which columns of a recording are what; all others are sensors."""

    time: str | None = None
    series: str | None = None
    truth: str | None = None
    label: str | None = None
    drop: tuple[str, ...] = ()
    #: The sensors in order, if not all other columns; empty: those.
    sensors: tuple[str, ...] = ()
    #: Unit of times that are numbers since 1970.
    time_unit: str = "s"
    #: Names that the labels are of.
    classes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Some rows of a recording; `truth` apart, for the scorer only."""

    batch: Batch
    #: (N,) text of the truth column, in the order of the batch; empty without one.
    truth: Sequence[str]


class _Piece(NamedTuple):
    """Rows in the order of the file."""

    ids: IntArray
    times: IntArray
    values: FloatArray
    truth: Sequence[str]
    labels: FloatArray | None


class Recording:
    """A recording, opened: its columns are known and have been checked.

    Parameters
    ----------
    topic
        Of the batches; each is of partition 0, and a row's number is its offset.

    Raises
    ------
    SourceError
        The file is not there, cannot be read, has no rows, or lacks a column that was named.
    """

    def __init__(self, path: Path, columns: Columns, *, topic: str) -> None:
        self.path = path
        self.columns = columns
        self.topic = topic
        self.table = open_table(path)
        self.sensors = self._sensors()
        #: Rows, about; exact once they were read.
        self.rows = self.table.count()
        self._names = _Names(path)
        self._labels = Labels(columns.classes)

    @property
    def series(self) -> tuple[str, ...]:
        """The series met so far, in the order of their first readings."""
        return tuple(self._names)

    def chunks(self, size: int) -> Iterator[Chunk]:
        """Everything, `size` rows at a time.

        Raises
        ------
        SourceError
            A cell is no number, no time or no label, or a row has too many or too few cells.
        """
        columns, header = self.columns, self.table.names
        others = (columns.time, columns.series, columns.truth, columns.label)
        special = [name for name in others if name is not None]
        sensors, apart = ([header.index(n) for n in names] for names in (self.sensors, special))
        row, held = 0, 0
        pieces: list[_Piece] = []
        for parts in self.table.read(sensors, apart, min(size, LINES)):
            further = dict(zip(special, parts[len(self.sensors) :], strict=True))
            pieces.append(self._piece(row + held, parts[: len(self.sensors)], further))
            held += len(parts[0])
            if held + LINES > size:
                yield self._chunk(row, pieces)
                row, held, pieces = row + held, 0, []
        if pieces:
            yield self._chunk(row, pieces)
        self.rows = row + held

    def _piece(self, row: int, sensors: list[Column], further: dict[str, Column]) -> _Piece:
        """A few rows from row number `row` on, as arrays."""
        columns, count = self.columns, len(sensors[0])
        values = np.empty((count, len(sensors)), dtype=np.float32)
        for j, column in enumerate(sensors):
            values[:, j] = self._numbers(column, self.sensors[j], row)
        if columns.series is None:
            ids = np.full(count, self._names[self.path.stem], dtype=np.int64)
        else:
            cells = _texts(further[columns.series])
            ids = np.fromiter(map(self._names.__getitem__, cells), np.int64, count)
        times = np.arange(row, row + count) * SECOND
        if columns.time is not None:
            times = self._times(further[columns.time], columns.time, row)
        truth = () if columns.truth is None else _texts(further[columns.truth])
        labels = None
        if columns.label is not None:
            labels = self._classes(further[columns.label], columns.label, row)
        return _Piece(ids, times, values, truth, labels)

    def _chunk(self, row: int, pieces: list[_Piece]) -> Chunk:
        """Consecutive pieces from row number `row` on, grouped by series."""
        ids = np.concatenate([piece.ids for piece in pieces])
        labels = [piece.labels for piece in pieces if piece.labels is not None]
        batch = group(
            topic=self.topic,
            partition=0,
            ids=ids,
            names=list(self._names),
            offsets=np.arange(row, row + len(ids)),
            times=np.concatenate([piece.times for piece in pieces]),
            values=np.concatenate([piece.values for piece in pieces]),
            next_offset=row + len(ids),
            labels=np.concatenate(labels) if labels else None,
        )
        truth = list(chain.from_iterable([piece.truth for piece in pieces]))
        if truth and len(batch.series) > 1:
            truth = [truth[i] for i in batch.order.tolist()]
        return Chunk(batch=batch, truth=truth)

    def _sensors(self) -> tuple[str, ...]:
        columns, header = self.columns, self.table.names
        named = [columns.time, columns.series, columns.truth, *columns.drop, *columns.sensors]
        if columns.label is not None and columns.label in named:
            raise SourceError(f"{self.path}: column {columns.label!r} is the label, and no other")
        for name in (*named, columns.label):
            if name is not None and name not in header:
                there = ", ".join(filter(None, header))
                raise SourceError(f"{self.path}: no column {name!r}; there are {printable(there)}")
        for name in header:
            if name and header.count(name) > 1:
                raise SourceError(f"{self.path}: two columns are named {name!r}")
        apart = {columns.time, columns.series, columns.truth, columns.label, *columns.drop, ""}
        sensors = [name for name in columns.sensors or header if name not in apart]
        if not sensors:
            raise SourceError(f"{self.path}: no column is left for a sensor")
        return tuple(sensors)

    def _numbers(self, column: Column, name: str, row: int) -> NDArray[np.float64]:
        """(N,) float64; NaN where a cell is missing, or not finite as float32."""
        if isinstance(column, np.ndarray):
            numbers = column
        else:
            numbers = self._read_numbers(column, name, row)
        limit = np.finfo(np.float32).max
        with np.errstate(invalid="ignore"):
            return np.where(np.abs(numbers) <= limit, numbers, np.nan)

    def _read_numbers(self, cells: Sequence[str], name: str, row: int) -> NDArray[np.float64]:
        for filled in (cells, [cell or "nan" for cell in cells] if "" in cells else ()):
            try:
                return np.fromiter(map(float, filled), np.float64, len(cells))
            except ValueError:
                continue
        found = np.empty(len(cells))
        for i, cell in enumerate(cells):
            try:
                found[i] = np.nan if cell.strip().lower() in MISSING else float(cell)
            except ValueError:
                raise SourceError(
                    f"{self.path}: {self.table.line(row + i)}: {cell[:40]!r} in column {name!r} is "
                    f"no number (--drop {printable(name)} leaves the column out)"
                ) from None
        return found

    def _classes(self, column: Column, name: str, row: int) -> FloatArray:
        """(N,) float32 numbers of classes; NaN where a reading has no label."""
        cells = _texts(column)
        numbers = {}
        for cell in set(cells):
            try:
                numbers[cell] = self._label(cell.strip())
            except Bad as exc:
                at = self.table.line(row + cells.index(cell))
                raise SourceError(f"{self.path}: {at}: column {name!r}: {exc.reason}") from None
        return np.fromiter(map(numbers.__getitem__, cells), np.float32, len(cells))

    def _label(self, cell: str) -> float:
        """A cell is missing if it says so, and no class is named so."""
        missing = cell.lower() in MISSING and cell not in self._labels
        return self._labels[None if missing else cell]

    def _times(self, column: Column, name: str, row: int) -> IntArray:
        """(N,) microseconds since 1970 UTC; a time without a zone is one of UTC."""
        if isinstance(column, np.ndarray):
            if column.dtype == np.int64:  # a timestamp of Parquet
                return column
            numbers = column
        else:
            try:
                numbers = np.fromiter(map(float, column), np.float64, len(column))
            except ValueError:
                return self._read_times(column, name, row)
        scaled = numbers * UNITS[self.columns.time_unit]
        if not (bad := ~(np.abs(scaled) < LATEST)).any():
            return np.rint(scaled).astype(np.int64)
        at = int(bad.argmax())
        raise self._no_time(str(column[at]), name, row + at)

    def _read_times(self, cells: Sequence[str], name: str, row: int) -> IntArray:
        try:
            with warnings.catch_warnings():  # of cells with a zone, which it understands
                warnings.simplefilter("ignore", UserWarning)
                found = np.array(cells, dtype="datetime64[us]")
            if not (np.isnat(found).any() or (np.abs(found.astype(np.int64)) >= LATEST).any()):
                return found.astype(np.int64)
        except ValueError:
            pass
        times = np.empty(len(cells), dtype=np.int64)
        for i, cell in enumerate(cells):
            try:
                at = datetime.fromisoformat(cell.strip())
            except ValueError:
                at_fault = next((k for k, other in enumerate(cells) if not _may_be_time(other)), i)
                raise self._no_time(cells[at_fault], name, row + at_fault) from None
            times[i] = (at.replace(tzinfo=at.tzinfo or EPOCH.tzinfo) - EPOCH) // MICROSECOND
        return times

    def _no_time(self, cell: str, name: str, row: int) -> SourceError:
        return SourceError(
            f"{self.path}: {self.table.line(row)}: {cell[:40]!r} in column {name!r} is no time: "
            "ISO 8601, or a number since 1970 in the unit of stream.time_unit"
        )


class _Names(dict[str, int]):
    """Name -> number of the series, in the order of their first readings."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def __missing__(self, name: str) -> int:
        try:
            check_name(name, "bad_series")
        except Bad as exc:
            raise SourceError(f"{self.path}: {exc.reason}") from None
        self[name] = number = len(self)
        return number


def _texts(column: Column) -> Sequence[str]:
    """Cells as text; whole numbers without a point."""
    if isinstance(column, np.ndarray):
        return [f"{cell:g}" if cell == cell else "" for cell in column.tolist()]
    cells: Sequence[str] = column
    return cells


def codes(cells: Iterable[str], known: dict[str, int]) -> IntArray:
    """(N,) number of each label, new ones numbered in the order in which they appear."""
    return np.array([known.setdefault(cell, len(known)) for cell in cells], dtype=np.int64)


def _may_be_time(cell: str) -> bool:
    """Whether it is a time in a column of its kind: a number, or ISO 8601."""
    for read in (float, datetime.fromisoformat):
        try:
            read(cell.strip())
        except ValueError:
            continue
        return True
    return False
