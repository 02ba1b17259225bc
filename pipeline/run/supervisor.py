"""`tidemark run`: stream, train, schedule and notify, started together and kept running."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import IO

import structlog

from pipeline.config import Run, with_log_format
from pipeline.errors import GaveUp
from pipeline.outage import OVER_LIMIT

log = structlog.get_logger()

ROLES = ("stream", "train", "schedule", "notify")
#: A child that was told to stop is killed after, in seconds: it ends itself a little earlier.
PATIENCE_S = 4.4
#: First pause before a restart, doubled each time, and the longest, in seconds.
PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0
#: A child that ran this long counts as healthy again, in seconds.
HEALTHY_S = 60.0
#: How a command's one line begins that says why it failed.
FAILED = "tidemark: "
#: Last lines of a child that are told when it is given up.
LAST_LINES = 20
#: How long the last lines of a child that has ended may take, in seconds: its own children may
#: hold its standard error open.
LAST_WORDS_S = 1.0


class Tee:
    """Passes a child's standard error on to ours, as it comes, and keeps the last lines."""

    def __init__(self, reads: IO[bytes]) -> None:
        self._lines: deque[bytes] = deque(maxlen=LAST_LINES)
        self._thread = threading.Thread(target=self._pass, args=(reads,), daemon=True)
        self._thread.start()

    def lines(self) -> list[str]:
        """The last lines; wait for it until the child has ended."""
        self._thread.join(LAST_WORDS_S)
        return [line.decode(errors="replace").rstrip() for line in self._lines]

    def _pass(self, reads: IO[bytes]) -> None:
        with reads:
            for line in reads:
                self._lines.append(line)
                sys.stderr.write(line.decode(errors="replace"))
                sys.stderr.flush()


@dataclass(slots=True)
class Child:
    """One process and how often it was started again."""

    role: str
    process: subprocess.Popen[bytes]
    started: float
    tee: Tee
    restarts: int = 0
    #: Monotonic time of the next start, while it is down.
    due: float | None = field(default=None)


def command(role: str, config: Path | None, *arguments: str, debug: bool = False) -> list[str]:
    """The child's command line; it ends when its standard input closes, so with its parent.

    -P: a folder `pipeline/` where the user stands is not ours.
    """
    options = ["--config", str(config)] if config else []
    options += ["--debug"] if debug else []
    return [sys.executable, "-P", "-m", "pipeline", *options, role, *arguments, "--supervised"]


def spawn(
    role: str,
    config: Path | None,
    *arguments: str,
    env: Mapping[str, str] | None = None,
    out: IO[bytes] | None = None,
    err: IO[bytes] | int | None = None,
    debug: bool = False,
) -> subprocess.Popen[bytes]:
    """Start `tidemark ROLE` as a child that cannot outlive this process.

    env: the child's environment; None: ours. out: where it writes, log lines too; None: as we do.
    err: where its log lines go, if elsewhere. debug: it tells more, as `--debug` has it.
    """
    return subprocess.Popen(  # noqa: S603
        command(role, config, *arguments, debug=debug),
        stdin=subprocess.PIPE,
        stdout=out,
        stderr=out if err is None else err,
        env=env,
    )


def supervise(
    config: Path | None,
    stop: threading.Event,
    run: Run,
    *,
    roles: Sequence[str] = ROLES,
    debug: bool = False,
) -> None:
    """Run the children until `stop` is set; restart one that crashes, with growing pauses.

    debug: they tell more, as `--debug` has it.

    Raises
    ------
    GaveUp
        A child crashed more than `run.restart_limit` times in a row, its settings are wrong, or it
        has waited for a broker or a database for `run.outage_limit_s`: its restarts would only
        wait again.
    """
    start = partial(_started, config=config, env=_environment(run), debug=debug)
    children = [start(role) for role in roles]
    try:
        while not stop.wait(0.1):
            for child in children:
                _look_after(child, start, run.restart_limit)
    finally:
        end([child.process for child in children])


def end(processes: Sequence[subprocess.Popen[bytes]], *, patience_s: float | None = None) -> None:
    """Ask every process to stop, wait, kill what is left after `patience_s` (PATIENCE_S)."""
    for process in processes:
        if process.poll() is None:
            process.terminate()
    deadline = time.monotonic() + (PATIENCE_S if patience_s is None else patience_s)
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdin:
            process.stdin.close()


def _environment(run: Run) -> Mapping[str, str] | None:
    """The children's: they write to us, and log as we would if they wrote to our terminal."""
    people = run.log_format == "auto" and sys.stderr.isatty()
    return with_log_format("console") if people else None


def _started(
    role: str, *, config: Path | None, env: Mapping[str, str] | None, debug: bool
) -> Child:
    process = spawn(role, config, env=env, err=subprocess.PIPE, debug=debug)
    return Child(role, process, time.monotonic(), Tee(process.stderr or BytesIO()))


def _look_after(child: Child, start: Callable[[str], Child], restart_limit: int) -> None:
    code = child.process.poll()
    if code is None:
        if time.monotonic() - child.started > HEALTHY_S:
            child.restarts = 0
        return
    if child.due is None:
        _schedule_restart(child, code, restart_limit)
    elif time.monotonic() >= child.due:
        end([child.process])
        again = start(child.role)
        child.process, child.started, child.tee = again.process, again.started, again.tee
        child.due = None


def _schedule_restart(child: Child, code: int, restart_limit: int) -> None:
    lines = child.tee.lines()
    last = next((line for line in reversed(lines) if line.startswith(FAILED)), "")
    if OVER_LIMIT in last:
        raise GaveUp(f"`tidemark {child.role}` gave up: {last.removeprefix(FAILED)}")
    if code == 2 or child.restarts >= restart_limit:
        ended = f"`tidemark {child.role}` ended with code {code} after {child.restarts} restarts"
        raise GaveUp(f"{ended}; its last lines:" if lines else ended, lines)
    pause = min(LONGEST_PAUSE_S, PAUSE_S * 2**child.restarts)
    child.restarts += 1
    child.due = time.monotonic() + pause
    log.warning("child_crashed", role=child.role, code=code, restart_in_s=pause)
