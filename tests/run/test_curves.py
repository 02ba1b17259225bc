"""What is drawn of the lines: steps where they are, R as it is, nothing without a version."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.run.backtest_report import Baseline, Retention
from pipeline.run.curves import LOW, TASKS, curves, matrix

ROWS = 3000


def line(*matrix: tuple[float | None, ...]) -> Baseline:
    """Two tasks over the versions after rows 500, 1500 and 2500; the second came up with row 1."""
    return Baseline(
        skills={}, tasks=("task 1", "task 2"), learned_at=(0, 1), rows=(500, 1500, 2500),
        matrix=matrix, seconds=1.0,
    )  # fmt: skip


LINES = {
    "champion": line((0.5, -9.0), (0.4, 0.2), (0.45, None)),
    "naive": line((0.5, -9.0), (-0.5, 0.6), (0.7, 0.1)),
}


@pytest.fixture
def figure() -> dict[str, Any]:
    return curves(LINES, ROWS)


def test_every_line_has_a_curve_a_task(figure: dict[str, Any]) -> None:
    """Four: each line is named once in the legend, each task has an axis of its own."""
    assert [(t["name"], t["yaxis"]) for t in figure["data"]] == [
        ("champion", "y"), ("naive", "y"), ("champion", "y2"), ("naive", "y2"),
    ]  # fmt: skip
    assert [t["showlegend"] for t in figure["data"]] == [True, True, False, False]
    assert len({t["line"]["color"] for t in figure["data"]}) == 2
    assert [n["text"] for n in figure["layout"]["annotations"]] == ["task 1", "task 2"]


def test_a_curve_is_steps_from_version_to_version_up_to_the_end(figure: dict[str, Any]) -> None:
    """The model of row 500 answers until row 1500; the last one until the recording ends."""
    first, second = figure["data"][0], figure["data"][3]
    assert first["x"] == second["x"] == [500, 1500, 2500, ROWS]
    assert first["line"]["shape"] == "hv"
    assert first["y"] == [0.5, 0.4, 0.45, 0.45]
    assert second["y"] == [LOW, 0.6, 0.1, 0.1]  # -9 is told, not drawn
    assert second["text"] == ["-9.00", "0.60", "0.10", "0.10"]


def test_what_was_not_measured_is_a_gap(figure: dict[str, Any]) -> None:
    """Not 0, not -1."""
    assert figure["data"][2]["y"][2:] == [None, None]


def test_a_dotted_line_is_where_the_task_came_up(figure: dict[str, Any]) -> None:
    """Task 1 with the first version at 500, task 2 with the second at 1500."""
    assert [(s["x0"], s["yref"]) for s in figure["layout"]["shapes"]] == [
        (500, "y domain"), (1500, "y2 domain"),
    ]  # fmt: skip


def test_axes_share_the_plot_without_overlap(figure: dict[str, Any]) -> None:
    """From the top down."""
    one, two = (figure["layout"][axis]["domain"] for axis in ("yaxis", "yaxis2"))
    assert one[1] == 1
    assert 0 <= two[0] < two[1] < one[0]


def test_no_more_than_the_first_tasks_are_drawn() -> None:
    """A page with a hundred plots is not looked at."""
    n = TASKS + 5
    many = Baseline(
        skills={}, tasks=tuple(f"task {k}" for k in range(n)), learned_at=(0,) * n, rows=(500,),
        matrix=((0.5,) * n,), seconds=0.0,
    )  # fmt: skip
    assert len(curves({"champion": many}, ROWS)["data"]) == TASKS


def test_r_is_a_map_of_versions_by_tasks() -> None:
    """First version on top; drawn from -1 up, told as it is; a gap where it was not measured."""
    kept = Retention(
        tasks=("task 1", "task 2"), versions=(1, 3), R=((0.5, -14.6), (0.25, None))
    )  # fmt: skip
    (heat,) = matrix(kept)["data"]
    assert heat["z"] == [[0.5, LOW], [0.25, None]]
    assert heat["text"] == [["0.50", "-14.60"], ["0.25", ""]]
    assert (heat["x"], heat["y"]) == (("task 1", "task 2"), ["version 1", "version 3"])
    assert matrix(kept)["layout"]["yaxis"]["autorange"] == "reversed"
