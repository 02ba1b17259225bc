"""From signals and a closed standard input to one event: stop; and soon after it, the end."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterable
from contextlib import suppress
from io import BufferedWriter, FileIO, TextIOWrapper
from types import FrameType
from typing import Any

#: A process that was told to stop ends within, in seconds: by itself, or it is ended.
LIMIT_S = 4.0
#: The same of one that ends children first, which have LIMIT_S.
PARENT_LIMIT_S = 4.8


def stop_on_signals(
    *, supervised: bool = False, left: str = "", limit_s: float = LIMIT_S
) -> threading.Event:
    """An event that SIGINT and SIGTERM set; if supervised, the end of standard input too.

    Who asks a second time is not made to wait: the process ends at once. A supervised process
    takes SIGINT and then SIGTERM as asking once: Ctrl-C reaches its parent too, which sends the
    other.

    A thread hears the signals, by Python's wakeup descriptor: handlers run between two
    instructions of the main thread, which may be waiting inside a driver. A process that has not
    ended `limit_s` after the first is ended with code 1 and a line, which says what is `left`.

    Call it before whatever takes long to import: modules have swallowed a KeyboardInterrupt.
    """
    stop = _Stop(left, limit_s)
    if supervised:
        sys.stderr = TextIOWrapper(
            BufferedWriter(_Heard(2, "w", closefd=False)), "utf-8", line_buffering=True
        )

    def on_signal(number: int, _: FrameType | None) -> None:
        for heard in (number,) if supervised else (signal.SIGINT, signal.SIGTERM):
            signal.signal(heard, signal.SIG_DFL)
        stop.set()

    reads, writes = os.pipe()
    os.set_blocking(writes, False)
    signal.set_wakeup_fd(writes, warn_on_full_buffer=False)
    signal.signal(signal.SIGINT, on_signal)
    signal.signal(signal.SIGTERM, on_signal)
    threading.Thread(target=_listen, args=(reads, stop, supervised), daemon=True).start()
    if supervised:
        threading.Thread(target=_until_closed, args=(stop,), daemon=True).start()
    return stop


class _Heard(FileIO):
    """A child's standard error: if its parent, who passes it on, is gone, nobody hears it."""

    def write(self, line: Any) -> int:
        try:
            return super().write(line) or 0
        except BrokenPipeError:
            return len(line)


class _Stop(threading.Event):
    """Once it is set, the process has `limit_s` left."""

    def __init__(self, left: str, limit_s: float) -> None:
        super().__init__()
        self._end = threading.Timer(limit_s, _end, (left, limit_s))
        self._end.daemon = True
        self._once = threading.Lock()

    def set(self) -> None:
        """Stop; said again, it changes nothing."""
        if self._once.acquire(blocking=False):
            self._end.start()
        super().set()


def _listen(descriptor: int, stop: threading.Event, supervised: bool) -> None:
    """Hear every signal, whatever the main thread waits in."""
    heard: set[int] = set()
    for number in _numbers(descriptor):
        if number in heard or (heard and not supervised):
            os._exit(128 + number)  # as a shell tells it; the main thread did not get to it
        heard.add(number)
        stop.set()


def _numbers(descriptor: int) -> Iterable[int]:
    while read := os.read(descriptor, 64):
        yield from read


def _until_closed(stop: threading.Event) -> None:
    """The parent holds the other end of standard input: when it is gone, so are we."""
    while os.read(sys.stdin.fileno(), 1024):
        continue
    stop.set()


def _end(left: str, limit_s: float) -> None:
    """Nothing that is kept is in danger: to be killed is what everything here is made for."""
    line = f"tidemark: ended {limit_s:g} s after it was told to stop"
    with suppress(OSError):
        os.write(2, f"{line}; {left}\n".encode() if left else f"{line}\n".encode())
    os._exit(1)
