"""Something outside is away for a while: ask again after growing pauses, and say so once each way.

    out ── pause ── out ── longer pause ── ... ── back
     └ one line                                     └ one line

tenacity repeats one call; here several callers share one broker or database, which goes once, comes
back once, and has one limit.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import TypeVar

import structlog

from pipeline.errors import Away

T = TypeVar("T")

log = structlog.get_logger()

#: What the one line of a process says that ends because it has waited for long enough.
OVER_LIMIT = "over run.outage_limit_s"
#: First pause, doubled with each further one, and the longest, in seconds; each is cut by up to
#: half at random, so that processes that lost the same thing do not all ask at once.
PAUSE_S, LONGEST_S = 0.1, 5.0
#: How long whoever pauses may be deaf to being told to stop, in seconds.
SLICE_S = 0.5


class Outage:
    """Waits out what is away, up to a limit from the first failure on.

    Only the thread that made it waits. A failure in another one is raised at once: a rebalance
    must not wait, and a lease or a due time comes round again by itself.

    Parameters
    ----------
    what
        What may be away, as log lines begin.
    limit_s
        Longest outage that is waited out; 0: none.
    stop
        Set when the process is to end: then nothing is waited for.
    clock
        Monotonic seconds.
    """

    def __init__(
        self,
        what: str,
        limit_s: float = 0.0,
        stop: threading.Event | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.what = what
        self.limit_s = limit_s
        self.stop = stop or threading.Event()
        self.clock = clock
        #: How to spend some seconds.
        self.pause: Callable[[float], object] = self.stop.wait
        self._since: float | None = None
        self._pauses = 0
        self._thread = threading.get_ident()

    def ask(self, act: Callable[[], T]) -> T:
        """What `act` answers, asked as often as it takes: all of it again, so never half.

        Raises
        ------
        Away
            It was away for longer than the limit, the process is to end, or this is not the thread
            that waits.
        """
        while True:
            try:
                answer = act()
            except Away as exc:
                self.note(exc)
                self._wait()
            else:
                self.over()
                return answer

    def note(self, exc: Away) -> None:
        """It is away, and the caller pauses by himself; raises `exc` as `ask` does."""
        if threading.get_ident() != self._thread or self.limit_s <= 0:
            raise exc
        now = self.clock()
        if self._since is None:
            self._since, self._pauses = now, 0
            event = f"{self.what}_away"
            log.warning(event, reason=str(exc), limit_s=self.limit_s)
        if self.stop.is_set():
            raise exc
        if now - self._since >= self.limit_s:
            away = f"away for {now - self._since:.0f} s, {OVER_LIMIT}"
            raise type(exc)(f"{exc} ({away})") from exc

    def over(self) -> None:
        """It has answered."""
        if self._since is not None and threading.get_ident() == self._thread:
            event = f"{self.what}_back"
            log.warning(event, after_s=round(self.clock() - self._since, 1))
            self._since = None

    def _wait(self) -> None:
        longest = min(LONGEST_S, PAUSE_S * 2**self._pauses)
        self._pauses = min(self._pauses + 1, 30)
        until = self.clock() + longest * random.uniform(0.5, 1.0)
        while (left := until - self.clock()) > 0 and not self.stop.is_set():
            self.pause(min(left, SLICE_S))
