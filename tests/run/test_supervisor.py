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

from pipeline import cli
from pipeline.config import Run
from pipeline.errors import DatabaseAway, GaveUp, PipelineError
from pipeline.outage import OVER_LIMIT
from pipeline.run import supervisor
from tests.run import command

ROOT = Path(__file__).parents[2]
#: Says what it sees, and does not end by itself.
DEAF = """
import sys, time
from pipeline.run import signals
stop = signals.stop_on_signals(supervised={supervised}, left="a word", limit_s={limit_s})
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
    ignores = "import signal, time; signal.signal(15, signal.SIG_IGN); print(); time.sleep(60)"
    deaf = subprocess.Popen([sys.executable, "-uc", ignores], stdout=subprocess.PIPE)
    polite = python("import time; time.sleep(60)")
    with deaf.stdout or sys.stdin.buffer as says:
        says.readline()  # it has its handler
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
        supervisor.supervise(
            None, threading.Event(), Run(restart_limit=2), roles=("stream", "train")
        )
    assert len(started) == 1 + 1 + 2
    assert not any(alive(p.pid) and p.poll() is None for p in started)


def test_wrong_settings_are_not_retried(monkeypatch) -> None:
    """Exit code 2 will not get better by itself."""
    monkeypatch.setattr(supervisor, "spawn", lambda *_, **__: python("raise SystemExit(2)"))
    with pytest.raises(PipelineError, match="code 2 after 0 restarts"):
        supervisor.supervise(None, threading.Event(), Run(restart_limit=5), roles=("stream",))


def test_a_folder_of_the_same_name_is_not_started(tmp_path: Path) -> None:
    """The children are ours wherever the user stands, also beside another `pipeline/`."""
    (tmp_path / "pipeline").mkdir()
    (tmp_path / "pipeline" / "__init__.py").touch()
    (tmp_path / "pipeline" / "__main__.py").write_text("print('not ours')")
    reads, writes = os.pipe()  # held open: else it is told to stop
    done = subprocess.run(
        supervisor.command("stream", Path("nofile.toml")),
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdin=reads,
        capture_output=True,
        text=True,
        check=False,
    )
    os.close(reads)
    os.close(writes)
    assert (done.returncode, done.stdout) == (2, "")
    assert "nofile.toml" in done.stderr


def test_a_database_that_is_away_at_the_start_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a power cut it may come up later than we do: children start once it is there."""
    answers = iter([DatabaseAway("away"), DatabaseAway("away"), None])
    started = []

    def check(_: object) -> None:
        if (answer := next(answers)) is not None:
            raise answer

    def supervise(*_: object, roles: tuple[str, ...], debug: bool) -> None:
        assert next(answers, "all asked") == "all asked"
        started.append((roles, debug))

    monkeypatch.setattr("pipeline.register.migrate.check_schema", check)
    monkeypatch.setattr(supervisor, "supervise", supervise)
    assert command.tidemark(tmp_path, "--debug", "run").returncode == 0
    assert started == [(supervisor.ROLES, True)]


def test_children_tell_as_much_as_the_run_is_asked_to() -> None:
    """`tidemark --debug run`: tracebacks are theirs to show."""
    asked = {debug: supervisor.command("train", None, debug=debug) for debug in (False, True)}
    assert [word for word in asked[True] if word not in asked[False]] == ["--debug"]
    assert asked[True].index("--debug") < asked[True].index("train")


def test_a_child_has_the_environment_that_it_is_given(monkeypatch) -> None:
    """All of it and nothing else; without one it has ours."""
    script = "import os, sys; sys.exit(3 if 'TIDEMARK_CONFIG' in os.environ else 4)"
    monkeypatch.setattr(supervisor, "command", lambda *_, **__: [sys.executable, "-c", script])
    monkeypatch.setenv("TIDEMARK_CONFIG", "ours.toml")
    for env, code in ((None, 3), ({}, 4)):
        with supervisor.spawn("stream", None, env=env) as process:
            assert process.wait() == code


@contextmanager
def deaf(*, supervised: bool, limit_s: float = 60.0) -> Iterator[subprocess.Popen[str]]:
    """A process that hears signals and goes on all the same."""
    process = subprocess.Popen(
        [sys.executable, "-c", DEAF.format(supervised=supervised, limit_s=limit_s)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
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
    with deaf(supervised=True, limit_s=1.0) as process:
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(10) == 1
        assert process.stderr is not None
        assert process.stderr.read() == "tidemark: ended 1 s after it was told to stop; a word\n"


# What a child said -------------------------------------------------------------------------------


def scripted(monkeypatch: pytest.MonkeyPatch, code: str) -> list[float]:
    """Let every child be this program; when each was started."""
    started: list[float] = []

    def spawn(*_: object, err: int | None = None, **__: object) -> subprocess.Popen[bytes]:
        started.append(time.monotonic())
        return subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stderr=err)

    monkeypatch.setattr(supervisor, "spawn", spawn)
    return started


def test_a_child_that_is_given_up_is_told_with_its_last_lines(monkeypatch, capsys) -> None:
    """Its last 20, and all of them as they came; pauses grow before each restart."""
    monkeypatch.setattr(supervisor, "PAUSE_S", 0.2)
    code = "import sys; [print('line', n, file=sys.stderr) for n in range(30)]; sys.exit(3)"
    started = scripted(monkeypatch, code)
    with pytest.raises(GaveUp) as caught:
        supervisor.supervise(None, threading.Event(), Run(restart_limit=2), roles=("train",))
    assert str(caught.value) == (
        "`tidemark train` ended with code 3 after 2 restarts; its last lines:"
    )
    assert caught.value.lines == tuple(f"line {n}" for n in range(10, 30))
    assert capsys.readouterr().err.count("line ") == 3 * 30
    assert started[1] - started[0] >= 0.2
    assert started[2] - started[1] >= 0.4


def test_lines_appear_while_the_child_runs(monkeypatch, capsys) -> None:
    """Whoever watches a terminal must not wait for a child's end."""
    code = "import sys, time; print('here', file=sys.stderr, flush=True); time.sleep(60)"
    scripted(monkeypatch, code)
    stop, seen = threading.Event(), []

    def look() -> None:
        for _ in range(600):
            if seen or stop.wait(0.05):
                break
            seen.extend(capsys.readouterr().err.splitlines())
        stop.set()

    looking = threading.Thread(target=look)
    looking.start()
    supervisor.supervise(None, stop, Run(), roles=("stream",))
    looking.join()
    assert seen == ["here"]


def test_who_has_waited_for_the_limit_is_not_started_again(monkeypatch) -> None:
    """It would wait again, for ever; `run` ends with the child's own line."""
    line = f"Kafka at x: gone (away for 2 s, {OVER_LIMIT})"
    started = scripted(monkeypatch, f"import sys; sys.exit('tidemark: {line}')")
    with pytest.raises(GaveUp) as caught:
        supervisor.supervise(None, threading.Event(), Run(restart_limit=5), roles=("stream",))
    assert str(caught.value) == f"`tidemark stream` gave up: {line}"
    assert caught.value.lines == ()
    assert len(started) == 1


def test_the_last_lines_are_told_at_the_command_line(monkeypatch, capsys) -> None:
    """Below the one line that says what failed, indented."""

    def fail(**_: bool) -> None:
        raise GaveUp("`tidemark train` ended", ["one", "two"])

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    assert capsys.readouterr().err == "tidemark: `tidemark train` ended\n  | one\n  | two\n"


# A main thread that hears nothing ----------------------------------------------------------------

#: Waits inside SQLite for a lock that never comes, and does not come back to Python.
BLOCKED = """
import sqlite3, sys
from pipeline.run import signals
stop = signals.stop_on_signals(supervised={supervised}, left="a word", limit_s={limit_s})
one, two = (sqlite3.connect({file!r}, isolation_level=None, timeout=600) for _ in range(2))
one.execute("BEGIN IMMEDIATE")
print("ready", flush=True)
two.execute("BEGIN IMMEDIATE")
"""


@contextmanager
def blocked(tmp_path: Path, **options: object) -> Iterator[subprocess.Popen[str]]:
    code = BLOCKED.format(file=str(tmp_path / "x.db"), **options)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, text=True, **pipes) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            time.sleep(0.2)  # to be inside; earlier it ends all the same
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("supervised", [False, True])
def test_a_process_that_hears_nothing_is_ended_with_a_word(
    tmp_path: Path, supervised: bool
) -> None:
    """Python's handlers never run inside a driver: the limit does not need them."""
    with blocked(tmp_path, supervised=supervised, limit_s=0.5) as process:
        process.terminate()
        assert process.wait(10) == 1
        assert process.stderr is not None
        assert process.stderr.read() == "tidemark: ended 0.5 s after it was told to stop; a word\n"


def test_a_second_signal_ends_one_that_hears_nothing(tmp_path: Path) -> None:
    """As a shell tells a signal; 60 s before its limit."""
    with blocked(tmp_path, supervised=False, limit_s=60.0) as process:
        process.terminate()
        time.sleep(0.2)  # two at once are one
        process.terminate()
        assert process.wait(10) == 128 + signal.SIGTERM


def test_a_child_goes_on_when_nobody_reads_what_it_says() -> None:
    """Its parent was killed in mid-line: the child still has a checkpoint to write."""
    code = """
import sys
from pipeline.run.signals import stop_on_signals
stop = stop_on_signals(supervised=True)
stop.wait()
for _ in range(3):
    print("a last word", file=sys.stderr)
print("done", flush=True)
"""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, text=True, **pipes) as process:
        assert process.stderr is not None
        assert process.stdin is not None
        assert process.stdout is not None
        process.stderr.close()
        process.stdin.close()
        assert process.stdout.read() == "done\n"
        assert process.wait(10) == 0
