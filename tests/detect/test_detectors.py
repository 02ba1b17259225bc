"""river behind plain data: the same alarms as river's own, and nothing else comes back."""

from __future__ import annotations

import copy
import pickle
import random
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from river import datasets, drift

from pipeline.config import Detect
from pipeline.detect.boundary import BoundaryDetector
from pipeline.detect.detectors import DetectorStateError, Proposers, dump, load, make, names
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


def stored(plain: Any) -> NDArray[np.uint8]:
    return np.frombuffer(msgspec.msgpack.encode(plain), dtype=np.uint8)


def read(content: NDArray[np.uint8], kinds: tuple[str, ...] = ("ADWIN",)) -> list[Any]:
    return list(load(content, kinds, 1))


#: The plain state of one ADWIN, and of one PageHinkley: what the forgeries below start from.
ADWIN = Proposers(["ADWIN"], 1)
ADWIN.update("level", [shifting(0, 100)])
ADWIN.update("residual", [shifting(1, 100), shifting(2, 100)])
PAGE_HINKLEY = Proposers(["PageHinkley"], 1)
PAGE_HINKLEY.update("residual", [shifting(1, 100), shifting(0, 100)])


def forged(of: Proposers, **attributes: Any) -> list[Any]:
    """A series' state with some attributes of its first detector replaced, or added."""
    plain = copy.deepcopy(of.state())
    pairs = plain[0][3][1]
    kept = [pair for pair in pairs if pair[0] not in attributes]
    plain[0][3][1] = kept + [[name, value] for name, value in attributes.items()]
    return [plain]


#: A series of d = 2 sensors: two levels; two partial residuals and the joint one.
LEVELS = [shifting(1), shifting(2)]
RESIDUALS = [shifting(3), shifting(4), shifting(5)]


def test_adwin_alarms_at_the_rows_of_a_bare_river_adwin() -> None:
    """Wrapping, counting and cutting change nothing: each feature has an ADWIN of its own.

    Levels and residuals come at a pace of their own, and neither sees what the other does.
    """
    proposers = Proposers(["ADWIN"], 2)
    for signal, columns in (("level", LEVELS), ("residual", RESIDUALS)):
        found = proposers.update(signal, [c[:250] for c in columns])
        rest = proposers.update(signal, [c[250:] for c in columns])
        found += [(row + 250, kind) for row, kind in rest]
        expected = [row for c in columns for row in alarms_of(make("ADWIN"), c)]
        assert len(expected) >= len(columns)
        assert sorted(found) == sorted((row, 0) for row in expected)


def test_adwin_is_made_with_the_options_of_this_project() -> None:
    """Every fourth value is looked at: means of blocks come slowly."""
    own = drift.ADWIN(delta=0.002, clock=4)
    assert alarms_of(make("ADWIN"), shifting(1)) == alarms_of(own, shifting(1))
    assert alarms_of(make("ADWIN"), shifting(1)) != alarms_of(drift.ADWIN(), shifting(1))


@pytest.mark.parametrize("name", [n for n in names() if n != "ADWIN"])
def test_other_detectors_see_the_joint_residual_only(name: str) -> None:
    """They are dear, or alarm often: one a series, and none for the levels."""
    options = {"seed": 0} if name == "KSWIN" else {}
    proposers = Proposers([name], 2)
    assert len(proposers.detectors) == 1
    assert proposers.update("level", LEVELS) == []
    found = proposers.update("residual", RESIDUALS)
    expected = alarms_of(getattr(drift, name)(**options), RESIDUALS[-1])
    assert expected
    assert found == [(row, 0) for row in expected]


@pytest.mark.parametrize("channels", [1, 2, 7])
def test_each_level_and_each_residual_has_its_adwin(channels: int) -> None:
    """d levels, d partial residuals, the joint one; of other kinds one in all."""
    assert len(Proposers(["ADWIN"], channels).detectors) == 2 * channels + 1
    assert len(Proposers(["ADWIN", "PageHinkley"], channels).detectors) == 2 * channels + 2


def test_an_alarm_names_its_kind() -> None:
    """The numbers are places in the settings' list: `detectors` of a boundary comes from them."""
    found = Proposers(["PageHinkley", "ADWIN"], 2).update("residual", RESIDUALS)
    rows = {kind: [row for row, k in found if k == kind] for kind in (0, 1)}
    assert rows[0] == alarms_of(make("PageHinkley"), RESIDUALS[-1])
    assert rows[1] == [row for c in RESIDUALS for row in alarms_of(make("ADWIN"), c)]


def test_a_signal_without_values_is_left_alone() -> None:
    """Before the forecaster is fitted there is no residual: its detectors do not age."""
    proposers = Proposers(["PageHinkley", "ADWIN"], 2)
    before = copy.deepcopy(proposers.state())
    assert proposers.update("level", LEVELS)
    same = [a == b for a, b in zip(proposers.state(), before, strict=True)]
    signals = [signal for _, signal, _, _ in proposers.detectors]
    assert same == [signal == "residual" for signal in signals]
    assert signals.count("level") == 2


def test_no_values_at_all_are_no_alarm() -> None:
    """A poll in which no mean of a signal became whole."""
    proposers = Proposers(["PageHinkley", "ADWIN"], 2)
    before = copy.deepcopy(proposers.state())
    assert proposers.update("residual", [[], [], []]) == []
    assert proposers.state() == before


@given(name=st.sampled_from(names()), stop=st.integers(0, 299))
@settings(max_examples=30, deadline=None)
def test_every_detector_goes_on_from_its_dump_as_if_nothing_had_been(name: str, stop: int) -> None:
    """At any row: the alarms to come and the next dump are those of the one that never stopped."""
    values = [shifting(stop, 300), shifting(stop + 1, 300)]
    whole, first = Proposers([name], 1), Proposers([name], 1)
    alarms = whole.update("residual", values)
    found = first.update("residual", [v[:stop] for v in values])
    (second,) = read(dump([first]), (name,))
    rest = second.update("residual", [v[stop:] for v in values])
    found += [(row + stop, kind) for row, kind in rest]
    assert sorted(found) == sorted(alarms)
    assert dump([second]).tobytes() == dump([whole]).tobytes()


def test_a_dump_keeps_which_series_have_no_detectors_yet() -> None:
    """Series in their warm-up hold None; the others keep their slot."""
    back = read(dump([None, ADWIN, None]))
    assert [p is None for p in back] == [True, False, True]
    assert back[1].state() == ADWIN.state()


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
    assert read(stored(forged(ADWIN)))[0].state() == ADWIN.state()
    assert read(stored(forged(PAGE_HINKLEY)), ("PageHinkley",))


@pytest.mark.parametrize(
    ("path", "arguments"),
    [
        ("os:system", ["tuple", ["touch {flag}"]]),
        ("posix:system", ["tuple", ["touch {flag}"]]),
        ("subprocess:Popen", ["tuple", [["list", ["touch", "{flag}"]]]]),
        ("builtins:open", ["tuple", ["{flag}", "w"]]),
        ("builtins:eval", ["tuple", ["open('{flag}', 'w')"]]),
        ("pathlib:Path", ["tuple", ["{flag}"]]),
        ("river.datasets.base:request", None),
        ("river.datasets.base:pathlib", None),
        ("river.stream:Cache", ["tuple", ["{flag}"]]),
        ("river.stream.cache:Cache", ["tuple", ["{flag}"]]),
        ("river.utils.rolling:Rolling", ["tuple", []]),
        ("river.drift:ADWIN.__init__", None),
        ("river.not_there:Thing", None),
        ("river", None),
        (":", None),
        ("", None),
    ],
)
def test_nothing_but_a_detector_is_made(tmp_path: Path, path: str, arguments: Any) -> None:
    """Stored data is not a program: whatever it names, nothing runs and no file appears."""
    flag = tmp_path / "flag"
    text = msgspec.json.encode(arguments).decode().replace("{flag}", str(flag))
    with pytest.raises(DetectorStateError):
        read(stored([[["object", path, msgspec.json.decode(text), ["dict", []]]]]))
    assert not flag.exists()


def test_no_other_class_of_river_takes_the_helpers_place() -> None:
    """river can download and unpack archives: `update` must not come to mean `download`."""
    assert callable(datasets.Insects.download)
    trojan = [
        "object",
        "river.datasets.insects:Insects",
        None,
        ["dict", [["url", "http://127.0.0.1:9/"], ["update", ["method", "download"]]]],
    ]
    with pytest.raises(DetectorStateError, match="not one of river's"):
        read(stored(forged(ADWIN, _helper=trojan)))
    with pytest.raises(DetectorStateError):
        read(stored([[trojan]]))


def test_a_module_that_is_not_imported_stays_so(tmp_path: Path, monkeypatch: Any) -> None:
    """Importing runs a module's code, so a path in stored data imports nothing."""
    flag = tmp_path / "flag"
    (tmp_path / "tidemark_trojan.py").write_text(f"open({str(flag)!r}, 'w')\nclass A: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(DetectorStateError):
        read(stored([[["object", "tidemark_trojan:A", None, ["dict", []]]]]))
    assert not flag.exists()


HELPER = ["object", "river._river_rust.drift:AdaptiveWindowing", ["tuple", [0.002, 4, 5, 5, 10]]]


@pytest.mark.parametrize(
    "attributes",
    [
        {"delta": "0.002"},
        {"delta": None},
        {"_helper": 3},
        {"_helper": [*HELPER, "text"]},
        {"_helper": [*HELPER, None]},
        {"_helper": ["object", "river.drift.adwin:ADWIN", None, ["dict", []]]},
        {"_helper": ["object", HELPER[1], ["tuple", ["x"]], b""]},
        {"update": ["method", "clone"]},
        {"more": 1},
        {"__class__": 1},
        {"_drift_detected": ["method", "update"]},
        {"_drift_detected": ["method", "no_such_method"]},
        {"clock": ["deque", -1, []]},
        {"clock": ["deque", 2**63, []]},
        {"clock": ["random", ["tuple", [3, ["tuple", [-1] * 625], None]]]},
        {"clock": ["random", 5]},
        {"clock": ["what", 5]},
        {"clock": []},
        {"clock": ["dict", [[["list", []], 1]]]},
    ],
    ids=str,
)
def test_a_detector_of_another_shape_is_refused(attributes: dict[str, Any]) -> None:
    """Every attribute must be what a new ADWIN has: or the stream would fail later, mid-way."""
    with pytest.raises(DetectorStateError):
        read(stored(forged(ADWIN, **attributes)))


@pytest.mark.parametrize("method", ["__init__", "_reset", "update"])
def test_a_method_is_the_one_that_a_new_detector_has(method: str) -> None:
    """PageHinkley keeps the test of its mode as a method; no other may stand in."""
    state = forged(PAGE_HINKLEY, _test_drift=["method", method])
    with pytest.raises(DetectorStateError):
        read(stored(state), ("PageHinkley",))


@pytest.mark.parametrize("values", [["1.0"], [None], [["list", []]]])
def test_a_window_holds_numbers_only(values: list[Any]) -> None:
    """KSWIN sorts its window: text in it would fail a hundred rows later."""
    kswin = Proposers(["KSWIN"], 1)
    with pytest.raises(DetectorStateError):
        read(stored(forged(kswin, window=["deque", 100, values])), ("KSWIN",))


@pytest.mark.parametrize(
    ("kinds", "channels"), [(("PageHinkley",), 1), (("ADWIN", "PageHinkley"), 1), (("ADWIN",), 2)]
)
def test_state_of_other_settings_is_refused(kinds: tuple[str, ...], channels: int) -> None:
    """Another detector, or another number of them, would go on from something else's past."""
    with pytest.raises(DetectorStateError, match="others than the settings"):
        list(load(dump([ADWIN]), kinds, channels))


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
        b"\x91\x91" + b"\x92\xa4list\x91" * 100_000 + b"\x90",
        msgspec.json.encode([None]),
        pickle.dumps([drift.ADWIN()]),
        pickle.dumps([None]),
    ],
    ids=lambda content: content[:12].hex() or "empty",
)
def test_bytes_of_another_kind_are_refused(content: bytes) -> None:
    """Each with the one error that a restart knows, never with whatever the decoder trips over."""
    with pytest.raises(DetectorStateError):
        read(np.frombuffer(content, dtype=np.uint8))


def test_no_pickle_is_opened(tmp_path: Path) -> None:
    """A pickle that would run a command when loaded does not run it."""
    flag = tmp_path / "flag"

    class Trojan:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (flag,)

    with pytest.raises(DetectorStateError):
        read(np.frombuffer(pickle.dumps([Trojan()]), dtype=np.uint8))
    assert not flag.exists()


def test_truncated_state_is_refused_at_any_length() -> None:
    """A half-written checkpoint, wherever it ends."""
    content = dump([PAGE_HINKLEY])
    for length in range(len(content)):
        with pytest.raises(DetectorStateError):
            read(content[:length], ("PageHinkley",))


@pytest.mark.parametrize("keep", [0, 1, 20, -1])
def test_truncated_state_of_a_rust_part_is_refused(keep: int) -> None:
    """river's Rust panics on it, and a panic is no Exception: it would pass every handler."""
    content = ADWIN.state()[0][3][1][-1][1][3]
    assert isinstance(content, bytes)
    with pytest.raises(DetectorStateError):
        read(stored(forged(ADWIN, _helper=[*HELPER, content[:keep]])))
