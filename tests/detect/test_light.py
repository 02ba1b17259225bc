"""The light profile: less of each series, and everything else the same."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.config import Detect
from pipeline.detect import reference, signals
from pipeline.detect.boundary import BoundaryDetector
from pipeline.detect.detectors import DetectorStateError, Proposers, load
from pipeline.detect.reference import Forecaster
from pipeline.records import Boundary
from tests.detect.logs import feed, find, interleave, of_series, restarted

LIGHT = Detect(profile="light")
QUICK = Detect(profile="light", warm_up=60, fit_after=200)
SLOTS = {"press": 0, "oven": 1}


def noise(rows: int, channels: int, seed: int = 0) -> NDArray[np.float64]:
    return np.random.default_rng(seed).normal(size=(rows, channels))


def stepping() -> dict[str, NDArray[np.float32]]:
    """Two series that step, one of them with holes and a dead stretch."""
    press, oven = noise(700, 3, 1), noise(600, 3, 2)
    press[400:] += 5.0
    oven[300:] -= 5.0
    oven[np.random.default_rng(3).random(oven.shape) < 0.03] = np.nan
    oven[450:470, 0] = np.nan
    return {"press": press.astype(np.float32), "oven": oven.astype(np.float32)}


LOG = interleave(stepping())


def run(sizes: list[int], stop: int | None = None) -> tuple[list[Boundary], object]:
    detector = BoundaryDetector(3, QUICK)
    found = []
    for k, batch in enumerate(LOG.polls(sizes)):
        if k == stop:
            detector = restarted(detector, QUICK)
        found += feed(detector, [batch], SLOTS)
    return found, of_series(detector, SLOTS)


FOUND, STATE = run([])


@given(sizes=st.lists(st.sampled_from([1, 3, 5, 7, 61, 199]), max_size=40), stop=st.integers(0, 40))
@settings(max_examples=20, deadline=None)
def test_any_cut_and_a_restart_give_the_same_bits(sizes: list[int], stop: int) -> None:
    """The law of the default profile."""
    assert len(FOUND) >= 2
    assert run(sizes, stop) == (FOUND, STATE)


def test_a_level_that_steps_and_noise_that_widens_are_found() -> None:
    """The one by the levels, the other by the joint residual."""
    values = noise(7500, 4)
    values[4500:] *= 2.0
    values[2500:] += 6.0
    found = find(values, LIGHT)
    assert {b.signal for b in found} == {"level", "residual"}


def test_the_only_feature_of_the_residual_is_the_joint_one() -> None:
    """log(.05 d + |U|^2), bit for bit as the default has it in front of U."""
    d, values = 3, noise(1000, 3)
    fit = Forecaster.fit(values)
    one = {name: getattr(fit, name) for name in reference.empty(0, d)}
    blocks = values.reshape(-1, 5, d)
    before = np.concatenate([blocks[:1, 0], blocks[:-1, -1]])
    full = signals.residual(blocks, before, one, None)
    light = signals.residual(blocks, before, one, None, light=True)
    assert light.shape == (200, 5, 1)
    assert light[..., 0].tolist() == full[..., -d - 1].tolist()


def test_nothing_of_another_profile_is_gone_on_with() -> None:
    """A series' detectors are others, and fewer; the partition says so before, by its settings."""
    detector = BoundaryDetector(2, Detect())
    feed(detector, interleave({"a": noise(2000, 2)}).polls([2000]), {"a": 0})
    with pytest.raises(DetectorStateError, match="others than the settings"):
        load(detector.watch.state(np.array([0]))[0], Proposers(LIGHT.detectors, 2, light=True))
