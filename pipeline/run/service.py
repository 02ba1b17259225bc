"""What whoever started a process is told of it: systemd by its socket, Kubernetes by a file.

The protocol is sd_notify(3): one datagram a state. There is no library for it to depend on: those
there are wrap a few lines like these.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import structlog

from pipeline.config import Settings, notify_socket
from pipeline.errors import Away, SettingsError

log = structlog.get_logger()

#: Time between two signs of life, in seconds: well below any watchdog worth setting.
BEAT_S = 1.0


class Service:
    """Says when the process is ready, alive and stopping; to nobody, if nobody listens.

    Parameters
    ----------
    address
        Of systemd's socket, @ before an abstract one; empty: there is none.
    file
        Is there from ready to stopping, and as old as the last sign of life; None: none.

    Raises
    ------
    SettingsError
        There can be no such file.
    """

    def __init__(self, address: str, file: Path | None) -> None:
        self.address = f"\0{address[1:]}" if address.startswith("@") else address
        self.file = file
        self._is_ready = False
        self._due = 0.0
        if file is not None:
            _clear(file)

    def ready(self) -> None:
        """It does its work from now on; said once."""
        if not self._is_ready:
            self._is_ready = True
            self._tell("READY=1")
            self.alive()

    def alive(self) -> None:
        """It goes on; said at most every BEAT_S."""
        if time.monotonic() < self._due:
            return
        self._due = time.monotonic() + BEAT_S
        self._tell("WATCHDOG=1")
        if self._is_ready and self.file is not None:
            with suppress(OSError):  # a full disk: whoever looks at it takes us for dead
                self.file.touch()

    def stopping(self) -> None:
        """It is about to end."""
        self._tell("STOPPING=1")
        if self.file is not None:
            with suppress(OSError):
                self.file.unlink(missing_ok=True)

    def _tell(self, state: str) -> None:
        if self.address:
            with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as to:
                to.sendto(state.encode(), self.address)


def _clear(file: Path) -> None:
    """Take away what a process left that was killed: it says nothing of this one."""
    try:
        file.unlink(missing_ok=True)
    except OSError as exc:
        raise SettingsError(f"run.ready_file: {file}: {exc.strerror}") from None
    if not os.access(file.parent, os.W_OK | os.X_OK):
        raise SettingsError(f"run.ready_file: no file can be made in {file.parent}")


class Watched(threading.Event):
    """A stop event; whoever looks whether it is set is alive, in the midst of an outage too."""

    def __init__(self, stop: threading.Event, service: Service) -> None:
        super().__init__()
        self._stop = stop
        self._service = service

    def is_set(self) -> bool:
        """Whether to stop."""
        self._service.alive()
        return self._stop.is_set()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the stop, at most `timeout` seconds."""
        self._service.alive()
        return self._stop.wait(timeout)


@contextmanager
def serving(
    settings: Settings, stop: threading.Event, role: str
) -> Iterator[tuple[Service, Watched]]:
    """The service of this process, and its stop event; at the end it is stopping.

    What is away when the process is told to stop is not waited for, and that is no failure.
    """
    file = settings.run.ready_file
    service = Service(notify_socket(), Path(f"{file}.{role}") if file else None)
    try:
        yield service, Watched(stop, service)
    except Away as exc:
        if not stop.is_set():
            raise
        log.warning("stopped_in_an_outage", role=role, reason=str(exc))
    finally:
        service.stopping()
