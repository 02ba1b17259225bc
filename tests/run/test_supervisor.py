from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import pytest

from pipeline.errors import PipelineError
from pipeline.run import supervisor


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def python(code: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE)


def test_end_stops_every_child_and_kills_the_deaf_one(monkeypatch) -> None:
    """A child that ignores SIGTERM is killed once patience is over."""
    monkeypatch.setattr(supervisor, "PATIENCE_S", 0.5)
    deaf = python("import signal,time; signal.signal(15, signal.SIG_IGN); time.sleep(60)")
    polite = python("import time; time.sleep(60)")
    time.sleep(0.3)  # the deaf one needs its handler first
    supervisor.end([deaf, polite])
    assert deaf.returncode == -9
    assert polite.returncode == -15


def test_a_child_that_keeps_crashing_ends_the_run_and_leaves_no_process(monkeypatch) -> None:
    """After restart_limit restarts the run gives up with the child's name and ends the rest."""
    started: list[subprocess.Popen[bytes]] = []

    def spawn(role, config, **_):
        started.append(
            python("raise SystemExit(3)" if role == "train" else "import time; time.sleep(60)")
        )
        return started[-1]

    monkeypatch.setattr(supervisor, "spawn", spawn)
    monkeypatch.setattr(supervisor, "PAUSE_S", 0.01)
    with pytest.raises(PipelineError, match="`tidemark train` ended with code 3 after 2 restarts"):
        supervisor.supervise(None, threading.Event(), restart_limit=2, roles=("stream", "train"))
    assert len(started) == 1 + 1 + 2
    assert not any(alive(p.pid) and p.poll() is None for p in started)


def test_wrong_settings_are_not_retried(monkeypatch) -> None:
    """Exit code 2 will not get better by itself."""
    monkeypatch.setattr(supervisor, "spawn", lambda *_, **__: python("raise SystemExit(2)"))
    with pytest.raises(PipelineError, match="code 2 after 0 restarts"):
        supervisor.supervise(None, threading.Event(), restart_limit=5, roles=("stream",))
