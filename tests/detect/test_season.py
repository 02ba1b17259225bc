"""A season is learned from the readings, taken out of them, and hides nothing that is none."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.config import Detect
from pipeline.detect import season
from pipeline.detect.boundary import BoundaryDetector
from pipeline.detect.season import GROUP, MEMORY, ROWS
from pipeline.detect.signals import BLOCK
from tests.detect.logs import QUICK, Log, feed, find, interleave, of_series, restarted

Array = NDArray[np.float64]


def wave(rows: int, period: float, phases: tuple[float, ...]) -> Array:
    """(rows, d) cosines of size 1."""
    return np.cos(2 * np.pi * np.arange(rows)[:, None] / period + np.array(phases))


def noise(seed: int, rows: int, d: int, phi: float = 0.0) -> Array:
    """(rows, d) of an AR(1) of size 1; phi = 1: a random walk."""
    x = np.random.default_rng(seed).normal(size=(rows, d))
    for t in range(1, rows):
        x[t] = phi * x[t - 1] + np.sqrt(1 - phi**2 if phi < 1 else 1.0) * x[t]
    return x


def fed(x: Array, settings: Detect | None = None, poll: int = 500) -> BoundaryDetector:
    """A detector that has seen one series."""
    detector = BoundaryDetector(x.shape[1], settings or Detect())
    log = interleave({"a": x.astype(np.float32)})
    feed(detector, log.polls([poll] * (len(x) // poll)), {"a": 0})
    return detector


# What is found --------------------------------------------------------------------------------


@pytest.mark.parametrize("period", [130.0, 500.0, 1440.0])
def test_the_period_size_and_phase_of_a_harmonic_in_noise_are_found(period: float) -> None:
    """Means of n are known to sd sqrt(2 / n) of their noise; the period, to half a step of the
    padded spectrum and a tenth of a cycle in all that is kept."""
    n, sizes, phases = 400, np.array([0.2, 0.0]), np.array([0.5, 0.0])
    rows = sizes * wave(n * ROWS, period, (0.5, 0.0))
    sd = 0.1
    x = rows.reshape(n, ROWS, 2).mean(axis=1) + sd * noise(0, n, 2)
    found = season.find(x, np.arange(n))
    assert found is not None
    cycle, harmonic = found
    assert cycle == pytest.approx(1 / period, abs=0.1 / (n * ROWS))
    turned = 2 * np.pi * 0.1 / 2  # of a phase at the beginning, by that error of the period
    shrunk = np.sinc(ROWS / period)
    assert np.abs(harmonic - sizes * np.exp(1j * phases)).max() < (
        sizes[0] * turned + 4 * sd * np.sqrt(2 / n) / shrunk
    )


@pytest.mark.parametrize("phi", [0.0, 0.9, 0.99, 1.0])
@pytest.mark.parametrize("d", [1, 8])
def test_noise_and_wandering_have_no_season(phi: float, d: int) -> None:
    """A random walk looks like a wave for any while, and like another one for the next."""
    for seed in range(3):
        assert fed(noise(seed, 9000, d, phi)).fields["season_cycle"][0] == 0


def test_sensors_that_stand_still_have_no_season() -> None:
    """All is 0 in their spectrum: nothing stands out, and nothing is divided by."""
    assert season.find(np.zeros((100, 2)), np.arange(100)) is None


def test_a_change_of_level_now_and_then_is_no_season() -> None:
    """Regimes of random length that return: steps of three deviations."""
    rng = np.random.default_rng(1)
    levels = np.repeat(rng.integers(0, 2, 40) * 3.0, rng.integers(200, 900, 40))[:9000]
    assert fed(levels[:, None] + noise(2, 9000, 3)).fields["season_cycle"][0] == 0


# What is taken out ----------------------------------------------------------------------------


def test_the_season_that_is_taken_out_is_the_one_that_was_put_in() -> None:
    """Two sensors of different units and phases, a third without a season."""
    sizes = np.array([3.0, 200.0, 0.0])
    x = wave(6000, 400, (0.0, 2.0, 0.0)) * sizes + 0.3 * noise(3, 6000, 3) * [3, 200, 1]
    fields = fed(x).fields
    seen = fields["season_wave"][0] @ fields["season_response"][0]
    t = np.arange(6000)
    out = (seen * np.exp(2j * np.pi * fields["season_cycle"][0] * t)[:, None]).real
    left = (x - out)[4000:].std(axis=0) / [3, 200, 1]
    assert left == pytest.approx([0.3, 0.3, 0.3], rel=0.1)


class Spy:
    """Keeps the pieces that `remove` made."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rows: list[Array] = []
        remove = season.remove

        def kept(*args: Any) -> Any:
            made = remove(*args)
            self.rows.append(made.blocks.readings.reshape(-1, made.blocks.readings.shape[2]))
            return made

        monkeypatch.setattr(season, "remove", kept)


def test_readings_without_the_season_are_those_of_a_plain_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One reading after the other: forecast, mean residual, and the harmonic that follows it."""
    x = (wave(3400, 200, (0.0, 1.0)) + 0.3 * noise(4, 3400, 2)).astype(np.float32)
    x[2000:] += wave(3400, 200, (0.0, 1.0))[2000:].astype(np.float32)  # there is much to follow
    spy = Spy(monkeypatch)
    detector = BoundaryDetector(2, Detect())
    log = interleave({"a": x})
    looked = []  # how it was when the season had just been learned
    for batch in log.polls([2000]):
        feed(detector, [batch], {"a": 0})
        looked.append({n: np.array(a[0]) for n, a in detector.fields.arrays.items()})
    was = looked[0]
    assert was["season_cycle"] > 0
    assert looked[1]["season_cycle"] == was["season_cycle"]  # not sought again

    z = (x - was["fit_location"]) / was["fit_scale"]
    harmonic, expected, residuals = was["season_wave"], [], []
    for t in range(2000, 3400):
        turn = np.exp(2j * np.pi * was["season_cycle"] * t)
        expected.append(x[t] - (harmonic @ was["season_response"] * turn).real)
        forecast = z[t - 1] @ was["fit_coefficients"] + was["fit_intercept"]
        residuals.append((z[t] - forecast) / was["fit_residual"])
        if (t + 1) % (GROUP * BLOCK) == 0:
            turns = np.exp(2j * np.pi * was["season_cycle"] * np.arange(t + 1 - ROWS, t + 1))
            mean = np.rint(np.mean(residuals, axis=0) * 100) / 100
            error = mean - (harmonic * turns.mean()).real
            harmonic = harmonic + 2 * ROWS / MEMORY * error * turns.mean().conj()
            residuals = []
    # a mean that lies between two of its steps may be rounded the other way
    tolerance = 5 * 2 * ROWS / MEMORY * 0.01 * np.abs(was["season_response"]).sum()
    actual = np.concatenate(spy.rows)[-1400:]
    assert np.abs(actual - expected).max() < tolerance
    assert np.abs(x[2000:] - np.array(expected)).max() > 20 * tolerance


def test_without_a_season_the_readings_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """The very same bits, so that nothing changes for a stream that has none."""
    x = noise(5, 4000, 2, 0.8).astype(np.float32)
    spy = Spy(monkeypatch)
    fed(x.astype(np.float64))
    assert np.concatenate(spy.rows).astype(np.float32).tobytes() == x.tobytes()


# The law --------------------------------------------------------------------------------------

SLOTS = {"tide": 0, "noise": 1, "day": 2}


@pytest.fixture(scope="module")
def log() -> Log:
    """Three series, two of which have a season; one with holes."""
    tide = wave(4200, 230, (0.0, 1.0)) + 0.3 * noise(6, 4200, 2)
    tide[np.random.default_rng(7).random(tide.shape) < 0.01] = np.nan
    day = wave(2700, 410, (2.0, 0.0)) + 0.4 * noise(8, 2700, 2)
    return interleave({"tide": tide, "noise": noise(9, 3000, 2), "day": day})


@pytest.mark.parametrize("sizes", [[1, 2, 3, 5, 8, 13, 41, 977, 4001], [37], [640], [5000]])
def test_any_cut_into_polls_gives_the_same_bits(log: Log, sizes: list[int]) -> None:
    """The harmonic moves at fixed blocks, and is that of one series at a time."""
    whole = BoundaryDetector(2, QUICK)
    found = feed(whole, log.polls([]), SLOTS)
    assert (whole.fields["season_cycle"][[0, 2]] > 0).all()
    cut = BoundaryDetector(2, QUICK)
    assert feed(cut, log.polls(sizes * 300), SLOTS) == found
    assert of_series(cut, SLOTS) == of_series(whole, SLOTS)


@pytest.mark.parametrize("at", [3001, 6666, 8500])
def test_a_restart_goes_on_with_the_same_bits(log: Log, at: int) -> None:
    """Before the season is learned, while one series has learned it, and after."""
    whole = BoundaryDetector(2, QUICK)
    found = feed(whole, log.polls([at]), SLOTS)
    first = BoundaryDetector(2, QUICK)
    begun = feed(first, [log.batch(0, at)], SLOTS)
    later = restarted(first, QUICK)
    assert begun + feed(later, log.polls([], start=at), SLOTS) == found
    assert of_series(later, SLOTS) == of_series(whole, SLOTS)


def test_what_a_season_is_kept_in_is_small() -> None:
    """6 kB a series of 8 sensors: it counts on every device, with a season or without."""
    state = fed(noise(0, 300, 8)).state(np.array([0]))
    assert sum(a[:1].nbytes for n, a in state.items() if n.startswith("field.season")) <= 6000


# What it is for -------------------------------------------------------------------------------


def test_a_shift_of_a_seasonal_sensor_is_found() -> None:
    """A wave of size 1 in noise of .3, then one deviation more."""
    x = wave(14_000, 500, (1.0,)) + 0.3 * noise(10, 14_000, 1)
    x[12_000:] += x[:12_000].std()
    found = [b for b in find(x) if b.detected_row >= 12_000]
    assert [b.detected_row // 1000 for b in found] == [12]
    assert abs(found[0].boundary_row - 12_000) <= 20


def test_without_taking_it_out_that_shift_is_lost_in_the_season(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The wave is as large as the shift: this is what the season is taken out for."""
    monkeypatch.setattr(season, "remove", lambda fields, piece, levels, centre: piece)
    x = wave(14_000, 500, (1.0,)) + 0.3 * noise(10, 14_000, 1)
    x[12_000:] += x[:12_000].std()
    assert [b for b in find(x) if b.detected_row >= 12_000] == []


def test_the_harmonic_follows_a_season_that_ends() -> None:
    """What is left of it after n readings is exp(-n / MEMORY), until it is looked for again."""
    x = wave(4000, 200, (0.0,)) + 0.3 * noise(11, 4000, 1)
    x[2400:] = x[2400:] - wave(4000, 200, (0.0,))[2400:]
    sizes = []
    detector = BoundaryDetector(1, Detect())
    values = interleave({"a": x.astype(np.float32)})
    for low, high in pairwise([0, 2400, 3500]):
        feed(detector, [values.batch(low, high)], {"a": 0})
        sizes.append(abs(detector.fields["season_wave"][0, 0]))
    assert sizes[1] / sizes[0] == pytest.approx(np.exp(-1100 / MEMORY), abs=0.15)
