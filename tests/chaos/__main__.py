"""Kill, stop and cut everything again and again; then look for what was lost or done twice.

python -m tests.chaos --kills 300 --seed 7
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from pathlib import Path

import structlog

from tests.chaos.report import as_markdown, print_table, write
from tests.chaos.run import run

ROOT = Path(__file__).resolve().parents[2]


def main() -> int:
    """0: no difference; 1: some; they are printed, with where the logs are."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--kills", type=int, default=300, help="how much is done")
    parser.add_argument("--seed", type=int, default=7, help="of the log and of what is done")
    parser.add_argument("--directory", type=Path, help="where data and logs go")
    parser.add_argument(
        "--exactly-once", action="store_true", help="publish results in Kafka transactions"
    )
    parser.add_argument("--json", action="store_true", help="print the answer as JSON")
    parser.add_argument(
        "--markdown", action="store_true", help="write the table to benchmarks/chaos*.md"
    )
    arguments = parser.parse_args()
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # everything is ended either way
    directory = arguments.directory or Path(tempfile.mkdtemp(prefix="chaos-"))
    directory.mkdir(parents=True, exist_ok=True)
    result = run(
        directory,
        arguments.kills,
        arguments.seed,
        _say,
        exactly_once=arguments.exactly_once,
    )
    write(ROOT / "build" / "chaos.json", result)
    print_table(result, as_json=arguments.json)
    if arguments.markdown:
        name = "chaos_exactly_once.md" if arguments.exactly_once else "chaos.md"
        (ROOT / "benchmarks" / name).write_text(as_markdown(result))
    return 1 if result["differences"] else 0


def _say(line: str) -> None:
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {line}\n")


if __name__ == "__main__":
    sys.exit(main())
