from __future__ import annotations

import numpy as np
import pytest

from pipeline.consolidate.transfer import (
    Transfer,
    curve,
    error_matrix,
    learning_curve_area,
    transfer,
)

NAN = float("nan")


def of(rows: list[list[float]], learned_at: list[int]) -> Transfer:
    """Summaries of a matrix given row by row."""
    return transfer(np.array(rows), learned_at)


def test_three_tasks_by_hand() -> None:
    """Task j learned at row j; everything worked out from the definitions.

    average = (.5 + .7 + .9) / 3;  forgetting = ((.8 - .5) + (.6 - .7)) / 2 over tasks 0 and 1
    backward = ((.5 - .8) + (.7 - .6)) / 2 over tasks 0 and 1;  forward = R[1, 2] - R[0, 2] = .1
    """
    found = of([[0.8, 0.1, 0.2], [0.6, 0.6, 0.3], [0.5, 0.7, 0.9]], [0, 1, 2])
    assert found.average == pytest.approx(0.7)
    assert found.forgetting == pytest.approx(0.1)
    assert found.backward == pytest.approx(-0.1)
    assert found.forward == pytest.approx(0.1)


def test_what_was_learned_last_had_no_time_to_be_forgotten() -> None:
    """Chaudhry et al. 2018 average over j < T: (.8 - .2) / 1, not over the task just learned."""
    assert of([[0.8, 0.1], [0.2, 0.9]], [0, 1]).forgetting == pytest.approx(0.6)


def test_forgetting_is_from_the_best_since_it_was_learned() -> None:
    """Task 1 scored .9 by chance before it was learned at row 1: that was never its own to lose."""
    found = of([[0.5, 0.9], [0.8, 0.6], [0.4, 0.5]], [0, 1])
    assert found.forgetting == pytest.approx(((0.8 - 0.4) + (0.6 - 0.5)) / 2)


def test_a_task_learned_again_counts_from_its_first_time() -> None:
    """Two tasks over four rows, learned at 0 and 1 and gone over again: R[3] against R[l_j]."""
    found = of([[0.5, 0.0], [0.3, 0.6], [0.7, 0.4], [0.6, 0.8]], [0, 1])
    assert found.backward == pytest.approx(((0.6 - 0.5) + (0.8 - 0.6)) / 2)
    assert found.forgetting == pytest.approx(((0.7 - 0.6) + (0.6 - 0.8)) / 2)
    assert found.forward is None  # no task was learned after the second row


def test_gains_are_backward_transfer_and_forgetting_below_zero() -> None:
    """Rising columns: the best row before the last is below the last; backward is the mean rise."""
    found = of([[0.2, 0.0], [0.4, 0.5], [0.6, 0.7]], [0, 1])
    assert found.forgetting == pytest.approx(((0.4 - 0.6) + (0.5 - 0.7)) / 2)
    assert found.backward == pytest.approx((0.4 + 0.2) / 2)


def test_one_consolidation_has_an_average_and_nothing_else_to_say() -> None:
    """There is no earlier or later row: undefined is None, not 0."""
    assert of([[0.4]], [0]) == Transfer(
        average=0.4, forgetting=None, backward=None, forward=None, area=0.4
    )


def test_what_was_not_measured_counts_for_nothing() -> None:
    """A task unknown at row 0 has NaN there; one without a last measurement is left out.

    average over tasks 0 and 2;  forgetting: task 0 has .9 - .6, task 1 is unknown.
    """
    rows = [[0.7, NAN, NAN], [0.9, 0.4, NAN], [0.6, NAN, 0.8]]
    found = of(rows, [0, 1, 2])
    assert found.average == pytest.approx(0.7)
    assert found.forgetting == pytest.approx(0.3)
    assert found.backward == pytest.approx(-0.1)
    assert found.forward is None  # R[0, 2] and R[1, 2] were not measured


def test_nothing_measured_is_none_throughout() -> None:
    """Not a warning, not NaN."""
    assert of([[NAN, NAN]] * 3, [0, 1]) == Transfer(
        average=None, forgetting=None, backward=None, forward=None, area=None
    )


def test_the_matrix_of_rows_knows_what_was_before_a_task_was_learned() -> None:
    """Tasks a, b, c learned in rows 0, 1, 2; before, the parent's skill and the first's."""
    rows = [
        ({"a": 0.75}, {}),
        ({"a": 0.5, "b": 0.25}, {"a": 0.75, "b": -1.0}),
        ({"a": 0.5, "b": 0.125, "c": 0.5}, {"a": 0.5, "b": 0.25, "c": -0.25}),
    ]
    r, learned = error_matrix(["a", "b", "c"], rows, {"a": 9.0, "b": -2.0, "c": -0.5})
    # b's row just before is the first row: its parent's own figure counts, not today's
    expected = [[0.75, -1.0, -0.5], [0.5, 0.25, -0.25], [0.5, 0.125, 0.5]]
    assert learned == [0, 1, 2]
    assert r.tolist() == expected
    found = transfer(r, learned)
    assert found.forgetting == ((0.75 - 0.5) + (0.25 - 0.125)) / 2
    assert found.backward == ((0.5 - 0.75) + (0.125 - 0.25)) / 2
    assert found.forward == -0.25 - -0.5


def test_the_learning_curve_s_area_is_that_of_its_trapezoids() -> None:
    """Losses 4, 2, 1, 1 over three epochs: (3 + 1.5 + 1) / 3; without an epoch, where it began."""
    assert learning_curve_area(4.0, (2.0, 1.0, 1.0)) == pytest.approx(5.5 / 3)
    assert learning_curve_area(4.0, ()) == 4.0


def test_the_learning_curve_is_over_what_had_come_up_by_each_row() -> None:
    """Three tasks, each learned with its row: .8, (.6 + .6) / 2, (.5 + .7 + .9) / 3; its area is
    their mean, and a task that could not be measured counts for nothing."""
    rows = [[0.8, 0.1, 0.2], [0.6, 0.6, 0.3], [0.5, 0.7, 0.9]]
    assert curve(np.array(rows), [0, 1, 2]) == pytest.approx([0.8, 0.6, 0.7])
    assert of(rows, [0, 1, 2]).area == pytest.approx((0.8 + 0.6 + 0.7) / 3)
    rows[0][0], rows[2][1] = NAN, NAN
    assert curve(np.array(rows), [0, 1, 2]) == [None, *map(pytest.approx, (0.6, 0.7))]
    assert of(rows, [0, 1, 2]).area == pytest.approx((0.6 + 0.7) / 2)
