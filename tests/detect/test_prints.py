"""Fingerprints of segments against the raw block means; any cut gives the same bits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from pipeline.config import Detect
from pipeline.detect import features
from pipeline.detect.boundary import BoundaryDetector
from pipeline.detect.prints import LAST, SKIP, STAGES, Print
from pipeline.detect.ring import UNIT
from pipeline.detect.signals import BLOCK
from pipeline.detect.tasks import NEW_FROM, WORTH, distance
from pipeline.records import Boundary
from tests.detect.logs import Log, interleave, restarted

SETTINGS = Detect(warm_up=100, fit_after=400)
Means = dict[str, np.ndarray]


def regime(rows: int, seed: int, *, level: float = 0.0, loud: float = 1.0) -> np.ndarray:
    """(rows, 3) autocorrelated readings about a level."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 3)) * loud
    for t in range(1, rows):
        x[t] += 0.6 * x[t - 1]
    return x + np.array([level, 0.0, -level / 2])


#: Quiet, loud, quiet again, another level, loud again.
CHANGES = (2000, 3600, 5300, 7000)
STREAM = np.concatenate(
    [
        regime(2000, 0),
        regime(1600, 1, loud=4.0),
        regime(1700, 2),
        regime(1700, 3, level=6.0),
        regime(1500, 4, loud=4.0),
    ]
).astype(np.float32)


def log_of(values: np.ndarray) -> Log:
    rows = np.arange(len(values))
    return Log(np.array(["a"] * len(rows)), rows, rows * 1000, values.astype(np.float32))


def run(log: Log, cut: Sequence[int]) -> tuple[list[Boundary], list[Print], BoundaryDetector]:
    """Boundaries and prints of a log, and the detector; it is kept and restored in the middle."""
    detector = BoundaryDetector(log.values.shape[1], SETTINGS)
    slots = {name: k for k, name in enumerate(dict.fromkeys(log.series.tolist()))}
    found: list[Boundary] = []
    prints: list[Print] = []
    for k, batch in enumerate(log.polls(cut)):
        found += detector.update(batch, np.array([slots[name] for name in batch.series]))
        prints += detector.prints
        if k % 7 == 3:
            detector = restarted(detector, SETTINGS)
    return found, prints, detector


def test_a_light_profile_is_known_by_level_and_power() -> None:
    """Its residual has one feature: quiet, loud and quiet again are told apart by it."""
    detector = BoundaryDetector(3, Detect(warm_up=100, fit_after=400, profile="light"))
    prints: list[Print] = []
    for batch in log_of(STREAM[:5300]).polls([500] * 20):
        detector.update(batch, np.array([0]))
        prints += detector.prints
    assert prints
    assert {p.fingerprint.mean.shape for p in prints} == {(1,)}


@pytest.mark.parametrize("warm_up", [1195, 1205, 1600])
def test_a_long_warm_up_teaches_the_first_task_all_the_same(warm_up: int) -> None:
    """Its last fingerprint is of the LAST blocks up to the first one after the warm-up."""
    detector = BoundaryDetector(3, Detect(warm_up=warm_up, fit_after=warm_up))
    prints: list[Print] = []
    for batch in log_of(STREAM[:2000]).polls([100] * 20):
        detector.update(batch, np.array([0]))
        prints += detector.prints
    assert [(p.segment, p.rows, p.final) for p in prints] == [(0, LAST * BLOCK, True)]
    blocks = STREAM[:2000].reshape(-1, BLOCK, 3).mean(axis=1)
    counted = blocks[: warm_up // BLOCK + 1][-(LAST - SKIP) :]
    print_ = prints[0].fingerprint
    assert print_.level_rows == len(counted) * BLOCK
    assert print_.units[0] == pytest.approx(counted.mean(axis=0), abs=0.02)


@pytest.fixture(scope="module")
def raw() -> tuple[list[Boundary], list[Print], BoundaryDetector, Means]:
    """One run, with every block mean that was made beside it."""
    made: dict[str, list[np.ndarray]] = {"level": [], "residual": []}
    real = features.means

    def spy(fields: Any, signal: str, piece: Any, offset: Any) -> Any:
        found = real(fields, signal, piece, offset)
        made[signal].append(found.values[0, : int(found.counts[0])] * UNIT)
        return found

    features.means = spy  # type: ignore[assignment]
    try:
        result = run(log_of(STREAM), [500] * 30)
    finally:
        features.means = real
    return (*result, {signal: np.concatenate(parts) for signal, parts in made.items()})


def test_prints_come_at_their_readings(raw: Any) -> None:
    """255, 480 and 1,200 readings after the boundary, later if it was noticed later; the last one
    is final."""
    found, prints, *_ = raw
    assert all(min(abs(b.boundary_row - c) for b in found) < 50 for c in CHANGES)
    starts = [0, *(b.boundary_row for b in found), len(STREAM)]
    late = [0, *((b.detected_row + 1 - b.boundary_row) for b in found)]
    for segment, after in enumerate(late):
        if starts[segment + 1] - starts[segment] < LAST * BLOCK:
            continue
        mine = [p for p in prints if p.segment == segment]
        stages = [n * BLOCK for n in STAGES]
        at_once = [after] if after >= stages[0] else []
        assert [p.rows for p in mine] == [*at_once, *(n for n in stages if n > after)]
        assert len(mine) >= 2
        assert [p.final for p in mine] == [False] * (len(mine) - 1) + [True]


def test_a_fingerprint_is_of_the_raw_means(raw: Any) -> None:
    """60 readings after the boundary are left out: mean and 20 * variance of the residual's means
    of 20, mean and WORTH * variance of the level's means of 5, and that in the sensors' units."""
    found, prints, detector, means = raw
    starts = [0, *(b.boundary_row for b in found)]
    for made in prints:
        start, end = starts[made.segment], starts[made.segment] + made.rows
        end -= SKIP * BLOCK * (made.final and made.rows < LAST * BLOCK)  # it ended there
        x = means["residual"][-(-(start + SKIP * BLOCK) // 20) : end // 20]
        y = means["level"][start // BLOCK + SKIP : end // BLOCK]
        print_ = made.fingerprint
        if print_.rows:
            x = x[-(print_.rows // 20) :]  # since the forecaster's centre moved last
            assert print_.mean == pytest.approx(x.mean(axis=0), abs=1e-12)
            assert print_.variance == pytest.approx(20 * x.var(axis=0), abs=1e-9)
        assert print_.level_rows == BLOCK * len(y)
        assert print_.level == pytest.approx(y.mean(axis=0), abs=1e-12)
        assert print_.level_variance == pytest.approx(WORTH * y.var(axis=0), abs=1e-9)
        scale, location = detector.fields["scale"][0], detector.fields["location"][0]
        assert print_.units[0] == pytest.approx(location + scale * y.mean(axis=0))
        assert print_.units[1] == pytest.approx(scale * y.std(axis=0))
        if made.segment < 3 and made.rows == LAST * BLOCK:
            assert print_.rows >= made.rows - SKIP * BLOCK - 20


def test_regimes_that_return_are_near_and_others_far(raw: Any) -> None:
    """Segments 0 and 2 are quiet, 1 and 4 loud, 3 elsewhere: as they were made."""
    starts = [0, *(b.boundary_row for b in raw[0]), len(STREAM)]
    long = [k for k in range(len(starts) - 1) if starts[k + 1] - starts[k] >= LAST * BLOCK]
    last = {p.segment: p.fingerprint for p in raw[1] if p.final and p.segment in long}
    names = ("quiet", "loud", "quiet", "elsewhere", "loud")
    regimes = {k: names[int(np.searchsorted(CHANGES, starts[k] + 100))] for k in last}
    assert set(regimes.values()) == set(names)
    for a, one in last.items():
        for b, other in last.items():
            same = regimes[a] == regimes[b]
            assert (distance(one, other) < NEW_FROM) == same, (a, b)


def test_any_cut_gives_the_same_prints() -> None:
    """Two series with holes, in polls of any size, kept and restored between: the same text."""
    holes = STREAM.copy()
    holes[2500:2520, 1] = np.nan
    holes[4000:, 2] = np.nan
    log = interleave({"a": STREAM, "b": holes[400:]})

    def told(cut: Sequence[int]) -> list[tuple[Any, ...]]:
        prints = run(log, cut)[1]
        plain = [(p.series, p.segment, p.rows, p.final, p.fingerprint.to_json()) for p in prints]
        return sorted(plain)

    at_once = told([len(log)])
    assert len(at_once) > 20
    rng = np.random.default_rng(5)
    for cut in ([173] * 200, [5000] * 10, rng.integers(1, 3000, 200).tolist()):
        assert told(cut) == at_once


def test_a_segment_that_ends_early_is_told_at_its_end() -> None:
    """600 readings of a loud regime: its last print leaves 60 readings out before the next one."""
    values = np.concatenate([regime(2000, 0), regime(600, 1, level=6.0), regime(1500, 2)])
    found, prints, _ = run(log_of(values), [500] * 10)
    assert [b.boundary_row for b in found] == pytest.approx([2000, 2600], abs=10)
    first, second = (b.boundary_row for b in found)
    *_, last = (p for p in prints if p.segment == 1)
    assert last.final
    assert last.rows == second - first
    assert last.fingerprint.level_rows == second - first - 2 * SKIP * BLOCK
    assert last.rows < LAST * BLOCK


def test_a_dead_sensor_says_nothing() -> None:
    """Silent, or frozen: NaN where the sensor has a part; the others are as without its dying."""
    whole = np.concatenate([regime(2000, 0), regime(1600, 3, level=6.0)]).astype(np.float32)
    *_, unbroken = run(log_of(whole), [500] * 8)[1]
    for dead in (np.nan, 0.5):
        values = whole.copy()
        values[2200:, 1] = dead
        found, prints, _ = run(log_of(values), [500] * 8)
        assert len(found) == 1, "a dead sensor is no boundary"
        *_, last = (p.fingerprint for p in prints)
        assert np.isnan(last.level).tolist() == [False, True, False]
        assert np.isnan(last.mean).any()
        assert last.level[[0, 2]] == pytest.approx(unbroken.fingerprint.level[[0, 2]])
        assert distance(last, unbroken.fingerprint) < NEW_FROM
