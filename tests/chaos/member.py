"""A name and settings in; a process that is started, killed, stopped and told to leave, out."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from pipeline.config import plain_environment

ROOT = Path(__file__).resolve().parents[2]
#: A process that is told to end, perhaps while it starts, is given so long, in seconds.
PATIENCE_S = 180.0


@dataclass(slots=True)
class Member:
    """One process of production, started again when it was killed."""

    name: str
    config: Path
    process: subprocess.Popen[bytes] | None = None
    starts: int = 0
    #: Bytes that its log held before it was started last.
    before: int = 0
    #: Monotonic time at which it is to go on, while it is stopped.
    wakes: float | None = field(default=None)

    @property
    def log(self) -> Path:
        return self.config.parent / f"{self.name}.log"

    def start(self) -> None:
        role = self.name.partition("-")[0]
        self.before = self.log.stat().st_size if self.log.exists() else 0
        command = [sys.executable, "-m", "pipeline", "--config", str(self.config), role]
        with self.log.open("ab") as log:
            self.process = _spawn([*command, "--supervised"], log)
        self.starts += 1

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self._forget()

    def pause(self, seconds: float) -> None:
        self._signal(signal.SIGSTOP)
        self.wakes = time.monotonic() + seconds

    def resume(self) -> None:
        self._signal(signal.SIGCONT)
        self.wakes = None

    def terminate(self) -> None:
        self.resume()
        self._signal(signal.SIGTERM)

    def leave(self) -> int | None:
        """The exit code after SIGTERM; None if it had to be killed, or was not there."""
        if self.process is None:
            return None
        try:
            return self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            return None
        finally:
            self._forget()

    def ended(self) -> str | None:
        """What became of it, if it has ended without being told to."""
        if self.process is None or (code := self.process.poll()) is None:
            return None
        self._forget()
        return f"{self.name} ended by itself with code {code}: {self.last_line()[:300]}"

    def has_said(self, event: str) -> bool:
        """Whether its log has told of that since it was started last."""
        with self.log.open("rb") as lines:
            lines.seek(self.before)
            return any(f'"event": "{event}"'.encode() in line for line in lines)

    def last_line(self) -> str:
        """What it has said last; empty: nothing."""
        with self.log.open(errors="replace") as lines:
            last = deque((line.strip() for line in lines if line.strip()), 1)
        return last[0] if last else ""

    def _signal(self, number: signal.Signals) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)

    def _forget(self) -> None:
        if self.process is not None and self.process.stdin is not None:
            self.process.stdin.close()
        self.process, self.wakes = None, None


def _spawn(command: list[str], log: IO[bytes]) -> subprocess.Popen[bytes]:
    """A process that ends when this one does: then its standard input closes."""
    environment = plain_environment() | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=log, stderr=log
    )
