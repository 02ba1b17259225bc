from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipeline.errors import PipelineError
from pipeline.run import supervisor

ROOT = Path(__file__).parents[2]
#: Says what it sees, and does not end by itself.
DEAF = """
import sys, time
from pipeline.run import signals
signals.ORPHAN_S = 1
stop = signals.stop_on_signals(supervised={supervised})
print("ready", flush=True)
stop.wait()
print("stopping", flush=True)
time.sleep(60)
"""


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


def test_a_folder_of_the_same_name_is_not_started(tmp_path: Path) -> None:
    """The children are ours wherever the user stands, also beside another `pipeline/`."""
    (tmp_path / "pipeline").mkdir()
    (tmp_path / "pipeline" / "__init__.py").touch()
    (tmp_path / "pipeline" / "__main__.py").write_text("print('not ours')")
    done = subprocess.run(
        supervisor.command("stream", Path("nofile.toml")),
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "nofile.toml" in done.stderr


def test_a_child_has_the_environment_that_it_is_given(monkeypatch) -> None:
    """All of it and nothing else; without one it has ours."""
    script = "import os, sys; sys.exit(3 if 'TIDEMARK_CONFIG' in os.environ else 4)"
    monkeypatch.setattr(supervisor, "command", lambda *_: [sys.executable, "-c", script])
    monkeypatch.setenv("TIDEMARK_CONFIG", "ours.toml")
    for env, code in ((None, 3), ({}, 4)):
        with supervisor.spawn("stream", None, env=env) as process:
            assert process.wait() == code


@contextmanager
def deaf(*, supervised: bool) -> Iterator[subprocess.Popen[str]]:
    """A process that hears signals and goes on all the same."""
    process = subprocess.Popen(
        [sys.executable, "-c", DEAF.format(supervised=supervised)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def send_first(process: subprocess.Popen[str], number: int) -> None:
    """Send a signal, and wait until the process has understood it."""
    process.send_signal(number)
    assert process.stdout is not None
    assert process.stdout.readline() == "stopping\n"


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_a_process_at_once(first: int, second: int) -> None:
    """Whoever asks again has waited long enough."""
    with deaf(supervised=False) as process:
        send_first(process, first)
        process.send_signal(second)
        assert process.wait(10) == -second


def test_a_child_may_finish_when_ctrl_c_reaches_its_parent_too() -> None:
    """A terminal sends SIGINT to both, then the parent sends SIGTERM: that is asking once.

    Ctrl-C once more is asking twice.
    """
    with deaf(supervised=True) as process:
        send_first(process, signal.SIGINT)
        process.send_signal(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.5)
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == -signal.SIGINT


def test_a_child_that_does_not_stop_ends_soon_after_its_parent() -> None:
    """A parent that was ended at once can kill nobody any more."""
    with deaf(supervised=True) as process:
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(10) == -signal.SIGALRM
