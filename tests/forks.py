"""`tidemark` commands in, real processes out, without a second of imports for each.

A process that has imported everything once forks for each command; nothing but exec is left out:
arguments, signals, files, exit codes are those of the real one. `python -m tests.forks` is it: JSON
lines in (`{"id", "argv", "err"}`), JSON lines out (`{"id", "pid"}`, then `{"id", "code", "at"}`).
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

#: A busy machine may take so long for what has no limit of its own, in seconds.
PATIENCE_S = 200.0


class Forked:
    """One running command."""

    def __init__(self, err: Path) -> None:
        self.err = err
        self.pid = 0
        #: Exit code, below 0 a signal; and the monotonic time of the end.
        self.code: int | None = None
        self.at = 0.0
        self.signalled = 0.0
        self.ended = threading.Event()

    def send(self, number: int = signal.SIGTERM) -> None:
        self.signalled = self.signalled or time.monotonic()
        with suppress(ProcessLookupError):  # it has ended by itself
            os.kill(self.pid, number)

    def hears(self) -> bool:
        """Whether it has its handlers already; a signal before them just ends it."""
        if not self.pid or self.ended.is_set():
            return False
        status = Path(f"/proc/{self.pid}/status").read_text()
        caught = int(status.partition("SigCgt:")[2].split()[0], 16)
        return bool(caught >> (signal.SIGTERM - 1) & 1)

    def wait(self) -> int:
        assert self.ended.wait(PATIENCE_S), f"it goes on: {self.said()}"
        assert self.code is not None
        return self.code

    @property
    def took_s(self) -> float:
        """From the first signal to the end."""
        return self.at - self.signalled if self.signalled else 0.0

    def said(self) -> str:
        return self.err.read_text() if self.err.exists() else ""

    def lines(self) -> list[dict[str, Any]]:
        """What it logged."""
        return [json.loads(line) for line in self.said().splitlines() if line.startswith("{")]

    def events(self) -> list[str]:
        return [line["event"] for line in self.lines()]

    def told(self) -> list[str]:
        """What it said that is no log line."""
        return [line for line in self.said().splitlines() if not line.startswith("{")]


class Forks:
    """Starts commands; on the way out it kills what is left of them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.all: list[Forked] = []

    def __enter__(self) -> Self:
        self._zygote = subprocess.Popen(
            [sys.executable, "-m", "tests.forks"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for each in self.all:
            if each.pid and not each.ended.is_set():
                os.kill(each.pid, signal.SIGKILL)
        assert self._zygote.stdin is not None
        self._zygote.stdin.close()
        self._zygote.wait(PATIENCE_S)
        self._reader.join()
        assert self._zygote.stdout is not None
        self._zygote.stdout.close()

    def start(self, *argv: str) -> Forked:
        """Run `tidemark ARGV`."""
        made = Forked(self.directory / f"{len(self.all)}.err")
        self.all.append(made)
        assert self._zygote.stdin is not None
        line = {"id": len(self.all) - 1, "argv": argv, "err": str(made.err)}
        self._zygote.stdin.write(json.dumps(line) + "\n")
        self._zygote.stdin.flush()
        return made

    def _read(self) -> None:
        assert self._zygote.stdout is not None
        for line in self._zygote.stdout:
            told = json.loads(line)
            forked = self.all[told["id"]]
            if "pid" in told:
                forked.pid = told["pid"]
            else:
                forked.code, forked.at = told["code"], told["at"]
                forked.ended.set()


class ForkedPopen(subprocess.Popen[bytes]):
    """A Popen of `python ... -m pipeline ARGV` that forks instead of executing."""

    def _execute_child(self, args: Any, *rest: Any) -> None:  # type: ignore[override]
        p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite = rest[9:15]
        self.pid = os.fork()
        if not self.pid:
            for number, source in enumerate((p2cread, c2pwrite, errwrite)):
                if source >= 0:
                    os.dup2(source, number)
            command(args[args.index("pipeline") + 1 :])
        self._child_created = True
        self._close_pipe_fds(p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite)


def command(argv: list[str]) -> NoReturn:
    """Be `tidemark ARGV`, in a process that was just forked."""
    code = 1
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        signal.set_wakeup_fd(-1)
        os.closerange(3, 1024)
        sys.argv = ["tidemark", *argv]
        sys.stdin, sys.stderr = os.fdopen(0, closefd=False), os.fdopen(2, "w", 1, closefd=False)
        from pipeline import cli

        cli.main()
    except SystemExit as exc:
        code = exc.code if isinstance(exc.code, int) else 0
    finally:
        threading._shutdown()  # type: ignore[attr-defined]  # as the interpreter does at its end
        os._exit(code)


def _zygote() -> None:
    import torch.fx.experimental.symbolic_shapes  # noqa: F401 - what a first backward pass imports

    import pipeline.cli.processes
    import pipeline.detect.detectors
    import pipeline.ingest.kafka_sink
    import pipeline.ingest.kafka_source
    import pipeline.run.scheduler
    import pipeline.run.stream
    import pipeline.run.trainer  # noqa: F401
    from pipeline.run import supervisor

    supervisor.subprocess.Popen = ForkedPopen  # type: ignore[attr-defined]
    running: dict[int, int] = {}
    asked, buffer = True, b""
    while asked or running:
        if asked and select.select([0], [], [], 0.01)[0]:
            read = os.read(0, 1 << 16)
            asked, buffer = bool(read), buffer + read
            *lines, buffer = buffer.split(b"\n")
            for line in lines:
                running |= _fork(json.loads(line))
        _reap(running)


def _fork(told: dict[str, Any]) -> dict[int, int]:
    pid = os.fork()
    if not pid:
        for number, path in ((0, os.devnull), (1, os.devnull), (2, told["err"])):
            os.dup2(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND), number)
        command(told["argv"])
    _tell({"id": told["id"], "pid": pid})
    return {pid: told["id"]}


def _tell(facts: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


def _reap(running: dict[int, int]) -> None:
    for pid in list(running):
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
            _tell({"id": running.pop(pid), "code": code, "at": time.monotonic()})
    if running:
        time.sleep(0.005)


if __name__ == "__main__":
    _zygote()
