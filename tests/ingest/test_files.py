from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import Stream
from pipeline.errors import SourceError
from pipeline.ingest.decode import Decoder
from pipeline.ingest.files import FileSource, read_recording
from pipeline.records import Records
from tests.ingest.owners import KeepingOwner


def csv(folder: Path, text: str) -> Path:
    path = folder / "pump.csv"
    path.write_bytes(text.encode())
    return path


def jsonl(folder: Path, text: str) -> Path:
    path = folder / "pump.jsonl"
    path.write_bytes(text.encode())
    return path


def refused(path: Path, **options: Any) -> str:
    """The one line that says what is wrong with a recording."""
    with pytest.raises(SourceError) as caught:
        list(read_recording(path, **options))
    (line,) = str(caught.value).splitlines()
    assert str(path) in line
    return line


# CSV ------------------------------------------------------------------------------------------


def test_a_row_becomes_a_message(tmp_path: Path) -> None:
    """Series and time by column name, what is dropped is gone, the rest are values in order."""
    path = csv(tmp_path, "t,who,x,label,y\n5,a,1,0,2.5\n6,b,-3,1,4e1\n")
    found = list(
        read_recording(path, series_column="who", time_column="t", drop=("label",)),
    )
    assert found == [
        ("a", {"time": 5.0, "values": [1.0, 2.5]}),
        ("b", {"time": 6.0, "values": [-3.0, 40.0]}),
    ]


def test_a_column_of_labels_is_a_field_of_its_own(tmp_path: Path) -> None:
    """As text, for the decoder to judge; nothing where the file has none, or it was dropped."""
    path = csv(tmp_path, "t,state,x\n5,idle,1\n6, ,2\n7,1,3\n")
    found = [message for _, message in read_recording(path, time_column="t", label="state")]
    assert found == [
        {"time": 5.0, "values": [1.0], "state": "idle"},
        {"time": 6.0, "values": [2.0], "state": None},
        {"time": 7.0, "values": [3.0], "state": "1"},
    ]
    for options in ({"label": "mode"}, {"label": "state", "drop": ("state",)}, {"label": ""}):
        _, first = next(read_recording(path, **options))
        assert first.keys() == {"values"}


def test_without_a_series_column_the_file_names_the_series(tmp_path: Path) -> None:
    """One machine, one file: nothing has to be said."""
    assert list(read_recording(csv(tmp_path, "x\n1\n"))) == [("pump", {"values": [1.0]})]


@pytest.mark.parametrize("cell", ["", "  ", '""'])
def test_an_empty_cell_is_missing(tmp_path: Path, cell: str) -> None:
    """And nothing else is."""
    (row,) = read_recording(csv(tmp_path, f"x,y\n{cell},2\n"))
    assert row == ("pump", {"values": [None, 2.0]})


def test_a_cell_that_is_not_a_number_is_left_to_the_decoder(tmp_path: Path) -> None:
    """One bad cell is one dead letter, not the end of a recording of a million rows."""
    source = FileSource(csv(tmp_path, "x,y\nbroken,2\n1,2\n"))
    batch, letters = decoded(source)
    assert [letter.kind for letter in letters] == ["bad_value"]
    assert batch.values.tolist() == [[1.0, 2.0]]


@pytest.mark.parametrize("cell", ["nan", "NaN", "inf", "-Infinity", "1_000", "1e999", "٣"])
def test_what_python_alone_calls_a_number_is_text(tmp_path: Path, cell: str) -> None:
    """A sensor that wrote so has a fault, and 1_000 may have been anything: people must see it."""
    assert list(read_recording(csv(tmp_path, f"x,y\n{cell},2\n"))) == [
        ("pump", {"values": [cell, 2.0]})
    ]
    _, letters = decoded(FileSource(csv(tmp_path, f"x,y\n1,2\n{cell},2\n")))
    assert [letter.kind for letter in letters] == ["bad_value"]


def test_a_mark_of_the_byte_order_is_no_part_of_a_name(tmp_path: Path) -> None:
    """Spreadsheets write one at the start, before the first column's name."""
    path = csv(tmp_path, "\ufeffwho,x\na,1\n")
    assert list(read_recording(path, series_column="who")) == [("a", {"values": [1.0]})]
    path = jsonl(tmp_path, '\ufeff{"values":[1]}\n')
    assert list(read_recording(path)) == [("pump", {"values": [1]})]


def test_a_blank_line_is_nothing(tmp_path: Path) -> None:
    """Before, between and after the rows, as for JSON lines; an empty cell in quotes is a row."""
    path = csv(tmp_path, '\nx\n\n1\n   \n""\n2\n\n')
    assert [message["values"] for _, message in read_recording(path)] == [[1.0], [None], [2.0]]


def test_a_cell_that_csv_cannot_read_is_one_clear_line(tmp_path: Path) -> None:
    """A quote that nobody closes makes one cell of the rest of the file."""
    line = refused(csv(tmp_path, 'x\n1\n"' + "2\n" * 100_000))
    assert "field larger than field limit" in line


def test_a_quoted_cell_may_hold_a_comma_and_a_line_may_end_as_on_windows(tmp_path: Path) -> None:
    """CSV as spreadsheets write it."""
    path = csv(tmp_path, 'who,"x"\r\n"a, b",1\r\n')
    assert list(read_recording(path, series_column="who")) == [("a, b", {"values": [1.0]})]


def test_a_file_that_is_not_there_is_one_clear_line(tmp_path: Path) -> None:
    """The path, and what the system says of it."""
    for name in ("none.csv", "none.jsonl"):
        assert refused(tmp_path / name).endswith("No such file or directory")


@pytest.mark.parametrize("option", ["series_column", "time_column", "drop"])
def test_a_column_that_is_not_there_is_named_with_those_that_are(
    tmp_path: Path, option: str
) -> None:
    """The next command line can be written from the answer."""
    wanted = ("z",) if option == "drop" else "z"
    line = refused(csv(tmp_path, "x,y\n1,2\n"), **{option: wanted})
    assert line.endswith("no column 'z'; there are x, y")


@pytest.mark.parametrize("text", ["", "x,y\n", "x,y"])
def test_a_csv_without_rows_is_refused(tmp_path: Path, text: str) -> None:
    """An empty recording is a mistake; a replay of nothing would look like success."""
    assert refused(csv(tmp_path, text)).endswith("no rows")


@pytest.mark.parametrize(("row", "cells"), [("5", 1), ("5,6,7", 3)])
def test_a_ragged_line_is_named(tmp_path: Path, row: str, cells: int) -> None:
    """Cells would land in other columns without a word: the line's number and its width."""
    assert refused(csv(tmp_path, f"x,y\n1,2\n{row}\n3,4\n")).endswith(f"line 3 has {cells} cells")


def test_bytes_that_are_not_text_are_refused(tmp_path: Path) -> None:
    """A spreadsheet in place of its export."""
    path = tmp_path / "pump.csv"
    path.write_bytes(b"x\n\xff\n")
    assert "not UTF-8" in refused(path)


def test_a_folder_is_not_a_recording(tmp_path: Path) -> None:
    """Whatever the system says of it, it is one line."""
    assert refused(tmp_path)


# JSON lines -----------------------------------------------------------------------------------


def test_a_json_line_is_a_message_already(tmp_path: Path) -> None:
    """It goes out as it is, but for the field that names the series; blank lines are nothing."""
    path = jsonl(
        tmp_path, '{"time":1,"values":[1,null],"who":"a"}\n\n{"time":2,"values":{"x":3},"who":7}'
    )
    assert list(read_recording(path, series_column="who")) == [
        ("a", {"time": 1, "values": [1, None]}),
        ("7", {"time": 2, "values": {"x": 3}}),
    ]


@pytest.mark.parametrize("line", ['{"time": 1', "[1, 2]", "7", "x", '{"time": NaN}'])
def test_a_line_that_is_no_object_is_named(tmp_path: Path, line: str) -> None:
    """Its number in the file, blank lines counted, as an editor counts them."""
    assert "line 3: " in refused(jsonl(tmp_path, '{"values": [1]}\n\n' + line + "\n"))


@pytest.mark.parametrize("text", ["", "\n \n"])
def test_json_lines_without_a_line_are_refused(tmp_path: Path, text: str) -> None:
    """As for CSV."""
    assert refused(jsonl(tmp_path, text)).endswith("no rows")


def test_a_json_line_that_is_not_utf_8_is_named(tmp_path: Path) -> None:
    """It is one clear line as for CSV."""
    path = tmp_path / "pump.jsonl"
    path.write_bytes(b'{"values": "\xff"}\n')
    assert refused(path)


def test_a_json_line_without_the_field_that_names_the_series_is_refused(tmp_path: Path) -> None:
    """As a missing column is: the rows must not go to a series named after the file."""
    path = jsonl(tmp_path, '{"values": [1], "who": "a"}\n{"values": [1]}\n')
    assert "line 2: no field 'who'" in refused(path, series_column="who")


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"time_column": "t"}, "no time column"),
        ({"drop": ("x",)}, "no column to drop"),
        ({"series_column": "time"}, "'time' holds the reading"),
        ({"series_column": "values"}, "'values' holds the reading"),
    ],
)
def test_an_option_that_json_lines_have_no_use_for_is_refused(
    tmp_path: Path, options: dict[str, Any], what: str
) -> None:
    """Whoever gave it believes that it works."""
    assert what in refused(jsonl(tmp_path, '{"time":1,"values":{"x":1}}\n'), **options)


# A recording as a source ----------------------------------------------------------------------


def polled(source: FileSource) -> Records:
    source.subscribe(KeepingOwner())
    (found,) = source.poll(0)
    return found


def decoded(source: FileSource) -> tuple[Any, Any]:
    return Decoder(Stream(), 1_000_000).decode(polled(source))


def test_rows_without_a_time_are_a_second_apart(tmp_path: Path) -> None:
    """From 1970 on, so that a run over a recording gives the same answer every time."""
    batch, letters = decoded(FileSource(csv(tmp_path, "x\n1\n2\n3\n")))
    assert letters == []
    assert batch.times.tolist() == [0, 1_000_000, 2_000_000]


def test_a_recording_s_own_time_wins(tmp_path: Path) -> None:
    """The second apart is only for rows that have none."""
    batch, _ = decoded(FileSource(csv(tmp_path, "t,x\n50,1\n60,2\n"), time_column="t"))
    assert batch.times.tolist() == [50_000_000, 60_000_000]


numbers = st.none() | st.floats(allow_nan=False, allow_infinity=False, width=32)


@given(table=st.lists(st.tuples(st.sampled_from("ab"), numbers, numbers), min_size=1))
def test_a_table_comes_back_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, table: list[tuple[str, float | None, float | None]]
) -> None:
    """CSV and JSON lines of one table give the same records, cell for cell."""
    folder = tmp_path_factory.mktemp("table")
    lines = [",".join("" if cell is None else str(cell) for cell in row) for row in table]
    as_csv = csv(folder, "who,x,y\n" + "\n".join(lines))
    as_json = jsonl(
        folder,
        "\n".join(
            msgspec.json.encode({"who": who, "values": [x, y]}).decode() for who, x, y in table
        ),
    )
    for path in (as_csv, as_json):
        rows = list(read_recording(path, series_column="who"))
        assert rows == [(who, {"values": [x, y]}) for who, x, y in table]
