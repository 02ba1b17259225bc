"""river detectors by name, which propose; with kswin.py all that knows river.

Their state travels as plain data (msgpack), never as a pickle, and names no class: it is what the
attributes of new detectors, in their order, have become since.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence
from functools import cache
from numbers import Number
from operator import call
from types import MethodType
from typing import Any

import msgspec
import numpy as np
from river import drift
from river.base import DriftDetector as DriftDetector
from river.drift import binary

from pipeline.detect.calibration import NOMINAL
from pipeline.detect.kswin import KSWIN
from pipeline.errors import PipelineError, SettingsError

#: ADWIN's delta for every false boundary in a million readings that is allowed: it proposes more
#: readily than the tests confirm.
DELTA = 0.002
#: Those of a prediction's error, which see it where labels come with the readings.
BINARY = ("DDM", "EDDM", "FHDDM", "HDDM_A", "HDDM_W")
#: Cheap enough for every signal; the others see the joint residual only.
ON_EVERY_SIGNAL = ("ADWIN",)
#: Types of values that are kept as they are.
PLAIN = frozenset({type(None), bool, int, float, str})


class DetectorStateError(PipelineError):
    """Stored detector state is not river's. It is not loaded."""


def make(name: str, budget: float = NOMINAL) -> DriftDetector:
    """A river detector of `river.drift` by name, for a budget of false boundaries in a million.

    >>> make("ADWIN").delta, make("ADWIN", budget=1000).delta
    (0.02, 1.0)
    >>> make("os")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: no river drift detector 'os'; there are ADWIN, DDM, EDDM, ...
    """
    if name not in names():
        raise ValueError(f"no river drift detector {name!r}; there are {', '.join(names())}")
    options: dict[str, dict[str, Any]] = {
        "ADWIN": {"delta": min(DELTA * budget, 1.0), "clock": 4},
        "KSWIN": {"seed": 0},  # without one, a restart would not go on as before
    }
    made: DriftDetector = _class(name)(**options.get(name, {}))
    return made


def _class(name: str) -> Any:
    if name in BINARY:
        return getattr(binary, name.replace("_", ""))
    return KSWIN if name == "KSWIN" else getattr(drift, name)


def check(wanted: Sequence[str], error_channel: int = -1) -> None:
    """Raise SettingsError for a name that `make` does not know, or that sees no error."""
    for name in wanted:
        if name in BINARY and error_channel < 0:
            raise SettingsError(
                f"detect.detectors: {name} watches a prediction's error: set detect.error_channel"
            )
        if name not in names():
            known = ", ".join(names())
            raise SettingsError(f"detect.detectors: no river detector {name!r}; there are {known}")


@cache
def names() -> tuple[str, ...]:
    """Detectors that there are."""
    skip = {"DummyDriftDetector", "NoDrift", "DriftRetrainingClassifier"}
    real = {
        name
        for name, cls in vars(drift).items()
        if isinstance(cls, type) and issubclass(cls, DriftDetector) and name not in skip
    }
    return tuple(sorted(real.union(BINARY)))


class Proposers:
    """The detectors of one series: one of each kind for each feature that it watches.

    Parameters
    ----------
    kinds
        Names of river detectors.
    channels
        d, sensors: river watches d levels, d partial residuals and the joint residual.
    light
        Without the partial residuals.
    budget
        False boundaries in a million readings that are allowed.
    """

    def __init__(
        self,
        kinds: Sequence[str],
        channels: int,
        *,
        light: bool = False,
        budget: float = NOMINAL,
    ) -> None:
        self._budget = budget
        pairs = watched(kinds, channels, light=light)
        #: Number of the kind of each of a signal's detectors, and those themselves.
        self.kinds = {signal: [kind for kind, _ in each] for signal, each in pairs.items()}
        self.detectors = {
            signal: [make(kinds[kind], budget) for kind in each]
            for signal, each in self.kinds.items()
        }
        self._bind()

    def update(self, signal: str, rows: Sequence[Sequence[float]]) -> list[tuple[int, int]]:
        """Feed a signal's new values, one for each of its detectors; (row, kind) of each alarm."""
        alarms = []
        updates = self._updates[signal]
        for row, values in enumerate(rows):
            told = list(map(call, updates, values))
            if any(told):
                fired = [k for k, alarm in enumerate(told) if alarm]
                alarms += [(row, self.kinds[signal][k]) for k in fired]
                self._begin_anew(signal, fired)
        return alarms

    def _begin_anew(self, signal: str, fired: Sequence[int]) -> None:
        """An ADWIN that alarmed is made anew by river at its next value; here, at once."""
        for k in fired:
            detector = self.detectors[signal][k]
            if isinstance(detector, drift.ADWIN):
                self.detectors[signal][k] = make("ADWIN", self._budget)
                self._updates[signal][k] = _update(self.detectors[signal][k])

    def _bind(self) -> None:
        self._updates = {
            signal: [_update(detector) for detector in each]
            for signal, each in self.detectors.items()
        }

    def state(self) -> list[Any]:
        """Plain data that `restore` goes on from."""
        plain = [_kept(detector) for each in self.detectors.values() for detector in each]
        return [*plain, self._budget]

    def restore(self, state: Sequence[Any]) -> None:
        """Go on from `state()`, being new; DetectorStateError if it is not of these detectors.

        Those of another budget are left as they are, new: what is proposed by has changed.
        """
        if len(state) != 1 + sum(map(len, self.detectors.values())):
            raise DetectorStateError("the stored detectors are others than the settings name")
        *stored, budget = state
        if budget != self._budget:
            return
        plain = iter(stored)
        self.detectors = {
            signal: [_again(detector, next(plain)) for detector in each]
            for signal, each in self.detectors.items()
        }
        self._bind()


def watched(
    kinds: Sequence[str], channels: int, *, light: bool = False
) -> dict[str, list[tuple[int, int]]]:
    """Number of the kind, and of the feature, of each detector of a signal.

    Features: d levels; d partial residuals (none if `light`) and, behind them, the joint residual;
    a prediction's error.
    """
    features = {"level": range(channels), "residual": range(1 if light else channels + 1)}
    joint = ("residual", features["residual"][-1])
    errors = [(number, 0) for number, kind in enumerate(kinds) if kind in BINARY]
    return {
        signal: [
            (number, feature)
            for number, kind in enumerate(kinds)
            for feature in every
            if kind in ON_EVERY_SIGNAL or ((signal, feature) == joint and kind not in BINARY)
        ]
        for signal, every in features.items()
    } | {"error": errors}


def _update(detector: DriftDetector) -> Callable[[float], bool]:
    """Takes a value and says whether that is an alarm; of an ADWIN, river's bare Rust method."""
    if isinstance(detector, drift.ADWIN):
        rust: Callable[[float], bool] = vars(detector)["_helper"].update
        return rust

    right = isinstance(detector, binary.FHDDM)  # wants to know what was right

    def update(value: float) -> bool:
        detector.update(not value if right else value)
        return bool(detector.drift_detected)

    return update


def dump(proposers: Proposers) -> bytes:
    """A series' detectors as bytes; equal states, equal bytes."""
    return msgspec.msgpack.encode(proposers.state())


def load(content: bytes, new: Proposers) -> Proposers:
    """What `dump` was given, from those of a series that has seen nothing.

    DetectorStateError for anything that is not river's.
    """
    try:
        plain = msgspec.msgpack.decode(content, type=list[Any])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise DetectorStateError(f"not detector state: {exc}") from None
    new.restore(plain)
    return new


def _kept(detector: DriftDetector) -> Any:
    """Plain data of a detector; of an ADWIN, which is fed past its wrapper, Rust's own bytes."""
    if isinstance(detector, drift.ADWIN):
        return vars(detector)["_helper"].__getstate__()
    return _plain(detector)


def _again(new: DriftDetector, plain: Any) -> DriftDetector:
    """A new detector, become what `_kept` was given."""
    if isinstance(new, drift.ADWIN):
        _rust(vars(new)["_helper"], plain)
        return new
    detector: DriftDetector = _become(new, plain)
    return detector


# Objects as plain data: what each attribute is, in the order in which a new object has them -----


def _plain(value: Any) -> Any:
    """Numbers and text as they are, objects as lists."""
    if isinstance(value, np.generic):
        value = value.item()
    if type(value) in PLAIN:
        return value
    if isinstance(value, deque):
        return [_plain(v) for v in value]
    if isinstance(value, random.Random):
        return value.getstate()
    if isinstance(value, MethodType):
        return None  # a new detector has it, too
    if hasattr(value, "__getnewargs__"):
        return value.__getstate__()  # Rust's own bytes
    if hasattr(value, "__dict__"):
        return [v if type(v) in PLAIN else _plain(v) for v in vars(value).values()]
    raise DetectorStateError(f"cannot keep {type(value).__name__} in a checkpoint")


def _become(new: Any, plain: Any) -> Any:
    """What stands where a new detector has `new`; DetectorStateError if it is of another kind."""
    if isinstance(new, Number):
        _expect(isinstance(plain, Number), new, plain)
        return plain
    if new is None and isinstance(plain, Number):
        return plain  # a least value that there was none of
    if new is None or isinstance(new, str | MethodType):
        _expect(plain == _plain(new), new, plain)
        return new
    if isinstance(new, deque):
        _expect(isinstance(plain, list) and all(isinstance(v, Number) for v in plain), new, plain)
        return deque(plain, new.maxlen)
    if isinstance(new, random.Random):
        return _random(plain)
    if hasattr(new, "__getnewargs__"):
        return _rust(new, plain)
    names = vars(new)
    _expect(isinstance(plain, list) and len(plain) == len(names), new, plain)
    for (name, value), item in zip(list(names.items()), plain, strict=True):
        setattr(new, name, _become(value, item))
    return new


def _random(plain: Any) -> random.Random:
    rng = random.Random()
    try:
        version, numbers, gauss = plain
        rng.setstate((version, tuple(numbers), gauss))
    except (TypeError, ValueError, OverflowError) as exc:
        raise DetectorStateError(f"not detector state: {exc}") from None
    return rng


def _rust(new: Any, plain: Any) -> Any:
    """Made with the same arguments; Rust panics on other bytes, and a panic is no Exception."""
    _expect(isinstance(plain, bytes), new, plain)
    arguments = new.__getnewargs__()
    try:
        new.__setstate__(plain)
    except BaseException as exc:
        if type(exc).__name__ != "PanicException":
            raise
        raise DetectorStateError(f"not the state of {type(new).__name__}: {exc}") from None
    _expect(new.__getnewargs__() == arguments, arguments, new.__getnewargs__())
    return new


def _expect(right: bool, new: Any, plain: Any) -> None:
    if not right:
        found = type(plain).__name__
        raise DetectorStateError(f"{found} where a new detector has {type(new).__name__}")
