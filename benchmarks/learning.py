"""Consolidation as it is shipped, on tasks with known figures, beside Avalanche in the same run.

    make bench-learning
    make bench-learning ARGS="--only digits gas --seeds 2 --json"

Settings were chosen on digits with images=123 and seeds 10-12, on splits 2-4 of the gas rows and on
forecasting orders 10-12; reported are images 7 and 8, other splits, and seeds from 0 on. Images 7
and 8 were looked at between choices; images 9 stand beside them as a check.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import learning_peer as peer
from benchmarks import learning_speed as speed
from benchmarks import result
from benchmarks.detection_goals import Goal, at_least, at_most, judged
from benchmarks.detection_page import plain
from benchmarks.learning_data import Problem, digits, forecasting, gas
from benchmarks.learning_sequence import run, summary
from pipeline.config import Learn

PAGE = Path(__file__).parent / "learning.md"
#: Those that are reported, and those that check them.
IMAGES, CHECK = (7, 8), (9,)
GAS_SPLITS = (1, 5, 6, 7, 8)
#: Passes over a task: digits and gas are many rows, a segment of a stream is few.
EPOCHS = {"digits": 1, "gas": 10, "forecasting": 5}
#: Pairs of trainings, ours and the peer's, of which the median counts.
REPEAT = 5
KEPT = {"digits": 500, "gas": 500, "forecasting": 2000}

Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="*", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--markdown", action="store_true", help=f"write benchmarks/{PAGE.name}")
    parser.add_argument("--json", action="store_true", help="JSON on standard output")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[Row] = []
    for part in args.only:
        for row in PARTS[part](range(args.seeds)):
            rows.append(row)
            print(row, file=sys.stderr)
    result.write(
        "learning",
        rows,
        seeds=list(range(args.seeds)),
        compared=["torch", "numpy"],
        as_json=args.json,
    )
    if args.markdown:
        PAGE.write_text(_page(rows, args))


def _row(
    case: str,
    line: str,
    figure: str,
    values: Sequence[float],
    goal: Goal | None,
    middle: Callable[[Sequence[float]], Any] = np.mean,
) -> Row:
    """What is not measured has no value."""
    value = float(middle(values)) if len(values) else None
    return {
        "case": case,
        "line": line,
        "figure": figure,
        "value": value,
        "spread": float(np.std(values)) if len(values) else None,
        **judged(value, goal),
    }


def _learn(part: str, strategy: str) -> Learn:
    return Learn(
        strategy=strategy,  # type: ignore[arg-type]
        epochs=EPOCHS[part],
        reservoir_capacity=KEPT[part],
    )


def _figures(
    problems: Sequence[Problem], seeds: Sequence[int], learn: Learn
) -> tuple[list[float], list[float], list[float]]:
    """Averages, forgettings and seconds."""
    found = []
    for problem, seed in zip(problems, seeds, strict=True):
        matrix, seconds = run(
            problem.model(), problem.objective, learn, seed, problem.tasks, problem.measure
        )
        found.append((*summary(matrix), seconds))
    average, forgetting, seconds_ = (list(column) for column in zip(*found, strict=True))
    return average, forgetting, seconds_


#: (goal of the average, of forgetting), in per cent.
DIGITS = {
    ("permuted", "ewc_replay"): (at_least(93.0), at_most(0.4)),
    ("rotated", "ewc_replay"): (at_least(92.5), at_most(1.3)),
    ("permuted", "ewc_only"): (at_least(88.0), at_most(2.8)),
    ("rotated", "ewc_only"): (at_least(75.0), at_most(12.0)),
}
#: The default and its parts, on all images; the others on the first.
SHIPPED = ("ewc_replay", "replay_only", "ewc_only")
STRATEGIES = (
    "ewc_replay",
    "replay_only",
    "ewc_only",
    "derpp",
    "der",
    "replay",
    "fifo",
    "ewc",
    "online_ewc",
    "fine_tune",
    "joint",
)


def _digits(seeds: Sequence[int]) -> Iterator[Row]:
    python = peer.environment()
    for kind in ("permuted", "rotated"):
        case = f"{kind} digits"
        for strategy in STRATEGIES:
            images = IMAGES if strategy in SHIPPED else IMAGES[:1]
            yield from _digits_of(python, case, kind, strategy, images, seeds)
        yield from _peer(python, kind, seeds)
        for strategy in SHIPPED:
            yield from _digits_of(python, f"{case}, a check", kind, strategy, CHECK, seeds)


def _digits_of(
    python: str, case: str, kind: str, strategy: str, images: Sequence[int], seeds: Sequence[int]
) -> Iterator[Row]:
    runs = [(drawn, seed) for drawn in images for seed in seeds]
    problems = [digits(python, kind, seed, drawn) for drawn, seed in runs]
    learn = _learn("digits", strategy)
    average, forgetting, _ = _figures(problems, [seed for _, seed in runs], learn)
    goals = DIGITS.get((kind, strategy), (None, None))
    yield _row(case, strategy, "average, %", 100 * np.array(average), goals[0])
    yield _row(case, strategy, "forgetting, %", 100 * np.array(forgetting), goals[1])


def _peer(python: str, kind: str, seeds: Sequence[int]) -> Iterator[Row]:
    """Avalanche on its own images, with our optimiser."""
    for method in ("naive", "er", "ewc", "ewc_er"):
        answers = [peer.ask(python, kind, method, seed) for seed in seeds]
        for figure in ("average", "forgetting"):
            values = [100 * answer[figure] for answer in answers]
            yield _row(f"{kind} digits", f"Avalanche {method}", f"{figure}, %", values, None)


def _gas(seeds: Sequence[int]) -> Iterator[Row]:
    goals = {"ewc_replay": at_least(0.985), "ewc_only": at_least(0.95)}
    runs = [(split, seeds[k % len(seeds)]) for k, split in enumerate(GAS_SPLITS)]
    problems = [gas(seed, split) for split, seed in runs]
    for strategy in STRATEGIES:
        learn = _learn("gas", strategy)
        average, forgetting, _ = _figures(problems, [seed for _, seed in runs], learn)
        yield _row("gas drift", strategy, "average", average, goals.get(strategy))
        yield _row("gas drift", strategy, "forgetting", forgetting, None)


def _forecasting(seeds: Sequence[int]) -> Iterator[Row]:
    for stream in ("arem", "synthetic"):
        problems = [forecasting(stream, seed) for seed in seeds]
        found = {
            strategy: _figures(problems, seeds, _learn("forecasting", strategy))
            for strategy in ("joint", "fine_tune", "ewc_replay", "replay_only", "ewc_only")
        }
        joint, naive = np.mean(found["joint"][0]), np.mean(found["fine_tune"][1])
        for strategy, (average, forgetting, _) in found.items():
            ours = strategy == "ewc_replay"
            case = f"forecasting, {stream}"
            yield _row(case, strategy, "average skill", average, None)
            share, lost = 100 * np.array(average) / joint, 100 * np.array(forgetting) / naive
            yield _row(case, strategy, "% of joint", share, at_least(95) if ours else None)
            yield _row(
                case, strategy, "forgetting, % of naive's", lost, at_most(15) if ours else None
            )


def _speed(_: Sequence[int]) -> Iterator[Row]:
    python = peer.environment()
    for case, figure, values, goal in chain(
        speed.training(python, REPEAT), speed.diagonal(), speed.memory()
    ):
        yield _row(case, "", figure, values, goal, np.median)


PARTS: dict[str, Callable[[Sequence[int]], Iterator[Row]]] = {
    "digits": _digits,
    "gas": _gas,
    "forecasting": _forecasting,
    "speed": _speed,
}


def _page(rows: Sequence[Row], args: argparse.Namespace) -> str:
    with_goal = [row for row in rows if row["verdict"]]
    met = sum(row["verdict"] == "met" for row in with_goal)
    head = [
        "# Learning: what is kept, what is lost, and at what price",
        "",
        f"`make bench-learning{result.arguments()}`; one default for all lines of `ewc_replay`",
        "and one for those of `ewc_only`, which keeps no reading. Figures are means over seeds;",
        "forgetting is a task's best figure before the end minus its last. " + _chosen(),
        "",
        f"Goals met: {met} of {len(with_goal)}.",
    ]
    for case in dict.fromkeys(row["case"] for row in rows):
        these = [
            {k: v for k, v in row.items() if k != "case"} for row in rows if row["case"] == case
        ]
        head += ["", f"## {case}", "", *plain(these)]
    return "\n".join(head) + "\n"


def _chosen() -> str:
    return (__doc__ or "").split("\n\n")[-1].replace("\n", " ").strip()


if __name__ == "__main__":
    main()
