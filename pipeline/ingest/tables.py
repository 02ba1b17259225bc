"""A file in, named columns out, some rows at a time: CSV, by numpy where it is plain, and Parquet.

What a cell means is for `recording.py`.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import Any, Protocol, TextIO

import numpy as np

from pipeline.errors import SourceError

PARQUET = {".parquet", ".pq"}
DELIMITERS = ",;\t"

#: Cells as text, or an array of numbers.
Column = Any


class Table(Protocol):
    """A file of named columns."""

    names: list[str]

    def count(self) -> int:
        """Rows, about: for a progress bar."""

    def read(
        self, numbers: Sequence[int], others: Sequence[int], size: int
    ) -> Iterator[list[Column]]:
        """Columns of the next rows, `size` at most: those that should hold numbers, then others."""

    def line(self, row: int) -> str:
        """What to call a row: as an editor counts, where one can look at it."""


def open_table(path: Path) -> Table:
    """The file as named columns, by its ending.

    Raises
    ------
    SourceError
        It is not there, cannot be read, or has no header.
    """
    if path.suffix.lower() in PARQUET:
        return _Parquet(path)
    if path.suffix.lower() in (".jsonl", ".ndjson", ".json"):
        raise SourceError(f"{path}: a recording to test on is CSV or Parquet, not JSON lines")
    return _Csv(path)


class _Csv:
    """CSV whose cells are separated by a comma, semicolon or tab, whichever the header has most.

    With one cell less in the header than in the first row, the first column is without a name, as
    R writes it. A column without a name holds the numbers of the rows.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.delimiter = ","
        self._blank: list[int] = []
        with self._opened() as file:
            self.names, line = self._row(file, 0)
            if not any(self.names):
                raise SourceError(f"{path}: no rows")
            if all(map(_is_number, self.names)):
                raise SourceError(f"{path}: the first line holds numbers, not the columns' names")
            first, _ = self._row(file, line)
        if not first:
            raise SourceError(f"{path}: no rows")
        if len(first) == len(self.names) + 1:
            self.names.insert(0, "")

    def line(self, row: int) -> str:
        """Lines count from 1, the header's being the first; blank ones count."""
        line = row + 2
        for blank in self._blank:
            line += blank <= line
        return f"line {line}"

    def read(
        self, numbers: Sequence[int], others: Sequence[int], size: int
    ) -> Iterator[list[Column]]:
        """Tuples of text; arrays of what should be numbers, where all of it is."""
        self._blank = []
        done = 0
        with self._opened() as file:
            _, line = self._row(file, 0)
            while lines := list(islice(file, size)):
                columns = self._plain(lines, numbers, others)
                if columns is not None:
                    line += len(lines)
                else:
                    rows, line = self._rows(lines, file, line)
                    self._check(rows, done)
                    columns = [[row[i] for row in rows] for i in (*numbers, *others)]
                done += len(columns[0])
                if len(columns[0]):
                    yield columns

    def _plain(
        self, lines: list[str], numbers: Sequence[int], others: Sequence[int]
    ) -> list[Column] | None:
        """The columns of lines without a quote, whose numbers are plain; None of any others."""
        if any('"' in line for line in lines):
            return None
        if {line.count(self.delimiter) for line in lines} != {len(self.names) - 1}:
            return None
        ends = (self.delimiter, self.delimiter + "\n", self.delimiter + "\r\n")
        empty = 2 * self.delimiter
        filled = [
            self._filled(line)
            if empty in line or line.startswith(self.delimiter) or line.endswith(ends)
            else line
            for line in lines
        ]
        try:
            found = np.loadtxt(
                filled, delimiter=self.delimiter, comments=None, usecols=numbers, ndmin=2
            )
        except ValueError:
            return None
        if len(found) < len(lines):  # a blank line of one column
            return None
        rows = [line.rstrip("\r\n").split(self.delimiter) for line in lines] if others else []
        return [*found.T, *([row[i].lstrip(" ") for row in rows] for i in others)]

    def _filled(self, line: str) -> str:
        """The same with NaN where a cell is empty."""
        return self.delimiter.join(cell.strip() or "nan" for cell in line.split(self.delimiter))

    def _row(self, file: Iterator[str], line: int) -> tuple[list[str], int]:
        """The next row that is not blank, [] if there is none; and lines up to its end."""
        while part := list(islice(file, 1)):
            if not line:
                self.delimiter = max(DELIMITERS, key=part[0].count)
            rows, line = self._rows(part, file, line)
            if rows:
                return rows[0], line
        return [], line

    def _rows(
        self, lines: list[str], file: Iterator[str], line: int
    ) -> tuple[list[list[str]], int]:
        """Cells of the lines that are not blank, and where these end: in `file`, if a quoted cell
        does. line: how many came before."""
        rows = []
        reader = csv.reader(chain(lines, file), delimiter=self.delimiter, skipinitialspace=True)
        try:
            while reader.line_num < len(lines):
                row = next(reader)
                if len(row) < 2 and not "".join(row).strip():
                    self._blank.append(line + reader.line_num)
                else:
                    rows.append(row)
        except csv.Error as exc:
            raise SourceError(f"{self.path}: line {line + reader.line_num}: {exc}") from None
        return rows, line + reader.line_num

    def _check(self, rows: list[list[str]], done: int) -> None:
        """Raise SourceError for a row of too many or too few cells."""
        for at, row in enumerate(rows):
            if len(row) != len(self.names):
                raise SourceError(
                    f"{self.path}: {self.line(done + at)} has {len(row)} cells, "
                    f"the header has {len(self.names)}"
                )

    @contextmanager
    def _opened(self) -> Iterator[TextIO]:
        """The file; SourceError if it cannot be read."""
        try:
            with self.path.open(newline="", encoding="utf-8-sig") as file:
                yield file
        except OSError as exc:
            raise SourceError(f"{self.path}: {exc.strerror}") from None
        except UnicodeDecodeError as exc:
            raise SourceError(f"{self.path}: not UTF-8 at byte {exc.start}") from None

    def count(self) -> int:
        """Lines but the header."""
        with self.path.open("rb") as file:
            lines = sum(part.count(b"\n") for part in iter(lambda: file.read(1 << 20), b""))
        return max(lines - 1, 1)


class _Parquet:
    """Parquet, read by pyarrow (the extra `parquet`)."""

    def __init__(self, path: Path) -> None:
        try:
            import pyarrow
            from pyarrow.parquet import ParquetFile
        except ImportError:
            raise SourceError(
                f"{path}: Parquet needs pyarrow: pip install 'tidemark[parquet]'"
            ) from None
        self.path = path
        self.arrow = pyarrow
        try:
            self.file = ParquetFile(path)
        except OSError as exc:
            raise SourceError(f"{path}: {exc.strerror or _first_line(exc)}") from None
        except pyarrow.ArrowException as exc:
            raise SourceError(f"{path}: {_first_line(exc)}") from None
        self.names: list[str] = list(self.file.schema_arrow.names)
        if not self.count():
            raise SourceError(f"{path}: no rows")

    def count(self) -> int:
        """As the file says."""
        rows: int = self.file.metadata.num_rows
        return rows

    def line(self, row: int) -> str:
        """Rows count from 1."""
        return f"row {row + 1}"

    def read(
        self, numbers: Sequence[int], others: Sequence[int], size: int
    ) -> Iterator[list[Column]]:
        """Arrays of float64; int64 microseconds for timestamps; lists of text."""
        names = [self.names[i] for i in (*numbers, *others)]
        try:
            for part in self.file.iter_batches(batch_size=size, columns=names):
                yield [self._column(part.column(name)) for name in names]
        except (OSError, self.arrow.ArrowException) as exc:
            raise SourceError(f"{self.path}: {_first_line(exc)}") from None

    def _column(self, column: Any) -> Column:
        types = self.arrow.types
        kind = column.type
        if types.is_timestamp(kind) and not column.null_count:
            return column.cast(self.arrow.timestamp("us", tz=kind.tz)).cast("int64").to_numpy()
        if types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind):
            if types.is_boolean(kind):
                column = column.cast("int8")
            return column.cast("float64", safe=False).to_numpy(zero_copy_only=False)
        cells = column.cast("string").to_pylist()
        return ["" if cell is None else cell for cell in cells]


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _first_line(exc: BaseException) -> str:
    return (str(exc).strip() or type(exc).__name__).splitlines()[0]
