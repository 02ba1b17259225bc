"""The benchmarks' own arithmetic: a wrong score would make every figure wrong."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import detection_data as data
from benchmarks import learning_data, learning_sequence
from benchmarks.detection_ablations import MODULES, changed
from benchmarks.detection_data import Labelled
from benchmarks.detection_goals import F1, Goal, at_least, at_most, row
from benchmarks.detection_page import page
from benchmarks.detection_parts import broken
from benchmarks.detection_peers import adwin, poll
from benchmarks.detection_score import control, covering, location_errors, naming, pooled
from benchmarks.soak_log import IN_A_MESSAGE, SERIES, SoakLog
from benchmarks.soak_page import growth, judged
from pipeline.config import Learn
from pipeline.consolidate.training import Examples
from pipeline.detect.prints import Print
from pipeline.detect.tasks import Fingerprint
from pipeline.model.objectives import CrossEntropy


def labelled(rows: int, truth: tuple[int, ...], tolerance: int) -> Labelled:
    return Labelled(
        name="made",
        readings=np.zeros((rows, 1)),
        truth=truth,
        tolerance=tolerance,
        regimes=np.zeros(rows, dtype=np.int64),
    )


def test_covering_weighs_each_true_segment_by_its_best_overlap() -> None:
    """True 0-60-100, found 0-50-100.

    0-60 is best covered by 0-50: 50 of 60 rows; 60-100 by 50-100: 40 of 50. Weighed by their
    lengths: (60 * 50/60 + 40 * 40/50) / 100 = .82.
    """
    assert covering([60], [50], 100) == pytest.approx(0.82)


@pytest.mark.parametrize(
    ("truth", "found", "expected"),
    [
        ([60], [60], 1.0),
        ([50], [], 0.5),  # each half overlaps the whole in half of it
        ([], [25, 50, 75], 0.25),  # the one segment, by a quarter of it
        ([], [0, 100], 1.0),  # edges divide nothing
    ],
)
def test_covering_at_its_ends(truth: list[int], found: list[int], expected: float) -> None:
    """Nothing found still covers something, and too much covers little."""
    assert covering(truth, found, 100) == pytest.approx(expected)


def test_the_control_raises_as_many_alarms_on_each_series() -> None:
    """Evenly spaced: the middles of equal parts; none where there was none."""
    series = [labelled(100, (), 5), labelled(80, (), 5), labelled(60, (), 5)]
    assert control(series, [[3, 4], [], [1, 2, 3]]) == [[25, 75], [], [10, 30, 50]]


def test_pooled_scores_are_of_counts_and_mean_scores_of_series() -> None:
    """Series a: 2 of 2 found, no false alarm. Series b: 0 of 1 found, 2 false alarms.

    Pooled: 2 * 2 / (4 alarms + 3 boundaries); mean: (1 + 0) / 2; 4 alarms for 3 transitions.
    """
    series = [labelled(100, (10, 50), 20), labelled(100, (10,), 20)]
    score = pooled(series, [[12, 50], [40, 60]], [[11, 44], [39, 60]])
    assert (score.hits, score.false_alarms, score.transitions) == (2, 2, 3)
    assert score.f1 == pytest.approx(4 / 7)
    assert score.mean_f1 == pytest.approx(0.5)
    assert score.alarms_a_transition == pytest.approx(4 / 3)
    assert score.median_delay == 1  # of 2 and 0
    assert score.median_error == 3.5  # of 1 and 6


def test_only_the_alarm_that_hits_says_where_the_boundary_is() -> None:
    """The second alarm after 10 is false, that after 50 too late, and none is after 80."""
    places = {12: 8, 15: 10, 75: 50}
    assert location_errors(places, [10, 50, 80], 100, 20) == [2]


def test_trimmed_runs_keep_rows_and_change_points_together() -> None:
    """Row k of a run says k, so what is left of it tells how much was cut."""
    runs = [(str(i), np.arange(1000.0)[:, None], (310, 600, 800)) for i in range(40)]
    cuts = []
    for one in data.trimmed(runs, 0, 60):
        cut = int(one.readings[0, 0])
        cuts.append(cut)
        assert len(one.readings) == 1000 - cut
        assert [one.readings[k, 0] for k in one.truth][-2:] == [600, 800]
        assert (len(one.truth) == 3) == (310 - cut > data.WARM_UP)
    assert 0 <= min(cuts) < max(cuts) < data.SKAB_TRIM
    assert len(set(cuts)) > 20  # at random, or the position gives the change away
    again = [int(one.readings[0, 0]) for one in data.trimmed(runs, 0, 60)]
    assert again == cuts
    assert [int(one.readings[0, 0]) for one in data.trimmed(runs, 1, 60)] != cuts


def test_half_of_the_sensors_must_fire_for_the_peer() -> None:
    """A large step on one of four sensors is no alarm, on two of them it is one, soon after it."""
    rng = np.random.default_rng(0)
    readings = rng.normal(size=(2000, 4))
    readings[1000:, 0] += 8
    assert adwin(readings) == []
    readings[1000:, 1] += 8
    assert [1000 <= alarm < 1100 for alarm in adwin(readings)] == [True]


def test_the_peer_leaves_out_sensors_that_say_nothing() -> None:
    """Of four sensors two are dead: half of the others is one."""
    readings = np.random.default_rng(0).normal(size=(2000, 4))
    readings[1000:, 0] += 8
    readings[:, 2], readings[:, 3] = np.nan, 5.0
    assert [1000 <= alarm < 1100 for alarm in adwin(readings)] == [True]


def shown(segment: int, level: float, rows: int, *, final: bool = True) -> Print:
    """A fingerprint of one sensor at a level."""
    fingerprint = Fingerprint(
        rows=rows,
        level_rows=rows,
        mean=np.full(4, level),
        variance=np.ones(4),
        centre=np.zeros(1),
        level=np.array([level]),
        level_variance=np.ones(1),
        units=np.array([[level], [1.0]]),
    )
    return Print(series="0", segment=segment, rows=rows, final=final, fingerprint=fingerprint)


REGIMES = np.repeat([0, 1, 0, 1], 500)
STARTS = [500, 1000, 1500]


def test_a_task_is_right_if_its_regime_made_it() -> None:
    """Regimes 0 1 0 1 at levels 0 and 100: new, then each its own again: 3 of 3 right.

    At level 0 for both, the second is taken for the first's (wrong), the third is right, the
    fourth is wrong again.
    """
    far = naming([shown(k, 100 * (k % 2), 500) for k in range(4)], REGIMES, STARTS, 500)
    assert (far.segments, far.right, far.tasks) == (3, 3, 2)
    same = naming([shown(k, 0, 500) for k in range(4)], REGIMES, STARTS, 500)
    assert (same.segments, same.right, same.tasks) == (3, 1, 1)


def test_a_second_task_of_a_regime_is_wrong() -> None:
    """The regime comes again at another level: it is new to the line, but not in truth."""
    prints = [shown(k, 100 * k, 500) for k in range(3)]
    named = naming(prints, np.repeat([0, 1, 0], 500), STARTS[:2], 500)
    assert (named.segments, named.right, named.tasks) == (2, 1, 3)


def test_an_early_name_is_by_the_early_fingerprint_and_teaches_nothing() -> None:
    """At 300 rows the second segment looks like the first (wrong); at its end it does not."""
    prints = [shown(0, 0, 500), shown(1, 0, 256, final=False), shown(1, 100, 500)]
    early = naming(prints, REGIMES[:1000], [500], 300)
    assert (early.segments, early.right, early.tasks) == (1, 0, 2)
    assert naming(prints, REGIMES[:1000], [500], 500).right == 1


def test_a_segment_without_a_fingerprint_is_not_named() -> None:
    """It ended too early."""
    prints = [shown(0, 0, 500), shown(2, 0, 500)]
    assert naming(prints, REGIMES[:1500], [500, 600], 500).segments == 1


def test_a_goal_includes_its_bound_and_nothing_misses_it() -> None:
    """No figure is no success."""
    assert at_least(0.78).met(0.78)
    assert not at_least(0.78).met(0.7799)
    assert at_most(0).met(0)
    assert not at_most(400).met(401)
    assert not at_most(400).met(None)
    assert Goal("", "yes").met("yes")
    assert not Goal("", "yes").met("2 of 3")


def test_the_page_names_what_missed() -> None:
    """A reader must not have to look for it."""
    rows = [
        row("streams", "AReM", F1, 0.5, 0.25, 0.125),
        row("streams", "hard", F1, 0.95, 0.25, 0.125),
    ]
    text = page(rows, [], "# Detection", {"streams": "Notes."})
    assert "Goals met: 1 of 2." in text
    assert "- streams, AReM: F1 pooled 0.500 (goal >= 0.78)" in text
    assert "streams, hard: F1" not in text
    assert "| AReM | F1 pooled | 0.500 | >= 0.78 | **MISSED** | 0.250 | 0.125 |" in text


def test_a_poll_of_many_series_has_each_series_own_rows() -> None:
    """Three series of two readings, from row 10 on: offsets interleave, times go on."""
    values = np.arange(12, dtype=np.float32).reshape(3, 2, 2)
    batch = poll(values, 10)
    assert batch.series == ("0", "1", "2")
    assert batch.starts.tolist() == [0, 2, 4, 6]
    assert batch.offsets.tolist() == [30, 33, 31, 34, 32, 35]
    assert np.array_equal(batch.values[2:4], values[1])
    assert batch.times.tolist() == [10_000_000, 11_000_000] * 3


def test_a_sensor_breaks_as_it_says() -> None:
    """Each way changes nothing before it happens."""
    x = np.arange(10.0)[:, None]
    assert np.isnan(broken(x, "NaN from the start")).all()
    assert np.flatnonzero(np.isnan(broken(x, "NaN from the middle"))).tolist() == [5, 6, 7, 8, 9]
    assert broken(x, "dead (constant)").tolist() == [[0.0]] * 10
    assert broken(x, "frozen in the middle")[:, 0].tolist() == [0, 1, 2, 3, 4, 5, 5, 5, 5, 5]
    assert broken(x, "clean").tolist() == x.tolist()


@pytest.mark.parametrize("name", ["FAR", "TESTS"])
def test_an_ablation_reaches_every_module_and_is_undone(name: str) -> None:
    """A module that imported the constant would go on with the old one."""
    holders = [m for m in MODULES if hasattr(m, name)]
    before = [getattr(m, name) for m in holders]
    assert holders
    with changed({name: lambda _: "off"}):
        assert [getattr(m, name) for m in holders] == ["off"] * len(holders)
    assert [getattr(m, name) for m in holders] == before


def test_an_ablation_of_nothing_is_refused() -> None:
    """Else the table would say that the part is worth nothing."""
    with pytest.raises(LookupError, match="NO_SUCH"), changed({"NO_SUCH": lambda _: 0}):
        pass


def test_without_the_streams_one_line_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are no part of the repository: whoever has cloned only that must be told."""
    monkeypatch.setattr(data, "SHARED", tmp_path)
    data.generators.cache_clear()
    with pytest.raises(SystemExit) as caught:
        data.generators()
    assert caught.value.code == (
        "bench-detection: ../shared/bench/streams.py is not there; it makes the streams"
    )
    assert data.prototype() is None
    assert data.missing()[0] == "../shared/data/arem"


def test_summary_of_the_error_matrix_by_hand() -> None:
    """Average of the last row; forgetting (.9 - .6 and .8 - .7) / 2, the last task has none."""
    matrix = np.array([[0.9, 0.1, 0.2], [0.7, 0.8, 0.1], [0.6, 0.7, 0.95]])
    average, forgetting = learning_sequence.summary(matrix)
    assert average == pytest.approx((0.6 + 0.7 + 0.95) / 3)
    assert forgetting == pytest.approx((0.3 + 0.1) / 2)


def test_held_out_windows_of_a_segment_share_no_reading_with_the_others() -> None:
    """Readings that count from 0 say which windows they are in."""
    train, held = learning_data._windows(np.arange(1200, dtype=np.float32)[:, None])
    seen = [{int(v) for part in (e.x, e.y) for v in part.ravel()} for e in (train, held)]
    assert len(train) > 2 * len(held) > 0
    assert not seen[0] & seen[1]
    assert (train.y[:, 0] - train.x[:, -1, 0] == 1).all()


def test_a_learner_goes_through_the_trainers_parts() -> None:
    """Two tasks that disagree: replay keeps the first, fine-tuning loses it."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 2000, 4, generator=generator)
    tasks = [Examples(x=x[0] + 1, y=(x[0, :, 0] > 0).long())]
    tasks += [Examples(x=x[1] - 1, y=(x[1, :, 0] < 0).long())]
    kept = {}
    for strategy in ("ewc_replay", "fine_tune", "joint"):
        learn = Learn(strategy=strategy, epochs=10, reservoir_capacity=100)
        matrix, seconds = learning_sequence.run(
            learning_data.mlp(0, 4, 16, 2),
            CrossEntropy(),
            learn,
            0,
            tasks,
            lambda model: [float((model(t.x).argmax(dim=1) == t.y).float().mean()) for t in tasks],
        )
        assert seconds > 0
        kept[strategy] = matrix[-1, 0]
    assert kept["joint"] > 0.9
    assert kept["fine_tune"] < kept["ewc_replay"] - 0.1


def held(megabytes: np.ndarray) -> dict[str, object]:
    """What is said of resident memory that was so large, at even distances."""
    return judged(
        "resident memory",
        [{"readings": 1000 * k, "resident memory": mb} for k, mb in enumerate(megabytes.tolist())],
    )


def test_what_grows_is_not_called_flat() -> None:
    """Of 401 samples the first quarter is warm-up. A leak of 12 % over the other 301 sets the last
    tenth 5.4 % above the mean; a jump by 8 % in it, 7.2 %; one by 5 % would be 4.5 %."""
    quiet = 400.0 + np.arange(401) % 2
    assert held(quiet)["verdict"] == "flat"
    leak = np.where(np.arange(401) < 100, 400.0, 400.0 * (1 + 0.12 * (np.arange(401) - 100) / 300))
    assert held(leak)["verdict"] != "flat"
    assert held(leak)["a tenth away, %"] == pytest.approx(5.4 / 1.06, abs=0.1)
    late = np.arange(401) >= 371
    assert held(quiet * (1 + 0.08 * late))["verdict"] != "flat"
    assert held(quiet * (1 + 0.05 * late))["verdict"] == "flat"


def test_warm_up_may_grow() -> None:
    """A process that fills its buffers is not yet at rest."""
    sizes = np.minimum(4.0 * np.arange(401), 400.0)
    assert held(sizes)["verdict"] == "flat"
    assert held(np.zeros(401))["verdict"] == "flat"


def test_history_is_told_by_the_boundary() -> None:
    """From a quarter on: 30 boundaries and 6 MB, so 200 kB each. And 100 readings in the second
    quarter in a processor's second, in the last in five.
    """
    samples = [
        {
            "readings": 100 * k,
            "processor seconds": seconds,
            "boundaries": 10.0 * k,
            "history": 2.0 * k + 1,
        }
        for k, seconds in enumerate((0, 1, 2, 4, 9))
    ]
    found = growth(samples)
    assert found["kB of history a boundary"] == 200.0
    assert list(found.values())[-2:] == [10_000.0, 50_000.0]


def test_a_soak_moves_each_series_to_the_next_regime_in_its_turn() -> None:
    """128 readings of each regime: series 0 is in the second one at its reading 128, series 32,
    half a regime ahead, at 64; and message n is the same whenever it is asked for."""
    log = SoakLog(128)
    for series, first in ((0, 128), (32, 64)):
        shown = [
            np.array(json.loads(log.message(turn * SERIES + series)[1])["values"])
            for turn in range(4)
        ]
        levels = np.concatenate(shown)[:, 0]
        assert abs(levels[first + 60] - levels[first - 60]) > 4 * log.deviation[0]
        before = levels[:first]
        assert np.abs(before - before.mean()).max() < 5 * log.deviation[0]
    assert SoakLog(128).message(700) == log.message(700)
    assert len(shown[0]) == IN_A_MESSAGE
