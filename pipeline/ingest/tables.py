"""A file in, named columns out, some rows at a time: CSV by the standard library, Parquet by Arrow.

What a cell means is for `recording.py`.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, Protocol

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

    def read(self, wanted: Sequence[int], size: int) -> Iterator[list[Column]]:
        """The wanted columns of the next rows, `size` at most."""

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
        self._blank: list[int] = []
        rows = chain.from_iterable(self._parts(1))
        self.names = next(rows, [])
        if not any(self.names):
            raise SourceError(f"{path}: no rows")
        if all(map(_is_number, self.names)):
            raise SourceError(f"{path}: the first line holds numbers, not the columns' names")
        first = next(rows, None)
        if first is None:
            raise SourceError(f"{path}: no rows")
        if len(first) == len(self.names) + 1:
            self.names.insert(0, "")

    def line(self, row: int) -> str:
        """Lines count from 1, the header's being the first; blank ones count."""
        line = row + 2
        for blank in self._blank:
            line += blank <= line
        return f"line {line}"

    def read(self, wanted: Sequence[int], size: int) -> Iterator[list[Column]]:
        """Tuples of text."""
        parts = self._parts(size)
        next(parts)
        done = 0
        for rows in parts:
            if {len(self.names)} != set(map(len, rows)):
                at = next(i for i, r in enumerate(rows) if len(r) != len(self.names))
                raise SourceError(
                    f"{self.path}: {self.line(done + at)} has {len(rows[at])} cells, "
                    f"the header has {len(self.names)}"
                )
            columns = list(zip(*rows, strict=True))
            yield [columns[i] for i in wanted]
            done += len(rows)

    def _parts(self, size: int) -> Iterator[list[list[str]]]:
        """Every line that is not blank: the header alone, then `size` lines at a time."""
        self._blank = []
        try:
            with self.path.open(newline="", encoding="utf-8-sig") as file:
                head = next(file, "")
                delimiter = max(DELIMITERS, key=head.count)
                reader = csv.reader(chain([head], file), delimiter=delimiter, skipinitialspace=True)
                first, take = 1, 1
                while part := list(islice(reader, take)):
                    if min(map(len, part)) < 2:
                        blank = [i for i, row in enumerate(part) if _is_blank(row)]
                        self._blank += [first + i for i in blank]
                        part = [row for row in part if not _is_blank(row)]
                    first = reader.line_num + 1
                    if part:
                        take = size
                        yield part
        except OSError as exc:
            raise SourceError(f"{self.path}: {exc.strerror}") from None
        except UnicodeDecodeError as exc:
            raise SourceError(f"{self.path}: not UTF-8 at byte {exc.start}") from None
        except csv.Error as exc:
            raise SourceError(f"{self.path}: line {reader.line_num}: {exc}") from None

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

    def read(self, wanted: Sequence[int], size: int) -> Iterator[list[Column]]:
        """Arrays of float64; int64 microseconds for timestamps; lists of text."""
        names = [self.names[i] for i in wanted]
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


def _is_blank(row: list[str]) -> bool:
    return len(row) < 2 and not "".join(row).strip()


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _first_line(exc: BaseException) -> str:
    return (str(exc).strip() or type(exc).__name__).splitlines()[0]
