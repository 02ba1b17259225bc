"""CSV as columns: what numpy reads of it is what the standard library would."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.errors import SourceError
from pipeline.ingest.tables import open_table

NUMBERS = st.one_of(
    st.floats(allow_nan=False, width=32).map(repr),
    st.integers(-9, 9).map(str),
    st.sampled_from(["", " 1.5", "1e3", "inf", "1_0"]),
)
LABELS = st.sampled_from(["", "a", "two words", 'a "quoted" one', "x,y", "two\nlines", " b"])
ROWS = st.lists(st.tuples(NUMBERS, LABELS, NUMBERS), min_size=1, max_size=30)


def number(cell: str) -> float:
    return float(cell) if cell else float("nan")


@given(rows=ROWS, size=st.integers(1, 9), blank=st.integers(0, 30), quoting=st.sampled_from([0, 1]))
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_plain_numbers_and_all_else_are_as_the_standard_library_reads_them(
    tmp_path: Path, rows: list[tuple[str, str, str]], size: int, blank: int, quoting: int
) -> None:
    path = tmp_path / "t.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file, quoting=quoting)
        writer.writerow(["x", "label", "y"])
        for i, row in enumerate(rows):
            if i == blank:
                file.write("\n")
            writer.writerow(row)
    parts = list(open_table(path).read([2, 0], [1], size))
    assert max(len(part[0]) for part in parts) <= size
    for place, column in ((0, 2), (1, 0)):
        cells = [cell for part in parts for cell in part[place]]
        found = [cell if isinstance(cell, float) else number(cell) for cell in cells]
        np.testing.assert_array_equal(found, [number(row[column]) for row in rows])
    labels = [cell for part in parts for cell in part[2]]
    # a space in front of a cell is none of it, unless it is quoted
    assert labels == [row[1] if quoting else row[1].lstrip(" ") for row in rows]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("x,y\n1,2\n\n3\n", "line 4 has 1 cells, the header has 2"),
        ("x,y\n1,2\n3,4,5\n", "line 3 has 3 cells, the header has 2"),
        ("\nx,y\n1,2\n\n3,4,\n", "line 5 has 3 cells, the header has 2"),
        ('x,y\n"1",2\n3\n', "line 3 has 1 cells, the header has 2"),
    ],
)
@pytest.mark.parametrize("size", [1, 2, 10])
def test_a_row_of_another_length_is_named_by_its_line(
    tmp_path: Path, text: str, says: str, size: int
) -> None:
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(SourceError, match=says):
        list(open_table(path).read([0, 1], [], size))


def test_plain_columns_are_numbers_without_a_walk_over_cells(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("x,y,name\n1,,a\n,2,b\n3,4,c\n")
    (part,) = open_table(path).read([0, 1], [2], 10)
    assert [type(column) for column in part] == [np.ndarray, np.ndarray, list]
    np.testing.assert_array_equal(part[:2], [[1, np.nan, 3], [np.nan, 2, 4]])
