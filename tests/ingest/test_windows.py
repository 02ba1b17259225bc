from __future__ import annotations

from collections import defaultdict
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.ingest.windows import History
from pipeline.records import FloatArray

D = 2

logs = st.lists(st.integers(0, 3), max_size=40)
cuts = st.lists(st.integers(0, 40), max_size=6)


def log_of(series: list[int]) -> list[tuple[int, FloatArray]]:
    """Readings that all differ; every fifth misses a cell."""
    values = np.arange(1, len(series) * D + 1, dtype=np.float32).reshape(-1, D)
    values[::5, 0] = np.nan
    return list(zip(series, values, strict=True))


def polls_of(log: list[Any], at: list[int]) -> list[list[Any]]:
    edges = [0, *sorted(min(a, len(log)) for a in at), len(log)]
    return [log[a:b] for a, b in pairwise(edges) if a < b]


def grouped(
    poll: list[tuple[int, FloatArray]],
) -> tuple[NDArray[np.int64], NDArray[np.int64], FloatArray]:
    """(slots, starts, values) of a poll, as a decoded batch has them."""
    by_series: dict[int, list[FloatArray]] = {}
    for series, value in poll:
        by_series.setdefault(series, []).append(value)
    starts = np.cumsum([0, *map(len, by_series.values())])
    values = np.concatenate([np.array(rows) for rows in by_series.values()])
    return np.array(list(by_series), dtype=np.int64), starts, values


def windows_by_loop(
    log: list[tuple[int, FloatArray]], window: int
) -> dict[int, list[tuple[FloatArray, bool]]]:
    """The definition: the W readings before each, NaN where there were none, full or not."""
    seen: dict[int, list[FloatArray]] = defaultdict(list)
    found: dict[int, list[tuple[FloatArray, bool]]] = defaultdict(list)
    nothing = np.full(D, np.nan, dtype=np.float32)
    for series, value in log:
        before = [*[nothing] * window, *seen[series]][-window:]
        found[series].append((np.array(before), len(seen[series]) >= window))
        seen[series].append(value)
    return found


def restarted(history: History, slots: int = 4) -> History:
    """One that goes on from the other's state; slots: the most that there are."""
    made, used = History(history.window, D), min(slots, len(history._seen))
    made.restore(history.state(np.arange(used)))
    return made


@settings(max_examples=300)
@given(series=logs, at=cuts, window=st.integers(1, 5), restarts=st.sets(st.integers(0, 6)))
def test_windows_are_the_readings_before_however_the_log_is_cut(
    series: list[int], at: list[int], window: int, restarts: set[int]
) -> None:
    """Any cut into polls, any interleaving, a restart from the state between any two polls."""
    log = log_of(series)
    history = History(window, D)
    found: dict[int, list[tuple[FloatArray, bool]]] = defaultdict(list)
    for number, poll in enumerate(polls_of(log, at)):
        if number in restarts:
            history = restarted(history)
        slots, starts, values = grouped(poll)
        contexts, ready = history.update(slots, starts, values)
        assert contexts.shape == (len(values), window, D)
        for i, slot in enumerate(slots.tolist()):
            found[slot] += [
                (contexts[n].copy(), bool(ready[n])) for n in range(starts[i], starts[i + 1])
            ]
    expected = windows_by_loop(log, window)
    assert found.keys() == expected.keys()
    for slot, rows in expected.items():
        assert [full for _, full in found[slot]] == [full for _, full in rows]
        np.testing.assert_array_equal([w for w, _ in found[slot]], [w for w, _ in rows])


@given(series=st.lists(st.integers(0, 3), min_size=1, max_size=20), window=st.integers(1, 4))
def test_windows_stay_as_they_were_when_the_history_goes_on(series: list[int], window: int) -> None:
    """They are views for speed, but scored after the next series, or poll, has moved on."""
    history = History(window, D)
    poll = grouped(log_of(series))
    contexts, _ = history.update(*poll)
    kept = contexts.copy()
    history.update(*poll)
    np.testing.assert_array_equal(contexts, kept)


def test_a_full_window_needs_w_readings_before_it() -> None:
    """W = 3: the fourth reading is the first that can be forecast."""
    history = History(3, D)
    _, ready = history.update(*grouped(log_of([0] * 5)))
    assert ready.tolist() == [False, False, False, True, True]


@pytest.mark.parametrize("window", [1, 16])
def test_a_new_history_has_an_empty_state_to_go_on_from(window: int) -> None:
    """A partition may be handed over before its first reading."""
    history = restarted(History(window, D))
    _, ready = history.update(*grouped(log_of([0])))
    assert ready.tolist() == [False]
