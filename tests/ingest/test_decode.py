from __future__ import annotations

import json
import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.config import Stream
from pipeline.errors import SettingsError
from pipeline.ingest.decode import LAST, Decoder
from pipeline.ingest.message import KINDS
from pipeline.records import Batch, DeadLetter, Records
from pipeline.run.messages import iso

TOPIC = "readings"
CHANNELS = ("a", "b")
#: 2026-01-01T00:00:00Z: 56 years of 365 days and the 14 leap days between.
NEW_YEAR_S = (56 * 365 + 14) * 86_400
LIMIT_BYTES = 1_000_000
FLOAT32_MAX = float(np.finfo(np.float32).max)

#: (order, offset, series, time in microseconds, cells; a missing one is None)
Row = tuple[int, int, str, int, list[float | None]]


def records(
    values: Sequence[bytes | None],
    keys: Sequence[bytes | None] | None = None,
    first: int = 0,
    written: Sequence[int] | None = None,
) -> Records:
    return Records(
        topic=TOPIC,
        partition=3,
        offsets=range(first, first + len(values)),
        keys=[b"k"] * len(values) if keys is None else keys,
        values=values,
        written=[NEW_YEAR_S * 1000] * len(values) if written is None else written,
        next_offset=first + len(values),
    )


def decoder(channels: tuple[str, ...] = CHANNELS, **stream: Any) -> Decoder:
    return Decoder(Stream(topic=TOPIC, **stream), LIMIT_BYTES, channels)


def rows(batch: Batch | None) -> list[Row]:
    """The batch's readings, back in the order of the log."""
    if batch is None:
        return []
    found = []
    for i, series in enumerate(batch.series):
        for n in range(batch.starts[i], batch.starts[i + 1]):
            cells = [None if math.isnan(v) else v for v in batch.values[n].tolist()]
            found.append(
                (int(batch.order[n]), int(batch.offsets[n]), series, int(batch.times[n]), cells)
            )
    return sorted(found)


def one(value: bytes | None, *, key: bytes | None = b"k", **stream: Any) -> DeadLetter:
    """The dead letter of a bad record between two good ones, which keep their rows."""
    good = b'{"time": 1, "values": [1, 2]}'
    if stream.get("series", "key").startswith("field:"):
        good = b'{"time": 1, "values": [1, 2], "id": "k"}'
    batch, letters = decoder(**stream).decode(
        records([good, value, good], [b"k", key, b"k"], first=40)
    )
    assert [(row[1], row[4]) for row in rows(batch)] == [(40, [1.0, 2.0]), (42, [1.0, 2.0])]
    assert batch is not None
    assert batch.next_offset == 43
    (letter,) = letters
    assert (letter.topic, letter.partition, letter.offset) == (TOPIC, 3, 41)
    assert (letter.key, letter.value) == (key, value)
    return letter


def message(values: Any, time: Any = 1) -> bytes:
    return json.dumps({"time": time, "values": values}).encode()


# Each kind of bad record ----------------------------------------------------------------------

BAD: list[tuple[str, bytes | None, str]] = [
    ("tombstone", None, "tombstone"),
    ("empty", b"", "empty"),
    ("blank", b" \n\t ", "empty"),
    ("too large", b'{"x": "' + b"a" * 2_000_000 + b'"}', "too_large"),
    ("too large, else good", message([1, 2]) + b" " * LIMIT_BYTES, "too_large"),
    ("not UTF-8", b'{"time": 1, "values": {"\xff": 1}}', "not_utf8"),
    ("UTF-16", '{"time": 1, "values": [1, 2]}'.encode("utf-16"), "not_utf8"),
    ("not JSON", b"1,2,3", "not_json"),
    ("cut short", b'{"time": 1, "values": [1, 2', "not_json"),
    ("more behind it", b'{"time": 1, "values": [1, 2]} 7', "not_json"),
    ("nested too deeply", b'{"time": 1, "values": ' + b"[" * 400_000, "too_deep"),
    ("deep in a field unused", b'{"x": ' + b'{"y": ' * 100_000 + b"1" + b"}" * 100_001, "too_deep"),
    ("a list", b"[1, 2]", "not_object"),
    ("a number", b"1", "not_object"),
    ("null", b"null", "not_object"),
    ("no time", b'{"values": [1, 2]}', "time_missing"),
    ("time null", message([1, 2], None), "bad_time"),
    ("time true", message([1, 2], True), "bad_time"),
    ("time an object", message([1, 2], {}), "bad_time"),
    ("time unparsable", message([1, 2], "noon"), "bad_time"),
    ("time that no calendar has", message([1, 2], "2025-02-29T00:00:00Z"), "bad_time"),
    ("time NaN", message([1, 2], math.nan), "bad_time"),
    ("time infinite", message([1, 2], math.inf), "bad_time"),
    ("time beyond any float", b'{"time": 1e999, "values": [1, 2]}', "bad_time"),
    ("time of 300 digits", message([1, 2], 10**300), "bad_time"),
    ("time close to the largest float", message([1, 2], 1e308), "bad_time"),
    ("time without zone", message([1, 2], "2025-01-01T00:00:00"), "time_without_zone"),
    ("two days ahead", message([1, 2], NEW_YEAR_S + 2 * 86_400), "time_in_future"),
    ("year 9999", message([1, 2], "9999-12-31T23:59:59-23:59"), "time_in_future"),
    ("negative time", message([1, 2], -1), "time_before_1970"),
    ("year 1", message([1, 2], "0001-01-01T00:00:00+23:59"), "time_before_1970"),
    ("no values", b'{"time": 1}', "values_missing"),
    ("values null", message(None), "wrong_shape"),
    ("values text", message("1 2"), "wrong_shape"),
    ("values empty", message([]), "wrong_length"),
    ("values without a name", message({}), "wrong_shape"),
    ("a list where a number belongs", message([1, [2]]), "wrong_shape"),
    ("three levels", message([[[1, 2]]], [1]), "wrong_shape"),
    ("text in values", message([1, "2"]), "bad_value"),
    ("text by name", message({"a": "1"}), "bad_value"),
    ("bool in values", message([1, True]), "bad_value"),
    ("an object in values", message([1, {"x": 2}]), "wrong_shape"),
    ("infinity", message([1, math.inf]), "infinite"),
    ("minus infinity by name", message({"a": -math.inf}), "infinite"),
    ("beyond any float", b'{"time": 1, "values": [1, 1e999]}', "infinite"),
    ("an integer of 5000 digits", b'{"time": 1, "values": [1, ' + b"9" * 5000 + b"]}", "infinite"),
    ("beyond float32", message([1, 3.5e38]), "infinite"),
    ("beyond float32 in a batch", message([[1, 2], [1, -3.5e38]], [1, 2]), "infinite"),
    ("one channel too few", message([1]), "wrong_channels"),
    ("one channel too many", message([1, 2, 3]), "wrong_channels"),
    ("a channel unknown", message({"a": 1, "z": 2}), "unknown_channel"),
    ("readings of different width", message([[1, 2], [3]], [1, 2]), "ragged"),
    ("fewer times than readings", message([[1, 2], [3, 4]], [1]), "wrong_length"),
    ("one time for many readings", message([[1, 2]], 1), "wrong_length"),
    ("many times for one reading", message([1, 2], [1, 2]), "wrong_shape"),
    ("lists by name of other lengths", message({"a": [1], "b": [1, 2]}, [1, 2]), "wrong_length"),
    ("numbers by name under many times", message({"a": 1}, [1]), "wrong_length"),
    ("lists by name under one time", message({"a": [1]}, 1), "wrong_shape"),
    ("no reading in it", message([], []), "empty_batch"),
    ("no reading by name", message({"a": []}, []), "empty_batch"),
    ("one bad time of two", message([[1, 2], [3, 4]], [1, "noon"]), "bad_time"),
    ("times of two kinds", message([[1, 2], [3, 4]], [1, "2025-01-01T00:00:00Z"]), "bad_time"),
    ("half a surrogate pair", b'{"time": 1, "values": {"\\ud800": 1}}', "not_utf8"),
]


@pytest.mark.parametrize(("value", "kind"), [b[1:] for b in BAD], ids=[b[0] for b in BAD])
def test_a_bad_record_is_one_dead_letter_of_its_kind(value: bytes | None, kind: str) -> None:
    """Dashboards count by kind, and the records beside it keep their rows."""
    letter = one(value)
    assert letter.kind == kind
    assert kind in KINDS
    assert len(letter.reason.splitlines()) == 1


#: Names that no database takes, or only for a while: with NUL, or beyond 512 bytes of UTF-8.
UNFIT_NAMES = ["a\0b", "a" * 513, "é" * 257]


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        (None, "key_missing"),
        (b"\xff", "key_not_utf8"),
        *((name.encode(), "bad_key") for name in UNFIT_NAMES),
    ],
)
def test_a_record_that_names_no_series_by_its_key_is_bad(key: bytes | None, kind: str) -> None:
    """Without a name its readings would go to somebody else's history."""
    assert one(message([1, 2]), key=key).kind == kind


@pytest.mark.parametrize(
    ("end", "kind"),
    [
        (b"", "series_missing"),
        (b', "id": null', "bad_series"),
        (b', "id": 1.5', "bad_series"),
        (b', "id": ["x"]', "bad_series"),
        *((b', "id": ' + json.dumps(name).encode(), "bad_series") for name in UNFIT_NAMES),
        (b', "id": "\\udfff"', "not_utf8"),
    ],
)
def test_a_record_that_names_no_series_by_its_field_is_bad(end: bytes, kind: str) -> None:
    """The same when the message itself has to name the series."""
    assert one(b'{"time": 1, "values": [1, 2]%s}' % end, series="field:id").kind == kind


@pytest.mark.parametrize("field", ["timezone", "values_of", "time "])
def test_a_field_whose_name_begins_like_a_reading_s_own_is_another(field: str) -> None:
    """It is the series that is at fault, and neither the time nor the values."""
    reading = {"time": 1, "values": [1, 2]}
    values = [json.dumps(reading | {field: name}).encode() for name in (1.5, ["x"], "k")]
    _, letters = decoder(series=f"field:{field}").decode(records(values))
    assert [letter.kind for letter in letters] == ["bad_series", "bad_series"]


def test_a_name_of_512_bytes_is_a_name() -> None:
    """The limit is what a column holds, to the byte."""
    keys = [b"a" * 512, ("é" * 256).encode()]
    batch, letters = decoder().decode(records([message([1, 2])] * 2, keys))
    assert letters == []
    assert [row[2].encode() for row in rows(batch)] == keys


def test_names_are_not_remembered_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A producer that makes up a key for each record must not fill the memory."""
    monkeypatch.setattr("pipeline.ingest.decode.REMEMBERED", 10)
    made = decoder()
    for first in range(0, 100, 5):
        keys = [b"%d" % i for i in range(first, first + 5)]
        batch, _ = made.decode(records([message([1, 2])] * 5, keys))
        assert [row[2].encode() for row in rows(batch)] == keys
    assert len(made._names) <= 15


def test_every_kind_there_is_has_an_example() -> None:
    """A kind that nothing can give is a promise to dashboards that nothing keeps."""
    of_names = {"key_missing", "key_not_utf8", "bad_key", "series_missing", "bad_series"}
    of_the_first = {"bad_channel", "too_many_channels"}
    elsewhere = {"too_many_series", "unknown_label", "bad_label"}
    assert {kind for _, _, kind in BAD} | of_names | of_the_first | elsewhere == KINDS


def test_a_bad_record_with_a_bad_key_is_one_dead_letter() -> None:
    """Both faults are found on the way; the record is still only one record."""
    assert one(b"{", key=None).kind == "not_json"


# What is good ---------------------------------------------------------------------------------


def test_a_bare_nan_is_a_missing_cell() -> None:
    """Python's `json` writes NaN so, and null means the same."""
    values = [b'{"time": 1, "values": [NaN, 2]}', b'{"time": 1, "values": [1, null]}']
    batch, letters = decoder().decode(records(values))
    assert letters == []
    assert [row[4] for row in rows(batch)] == [[None, 2.0], [1.0, None]]


@pytest.mark.parametrize(
    ("unit", "number"),
    [
        ("s", NEW_YEAR_S + 0.25),
        ("ms", NEW_YEAR_S * 1000 + 250),
        ("us", NEW_YEAR_S * 1_000_000 + 250_000),
    ],
)
def test_a_number_is_a_time_in_the_stream_s_unit(unit: str, number: float) -> None:
    """A quarter of a second past the new year, said in each unit."""
    batch, _ = decoder(time_unit=unit).decode(records([message([1, 2], number)]))
    assert [row[3] for row in rows(batch)] == [NEW_YEAR_S * 1_000_000 + 250_000]


@given(us=st.integers(0, NEW_YEAR_S * 1_000_000))
def test_every_microsecond_survives(us: int) -> None:
    """Up to 2026 a float of seconds still tells microseconds apart: its step is 2**-22 s."""
    values = [message([1, 2], us / 1e6), message([1, 2], datetime_text(us))]
    batch, _ = decoder(time_unit="s").decode(records(values))
    assert [row[3] for row in rows(batch)] == [us, us]


def datetime_text(us: int) -> str:
    seconds, micro = divmod(us, 1_000_000)
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=micro).isoformat()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-02T00:00:00+00:00", 86_400),
        ("1970-01-02T01:30:00+01:30", 86_400),
        ("1970-01-01T19:00:00-05:00", 86_400),
        ("1972-03-01T00:00:00Z", (365 + 365 + 31 + 29) * 86_400),
        ("2026-01-01T00:00:00Z", NEW_YEAR_S),
        ("1970-01-01 00:00:01.5+00:00", 1.5),
        ("19700101T000002Z", 2),
    ],
)
def test_iso_8601_counts_from_1970_in_utc(text: str, seconds: float) -> None:
    """Days times 86,400 less the zone's offset; 1972 has a 29 February."""
    batch, letters = decoder().decode(records([message([1, 2], text)]))
    assert letters == []
    assert [row[3] for row in rows(batch)] == [seconds * 1_000_000]


def test_a_time_may_be_ahead_by_as_much_as_the_setting_says() -> None:
    """Clocks differ: a limit of 10 s takes a reading 10 s ahead, and not one a second later."""
    values = [message([1, 2], NEW_YEAR_S + ahead) for ahead in (10, 11)]
    batch, letters = decoder(max_future_s=10.0).decode(records(values))
    assert [row[1] for row in rows(batch)] == [0]
    assert [(letter.offset, letter.kind) for letter in letters] == [(1, "time_in_future")]


def test_a_time_is_judged_by_its_own_record_s_whenever_it_is_read() -> None:
    """Two records tell the same time, and one was written a day earlier: with a limit of 10 s the
    log says which of them is ahead of its time, and says it again in a replay, years later."""
    told = [message([1, 2], NEW_YEAR_S)] * 2
    polled = records(told, written=[(NEW_YEAR_S - 86_400) * 1000, (NEW_YEAR_S - 10) * 1000])
    batch, letters = decoder(max_future_s=10.0).decode(polled)
    assert [row[1] for row in rows(batch)] == [1]
    assert [(letter.offset, letter.kind) for letter in letters] == [(0, "time_in_future")]


@pytest.mark.parametrize("written", [[], [-1, -1], [2**62, 2**62]])
def test_without_a_record_s_time_the_last_day_that_can_be_written_down_is_the_limit(
    written: list[int],
) -> None:
    """A recording has none, nor an old log (-1), nor one of an absurd producer: years end at 9999,
    and every time that comes through can be told to people."""
    last_s = LAST // 1_000_000
    values = [message([1, 2], last_s), message([1, 2], last_s + 1)]
    batch, letters = decoder().decode(records(values, written=written))
    ((_, offset, _, time, _),) = rows(batch)
    assert (offset, iso(time)) == (0, "9999-12-31T00:00:00.000000+00:00")
    assert [(letter.offset, letter.kind) for letter in letters] == [(1, "time_in_future")]


def test_the_largest_float32_is_still_a_reading() -> None:
    """The limit is what float32 holds, exactly; the next double up does not fit."""
    above = math.nextafter(FLOAT32_MAX, math.inf)
    values = [message([FLOAT32_MAX, -FLOAT32_MAX]), message([above, 0])]
    batch, letters = decoder().decode(records(values))
    assert [row[4] for row in rows(batch)] == [[FLOAT32_MAX, -FLOAT32_MAX]]
    assert [letter.kind for letter in letters] == ["infinite"]


def test_values_by_name_go_to_their_channels() -> None:
    """In any order; an absent channel is a missing cell."""
    values = [
        message({"b": 2, "a": 1}),
        message({"b": 3}),
        message({"b": [4, 5]}, [1, 2]),
        message({"b": [6], "a": [None]}, [1]),
    ]
    batch, letters = decoder().decode(records(values))
    assert letters == []
    cells = [row[4] for row in rows(batch)]
    assert cells == [[1.0, 2.0], [None, 3.0], [None, 4.0], [None, 5.0], [None, 6.0]]


@pytest.mark.parametrize(
    ("series", "expected"),
    [("key", ["7", "x"]), ("topic", [TOPIC, TOPIC]), ("field:id", ["12", "pump 1"])],
)
def test_a_series_is_named_by_key_topic_or_field(series: str, expected: list[str]) -> None:
    """A number in the field is a name as well."""
    values = [
        b'{"time": 1, "values": [1, 2], "id": 12}',
        b'{"time": 1, "values": [1, 2], "id": "pump 1"}',
    ]
    batch, letters = decoder(series=series).decode(records(values, [b"7", b"x"]))
    assert letters == []
    assert [row[2] for row in rows(batch)] == expected


def test_a_topic_is_one_series_whatever_its_keys_are() -> None:
    """No key, or one that is not text, does not matter when nobody asks for it."""
    values = [message([1, 2])] * 2
    batch, letters = decoder(series="topic").decode(records(values, [None, b"\xff"]))
    assert letters == []
    assert len(rows(batch)) == 2


@pytest.mark.parametrize("field", ["time", "values"])
def test_a_reading_s_own_field_cannot_name_its_series(field: str) -> None:
    """The settings refuse it, and so does whoever makes a decoder without them."""
    with pytest.raises(SettingsError, match=field):
        decoder(series=f"field:{field}")


# Channels that nobody has named yet -------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "channels"),
    [
        (message([1, 2, 3]), ("c0", "c1", "c2")),
        (message([[1, 2], [3, 4]], [1, 2]), ("c0", "c1")),
        (message({"speed": 1, "heat": 2}), ("heat", "speed")),
        (message({"speed": [1, 2], "heat": [3, 4]}, [1, 2]), ("heat", "speed")),
    ],
)
def test_the_first_good_reading_decides_the_channels(
    first: bytes, channels: tuple[str, ...]
) -> None:
    """Sorted by name, so that two processes agree; numbered where there are no names."""
    learner = decoder(())
    batch, letters = learner.decode(records([first]))
    assert learner.channels == channels
    assert letters == []
    assert batch is not None
    assert batch.values.shape[1] == len(channels)


UNFIT = [
    message([1, 2, math.inf]),
    message([1, 2, 1e39]),
    message([1, 2, 3], -1),
    message([1, 2, 3], NEW_YEAR_S + 2 * 86_400),
    message([1, 2, 3], 1e308),
    message([1, 2, 3], [1, 2, 3]),
    message([[1, 2, 3], [1]], [1, 2]),
    message([[]], [1]),
    message([], []),
    message({"x": [1.0]}),
    message({"x": math.inf}),
    message({"x": 1}, -1),
    message({}),
    message({}, [1]),
]


@pytest.mark.parametrize("name", UNFIT_NAMES)
def test_a_first_record_with_a_name_that_cannot_be_kept_decides_nothing(name: str) -> None:
    """Its channels would be the stream's for ever, and could not be written down."""
    learner = decoder(())
    values = [message({name: 1}), message({name: [1]}, [1]), message({"a": 1})]
    _, letters = learner.decode(records(values))
    assert [letter.kind for letter in letters] == ["bad_channel", "bad_channel"]
    assert learner.channels == ("a",)


@pytest.mark.parametrize(
    "many",
    [
        message([1, 2, 3, 4]),
        message([[1, 2, 3, 4]], [1]),
        message({"a": 1, "b": 2, "c": 3, "d": 4}),
        message({"a": [1], "b": [2], "c": [3], "d": [4]}, [1]),
    ],
)
def test_a_first_record_with_too_many_channels_decides_nothing(many: bytes) -> None:
    """One message of a million numbers would be a covariance of a million squared."""
    learner = decoder((), max_channels=3)
    batch, letters = learner.decode(records([many, message([1, 2, 3])]))
    assert [(letter.offset, letter.kind) for letter in letters] == [(0, "too_many_channels")]
    assert learner.channels == ("c0", "c1", "c2")
    assert [row[1] for row in rows(batch)] == [1]


@pytest.mark.parametrize("unfit", UNFIT)
def test_a_bad_record_decides_nothing(unfit: bytes) -> None:
    """Else one sick sensor at the start would turn all that follows into dead letters."""
    learner = decoder(())
    batch, letters = learner.decode(records([unfit, message([1, 2])]))
    assert learner.channels == ("c0", "c1")
    assert [row[1] for row in rows(batch)] == [1]
    assert [letter.offset for letter in letters] == [0]


@pytest.mark.parametrize("unfit", UNFIT)
def test_a_bad_record_before_any_good_one_is_a_dead_letter_for_what_is_wrong_with_it(
    unfit: bytes,
) -> None:
    """Nothing is known of the channels yet, so nothing can be wrong with their number."""
    learner = decoder(())
    batch, letters = learner.decode(records([unfit]))
    assert (batch, learner.channels) == (None, ())
    (letter,) = letters
    assert letter.kind not in {"wrong_channels", "unknown_channel"}


# Whatever comes ---------------------------------------------------------------------------------

cells = st.none() | st.floats(allow_nan=False, allow_infinity=False, width=32)
instants = st.integers(0, NEW_YEAR_S)


@st.composite
def readings(draw: st.DrawFn) -> tuple[dict[str, Any], list[tuple[int, list[float | None]]]]:
    """A message in one of the four forms, and the (time, cells) that it holds."""
    many = draw(st.booleans())
    held = draw(st.lists(st.tuples(instants, st.tuples(cells, cells)), min_size=1, max_size=3))
    if not many:
        held = held[:1]
    times: list[Any] = [
        t if draw_kind == "number" else datetime.fromtimestamp(t, UTC).isoformat()
        for draw_kind in [draw(st.sampled_from(["number", "text"]))]
        for t, _ in held
    ]
    table: Any = [list(row) for _, row in held]
    if draw(st.booleans()):
        table = {name: [row[i] for _, row in held] for i, name in enumerate(CHANNELS)}
        absent = draw(st.sampled_from([None, None, *CHANNELS]))
        if absent is not None:
            del table[absent]
            at = CHANNELS.index(absent)
            held = [(t, tuple(None if i == at else c for i, c in enumerate(r))) for t, r in held]
        if not many:
            table = {name: column[0] for name, column in table.items()}
    elif not many:
        table = table[0]
    body = {"time": times if many else times[0], "values": table}
    return body, [(t * 1_000_000, list(row)) for t, row in held]


junk = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from([10**400, -(2**63), "2025-01-01T00:00:00", "\ud800", "1"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["a", "b", "z", "5", "\udc00"]), inner, max_size=3)
    ),
    max_leaves=6,
)


def replaced(draw: st.DrawFn, node: Any) -> Any:
    """A copy of a JSON tree with junk somewhere inside."""
    inside = isinstance(node, list | dict) and len(node) and draw(st.integers(0, 3))
    if not inside:
        return draw(junk)
    if isinstance(node, list):
        at = draw(st.integers(0, len(node) - 1))
        return [replaced(draw, child) if i == at else child for i, child in enumerate(node)]
    name = draw(st.sampled_from(sorted(node)))
    return {key: replaced(draw, child) if key == name else child for key, child in node.items()}


@st.composite
def mutants(draw: st.DrawFn) -> bytes:
    """A good message after one change: to its tree, or to its bytes."""
    body, _ = draw(readings())
    if draw(st.booleans()):
        return json.dumps(replaced(draw, body)).encode()
    text = bytearray(json.dumps(body).encode())
    at = draw(st.integers(0, len(text) - 1))
    end = draw(st.integers(at, min(at + 6, len(text))))
    text[at:end] = draw(st.binary(max_size=4) | st.sampled_from([b"NaN", b"-", b"]", b"}", b"e99"]))
    return bytes(text)


keys = st.sampled_from([b"p", b"q", "ü".encode(), b"", b"\xff", None])
anything = st.one_of(
    st.none(),
    st.binary(max_size=30),
    mutants(),
    readings().map(lambda reading: json.dumps(reading[0]).encode()),
)
polls = st.lists(st.tuples(keys, anything), min_size=1, max_size=8)
STREAMS = ["key", "topic", "field:id"]


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(poll=polls, series=st.sampled_from(STREAMS), channels=st.sampled_from([(), CHANNELS]))
def test_every_record_becomes_rows_or_exactly_one_dead_letter(
    poll: list[tuple[bytes | None, bytes | None]], series: str, channels: tuple[str, ...]
) -> None:
    """Over arbitrary bytes and mutated messages: none raises, none is lost, none counts twice."""
    names, values = zip(*poll, strict=True)
    batch, letters = decoder(channels, series=series).decode(records(values, names))
    good = {row[1] for row in rows(batch)}
    bad = [letter.offset for letter in letters]
    assert sorted([*good, *bad]) == list(range(len(poll)))
    assert bad == sorted(bad)
    assert {letter.kind for letter in letters} <= KINDS
    assert all(letter.reason.encode() for letter in letters)
    assert batch is None or len(batch)
    for row in rows(batch):
        assert row[2].encode() is not None
        assert all(cell is None or abs(cell) <= FLOAT32_MAX for cell in row[4])


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(poll=polls, series=st.sampled_from(STREAMS), channels=st.sampled_from([(), CHANNELS]))
def test_a_record_means_the_same_whatever_comes_with_it(
    poll: list[tuple[bytes | None, bytes | None]], series: str, channels: tuple[str, ...]
) -> None:
    """Columns are for speed only: one poll of n records is n polls of one."""
    names, values = zip(*poll, strict=True)
    batch, letters = decoder(channels, series=series).decode(records(values, names))
    alone = decoder(channels, series=series)
    single_rows, single_letters = [], []
    for offset, (key, value) in enumerate(poll):
        part, bad = alone.decode(records([value], [key], first=offset))
        single_rows += [row[1:] for row in rows(part)]
        single_letters += bad
    assert [row[1:] for row in rows(batch)] == single_rows
    assert [(x.offset, x.kind) for x in letters] == [(x.offset, x.kind) for x in single_letters]


@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow])
@given(
    poll=st.lists(st.tuples(st.sampled_from([b"p", b"q", b"r"]), readings()), min_size=1),
    bad=st.lists(st.tuples(st.integers(0, 10), st.sampled_from([b"{", None, b'{"time": -1}']))),
)
def test_readings_are_grouped_by_series_in_the_order_of_the_log(
    poll: list[tuple[bytes, tuple[dict[str, Any], list[tuple[int, list[float | None]]]]]],
    bad: list[tuple[int, bytes | None]],
) -> None:
    """Against a plain loop; bad records among them move offsets, and nothing else."""
    log: list[tuple[bytes, bytes | None, list[tuple[int, list[float | None]]]]] = [
        (key, json.dumps(body).encode(), held) for key, (body, held) in poll
    ]
    for at, value in bad:
        log.insert(at, (b"p", value, []))
    expected: dict[str, list[tuple[int, int, int, list[float | None]]]] = {}
    rank = 0
    for offset, (key, _, held) in enumerate(log, start=100):
        for time, row in held:
            expected.setdefault(key.decode(), []).append((rank, offset, time, row))
            rank += 1

    values, names = [value for _, value, _ in log], [key for key, _, _ in log]
    batch, letters = decoder().decode(records(values, names, first=100))

    assert batch is not None
    assert len(letters) == len(bad)
    assert batch.next_offset == 100 + len(log)
    assert sorted(batch.series) == sorted(expected)
    assert batch.starts.tolist()[0] == 0
    for i, series in enumerate(batch.series):
        part = slice(int(batch.starts[i]), int(batch.starts[i + 1]))
        assert batch.order[part].tolist() == [r for r, _, _, _ in expected[series]]
        assert batch.offsets[part].tolist() == [o for _, o, _, _ in expected[series]]
        assert batch.times[part].tolist() == [t for _, _, t, _ in expected[series]]
        wanted = np.array([c for _, _, _, c in expected[series]], dtype=np.float32)
        np.testing.assert_array_equal(batch.values[part], wanted)
    assert len(batch) == batch.starts[-1] == rank


@pytest.mark.parametrize(
    "misfit",
    [
        message([1]),
        message({"z": 1}),
        message([[1], [2]], [1, 2]),
        message([[1, 2], [2]], [1, 2]),
    ],
)
@pytest.mark.parametrize("every", [1, 2, 1000])
def test_misfits_are_sorted_out_at_one_look(
    monkeypatch: pytest.MonkeyPatch, misfit: bytes, every: int
) -> None:
    """A message is stacked with all, with its like and perhaps alone, however many are bad."""
    stacked: list[int] = []
    stack = Decoder._stack
    monkeypatch.setattr(
        Decoder, "_stack", lambda self, some: (stacked.append(len(some)), stack(self, some))[1]
    )
    values = [misfit if i % every == 0 else message([1, 2]) for i in range(1000)]
    _, letters = decoder().decode(records(values))
    assert len(letters) == 1000 // every
    assert sum(stacked) <= 2 * len(values)


def test_a_hole_in_the_offsets_stays_a_hole() -> None:
    """Compacted topics skip offsets: each reading keeps its record's own."""
    polled = Records(
        topic=TOPIC,
        partition=0,
        offsets=[5, 9, 40],
        keys=[b"k"] * 3,
        values=[message([1, 2]), b"", message([3, 4])],
        next_offset=42,
    )
    batch, letters = decoder().decode(polled)
    assert batch is not None
    assert batch.offsets.tolist() == [5, 40]
    assert batch.next_offset == 42
    assert [letter.offset for letter in letters] == [9]


def test_an_empty_poll_is_no_batch() -> None:
    """A source may have nothing; that is no fault."""
    assert decoder().decode(records([])) == (None, [])
