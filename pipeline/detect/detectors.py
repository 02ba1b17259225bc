"""river detectors by name, which propose; with kswin.py all that knows river.

Their state travels as plain data (msgpack), never as a pickle: numbers, text, lists, and objects of
river's detectors and statistics. What comes back must have the shape of a new detector.
"""

from __future__ import annotations

import random
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from numbers import Number
from types import MethodType
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from river import drift
from river.base import DriftDetector as DriftDetector
from river.stats.base import Statistic

from pipeline.detect.kswin import KSWIN
from pipeline.errors import PipelineError, SettingsError

#: What each detector is made with, where river's own defaults do not fit.
OPTIONS: dict[str, dict[str, Any]] = {
    "ADWIN": {"delta": 0.002, "clock": 4},
    "KSWIN": {"seed": 0},  # without one, a restart would not go on as before
}
#: Cheap enough for every signal; the others see the joint residual only.
ON_EVERY_SIGNAL = ("ADWIN",)


class DetectorStateError(PipelineError):
    """Stored detector state is not river's. It is not loaded."""


def make(name: str) -> DriftDetector:
    """A river detector of `river.drift` by name.

    >>> make("ADWIN").delta
    0.002
    >>> make("os")
    Traceback (most recent call last):
    ValueError: no river drift detector 'os'; there are ADWIN, KSWIN, PageHinkley
    """
    if name not in names():
        raise ValueError(f"no river drift detector {name!r}; there are {', '.join(names())}")
    cls = KSWIN if name == "KSWIN" else getattr(drift, name)
    made: DriftDetector = cls(**OPTIONS.get(name, {}))
    return made


def check(wanted: Sequence[str]) -> None:
    """Raise SettingsError for a name that `make` does not know."""
    for name in wanted:
        if name not in names():
            known = ", ".join(names())
            raise SettingsError(f"detect.detectors: no river detector {name!r}; there are {known}")


@cache
def names() -> tuple[str, ...]:
    """Detectors of a real-valued signal."""
    skip = {"DummyDriftDetector", "NoDrift", "DriftRetrainingClassifier"}
    return tuple(
        name
        for name in sorted(vars(drift))
        if isinstance(cls := getattr(drift, name), type)
        and issubclass(cls, DriftDetector)
        and name not in skip
    )


class Proposers:
    """The detectors of one series: one of each kind for each feature that it watches.

    Parameters
    ----------
    kinds
        Names of river detectors.
    channels
        d, sensors: river watches d levels, d partial residuals and the joint residual.
    """

    def __init__(self, kinds: Sequence[str], channels: int) -> None:
        watched = [("level", c) for c in range(channels)]
        watched += [("residual", c) for c in range(channels + 1)]
        self.detectors: list[tuple[int, str, int, DriftDetector]] = [
            (k, signal, column, make(kind))
            for k, kind in enumerate(kinds)
            for signal, column in (watched if kind in ON_EVERY_SIGNAL else watched[-1:])
        ]
        self._bind()

    def update(self, signal: str, columns: Sequence[Sequence[float]]) -> list[tuple[int, int]]:
        """Feed a signal's new values; (row, kind) of each alarm.

        columns: one list of values a feature, all of one length.
        """
        alarms = []
        for kind, column, detector, update in self._fed[signal]:
            for row, value in enumerate(columns[column]):
                update(value)
                if detector.drift_detected:
                    alarms.append((row, kind))
        return alarms

    def _bind(self) -> None:
        self._fed: dict[str, list[tuple[int, int, DriftDetector, Callable[[float], Any]]]]
        self._fed = {"level": [], "residual": []}
        for kind, signal, column, detector in self.detectors:
            self._fed[signal].append((kind, column, detector, detector.update))

    def state(self) -> list[Any]:
        """Plain data that `restore` goes on from."""
        return [_plain(detector) for *_, detector in self.detectors]

    def restore(self, state: Sequence[Any]) -> None:
        """Go on from `state()`; DetectorStateError if it is not of these detectors."""
        found = [_object(item) for item in state]
        if not _alike(found, [detector for *_, detector in self.detectors]):
            raise DetectorStateError("the stored detectors are others than the settings name")
        self.detectors = [
            (*key, detector) for (*key, _), detector in zip(self.detectors, found, strict=True)
        ]
        self._bind()


def dump(proposers: Sequence[Proposers | None]) -> NDArray[np.uint8]:
    """The state of many series as bytes; equal states, equal bytes."""
    plain = [None if p is None else p.state() for p in proposers]
    return np.frombuffer(msgspec.msgpack.encode(plain), dtype=np.uint8)


def load(
    content: NDArray[np.uint8], kinds: Sequence[str], channels: int
) -> Iterator[Proposers | None]:
    """What `dump` was given; DetectorStateError for anything that is not river's."""
    try:
        plain = msgspec.msgpack.decode(content.tobytes(), type=list[list[Any] | None])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise DetectorStateError(f"not detector state: {exc}") from None
    for state in plain:
        if state is None:
            yield None
            continue
        proposers = Proposers(kinds, channels)
        proposers.restore(state)
        yield proposers


# Objects as plain data: a list [kind, ...] for what msgpack does not have ----------------------


def _plain(value: Any) -> Any:
    """Numbers and text as they are; everything else tagged."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | float | str | bytes):
        return value
    for cls, kind, take in _CONTAINERS:
        if isinstance(value, cls):
            return [kind, *take(value)]
    if isinstance(value, MethodType):
        return ["method", value.__func__.__name__]
    if _is_rivers(type(value)):
        return ["object", f"{type(value).__module__}:{type(value).__qualname__}", *_parts(value)]
    raise DetectorStateError(f"cannot keep {type(value).__name__} in a checkpoint")


_CONTAINERS: tuple[tuple[type, str, Callable[[Any], Any]], ...] = (
    (deque, "deque", lambda d: (d.maxlen, [_plain(v) for v in d])),
    (list, "list", lambda items: ([_plain(v) for v in items],)),
    (tuple, "tuple", lambda items: ([_plain(v) for v in items],)),
    (dict, "dict", lambda d: ([[_plain(k), _plain(v)] for k, v in d.items()],)),
    (random.Random, "random", lambda r: (_plain(r.getstate()),)),
)


def _parts(value: Any) -> tuple[Any, Any]:
    """(arguments of __new__, state): Rust objects have both, Python objects a __dict__."""
    if hasattr(value, "__getnewargs__"):
        return _plain(tuple(value.__getnewargs__())), value.__getstate__()
    return None, _plain(dict(vars(value)))


_TOO_MUCH = (OverflowError, RecursionError)


def _object(plain: Any, owner: Any = None) -> Any:
    """The inverse of `_plain`; `owner` is whose method a method is."""
    if not isinstance(plain, list):
        return plain
    try:
        kind, *rest = plain
        if kind == "object":
            return _rivers_object(*rest)
        if kind == "method":
            return getattr(owner, _method_name(owner, rest[0]))
        if kind == "deque":
            return deque((_object(v, owner) for v in rest[1]), rest[0])
        if kind == "dict":
            return {_object(k, owner): _object(v, owner) for k, v in rest[0]}
        if kind in ("list", "tuple"):
            items = [_object(v, owner) for v in rest[0]]
            return items if kind == "list" else tuple(items)
        if kind == "random":
            rng = random.Random()
            rng.setstate(_object(rest[0]))
            return rng
    except (TypeError, ValueError, IndexError, AttributeError, *_TOO_MUCH) as exc:
        raise DetectorStateError(f"not detector state: {exc}") from None
    raise DetectorStateError(f"not detector state: {kind!r}")


def _rivers_object(path: str, arguments: Any, state: Any) -> Any:
    cls = _rivers_class(path)
    if arguments is not None:
        made = cls.__new__(cls, *_object(arguments))
        try:
            made.__setstate__(state)
        except BaseException as exc:
            if type(exc).__name__ != "PanicException":  # Rust's, and no Exception
                raise
            raise DetectorStateError(f"not the state of {path}: {exc}") from None
        return made
    made = cls.__new__(cls)
    for name, value in _object(state, made).items():
        setattr(made, name, value)
    return made


def _rivers_class(path: str) -> Any:
    """A class that river's detectors are made of, and nothing else whatever the path says.

    Looked up in modules that are imported already: a path in stored data imports nothing.
    """
    module, _, name = path.partition(":")
    cls = getattr(sys.modules.get(module), name, None)
    if not isinstance(cls, type) or not _is_rivers(cls):
        raise DetectorStateError(f"{path} is not one of river's detectors")
    return cls


def _is_rivers(cls: type) -> bool:
    """Detectors, statistics and the Rust parts of both: river's data sets can write files."""
    package = cls.__module__
    return (
        cls is KSWIN
        or package.startswith("river._river_rust.")
        or (package.startswith("river.") and issubclass(cls, DriftDetector | Statistic))
    )


def _alike(found: Any, new: Any) -> bool:
    """Whether what was stored can stand where a new detector has `new`."""
    if isinstance(new, Number):
        return isinstance(found, Number)
    if type(found) is not type(new):
        return False
    if isinstance(new, list):
        return len(found) == len(new) and all(map(_alike, found, new))
    if isinstance(new, deque):
        return bool(found.maxlen == new.maxlen) and all(isinstance(v, Number) for v in found)
    if isinstance(new, MethodType):
        return found.__func__ is new.__func__
    if hasattr(new, "__dict__"):
        return vars(found).keys() == vars(new).keys() and all(
            _alike(value, getattr(new, name)) for name, value in vars(found).items()
        )
    return True


def _method_name(owner: Any, name: str) -> str:
    if not (isinstance(name, str) and callable(getattr(type(owner), name, None))):
        raise DetectorStateError(f"no method {name!r}")
    return name
