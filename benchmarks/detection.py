"""The boundary detector as it is shipped, on everything with known regime changes.

    make bench-detection
    make bench-detection ARGS="--quick"
    make bench-detection ARGS="--ablations --markdown"

One default for all: `pipeline.config.Detect()`. Settings were chosen on seeds 0-19 and on SKAB's
even files; seeds 60-79 are reported. Beside each F1 stand the periodic control (as many alarms,
evenly spaced) and river's ADWIN on every standardised sensor (benchmarks/detection_peers.py), both
measured here, and two columns of the design notes, which are not. Streams, recordings and the
prototype are in ../shared; they are no part of this repository.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # CPU time of one thread, like the prototype's

from rich.console import Console
from rich.progress import track as rich_track

from benchmarks import detection_data as data
from benchmarks import detection_parts as parts
from benchmarks import result
from benchmarks.detection_ablations import ablations
from benchmarks.detection_cost import FLEET, cost, state
from benchmarks.detection_light import light
from benchmarks.detection_noise import WITHIN, budgets, delays, stationary
from benchmarks.detection_page import page, plain

PAGE = Path(__file__).with_name("detection.md")
ERRORS = Console(stderr=True)


def track(items: Sequence[Any], label: str) -> Iterable[Any]:
    """Says on standard error how far it is."""
    if not ERRORS.is_terminal:
        ERRORS.print(f"{label} ({len(items)})")
        return items
    return rich_track(items, description=label, console=ERRORS, transient=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a few seeds of each")
    parser.add_argument("--ablations", action="store_true", help="F1 without each part, too")
    parser.add_argument("--only", nargs="*", choices=sorted(PARTS), help="some parts only")
    parser.add_argument("--markdown", action="store_true", help="write benchmarks/detection.md")
    parser.add_argument("--json", action="store_true", help="JSON on standard output")
    args = parser.parse_args()
    data.generators()
    seeds = data.REPORTED[:2] if args.quick else data.REPORTED
    chosen, missing = data.CHOSEN, data.missing()
    ERRORS.print(f"settings chosen on seeds {_span(chosen)}, reported on {_span(seeds)}")
    if missing:
        ERRORS.print(f"not there, left out: {', '.join(missing)}")
    rows = [
        row
        for name, part in PARTS.items()
        if not args.only or name in args.only
        for row in part(args.quick, seeds)
    ]
    if not rows:
        raise SystemExit("bench-detection: the recordings of these parts are not there")
    without = ablations(track, chosen[:2] if args.quick else chosen[:10]) if args.ablations else []
    result.write(
        "detection",
        rows,
        seeds=seeds,
        compared=["numpy", "river"],
        as_json=args.json,
        chosen_on=list(chosen),
        missing=missing,
        ablations=without,
        quick=args.quick,
    )
    if without and not args.json:
        print("\n".join(plain(without)))
    if args.markdown:
        PAGE.write_text(page(rows, without, _head(seeds, missing), NOTES))


def _streams(quick: bool, seeds: Sequence[int]) -> parts.Rows:
    labelled, recurring = parts.streams(track, seeds)
    return [*labelled, *parts.skab(track), *parts.occupancy(track), *recurring]


#: Each part's lines, given --quick and the seeds.
PARTS: dict[str, Callable[[bool, Sequence[int]], parts.Rows]] = {
    "streams": _streams,
    "covering": lambda quick, seeds: parts.univariate(track),
    "stationary": lambda quick, seeds: stationary(track, seeds[: 2 if quick else 10]),
    "budget": lambda quick, seeds: budgets(track, seeds[: 2 if quick else 10]),
    "delay": lambda quick, seeds: delays(track, data.REPORTED[: 4 if quick else 15]),
    "robustness": lambda quick, seeds: parts.robustness(track, seeds[:10]),
    "units": lambda quick, seeds: parts.units(track, seeds[: 1 if quick else 3]),
    "cost": lambda quick, seeds: cost(track, 1 if quick else 3, 100 if quick else FLEET),
    "state": lambda quick, seeds: state(),
    "light": lambda quick, seeds: light(track, seeds),
}

NOTES = {
    "streams": (
        "An alarm is a hit if it is the first in `[k, min(k + tolerance, next boundary))`; the"
        " tolerance is 240 rows on AReM, 500 on synthetic, hard and settling, 60 on SKAB and on"
        " occupancy (without `Light`). SKAB is taken three times, each file without up to 199 rows"
        " of its start (seeds 0, 1, 2), counts are of one pass; its even files are the half on"
        " which settings were chosen. The periodic control raises as many alarms on each series."
        " ADWIN: river's, with its defaults, one for each sensor standardised by its first 300"
        " rows; an alarm when half of the sensors fire within 50 rows, after which all begin anew"
        " (the design notes' own run of such a peer: F1 .566 on AReM, .264 on synthetic, .200 on"
        " hard, .405 with 310 false alarms on SKAB)."
    ),
    "covering": (
        "Covering in per cent, mean of the series; their periods are not given to any method."
        " ADWIN's segments begin at its alarms."
    ),
    "recurrence": (
        "Each found segment by its fingerprint, which is taken so many readings after its boundary,"
        " or at its detection or its end; the one of 1,200 is final, and the tasks learn from it."
        " Right if it is new and the regime has no task yet, or if it is the task that the regime"
        " made first. On settling a regime leaves three sensors of ten where they were, so that it"
        " does not come again as it was."
    ),
    "stationary": (
        "Ten streams of 100,000 rows each (2 with --quick). Sine: amplitude 1, period 500 rows,"
        " noise of deviation .3."
    ),
    "budget": (
        "The same streams with other settings of `detect.false_boundaries_per_million`: ten of them"
        " at 10, three at 100, one at 1,000 (at most 2 with --quick). Boundaries by the number that"
        " the budget allows; the goal is a factor of 2."
    ),
    "delay": (
        "15 streams each (4 with --quick). A shift counts as missed without an alarm within"
        f" {WITHIN:,} rows; the median is of all streams, missed ones included. Sigma is each"
        " sensor's deviation before the shift (of sine and noise together)."
    ),
    "robustness": (
        "synthetic with a ninth sensor that no regime touches, ten streams: what becomes of the"
        " detection of the others when that sensor breaks, against the same nine unbroken."
    ),
    "units": "All readings times a factor: the same boundaries at the same rows.",
    "cost": (
        "CPU time of mature series, one thread, the prototype (without river) on the same rows in"
        " the same run. The prototype knows one series: beside the 1,000 stands one of its own in"
        " polls of 5."
    ),
    "state": "Bytes of a detector's state of one mature series, divided by 1,000.",
    "light": (
        "`detect.profile`: light sees the levels and, of the residual, log |U|^2 only. The same"
        " streams, state and cost as above."
    ),
    "ablations": "Pooled F1 and false alarms on seeds 0-9 (those that settings were chosen on).",
}


def _head(seeds: Sequence[int], missing: Sequence[str]) -> str:
    machine = result.machine()
    arguments = f' ARGS="{shlex.join(sys.argv[1:])}"' if sys.argv[1:] else ""
    left_out = f" Not there and left out: {', '.join(missing)}." if missing else ""
    return (
        "# Detection\n\n"
        f"Made by `make bench-detection{arguments}` on {machine['cpu']},"
        f" {machine['cores']} cores, Python {machine['python']}. One default throughout, the"
        f" shipped one. Settings were chosen on seeds {_span(data.CHOSEN)}; these are seeds"
        f" {_span(seeds)}.{left_out}"
    )


def _span(seeds: Sequence[int]) -> str:
    return f"{seeds[0]}-{seeds[-1]}"


if __name__ == "__main__":
    main()
