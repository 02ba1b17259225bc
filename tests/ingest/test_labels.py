"""Labels in messages: every form that they may have, and every way that one can be bad."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from pipeline.config import Stream
from pipeline.ingest.decode import Decoder
from pipeline.ingest.message import KINDS
from pipeline.ingest.series import admit
from pipeline.records import Batch, Records

CLASSES = ("idle", "busy", "0")
#: What each label stands for; the third class is named as the first one's number is written.
NUMBERS: list[tuple[Any, float]] = [
    ("idle", 0),
    ("busy", 1),
    ("0", 2),
    (0, 0),
    (1, 1),
    (2, 2),
    (1.0, 1),
    ("1", 1),
    ("2", 2),
    (None, math.nan),
    (math.nan, math.nan),
]


def decoder(**stream: Any) -> Decoder:
    return Decoder(Stream(**{"label": "state"} | stream), 1_000_000, ("a", "b"), CLASSES)


def records(*messages: dict[str, Any], keys: str = "") -> Records:
    values = [json.dumps(message).encode() for message in messages]
    return Records(
        topic="t",
        partition=0,
        offsets=range(len(values)),
        keys=[key.encode() for key in keys or "k" * len(values)],
        values=values,
        next_offset=len(values),
    )


def labels(batch: Batch | None) -> list[float]:
    """In the order of the log, which the first cell counts."""
    assert batch is not None
    assert batch.labels is not None
    assert batch.labels.dtype == np.float32
    assert batch.values.shape == (len(batch.labels), 2)
    return batch.labels[np.argsort(batch.values[:, 0])].tolist()


def one(n: int = 0, **label: Any) -> dict[str, Any]:
    return {"time": 1 + n, "values": [n, 5]} | label


def many(rows: int, first: int = 0, **label: Any) -> dict[str, Any]:
    times = list(range(1, rows + 1))
    return {"time": times, "values": [[first + n, 5] for n in range(rows)]} | label


@pytest.mark.parametrize(("said", "number"), NUMBERS, ids=lambda x: repr(x))
def test_a_label_is_a_class_by_name_or_number(said: Any, number: float) -> None:
    """By name first; a float is a whole number with a point; null and NaN are no label."""
    messages = [one(state=said), many(2, 1, state=[said, None])]
    batch, letters = decoder().decode(records(*messages))
    assert letters == []
    np.testing.assert_equal(labels(batch), [number, number, math.nan])


def test_readings_without_the_field_are_not_labelled() -> None:
    """By number or by name, one or many, beside labelled ones of every form."""
    messages = [
        one(0),
        one(1, state="busy"),
        {"time": 3, "values": {"a": 2}},
        {"time": 4, "values": {"a": 3}, "state": "idle"},
        many(2, 4),
        many(2, 6, state=["busy", "idle"]),
        {"time": [1, 2], "values": {"a": [8, 9]}, "state": [None, 1]},
        many(1, 10, state=None),
    ]
    batch, letters = decoder().decode(records(*messages))
    assert letters == []
    nan = math.nan
    np.testing.assert_equal(labels(batch), [nan, 1, nan, 0, nan, nan, 1, 0, nan, 1, nan])


def test_each_label_stays_with_its_reading_whatever_its_series() -> None:
    """Rows are grouped by series; and series that are refused take their labels along."""
    said = [0, 1, None, 1, 0, 1]
    polled = records(*(one(n, state=s) for n, s in enumerate(said)), keys="bacabc")
    batch, _ = decoder().decode(polled)
    np.testing.assert_equal(labels(batch), [math.nan if s is None else s for s in said])
    assert batch is not None
    some, letters = admit(batch, polled, known=("c",), most=2)
    assert [letter.offset for letter in letters] == [1, 3]
    np.testing.assert_equal(labels(some), [0, math.nan, 0, 1])


def test_without_the_setting_a_field_is_no_label() -> None:
    """Whatever it holds: fields that nobody asked for are left alone."""
    batch, letters = decoder(label="").decode(records(one(state={"x": 1})))
    assert letters == []
    assert batch is not None
    assert batch.labels is None


BAD: list[tuple[str, dict[str, Any], str]] = [
    ("a name of no class", one(state="ideling"), "unknown_label"),
    ("no name", one(state=""), "unknown_label"),
    ("a number beyond", one(state=3), "unknown_label"),
    ("a number below", one(state=-1), "unknown_label"),
    ("a number beyond, as text", one(state="3"), "unknown_label"),
    ("half a class", one(state=0.5), "unknown_label"),
    ("a number of 400 digits", one(state=10**400), "unknown_label"),
    ("infinity", one(state=math.inf), "unknown_label"),
    ("half a surrogate pair", one(state="\ud800"), "unknown_label"),
    ("one of many", many(3, state=["idle", "gone", None]), "unknown_label"),
    ("true", one(state=True), "bad_label"),
    ("an object", one(state={"name": "idle"}), "bad_label"),
    ("true in a list", many(2, state=[0, True]), "bad_label"),
    ("a list in a list", many(2, state=[0, [1]]), "bad_label"),
    ("a list for one reading", one(state=["idle"]), "wrong_length"),
    ("one for many readings", many(2, state="idle"), "wrong_length"),
    ("one for many that are one", many(1, state="idle"), "wrong_length"),
    ("too few", many(2, state=["idle"]), "wrong_length"),
    ("too many", many(1, state=["idle", "idle"]), "wrong_length"),
    ("none for many", many(2, state=[]), "wrong_length"),
]


@pytest.mark.parametrize("field", ["state", "my [0] state", "values of", "time "])
@pytest.mark.parametrize(("bad", "kind"), [b[1:] for b in BAD], ids=[b[0] for b in BAD])
def test_a_bad_label_is_one_dead_letter_of_its_kind(
    bad: dict[str, Any], kind: str, field: str
) -> None:
    """Whatever the field is called; and the records beside it keep their rows and labels."""
    message = {field if name == "state" else name: value for name, value in bad.items()}
    good = one(1, **{field: "busy"})
    batch, (letter,) = decoder(label=field).decode(records(good, message, good))
    assert labels(batch) == [1, 1]
    assert (letter.offset, letter.kind) == (1, kind)
    assert kind in KINDS
    assert len(letter.reason.splitlines()) == 1
    assert len(letter.reason) < 200
    letter.reason.encode()  # it is a header of the dead letter


def test_an_unknown_label_is_quoted() -> None:
    """A class that the settings forgot is found by its name."""
    _, (letter,) = decoder().decode(records(one(state="ideling")))
    assert letter.reason == "the label 'ideling' is none of score.classes"


def test_a_first_reading_with_an_unknown_label_decides_no_channels() -> None:
    """It is a dead letter, and the next one is the first."""
    learner = Decoder(Stream(label="state"), 1_000_000, (), CLASSES)
    messages = [{"time": 1, "values": [1, 2, 3], "state": "gone"}, one(state="idle")]
    batch, (letter,) = learner.decode(records(*messages))
    assert (letter.offset, letter.kind) == (0, "unknown_label")
    assert learner.channels == ("c0", "c1")
    assert labels(batch) == [0]
