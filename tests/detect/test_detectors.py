"""river behind plain data: the same alarms as river's own, and nothing else comes back."""

from __future__ import annotations

import copy
import pickle
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from river import drift

from pipeline.config import Detect
from pipeline.detect.boundary import BoundaryDetector
from pipeline.detect.detectors import (
    DetectorStateError,
    Proposers,
    dump,
    load,
    make,
    names,
    watched,
)
from pipeline.errors import SettingsError


def shifting(seed: int, rows: int = 600) -> list[float]:
    """Noise of deviation 1 whose mean goes from 0 to 4 half way."""
    rng = random.Random(seed)
    return [rng.gauss(4.0 if i >= rows // 2 else 0.0, 1.0) for i in range(rows)]


def alarms_of(detector: Any, values: list[float]) -> list[int]:
    """Rows after which a river detector says that there was a drift."""
    rows = []
    for row, value in enumerate(values):
        detector.update(value)
        if detector.drift_detected:
            rows.append(row)
    return rows


def feed(
    proposers: Proposers, kinds: Sequence[str], signal: str, columns: Sequence[Sequence[float]]
) -> list[tuple[int, int]]:
    """Alarms of a signal of so many features, each given to the detectors that watch it."""
    channels = len(columns) - (signal == "residual")
    features = [feature for _, feature in watched(kinds, channels)[signal]]
    return proposers.update(signal, list(zip(*(columns[f] for f in features), strict=True)))


def stored(plain: Any) -> bytes:
    return msgspec.msgpack.encode(plain)


def read(content: bytes, kinds: tuple[str, ...] = ("ADWIN",)) -> Proposers:
    return load(content, Proposers(kinds, 1))


#: The plain state of one ADWIN, and of one PageHinkley: what the forgeries below start from.
ADWIN = Proposers(["ADWIN"], 1)
feed(ADWIN, ["ADWIN"], "level", [shifting(0, 100)])
feed(ADWIN, ["ADWIN"], "residual", [shifting(1, 100), shifting(2, 100)])
PAGE_HINKLEY = Proposers(["PageHinkley"], 1)
feed(PAGE_HINKLEY, ["PageHinkley"], "residual", [shifting(1, 100), shifting(0, 100)])


def forged(of: Proposers, **attributes: Any) -> list[Any]:
    """A series' state with some attributes of its first detector replaced, or added."""
    plain = copy.deepcopy(of.state())
    (first, *_), *_ = (each for each in of.detectors.values() if each)
    kept = dict(zip(vars(first), plain[0], strict=True)) | attributes
    plain[0] = list(kept.values())
    return plain


#: A series of d = 2 sensors: two levels; two partial residuals and the joint one.
LEVELS = [shifting(1), shifting(2)]
RESIDUALS = [shifting(3), shifting(4), shifting(5)]


def test_adwin_alarms_at_the_rows_of_a_bare_river_adwin() -> None:
    """Wrapping, counting and cutting change nothing: each feature has an ADWIN of its own.

    Levels and residuals come at a pace of their own, and neither sees what the other does.
    """
    proposers = Proposers(["ADWIN"], 2)
    for signal, columns in (("level", LEVELS), ("residual", RESIDUALS)):
        found = feed(proposers, ["ADWIN"], signal, [c[:250] for c in columns])
        rest = feed(proposers, ["ADWIN"], signal, [c[250:] for c in columns])
        found += [(row + 250, kind) for row, kind in rest]
        expected = [row for c in columns for row in alarms_of(make("ADWIN"), c)]
        assert len(expected) >= len(columns)
        assert sorted(found) == sorted((row, 0) for row in expected)


def test_adwin_is_made_with_the_options_of_this_project() -> None:
    """Every fourth value is looked at: means of blocks come slowly."""
    own = drift.ADWIN(delta=0.02, clock=4)
    assert alarms_of(make("ADWIN"), shifting(1)) == alarms_of(own, shifting(1))
    assert alarms_of(make("ADWIN"), shifting(1)) != alarms_of(drift.ADWIN(), shifting(1))


def test_a_larger_budget_is_a_larger_delta_up_to_one() -> None:
    assert [make("ADWIN", budget).delta for budget in (1.0, 10.0, 500.0, 5000.0)] == [
        0.002,
        0.02,
        1.0,
        1.0,
    ]


def test_detectors_of_another_budget_begin_anew() -> None:
    """A restart with another budget is no error; what river saw so far was for the other one."""
    went_on = load(dump(ADWIN), Proposers(["ADWIN"], 1))
    new = load(dump(ADWIN), Proposers(["ADWIN"], 1, budget=100.0))
    assert went_on.state() == ADWIN.state()
    assert new.state() == Proposers(["ADWIN"], 1, budget=100.0).state()


@pytest.mark.parametrize("name", ["KSWIN", "PageHinkley"])
def test_other_detectors_see_the_joint_residual_only(name: str) -> None:
    """They are dear, or alarm often: one a series, and none for the levels."""
    options = {"seed": 0} if name == "KSWIN" else {}
    proposers = Proposers([name], 2)
    assert [len(each) for each in proposers.detectors.values()] == [0, 1, 0]
    assert feed(proposers, [name], "level", LEVELS) == []
    found = feed(proposers, [name], "residual", RESIDUALS)
    expected = alarms_of(getattr(drift, name)(**options), RESIDUALS[-1])
    assert expected
    assert found == [(row, 0) for row in expected]


@pytest.mark.parametrize("channels", [1, 2, 7])
def test_each_level_and_each_residual_has_its_adwin(channels: int) -> None:
    """d levels, d partial residuals, the joint one; of other kinds one in all."""
    assert watched(["ADWIN"], channels) == {
        "level": [(0, c) for c in range(channels)],
        "residual": [(0, c) for c in range(channels + 1)],
        "error": [],
    }
    both = watched(["PageHinkley", "ADWIN"], channels)["residual"]
    assert both == [(0, channels), *((1, c) for c in range(channels + 1))]


def test_an_alarm_names_its_kind() -> None:
    """The numbers are places in the settings' list: `detectors` of a boundary comes from them."""
    kinds = ["PageHinkley", "ADWIN"]
    found = feed(Proposers(kinds, 2), kinds, "residual", RESIDUALS)
    rows = {kind: [row for row, k in found if k == kind] for kind in (0, 1)}
    assert rows[0] == alarms_of(make("PageHinkley"), RESIDUALS[-1])
    assert rows[1] == sorted(row for c in RESIDUALS for row in alarms_of(make("ADWIN"), c))


def test_a_signal_without_values_is_left_alone() -> None:
    """Before the forecaster is fitted there is no residual: its detectors do not age."""
    kinds = ["PageHinkley", "ADWIN"]
    proposers = Proposers(kinds, 2)
    before = copy.deepcopy(proposers.state())
    assert feed(proposers, kinds, "level", LEVELS)
    same = [a == b for a, b in zip(proposers.state(), before, strict=True)]
    assert same == [False] * 2 + [True] * 4 + [True]  # the budget stands last


def test_no_values_at_all_are_no_alarm() -> None:
    """A poll in which no mean of a signal became whole."""
    proposers = Proposers(["PageHinkley", "ADWIN"], 2)
    before = copy.deepcopy(proposers.state())
    assert proposers.update("residual", []) == []
    assert proposers.state() == before


@given(name=st.sampled_from(names()), stop=st.integers(0, 299))
@settings(max_examples=30, deadline=None)
def test_every_detector_goes_on_from_its_dump_as_if_nothing_had_been(name: str, stop: int) -> None:
    """At any row: the alarms to come and the next dump are those of the one that never stopped."""
    values = [shifting(stop, 300), shifting(stop + 1, 300)]
    whole, first = Proposers([name], 1), Proposers([name], 1)
    alarms = feed(whole, [name], "residual", values)
    found = feed(first, [name], "residual", [v[:stop] for v in values])
    second = read(dump(first), (name,))
    rest = feed(second, [name], "residual", [v[stop:] for v in values])
    found += [(row + stop, kind) for row, kind in rest]
    assert sorted(found) == sorted(alarms)
    assert dump(second) == dump(whole)


@pytest.mark.parametrize("name", ["adwin", "os", "DummyDriftDetector", "binary", "__name__", ""])
def test_an_unknown_name_is_refused(name: str) -> None:
    """Only river's detectors of real values: no module, no dummy, no other spelling."""
    with pytest.raises(ValueError, match="no river drift detector"):
        make(name)


def test_an_unknown_name_in_the_settings_names_the_key() -> None:
    """It stops the start, not the stream when its first series has warmed up."""
    with pytest.raises(SettingsError, match=r"detect\.detectors: .*'Adwin'"):
        BoundaryDetector(1, Detect(detectors=("ADWIN", "Adwin")))


# What does not come back ----------------------------------------------------------------------


def test_the_forgeries_start_from_states_that_load() -> None:
    """Or the refusals below would be for another reason."""
    assert read(stored(ADWIN.state())).state() == ADWIN.state()
    assert read(stored(forged(PAGE_HINKLEY)), ("PageHinkley",))


@pytest.mark.parametrize(
    "helper",
    [3, "text", None, [], ["river._river_rust.drift:AdaptiveWindowing", []], {"a": 1}],
    ids=str,
)
def test_an_adwin_of_another_shape_is_refused(helper: Any) -> None:
    """Only Rust's own bytes are one's state: or the stream would fail later, mid-way."""
    with pytest.raises(DetectorStateError):
        read(stored([helper, *ADWIN.state()[1:]]))


@pytest.mark.parametrize(
    "attributes",
    [{"delta": "0.002"}, {"threshold": None}, {"alpha": [4]}, {"min_instances": {}}, {"more": 1}],
    ids=str,
)
def test_a_detector_of_another_shape_is_refused(attributes: dict[str, Any]) -> None:
    """Every attribute must be what a new PageHinkley has."""
    with pytest.raises(DetectorStateError):
        read(stored(forged(PAGE_HINKLEY, **attributes)), ("PageHinkley",))


def test_a_detector_with_an_attribute_less_is_refused() -> None:
    """Each would stand where another belongs."""
    first, *rest = forged(PAGE_HINKLEY)
    with pytest.raises(DetectorStateError):
        read(stored([first[:-1], *rest]), ("PageHinkley",))


def test_an_adwin_of_other_options_is_refused() -> None:
    """Its window is of another test: it would go on with river's clock of 32."""
    foreign = vars(drift.ADWIN())["_helper"].__getstate__()
    with pytest.raises(DetectorStateError, match="where a new detector has"):
        read(stored([foreign, *ADWIN.state()[1:]]))


@pytest.mark.parametrize(
    "attributes",
    [{"mode": "up"}, {"mode": 1}, {"_test_drift": "_reset"}, {"_x_mean": 3}, {"_x_mean": [1.0]}],
    ids=str,
)
def test_a_page_hinkley_of_another_shape_is_refused(attributes: dict[str, Any]) -> None:
    """It keeps the test of its mode as a method, and a mean as an object: neither is stored."""
    with pytest.raises(DetectorStateError):
        read(stored(forged(PAGE_HINKLEY, **attributes)), ("PageHinkley",))


@pytest.mark.parametrize(
    "rng",
    [5, None, [], [3, [-1] * 625, None], [3, [1, 2], None], [3, ["x"] * 625, None], [3, 5, 7]],
    ids=lambda rng: str(rng)[:20],
)
def test_chance_of_another_shape_is_refused(rng: Any) -> None:
    """KSWIN draws from its window."""
    with pytest.raises(DetectorStateError):
        read(stored(forged(Proposers(["KSWIN"], 1), _rng=rng)), ("KSWIN",))


@pytest.mark.parametrize("values", [["1.0"], [None], [[]], 3, "text"])
def test_a_window_holds_numbers_only(values: list[Any]) -> None:
    """KSWIN sorts its window: text in it would fail a hundred rows later."""
    kswin = Proposers(["KSWIN"], 1)
    with pytest.raises(DetectorStateError):
        read(stored(forged(kswin, window=values)), ("KSWIN",))


@pytest.mark.parametrize(
    ("kinds", "channels"), [(("PageHinkley",), 1), (("ADWIN", "PageHinkley"), 1), (("ADWIN",), 2)]
)
def test_state_of_other_settings_is_refused(kinds: tuple[str, ...], channels: int) -> None:
    """Another detector, or another number of them, would go on from something else's past."""
    with pytest.raises(DetectorStateError, match="others than the settings"):
        load(dump(ADWIN), Proposers(kinds, channels))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00",
        b"\xc1",
        msgspec.msgpack.encode({}),
        msgspec.msgpack.encode([5]),
        msgspec.msgpack.encode([1.5, None]),
        msgspec.msgpack.encode(["ADWIN"]),
        msgspec.msgpack.encode([{"a": 1}]),
        msgspec.msgpack.encode([[]]),
        msgspec.msgpack.encode([[[]]]),
        msgspec.msgpack.encode([[5]]),
        msgspec.msgpack.encode([msgspec.msgpack.Ext(5, b"x")]),
        msgspec.msgpack.encode([[msgspec.msgpack.Ext(5, b"x")]]),
        b"\x91\x91\xa1\xff",  # text that is not UTF-8
        b"\x91" * 200_000 + b"\xc0",  # deeper than any stack
        msgspec.json.encode([None]),
        pickle.dumps([drift.ADWIN()]),
        pickle.dumps([None]),
    ],
    ids=lambda content: content[:12].hex() or "empty",
)
def test_bytes_of_another_kind_are_refused(content: bytes) -> None:
    """Each with the one error that a restart knows, never with whatever the decoder trips over."""
    with pytest.raises(DetectorStateError):
        read(content)


def test_no_pickle_is_opened(tmp_path: Path) -> None:
    """A pickle that would run a command when loaded does not run it."""
    flag = tmp_path / "flag"

    class Trojan:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (flag,)

    content = pickle.dumps([Trojan()])
    with pytest.raises(DetectorStateError):
        read(content)
    assert not flag.exists()


def test_truncated_state_is_refused_at_any_length() -> None:
    """A half-written checkpoint, wherever it ends."""
    content = dump(PAGE_HINKLEY)
    for length in range(len(content)):
        with pytest.raises(DetectorStateError):
            read(content[:length], ("PageHinkley",))


@pytest.mark.parametrize("keep", [0, 1, 20, -1])
def test_truncated_state_of_a_rust_part_is_refused(keep: int) -> None:
    """river's Rust panics on it, and a panic is no Exception: it would pass every handler."""
    content, *rest = ADWIN.state()
    assert isinstance(content, bytes)
    with pytest.raises(DetectorStateError):
        read(stored([content[:keep], *rest]))
