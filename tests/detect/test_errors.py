"""Detectors of a prediction's error, where it comes with the readings: DDM and its kin."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from river.drift import binary

from pipeline.config import Detect
from pipeline.detect.boundary import BoundaryDetector
from pipeline.detect.detectors import BINARY, Proposers, check, dump, load, watched
from pipeline.errors import SettingsError
from tests.detect.logs import find

AT = 3000


def errors(rows: int, seed: int) -> NDArray[np.float64]:
    """A prediction is wrong in 5 % of the cases, and in half of them from AT on."""
    rng = np.random.default_rng(seed)
    return (rng.random(rows) < np.where(np.arange(rows) < AT, 0.05, 0.5)).astype(np.float64)


def readings(seed: int) -> NDArray[np.float64]:
    """A sensor whose level moves with the errors, which are the second channel."""
    rng = np.random.default_rng(seed + 100)
    sensor = rng.normal(size=5000) + 3.0 * (np.arange(5000) >= AT)
    return np.column_stack([sensor, errors(5000, seed)])


def settings(**changes: Any) -> Detect:
    return Detect(**{"detectors": ("DDM", "HDDM_A"), "error_channel": 1} | changes)


def bare(name: str, values: list[float]) -> list[int]:
    """Rows at which river's own detector alarms; FHDDM takes 1 for what was right."""
    detector, rows = getattr(binary, name.replace("_", ""))(), []
    for row, value in enumerate(values):
        detector.update((value > 0.5) != (name == "FHDDM"))
        if detector.drift_detected:
            rows.append(row)
    return rows


@pytest.mark.parametrize("name", BINARY)
def test_alarms_are_rivers_own_also_after_a_restart(name: str) -> None:
    values = errors(5000, 1).tolist()
    proposers = Proposers([name], 2)
    rows = [[value > 0.5] for value in values]
    found = [row for row, _ in proposers.update("error", rows[:3020])]
    again = load(dump(proposers), Proposers([name], 2))
    assert again is not None
    found += [3020 + row for row, _ in again.update("error", rows[3020:])]
    assert found == bare(name, values)
    assert any(AT <= row < AT + 500 for row in found)


def test_they_see_the_error_and_nothing_else() -> None:
    assert watched(["DDM", "ADWIN"], 2) == {
        "level": [(1, 0), (1, 1)],
        "residual": [(1, 0), (1, 1), (1, 2)],
        "error": [(0, 0)],
    }


@pytest.mark.parametrize("seed", range(3))
def test_a_boundary_names_those_that_had_alarmed(seed: int) -> None:
    (boundary,) = find(readings(seed), settings())
    assert abs(boundary.boundary_row - AT) <= 15
    assert boundary.detectors
    assert set(boundary.detectors) <= {"DDM", "HDDM_A"}


def test_errors_that_are_not_known_are_not_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A label comes with one reading in three, and none was wrong for long: nothing is frozen."""
    seen: list[bool] = []
    update = Proposers.update

    def spy(self: Proposers, signal: str, rows: Any) -> Any:
        if signal == "error":
            seen.extend(value for (value,) in rows)
        return update(self, signal, rows)

    monkeypatch.setattr(Proposers, "update", spy)
    values = readings(0)
    values[:2000, 1] = 0.0
    values[np.arange(5000) % 3 > 0, 1] = np.nan
    find(values, settings(detectors=("DDM",)))
    known = values[~np.isnan(values[:, 1]), 1]
    assert seen == (known > 0.5).tolist()


def test_any_cut_and_a_restart_give_the_same() -> None:
    whole = find(readings(0), settings(), poll=500)
    assert whole
    for poll in (5, 25, 2500):
        assert find(readings(0), settings(), poll=poll) == whole


def test_what_sees_no_error_is_told() -> None:
    with pytest.raises(SettingsError, match=r"DDM .* set detect.error_channel"):
        check(("ADWIN", "DDM"))
    check(("ADWIN", "DDM"), 0)
    with pytest.raises(SettingsError, match="error_channel = 2: there are 2 channels"):
        BoundaryDetector(2, settings(error_channel=2))
