"""Lines in; their summaries as data, as rows of a table and in a sentence out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from pipeline.consolidate.transfer import transfer
from pipeline.run.backtest_report import Baseline, DetectionCost
from pipeline.run.baselines import CHAMPION, Line, Lines

#: Averages that differ by no more are as good as each other.
AS_GOOD = 0.02
#: What `table` holds, and its titles.
CAPTION = (
    "The same requests by every method, on what is held out at the end; "
    "only the champion has a gate"
)
TITLES = ("line", "average", "forgetting", "backward", "forward", "curve's area", "seconds")


def summaries(
    lines: Lines | None, numbers: Mapping[int, int], trained_s: float, rows: Sequence[int] = ()
) -> dict[str, Baseline]:
    """Every line's answer; empty without lines.

    numbers: task id -> its number. trained_s: of the champion's line. rows: (T,) rows read by then.
    """
    if lines is None:
        return {}
    order = sorted(range(len(lines.tasks)), key=lambda j: numbers[lines.tasks[j]])
    names = tuple(f"task {numbers[lines.tasks[j]]}" for j in order)
    learned_at = tuple(lines.learned_at[j] for j in order)
    told = {}
    for name, line in lines.by_name.items():
        mine = Line(r=line.r[:, order], seconds=trained_s if name == CHAMPION else line.seconds)
        told[name] = summary(mine, names, learned_at, rows)
    return told


def summary(
    line: Line, tasks: tuple[str, ...], learned_at: tuple[int, ...], rows: Sequence[int]
) -> Baseline:
    """One line's answer."""
    kept = transfer(line.r, learned_at)
    matrix = [[None if np.isnan(x) else float(x) for x in row] for row in line.r]
    last = dict(zip(tasks, matrix[-1], strict=True))
    return Baseline(
        average=kept.average,
        forgetting=kept.forgetting,
        backward_transfer=kept.backward,
        forward_transfer=kept.forward,
        learning_curve_area=kept.area,
        skills={task: skill for task, skill in last.items() if skill is not None},
        tasks=tasks,
        learned_at=learned_at,
        rows=tuple(rows),
        matrix=tuple(map(tuple, matrix)),
        seconds=round(line.seconds, 3),
    )


def first_row(lines: Mapping[str, Baseline]) -> dict[str, float]:
    """Task -> skill of the first version, on what is held out of each at the end."""
    if CHAMPION not in lines:
        return {}
    line = lines[CHAMPION]
    found = zip(line.tasks, line.matrix[0], strict=True)
    return {task: skill for task, skill in found if skill is not None}


def table(lines: Mapping[str, Baseline]) -> list[tuple[str, ...]]:
    """A row a line, under TITLES."""
    return [
        (
            name,
            *map(
                figure,
                (
                    line.average,
                    line.forgetting,
                    line.backward_transfer,
                    line.forward_transfer,
                    line.learning_curve_area,
                ),
            ),
            f"{line.seconds:.1f}",
        )
        for name, line in lines.items()
    ]


def figure(value: float | None) -> str:
    """Three digits; nothing where nothing is known."""
    return "" if value is None else f"{value:.3f}"


def verdict(lines: Mapping[str, Baseline]) -> str | None:
    """Whether naive fine-tuning ends as well as replay, if it does."""
    replay = next((name for name in ("replay_only", CHAMPION) if name in lines), None)
    if replay is None or "naive" not in lines:
        return None
    naive, kept = lines["naive"].average, lines[replay].average
    if naive is None or kept is None or naive < kept - AS_GOOD:
        return None
    how = "as good as" if naive <= kept + AS_GOOD else "better than"
    return (
        f"Naive fine-tuning ends {how} {replay} here ({naive:.3f} and {kept:.3f} on average): "
        "little of what was learned before is lost without replay."
    )


def cost(told: DetectionCost) -> str:
    """What detection costs the learning, in a sentence."""
    found, true = told.found.average, told.true.average
    if found is None or true is None:
        return "What detection costs cannot be told: a regime was never measured."
    cost = f"costs {true - found:.3f}" if true > found else "costs nothing"
    return (
        f"The same method, without a gate, on the true regimes: {found:.3f} on average with the "
        f"boundaries found, {true:.3f} with the true ones. Detection {cost} here."
    )
