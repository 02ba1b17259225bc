"""A recording through the line: what is answered, and that the truth stays with the scorer."""

from __future__ import annotations

import csv
import json
import random
import sys
from dataclasses import replace as with_
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import numpy as np
import pytest
from msgspec.structs import replace

from pipeline.config import Learn, Settings
from pipeline.detect.tasks import told
from pipeline.errors import PipelineError, SourceError
from pipeline.ingest.recording import SECOND, Chunk, Columns, Recording
from pipeline.ingest.series import group
from pipeline.records import Boundary
from pipeline.run import comparison
from pipeline.run.backtest import Options, backtest
from pipeline.run.backtest_report import SCHEMA, Report, schema, to_json
from pipeline.run.truth import Truth, detection, recurrence_accuracy
from pipeline.serve.times import parse_time
from tests.run.command import tidemark

#: Rows at which the recording below changes, and the regime that begins there.
CHANGES = {0: "a", 1500: "b", 3000: "a"}
ROWS = 4200
LEARN = Learn(epochs=1, adapt_after=128, refine_after=0, segment_capacity=256)
SETTINGS = replace(Settings(), learn=LEARN)
TRUTH = Columns(truth="regime")


def readings(seed: int = 0) -> np.ndarray:
    """(ROWS, 3) i.i.d. noise whose level jumps by 6 sigma on two sensors in regime b."""
    x = np.random.default_rng(seed).normal(size=(ROWS, 3))
    x[1500:3000, :2] += 6.0
    return x


def labels() -> list[str]:
    firsts = list(CHANGES)
    return [CHANGES[max(f for f in firsts if f <= row)] for row in range(ROWS)]


def write(path: Path, truth: list[str] | None = None, **columns: list[Any]) -> Path:
    """The recording as CSV, with the truth and further columns if any."""
    given = {f"s{j}": column.tolist() for j, column in enumerate(readings().T)} | columns
    if truth is not None:
        given["regime"] = truth
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(given)
        writer.writerows(zip(*given.values(), strict=True))
    return path


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("recording") / "plant.csv", labels())


@pytest.fixture(scope="module")
def trained(recording: Path) -> Report:
    return backtest(recording, SETTINGS, Options(columns=TRUTH)).report


@pytest.fixture(scope="module")
def untrained(recording: Path) -> Report:
    return backtest(recording, SETTINGS, Options(columns=TRUTH, train=False)).report


def plain(report: Report) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(to_json(report))
    return answer


# The whole ------------------------------------------------------------------------------------


def test_clear_changes_are_found_where_they_are(untrained: Report) -> None:
    """6 sigma on two of three sensors: both changes, nothing else, those sensors named."""
    assert untrained.rows == ROWS
    assert untrained.series == {"plant": ROWS}
    for boundary, change in zip(untrained.boundaries, (1500, 3000), strict=True):
        assert abs(boundary.boundary_row - change) <= 20
        assert change <= boundary.detected_row < change + 100
        assert {s.name for s in boundary.sensors[:2]} == {"s0", "s1"}
        assert abs(boundary.sensors[0].change) == pytest.approx(boundary.effect, abs=1e-3)
        assert boundary.effect == pytest.approx(6, abs=1)
        assert boundary.end_row is not None
        assert abs(boundary.end_row - change) <= 20
    assert "rose by" in untrained.boundaries[0].text
    assert "fell by" in untrained.boundaries[1].text


def test_the_score_is_told_beside_the_periodic_control(untrained: Report) -> None:
    """2 of 2. Control: alarms at 1050 and 3150; the second hits [3000, 3240): P = R = 1/2."""
    score = untrained.detection
    assert score is not None
    assert (score.hits, score.false_alarms, score.true_boundaries, score.f1) == (2, 0, 2, 1.0)
    assert (score.periodic_control.alarms, score.periodic_control.f1) == (2, 0.5)


def test_training_finds_the_same_boundaries_and_names_their_tasks(
    trained: Report, untrained: Report
) -> None:
    """Detection does not depend on polls or models; b is new, the a after it is task 1 again."""
    rows = [(b.boundary_row, b.detected_row, b.detectors) for b in trained.boundaries]
    assert rows == [(b.boundary_row, b.detected_row, b.detectors) for b in untrained.boundaries]
    for report in (trained, untrained):
        assert [(b.task, b.recurrence) for b in report.boundaries] == [(2, False), (1, True)]
        new, again = report.boundaries
        assert new.distance > 1 > again.distance  # the border
        assert new.text.endswith(told(2, False, new.distance))
        assert again.text.endswith(told(1, True, again.distance))
    assert trained.tasks == untrained.tasks
    first, second = (b.boundary_row for b in trained.boundaries)
    segments = {t.task: [(s.first_row, s.end_row) for s in t.segments] for t in trained.tasks}
    assert segments == {1: [(0, first), (second, ROWS)], 2: [(first, second)]}
    assert trained.detection is not None
    assert trained.detection.recurrence_accuracy == 1.0


def test_versions_are_made_soon_after_what_asked_for_them(trained: Report) -> None:
    """Bootstrap at 128 readings, in the poll that ends at row 500; b within 500 of its 128th."""
    triggers = [(v.trigger, v.row) for v in trained.versions]
    assert triggers[0] == ("bootstrap", 500)
    assert triggers[1][0] == "boundary"
    assert 1500 + 128 <= triggers[1][1] <= 1500 + 128 + 500
    assert trained.retention is not None
    assert trained.retention.tasks[0] == "task 1"


def test_every_line_answers_the_same_requests(trained: Report) -> None:
    """Row 0 is the first version, so all begin alike; frozen stays there; naive is not ours."""
    names = ["champion", "frozen", "naive", "replay_only", "ewc_only", "joint"]
    assert list(trained.baselines) == names
    lines = trained.baselines
    champion = lines["champion"]
    assert champion.tasks == ("task 1", "task 2")
    assert champion.learned_at == (0, 1)
    assert champion.rows[0] == 500
    assert champion.rows[1] == trained.versions[1].row
    for line in lines.values():
        assert (line.tasks, line.rows) == (champion.tasks, champion.rows)
        assert len(line.matrix) == len(line.rows)
        assert line.matrix[0] == champion.matrix[0]
        assert line.skills == dict(zip(line.tasks, line.matrix[-1], strict=True))
    assert set(lines["frozen"].matrix) == {champion.matrix[0]}
    assert lines["frozen"].seconds == 0 < lines["naive"].seconds
    ends = [lines[name].matrix[-1] for name in ("frozen", "naive", "replay_only", "joint")]
    assert len(set(ends)) == len(ends)


def test_what_detection_costs_is_told_of_the_true_regimes(trained: Report) -> None:
    """Found where they truly are, give or take some rows: the same regimes, about the same end."""
    cost = trained.detection_cost
    assert cost is not None
    assert cost.true.tasks == cost.found.tasks == ("a", "b")
    assert cost.true.learned_at == cost.found.learned_at == (0, 1)
    assert len(cost.true.rows) == len(cost.found.rows) == 3  # a, b, a again
    assert cost.found.average == pytest.approx(cost.true.average, abs=0.1)
    assert "Detection costs" in comparison.cost(cost)


def test_baselines_that_are_not_asked_for_are_not_trained(recording: Path, trained: Report) -> None:
    """What is trained otherwise is the same; forward transfer needs no baseline."""
    few = backtest(recording, SETTINGS, Options(columns=TRUTH, baselines=("naive",))).report
    assert list(few.baselines) == ["champion", "naive"]
    assert few.detection_cost is None
    assert few.baselines["naive"].matrix == trained.baselines["naive"].matrix
    none = backtest(recording, SETTINGS, Options(columns=TRUTH, baselines=())).report
    assert list(none.baselines) == ["champion"]
    assert none.retention == trained.retention


def test_without_training_there_is_nothing_of_models(untrained: Report) -> None:
    """Absent, not made up."""
    assert (untrained.versions, untrained.baselines) == ((), {})
    assert untrained.retention is None


def test_the_same_again_but_for_times_and_rates(recording: Path, trained: Report) -> None:
    """A figure that cannot be repeated cannot be compared."""
    again = plain(backtest(recording, SETTINGS, Options(columns=TRUTH)).report)
    once = plain(trained)
    for answer in (once, again):
        del answer["rates"]
        cost = answer["detection_cost"].values()
        for made in (*answer["versions"], *answer["baselines"].values(), *cost):
            del made["seconds"]
    assert again == once


def test_another_seed_trains_another_model(recording: Path, trained: Report) -> None:
    """Or the seed would be for show; the boundaries are not random."""
    other = backtest(recording, SETTINGS, Options(columns=TRUTH, seed=7)).report
    assert (trained.seed, other.seed) == (0, 7)
    assert other.boundaries == trained.boundaries
    assert other.baselines["champion"] != trained.baselines["champion"]


def test_the_truth_column_is_read_by_the_scorer_only(tmp_path: Path, trained: Report) -> None:
    """Shuffled labels: every boundary, task and version is the same, and the score is not."""
    shuffled = labels()
    random.Random(1).shuffle(shuffled)
    path = write(tmp_path / "plant.csv", shuffled)
    other = backtest(path, SETTINGS, Options(columns=TRUTH)).report
    assert other.boundaries == trained.boundaries
    assert other.tasks == trained.tasks
    assert [v.decision for v in other.versions] == [v.decision for v in trained.versions]
    assert other.sensors == trained.sensors == ("s0", "s1", "s2")
    assert other.detection is not None
    assert other.detection.true_boundaries > 100
    assert {n: line.matrix for n, line in other.baselines.items()} == {
        n: line.matrix for n, line in trained.baselines.items()
    }
    assert trained.detection_cost is not None
    assert other.detection_cost is None  # no regime lasts long enough to be learned


def test_without_a_truth_column_all_but_the_score_is_the_same(
    tmp_path: Path, untrained: Report
) -> None:
    """The truth adds a score and nothing else."""
    report = backtest(write(tmp_path / "plant.csv"), SETTINGS, Options(train=False)).report
    assert report.detection is None
    assert report.boundaries == untrained.boundaries


def test_the_readings_of_several_series_do_not_mix(tmp_path: Path) -> None:
    """Two machines in turn, one quiet: rows count within each, and only the other has changed."""
    x, quiet = readings(), np.random.default_rng(5).normal(size=(ROWS, 3))
    path = tmp_path / "two.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["machine", "s0", "s1", "s2"])
        for a, b in zip(x.tolist(), quiet.tolist(), strict=True):
            writer.writerows([["press", *a], ["pump", *b]])
    options = Options(columns=Columns(series="machine"), train=False)
    report = backtest(path, SETTINGS, options).report
    assert report.series == {"press": ROWS, "pump": ROWS}
    assert report.rows == 2 * ROWS
    assert [b.series for b in report.boundaries] == ["press", "press"]
    for boundary, change in zip(report.boundaries, (1500, 3000), strict=True):
        assert abs(boundary.boundary_row - change) <= 20


def test_times_are_told_where_there_is_a_column_of_them(tmp_path: Path) -> None:
    """2026-01-01T00:00:00 and a second a row: the change at row r lies r seconds later."""
    times = [f"2026-01-01 {r // 3600:02}:{r // 60 % 60:02}:{r % 60:02}" for r in range(ROWS)]
    path = write(tmp_path / "plant.csv", time=times)
    report = backtest(path, SETTINGS, Options(columns=Columns(time="time"), train=False)).report
    first = report.boundaries[0]
    expected = times[first.boundary_row]
    assert first.boundary_at == expected.replace(" ", "T") + ".000000+00:00"
    assert f"from {expected} UTC" in first.text


@pytest.mark.parametrize(
    "times",
    [
        [1_767_225_600 + r // 3 for r in range(ROWS)],
        [1_767_225_600 - r for r in range(ROWS)],
        [1_767_225_600 + r + 86_400 * (r > ROWS // 3) for r in range(ROWS)],
    ],
    ids=["the same thrice", "backwards", "a day is missing"],
)
def test_the_rows_order_is_the_readings_order(
    tmp_path: Path, untrained: Report, times: list[int]
) -> None:
    """Times are told, and decide nothing: whatever they are, the same is found in the same rows."""
    path = write(tmp_path / "plant.csv", time=times)
    report = backtest(path, SETTINGS, Options(columns=Columns(time="time"), train=False)).report
    places = [(b.boundary_row, b.detected_row, b.statistic, b.task) for b in report.boundaries]
    assert places == [
        (b.boundary_row, b.detected_row, b.statistic, b.task) for b in untrained.boundaries
    ]
    at = [parse_time(b.boundary_at or "") for b in report.boundaries]
    assert at == [times[row] * SECOND for row, *_ in places]


def test_expected_false_boundaries_stand_beside_the_budget(
    tmp_path: Path, untrained: Report
) -> None:
    """One figure a series; before a series has peaks of its own it is what the budget allows."""
    assert list(untrained.calibration.expected) == ["plant"]
    path = tmp_path / "young.csv"
    path.write_text("pump,a\n" + "one,1\ntwo,2\n" * 50)
    calibration = run(path, series="pump").calibration
    assert calibration.budget == SETTINGS.detect.false_boundaries_per_million
    near = pytest.approx(calibration.budget, abs=1e-3)
    assert calibration.expected == {"one": near, "two": near}


# The schema -----------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["trained", "untrained"])
def test_a_real_answer_is_what_the_schema_says(which: str, request: Any) -> None:
    """By another validator than the library that made the schema."""
    answer = plain(request.getfixturevalue(which))
    jsonschema.validate(answer, json.loads(SCHEMA.read_text()))
    assert answer["schema"] == "tidemark.backtest/1"
    assert msgspec.convert(answer, Report, strict=True).rows == ROWS


@pytest.mark.parametrize("change", [{"rows": 0}, {"more": 1}, {"boundaries": [{}]}, {"seed": "0"}])
def test_the_schema_refuses_what_is_no_answer(untrained: Report, change: dict[str, Any]) -> None:
    """A schema that takes everything says nothing."""
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(plain(untrained) | change, schema())


def test_the_schema_file_is_the_generated_one() -> None:
    """Write it anew with `python -m pipeline.run.backtest_report` when a field is added."""
    assert json.loads(SCHEMA.read_text()) == schema()


# The score ------------------------------------------------------------------------------------


def chunk(series: list[str], truth: list[str]) -> Chunk:
    """Rows of a recording with nothing but a truth."""
    names = sorted(set(series))
    ids = np.array([names.index(name) for name in series])
    n = len(series)
    batch = group(
        topic="t", partition=0, ids=ids, names=names, offsets=np.arange(n), times=np.arange(n),
        values=np.zeros((n, 1), dtype=np.float32), next_offset=n,
    )  # fmt: skip
    return Chunk(batch=batch, truth=[truth[i] for i in batch.order.tolist()])


def truth_of(kind: Any, cells: list[str], series: list[str] | None = None) -> Truth:
    truth = Truth("truth", kind)
    truth.add(chunk(series or ["a"] * len(cells), cells))
    return truth


def boundary(series: str, segment: int, row: int, detected: int) -> Boundary:
    return Boundary(
        series=series, segment=segment, boundary_row=row, detected_row=detected,
        boundary_offset=row, detected_offset=detected, boundary_time=0, detected_time=0,
        signal="level", statistic=6.0, threshold=5.0, detectors=("ADWIN",),
    )  # fmt: skip


def test_regimes_change_where_the_label_does_within_a_series() -> None:
    """a: x x y x, b: y y y, in turn; from one series to the other is no change."""
    truth = truth_of("regimes", list("xyxyyyx"), list("abababa"))
    assert truth.drifts() == {"a": [2, 3], "b": []}
    assert truth.of("b").tolist() == [1, 1, 1]


def test_a_chunk_goes_on_where_the_last_one_ended() -> None:
    """A change between two chunks is one, and none is made by their border."""
    truth = Truth("truth", "regimes")
    for part in (["x", "x"], ["x", "y"], ["z"]):
        truth.add(chunk(["a"] * len(part), part))
    assert truth.drifts() == {"a": [3, 4]}


def test_change_points_are_ones_and_a_run_of_them_is_one() -> None:
    """0 1 1 0 0 1.0 and an empty cell: changes at 1 and 5."""
    assert truth_of("changes", ["0", "1", "1", "0", "", "1.0", "0"]).drifts() == {"a": [1, 5]}


@pytest.mark.parametrize("cell", ["2", "yes", "-1", "nan"])
def test_a_change_point_that_is_neither_0_nor_1_is_refused(cell: str) -> None:
    """Labels taken for change points would score nonsense."""
    with pytest.raises(SourceError, match="0 or 1"):
        truth_of("changes", ["0", cell])


def test_the_score_by_hand() -> None:
    """Two series of 1,000 rows, tolerance 100, warm-up 50.

    z changes at 200, 500: alarms 20 (warm-up: not scored), 230 (hit, delay 30, located at 190),
    260 (false), 540 (hit, delay 40, located at 525). b changes at 600: alarm 710 (too late: false).
    P = 2/4, R = 2/3, F1 = 2 * 2 / (2 * 2 + 2 + 1) = 4/7; delays 30, 40; errors 10, 25; 2 false in
    2,000 rows. Control: z at 166, 500, 833, of which 500 hits; b at 500: P = 1/4, R = 1/3.
    """
    cells = ["1" if r in (200, 500) else "0" for r in range(1000)]
    cells += ["1" if r == 600 else "0" for r in range(1000)]
    truth = truth_of("changes", cells, ["z"] * 1000 + ["b"] * 1000)
    found = [
        boundary("z", 1, 15, 20), boundary("z", 2, 190, 230), boundary("z", 3, 255, 260),
        boundary("z", 4, 525, 540), boundary("b", 1, 700, 710),
    ]  # fmt: skip
    score = detection(truth, found, {"z": 1000, "b": 1000}, tolerance=100, warm_up=50)
    assert (score.true_boundaries, score.hits, score.false_alarms) == (3, 2, 2)
    assert score.precision == pytest.approx(2 / 4)
    assert score.recall == pytest.approx(2 / 3)
    assert score.f1 == pytest.approx(4 / 7)
    assert score.median_delay == 35
    assert score.median_location_error == 17.5
    assert score.false_per_10000 == pytest.approx(2 / 2000 * 10_000)
    assert score.periodic_control.alarms == 4
    assert score.periodic_control.f1 == pytest.approx(2 * (1 / 4) * (1 / 3) / (1 / 4 + 1 / 3))


def test_recurrence_is_right_if_new_is_new_and_task_k_means_what_it_meant() -> None:
    """True x y x z y by tasks 1, 2, 1, 2, 3: y new (right), x again (right), z taken for y (wrong),
    y taken for new (wrong): 2 of 4."""
    truth = truth_of("regimes", [c for c in "xyxzy" for _ in range(10)])
    rows = {("a", k): (10 * k + (k > 0), 10 * k + 11) for k in range(5)}  # a row late
    named = [{"series": "a", "segment": k, "task": task} for k, task in enumerate([1, 2, 1, 2, 3])]
    assert recurrence_accuracy(truth, named, rows) == pytest.approx(2 / 4)
    assert recurrence_accuracy(truth, [], rows) is None


# What cannot be read --------------------------------------------------------------------------


def run(path: Path, **columns: Any) -> Report:
    return backtest(path, SETTINGS, Options(columns=Columns(**columns), train=False)).report


@pytest.mark.parametrize(
    ("text", "columns", "says"),
    [
        ("", {}, "no rows"),
        ("a,b\n", {}, "no rows"),
        ("a,b\n1,2\n", {"truth": "c"}, "no column 'c'; there are a, b"),
        ("a,b\n1,2\n", {"time": "c"}, "no column 'c'"),
        ("a,b\n1,2\n", {"series": "c"}, "no column 'c'"),
        ("a,b\n1,2\n", {"drop": ("c",)}, "no column 'c'"),
        ("a,b\n1,2\n", {"drop": ("a", "b")}, "no column is left"),
        ("a,a\n1,2\n", {}, "two columns are named 'a'"),
        ("1,2\n3,4\n", {}, "first line holds numbers"),
        ("a,b\n1,2\n1,on\n", {}, "line 3: 'on' in column 'b' is no number (--drop b"),
        ("a,b\n1,2\n\n1,on\n", {}, "line 4: 'on'"),
        ("a,b\n1,2\n1,2,3,4\n", {}, "line 3 has 4 cells, the header has 2"),
        ("t,b\n2026-01-01,2\nx,2\n", {"time": "t"}, "line 3: 'x' in column 't' is no time"),
        ("t,b\n1767225600,2\nnoon,2\n", {"time": "t"}, "line 3: 'noon' in column 't' is no time"),
        ("t,b\n1e300,2\n", {"time": "t"}, "line 2: '1e300' in column 't' is no time"),
        ("a,b\n1,x\n", {"truth": "b", "drop": ("a",)}, "no column is left"),
    ],
)
def test_what_is_wrong_with_a_recording_is_one_line(
    tmp_path: Path, text: str, columns: dict[str, Any], says: str
) -> None:
    """File, line and column at fault."""
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(PipelineError) as failed:
        run(path, **columns)
    assert says in str(failed.value)
    assert str(failed.value).startswith(f"{path}: ")
    assert "\n" not in str(failed.value)


def test_the_forms_that_other_programs_write_are_read(tmp_path: Path) -> None:
    """Semicolons, quotes, R's column without a name, missing cells by any name, zones."""
    path = tmp_path / "forms.csv"
    path.write_text(
        '"when";"x";"y"\n"1";"2026-01-01T01:00:00+01:00";1,0;NA\n'.replace("1,0", "1.5")
        + '"2";2026-01-01 00:00:01;;-2e3\n\n"3";2026-01-01T00:00:02Z;inf;null\n'
    )
    (part,) = Recording(path, Columns(time="when"), topic="t").chunks(10)
    nan = np.nan
    expected = np.array([[1.5, nan], [nan, -2000.0], [nan, nan]], dtype=np.float32)
    np.testing.assert_array_equal(part.batch.values, expected)
    day = 1_767_225_600_000_000  # 2026-01-01T00:00:00Z
    assert part.batch.times.tolist() == [day, day + 1_000_000, day + 2_000_000]


@pytest.mark.parametrize("size", [1, 7, 2000, 5000])
def test_chunks_are_the_rows_whatever_their_size(recording: Path, size: int) -> None:
    """Nothing is lost, doubled or moved between two chunks."""
    parts = list(Recording(recording, Columns(truth="regime"), topic="t").chunks(size))
    values = np.concatenate([p.batch.values for p in parts])
    np.testing.assert_array_equal(values, readings().astype(np.float32))
    assert [label for p in parts for label in p.truth] == labels()
    assert max(len(p.batch) for p in parts) <= max(size, 1)
    assert parts[-1].batch.next_offset == ROWS
    times = np.concatenate([p.batch.times for p in parts])
    np.testing.assert_array_equal(times, np.arange(ROWS) * 1_000_000)  # a second a row


def test_labels_stay_beside_their_readings(tmp_path: Path) -> None:
    """A batch is grouped by series: a 1, b 2, a 3, b 4 become a 1 3, b 2 4; so do the labels."""
    path = tmp_path / "two.csv"
    path.write_text("id,x,truth\na,1,one\nb,2,two\na,3,three\nb,4,four\n")
    (part,) = Recording(path, Columns(series="id", truth="truth"), topic="t").chunks(10)
    assert part.batch.values[:, 0].tolist() == [1, 3, 2, 4]
    assert part.truth == ["one", "three", "two", "four"]


def test_parquet_is_read_like_csv(tmp_path: Path, recording: Path, untrained: Report) -> None:
    """The same readings, the same boundaries; a null is a missing cell."""
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    columns = {f"s{j}": column.astype(np.float32) for j, column in enumerate(readings().T)}
    path = tmp_path / "plant.parquet"
    parquet.write_table(arrow.table(columns | {"regime": labels()}), path)
    report = backtest(path, SETTINGS, Options(columns=TRUTH, train=False)).report
    assert report.boundaries == untrained.boundaries
    assert report.detection == untrained.detection


def test_columns_of_parquet_keep_their_meaning(tmp_path: Path) -> None:
    """Null, whole numbers, truth values, timestamps with a zone and names of series."""
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / "types.parquet"
    when = arrow.array([1_000, 2_000], arrow.timestamp("ms", tz="Europe/Vienna"))
    table = {"t": when, "id": ["b", "a"], "x": [1, None], "on": [True, False]}
    parquet.write_table(arrow.table(table), path)
    (part,) = Recording(path, Columns(time="t", series="id"), topic="t").chunks(10)
    assert part.batch.series == ("b", "a")
    assert part.batch.times.tolist() == [1_000_000, 2_000_000]
    expected = np.array([[1.0, 1.0], [np.nan, 0.0]], dtype=np.float32)
    np.testing.assert_array_equal(part.batch.values, expected)


@pytest.mark.parametrize("name", ["none.csv", "none.parquet", "no.jsonl"])
def test_a_file_that_is_not_there_or_no_recording_is_told(tmp_path: Path, name: str) -> None:
    """One line with its name."""
    if name.endswith("jsonl"):
        (tmp_path / name).write_text("{}\n")
    with pytest.raises(SourceError, match=name):
        run(tmp_path / name)


def test_a_broken_parquet_file_is_told(tmp_path: Path) -> None:
    """As is one of another format with its ending."""
    pytest.importorskip("pyarrow")
    (tmp_path / "x.parquet").write_bytes(b"no parquet at all, but long enough to look at")
    with pytest.raises(SourceError, match=r"x\.parquet: "):
        run(tmp_path / "x.parquet")


def test_without_pyarrow_what_to_install_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is an extra."""
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(SourceError, match=r"pip install 'tidemark\[parquet\]'"):
        run(tmp_path / "x.parquet")


def test_the_channels_of_the_settings_choose_the_sensors(recording: Path) -> None:
    """The settings of production say which columns the stream has, and in which order."""
    settings = replace(SETTINGS, stream=replace(SETTINGS.stream, channels=("s2", "s0")))
    report = backtest(recording, settings, Options(train=False)).report
    assert report.sensors == ("s2", "s0")


def test_more_sensors_or_series_than_the_settings_allow_are_refused(tmp_path: Path) -> None:
    """As a stream would refuse them."""
    path = tmp_path / "wide.csv"
    path.write_text("id,a,b\nx,1,2\ny,1,2\n")
    narrow = replace(SETTINGS, stream=replace(SETTINGS.stream, max_channels=1))
    few = replace(SETTINGS, stream=replace(SETTINGS.stream, max_series=1))
    options = Options(columns=Columns(series="id"), train=False)
    with pytest.raises(SourceError, match=r"stream\.max_channels"):
        backtest(path, narrow, options)
    with pytest.raises(SourceError, match=r"stream\.max_series"):
        backtest(path, few, options)


# The command ----------------------------------------------------------------------------------


def test_the_command_prints_json_alone_and_writes_a_page(recording: Path, tmp_path: Path) -> None:
    """What goes into another program has nothing before or after it."""
    pytest.importorskip("plotly")
    (tmp_path / "few.toml").write_text("[detect]\nfalse_boundaries_per_million = 5.5\n")
    done = tidemark(
        tmp_path, "--config", "few.toml", "backtest", str(recording), "--truth-column", "regime",
        "--drop", "s2", "--no-train", "--json", "-", "--html", "out.html",
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    answer = json.loads(done.stdout)
    jsonschema.validate(answer, schema())
    assert answer["sensors"] == ["s0", "s1"]
    assert answer["settings"]["detect"]["false_boundaries_per_million"] == 5.5
    assert "<title>tidemark backtest: plant.csv</title>" in (tmp_path / "out.html").read_text()


def test_the_command_prints_tables_and_writes_json(recording: Path, tmp_path: Path) -> None:
    """For people; both answers of one run."""
    done = tidemark(
        tmp_path, "backtest", str(recording), "--truth-column", "regime", "--no-train",
        "--json", "out.json",
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert "2 of 2 true boundaries found within 240 readings, 0 false alarms" in done.stdout
    assert "As many alarms, evenly spaced: F1 0.500." in done.stdout
    assert "Expected false boundaries in a million readings: " in done.stdout
    assert "(median series), 10 allowed" in done.stdout
    assert json.loads((tmp_path / "out.json").read_text())["detection"]["hits"] == 2


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["nofile.csv"], 1, "nofile.csv: No such file or directory"),
        (["FILE", "--truth-column", "x"], 1, "no column 'x'; there are s0, s1, s2, regime"),
        (["FILE"], 1, "line 2: 'a' in column 'regime' is no number (--drop regime"),
        (["FILE", "--json", "no/such.json"], 1, "no/such.json: no such directory"),
        (["FILE", "--html", "."], 1, ".: is a directory"),
        (["FILE", "--tolerance", "0"], 2, "--tolerance"),
        (["FILE", "--truth-kind", "x"], 2, "--truth-kind"),
        (["FILE", "--seed", "-1"], 2, "--seed"),
        (["FILE", "--baselines", "x"], 2, "--baselines"),
        (["FILE", "--baselines", "none", "--baselines", "naive"], 2, "none goes with no other"),
        (["FILE", "--baselines", "true_boundaries"], 2, "needs --truth-column"),
        ([], 2, "Missing argument"),
    ],
)
def test_a_mistake_is_one_line_with_its_exit_code(
    recording: Path, tmp_path: Path, arguments: list[str], code: int, says: str
) -> None:
    """1 for what failed, 2 for wrong usage, no traceback."""
    given = [str(recording) if a == "FILE" else a for a in arguments]
    done = tidemark(tmp_path, "backtest", *given)
    assert done.returncode == code
    assert says in done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    if code == 1:
        assert done.stderr.count("\n") == 1


# Labels ---------------------------------------------------------------------------------------

STATES = ("idle", "busy")
CLASSIFIER = replace(
    SETTINGS,
    score=replace(SETTINGS.score, model="classifier", classes=STATES, window=4, hidden=16),
    learn=replace(LEARN, epochs=10, adapt_after=1000, segment_capacity=1000),
)
LABELLED = Options(columns=Columns(label="state"), baselines=())


def states(every: int = 2) -> tuple[list[str], list[float]]:
    """Labels of every second reading, empty otherwise; and a sensor that tells them by 6 sigma."""
    rng = np.random.default_rng(3)
    said = rng.integers(0, 2, ROWS)
    cells = ["" if row % every else STATES[n] for row, n in enumerate(said)]
    return cells, rng.normal(6.0 * said).round(3).tolist()


def test_a_classifier_learns_from_a_column_of_labels(tmp_path: Path) -> None:
    """The sensor tells the class but for 1 in 741: Phi(3) = .9987."""
    cells, told = states()
    named = write(tmp_path / "named.csv", s3=told, state=cells)
    report = backtest(named, CLASSIFIER, LABELLED).report
    assert report.sensors == ("s0", "s1", "s2", "s3")
    assert report.retention is not None
    assert report.retention.average > 0.95


def test_labels_change_nothing_of_what_is_found(tmp_path: Path) -> None:
    """The stream is taken for unlabelled: boundaries, tasks and calibration are the same."""
    path = write(tmp_path / "plant.csv", state=states()[0])
    with_labels = backtest(path, CLASSIFIER, with_(LABELLED, train=False)).report
    without = backtest(path, SETTINGS, Options(columns=Columns(drop=("state",)), train=False))
    assert len(with_labels.boundaries) == 2
    for name in ("boundaries", "tasks", "calibration", "events", "sensors"):
        assert getattr(with_labels, name) == getattr(without.report, name)


def test_the_label_column_is_the_one_of_the_settings(tmp_path: Path) -> None:
    """`stream.label` without an option; the option, if there is one."""
    named = replace(CLASSIFIER, stream=replace(CLASSIFIER.stream, label="state"))
    path = write(tmp_path / "plant.csv", state=states()[0])
    options = Options(train=False)
    assert backtest(path, named, options).report.sensors == ("s0", "s1", "s2")
    other = write(tmp_path / "other.csv", mode=states()[0])
    with pytest.raises(SourceError, match="no column 'state'"):
        backtest(other, named, options)
    chosen = with_(options, columns=Columns(label="mode"))
    assert backtest(other, named, chosen).report.sensors == ("s0", "s1", "s2")


@pytest.mark.parametrize(
    ("columns", "settings", "says"),
    [
        (Columns(label="state"), SETTINGS, "labels are for a classifier, not a forecaster"),
        (Columns(label="none"), CLASSIFIER, "no column 'none'"),
        (Columns(label="state", truth="state"), CLASSIFIER, "'state' is the label, and no other"),
        (Columns(label="state", drop=("state",)), CLASSIFIER, "is the label, and no other"),
        (
            Columns(label="bad", drop=("state",)),
            CLASSIFIER,
            "line 7: column 'bad': the label 'gone' is none of",
        ),
    ],
)
def test_a_label_column_that_cannot_be_is_one_line(
    tmp_path: Path, columns: Columns, settings: Settings, says: str
) -> None:
    """No class, no column, or one that is something else."""
    cells, _ = states()
    bad = [*cells[:5], "gone", *cells[6:]]
    path = write(tmp_path / "plant.csv", state=cells, bad=bad)
    with pytest.raises(PipelineError) as caught:
        backtest(path, settings, Options(columns=columns, train=False))
    assert says in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_missing_labels_are_written_in_many_ways(tmp_path: Path) -> None:
    """As other programs write what is missing; in Parquet, null among integers."""
    classes = ("idle", "none", "busy")
    path = tmp_path / "plant.csv"
    path.write_text("x,state\n1,\n2, NA\n3,null\n4,none\n5,busy \n6,0\n")
    columns = Columns(label="state", classes=classes)
    (chunk,) = Recording(path, columns, topic="t").chunks(10)
    nan = np.nan
    np.testing.assert_equal(chunk.batch.labels, np.float32([nan, nan, nan, 1, 2, 0]))
    pyarrow, parquet = (pytest.importorskip(name) for name in ("pyarrow", "pyarrow.parquet"))
    table = pyarrow.table({"x": [1.0, 2.0, 3.0], "state": [2, None, 0], "name": ["busy", None, ""]})
    parquet.write_table(table, tmp_path / "plant.parquet")
    for label, expected in (("state", [2, nan, 0]), ("name", [2, nan, nan])):
        columns = Columns(label=label, classes=classes, sensors=("x",))
        (chunk,) = Recording(tmp_path / "plant.parquet", columns, topic="t").chunks(10)
        np.testing.assert_equal(chunk.batch.labels, np.float32(expected))
