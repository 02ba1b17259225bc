"""From signals and a closed standard input to one event: stop."""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType

#: A child that has lost its parent and does not stop is ended after, in seconds.
ORPHAN_S = 10


def stop_on_signals(*, supervised: bool = False) -> threading.Event:
    """An event that SIGINT and SIGTERM set; if supervised, the end of standard input too.

    Who asks a second time is not made to wait: the process ends at once. A supervised process
    takes SIGINT and then SIGTERM as asking once: Ctrl-C reaches its parent too, which sends the
    other.

    Call it before whatever takes long to import: modules have swallowed a KeyboardInterrupt.
    """
    stop = threading.Event()

    def on_signal(number: int, _: FrameType | None) -> None:
        for heard in (number,) if supervised else (signal.SIGINT, signal.SIGTERM):
            signal.signal(heard, signal.SIG_DFL)
        stop.set()

    signal.signal(signal.SIGINT, on_signal)
    signal.signal(signal.SIGTERM, on_signal)
    if supervised:
        threading.Thread(target=_until_closed, args=(stop,), daemon=True).start()
    return stop


def _until_closed(stop: threading.Event) -> None:
    """The parent holds the other end of standard input: when it is gone, so are we."""
    while os.read(sys.stdin.fileno(), 1024):
        continue
    signal.alarm(ORPHAN_S)
    stop.set()
