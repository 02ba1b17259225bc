"""What systemd and Kubernetes hear of a process, against a socket and a directory of our own."""

from __future__ import annotations

import errno
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.config import Database, Run, Settings
from pipeline.errors import DatabaseAway, SettingsError
from pipeline.outage import Outage
from pipeline.run import processes, service
from pipeline.run.service import Service, Watched
from pipeline.run.supervisor import ROLES
from tests.command_line import parse

UNITS = Path(__file__).parents[2] / "deploy" / "systemd"


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The socket that NOTIFY_SOCKET names."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listens:
        listens.bind(str(tmp_path / "n"))
        listens.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "n"))
        yield listens


def heard(listens: socket.socket) -> list[str]:
    found = []
    while True:
        try:
            found.append(listens.recv(1000).decode())
        except BlockingIOError:
            return found


def test_who_looks_whether_to_stop_is_alive(
    systemd: socket.socket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One sign of life a beat, not one a look; who looks no more is silent, and is restarted."""
    now = [100.0]
    monkeypatch.setattr(service.time, "monotonic", lambda: now[0])
    made = Service(systemd.getsockname(), None)
    stop = Watched(threading.Event(), made)
    for _ in range(3):
        assert not stop.is_set()
    assert heard(systemd) == ["WATCHDOG=1"]
    for look in (stop.is_set, lambda: stop.wait(0)):
        now[0] += service.BEAT_S
        assert not look()
        assert heard(systemd) == ["WATCHDOG=1"]


def test_who_waits_out_an_outage_is_alive(systemd: socket.socket) -> None:
    """A database that is away for longer than WatchdogSec is no reason to restart us."""
    made, stop = Service(systemd.getsockname(), None), threading.Event()
    outage = Outage("database", 60.0, Watched(stop, made))

    def away() -> None:
        raise DatabaseAway("away")

    def pause(_: float) -> None:
        stop.set()

    outage.pause = pause
    with pytest.raises(DatabaseAway):
        outage.ask(away)
    assert "WATCHDOG=1" in heard(systemd)


def test_a_trainer_is_ready_at_head_and_says_when_it_stops(
    systemd: socket.socket, sqlite_at_head: Database, tmp_path: Path
) -> None:
    """In this order, with a file beside it; what a killed process left is no readiness."""
    file = tmp_path / "ready.train"
    file.touch()
    stop, seen = threading.Event(), []

    class Looks(threading.Event):
        def is_set(self) -> bool:
            seen.append(file.exists())
            return len(seen) > 2

    stop = Looks()
    settings = Settings(database=sqlite_at_head, run=Run(ready_file=str(tmp_path / "ready")))
    processes.train(settings, stop)
    said = [word for word in heard(systemd) if word != "WATCHDOG=1"]
    assert said == ["READY=1", "STOPPING=1"]
    assert seen[-1]
    assert not file.exists()


def test_without_a_schema_nothing_is_ready(
    systemd: socket.socket, sqlite_database: Database, tmp_path: Path
) -> None:
    """It ends with the line that says what to do, and was never ready."""
    settings = Settings(database=sqlite_database, run=Run(ready_file=str(tmp_path / "ready")))
    with pytest.raises(Exception, match="tidemark migrate"):
        processes.train(settings, threading.Event())
    assert heard(systemd) == ["STOPPING=1"]
    assert not (tmp_path / "ready.train").exists()


@pytest.mark.parametrize("address", ["", "/nowhere/socket"])
def test_without_systemd_nobody_is_told(
    systemd: socket.socket, tmp_path: Path, address: str
) -> None:
    """Nor does a socket that is gone matter: whoever looks for the file finds it all the same."""
    file = tmp_path / "ready"
    made = Service(address, file)
    made.ready()
    assert file.exists()
    made.stopping()
    assert not file.exists()
    assert heard(systemd) == []


@pytest.mark.parametrize("made", ["no folder/ready", "folder"])
def test_a_file_that_cannot_be_is_said_at_the_start(tmp_path: Path, made: str) -> None:
    """Wrong settings stop the start, in one line that names the key."""
    (tmp_path / "folder").mkdir()
    with pytest.raises(SettingsError, match=r"run\.ready_file: .*folder"):
        Service("", tmp_path / made)


def test_a_disk_that_is_full_later_ends_no_process(
    systemd: socket.socket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The line goes on; whoever looks for the file does not find it."""
    made = Service(systemd.getsockname(), tmp_path / "ready")

    def full(_: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "touch", full)
    made.ready()
    assert heard(systemd) == ["READY=1", "WATCHDOG=1"]
    made.stopping()
    assert heard(systemd) == ["STOPPING=1"]


def test_no_two_processes_have_one_name() -> None:
    """Two containers, number 1 in each, on hosts of one name: both would hold one lease."""
    code = """
import os
os.getpid = lambda: 1
from pipeline.run.processes import owner_name
print(owner_name("notify"), owner_name("notify"))
"""
    run = [sys.executable, "-c", code]
    said = [subprocess.run(run, capture_output=True, text=True, check=True) for _ in range(2)]
    (one, same), (other, _) = (each.stdout.split() for each in said)
    assert one == same
    assert one != other
    assert {name.rpartition("-")[0] for name in (one, other)} == {
        f"notify@{socket.gethostname()}:1"
    }


def unit(path: Path) -> dict[str, str]:
    """Keys of a unit, which has each of them once."""
    pairs = [line.split("=", 1) for line in path.read_text().splitlines() if "=" in line]
    told = [(key, value) for key, value in pairs if not key.startswith("#")]
    assert len(dict(told)) == len(told)
    return dict(told)


@pytest.mark.parametrize("role", [*ROLES, "serve"])
def test_the_units_run_what_there_is(role: str) -> None:
    """Each waits for READY=1, is watched, and is not started again on wrong settings (code 2)."""
    lines = unit(UNITS / f"tidemark-{role}.service")
    assert lines["Type"] == "notify"
    assert lines["ExecStart"].endswith(f"/tidemark {role}")
    parse([role])
    assert int(lines["WatchdogSec"]) > 10 * service.BEAT_S
    assert int(lines["TimeoutStopSec"]) > 5  # it ends itself within
    assert lines["RestartPreventExitStatus"] == "2"
    # by itself systemd gives up for good after five failures within ten seconds: a database that is
    # being migrated refuses a process in less than one
    assert lines["Restart"] == "on-failure"
    assert lines["StartLimitIntervalSec"] == "0"
    assert int(lines["RestartSec"]) < int(lines["RestartMaxDelaySec"]) <= 60


def test_there_is_a_unit_for_each_process_and_all_are_shut_in_alike() -> None:
    """None may gain a privilege or change the system; where they may write is theirs."""
    units = {path.name: unit(path) for path in UNITS.iterdir()}
    assert set(units) == {f"tidemark-{role}.service" for role in (*ROLES, "serve")}
    own = ("Description", "ExecStart", "WatchdogSec")
    rest = [{k: v for k, v in lines.items() if k not in own} for lines in units.values()]
    assert all(each == rest[0] for each in rest)
    assert rest[0]["User"] == "tidemark"
    assert rest[0]["NoNewPrivileges"] == rest[0]["PrivateTmp"] == "yes"
    assert rest[0]["CapabilityBoundingSet"] == ""
    assert rest[0]["ProtectSystem"] == "full"
    assert rest[0]["WorkingDirectory"] == f"%S/{rest[0]['StateDirectory']}"
