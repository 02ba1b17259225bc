"""`tidemark run`: the stream, train and schedule processes, started together and kept running."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import structlog

from pipeline.errors import PipelineError

log = structlog.get_logger()

ROLES = ("stream", "train", "schedule")
#: A child that was told to stop is killed after, in seconds.
PATIENCE_S = 10.0
#: First pause before a restart, doubled each time, and the longest, in seconds.
PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0
#: A child that ran this long counts as healthy again, in seconds.
HEALTHY_S = 60.0


@dataclass(slots=True)
class Child:
    """One process and how often it was started again."""

    role: str
    process: subprocess.Popen[bytes]
    started: float
    restarts: int = 0
    #: Monotonic time of the next start, while it is down.
    due: float | None = field(default=None)


def command(role: str, config: Path | None, *arguments: str) -> list[str]:
    """The child's command line; it ends when its standard input closes, so with its parent.

    -P: a folder `pipeline/` where the user stands is not ours.
    """
    options = ["--config", str(config)] if config else []
    return [sys.executable, "-P", "-m", "pipeline", *options, role, *arguments, "--supervised"]


def spawn(
    role: str,
    config: Path | None,
    *arguments: str,
    env: Mapping[str, str] | None = None,
    out: IO[bytes] | None = None,
) -> subprocess.Popen[bytes]:
    """Start `tidemark ROLE` as a child that cannot outlive this process.

    env: the child's environment; None: ours. out: where it writes, log lines too; None: as we do.
    """
    return subprocess.Popen(  # noqa: S603
        command(role, config, *arguments), stdin=subprocess.PIPE, stdout=out, stderr=out, env=env
    )


def supervise(
    config: Path | None,
    stop: threading.Event,
    *,
    restart_limit: int,
    roles: Sequence[str] = ROLES,
) -> None:
    """Run the children until `stop` is set; restart one that crashes, with growing pauses.

    Raises
    ------
    PipelineError
        A child crashed more than `restart_limit` times in a row, or its settings are wrong.
    """
    children = [Child(role, spawn(role, config), time.monotonic()) for role in roles]
    try:
        while not stop.wait(0.1):
            for child in children:
                _look_after(child, config, restart_limit)
    finally:
        end([child.process for child in children])


def end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Ask every process to stop, wait, kill what is left."""
    for process in processes:
        if process.poll() is None:
            process.terminate()
    deadline = time.monotonic() + PATIENCE_S
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdin:
            process.stdin.close()


def _look_after(child: Child, config: Path | None, restart_limit: int) -> None:
    code = child.process.poll()
    if code is None:
        if time.monotonic() - child.started > HEALTHY_S:
            child.restarts = 0
        return
    if child.due is None:
        _schedule_restart(child, code, restart_limit)
    elif time.monotonic() >= child.due:
        end([child.process])
        child.process, child.started = spawn(child.role, config), time.monotonic()
        child.due = None


def _schedule_restart(child: Child, code: int, restart_limit: int) -> None:
    if code == 2 or child.restarts >= restart_limit:
        raise PipelineError(
            f"`tidemark {child.role}` ended with code {code} after {child.restarts} restarts"
        )
    pause = min(LONGEST_PAUSE_S, PAUSE_S * 2**child.restarts)
    child.restarts += 1
    child.due = time.monotonic() + pause
    log.warning("child_crashed", role=child.role, code=code, restart_in_s=pause)
