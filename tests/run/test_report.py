from __future__ import annotations

import pytest
from rich.console import Console

from pipeline.run.report import _print_retention, print_answer, retention


def row(version: int, status: str, skills: dict[str, float], parent: dict[str, float]):
    return {"version": version, "status": status, "skills": skills, "parent_skills": parent}


MATRIX = [
    row(1, "retired", {"task 1": 0.75}, {}),
    row(2, "retired", {"task 1": 0.5, "task 2": 0.5}, {"task 1": 0.75, "task 2": -1.0}),
    row(3, "rejected", {"task 1": -9.0}, {"task 1": 0.5}),
    row(
        4,
        "champion",
        {"task 1": 0.25, "task 2": 0.75, "task 10": 0.5},
        {"task 1": 0.5, "task 2": 0.5, "task 10": 0.125},
    ),
]


def test_retention_is_told_of_the_versions_that_were_live() -> None:
    """What a task's first version found there, its parent's skill, is the row above it in R."""
    told = retention(MATRIX, {"task 1": 0.75, "task 2": -1.5, "task 10": -0.25})
    assert told["tasks"] == ["task 1", "task 2", "task 10"]
    assert told["versions"] == [1, 2, 4]
    assert told["R"] == [[0.75, -1.0, -0.25], [0.5, 0.5, 0.125], [0.25, 0.75, 0.5]]


def test_forward_transfer_is_what_was_known_of_a_task_before_it_was_learned() -> None:
    """Task 10 came third: .125 by version 2, -.25 by the first version as it was kept."""
    told = retention(MATRIX, {"task 10": -0.25})
    assert told["forward_transfer"] == pytest.approx(0.125 + 0.25)
    assert told["forgetting"] == pytest.approx(((0.75 - 0.25) + (0.5 - 0.75)) / 2)
    assert told["average"] == pytest.approx(0.5)


def test_without_the_first_version_s_skill_there_is_no_forward_transfer() -> None:
    """Unknown is not 0."""
    assert retention(MATRIX, {})["forward_transfer"] is None


def test_a_task_that_only_rejected_versions_learned_is_a_column(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It is in the lines' averages: hidden, those would be of other figures than those shown."""
    line = {
        "average": -3.75, "skills": {"task 1": 0.5, "task 2": -8.0}, "tasks": ("task 1", "task 2"),
        "learned_at": (0, 1), "rows": (), "matrix": ((0.5, -8.0),), "seconds": 1.0,
    }  # fmt: skip
    kept = {"tasks": ["task 1"], "versions": [1], "R": [[0.625]]}
    _print_retention(Console(width=140), {"retention": kept, "baselines": {"champion": line}})
    rows = [
        [cell.strip() for cell in row.split("│")] for row in capsys.readouterr().out.split("\n")
    ]
    assert ["", "version 1", "0.625", "", ""] in rows
    assert ["", "champion, at the end", "0.500", "-8.000", ""] in rows


def test_without_a_version_there_is_nothing_to_retain() -> None:
    """A run that was too short."""
    assert retention([], {}) == {"tasks": [], "versions": [], "R": []}


def test_what_strangers_wrote_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    """A note is neither markup nor a command to the terminal."""
    note = "[ops] replaced [/x] bearing"
    print_answer({"note": note, "series": "\x1b[31mpress\x1b]0;x\x07"})
    out = capsys.readouterr().out
    assert note in out
    assert "\x1b" not in out
    assert "\\x1b[31mpress" in out
