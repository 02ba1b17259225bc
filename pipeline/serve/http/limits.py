"""How often: requests of one address, and what of many failures the ledger is told."""

from __future__ import annotations

import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from threading import Lock
from typing import Any

#: Seconds over which a rate counts: so many at once, if there were none before.
BURST_S = 10.0
#: Addresses that are kept in mind; those not heard of for longest are forgotten.
KNOWN = 10_000
#: The ledger gets one entry in so many seconds, however many try.
QUIET_S = 10.0
#: Addresses that an entry names, those with the most failures.
NAMED = 10


class Rates:
    """A bucket of tokens for each address (Turner 1986): `rate` a second flow in.

    >>> rates = Rates(1.0, clock=lambda: 0.0)
    >>> [rates.wait("a") for _ in range(11)][-2:]
    [0.0, 1.0]
    """

    def __init__(self, rate: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.rate = rate
        self.clock = clock
        self.most = max(1.0, rate * BURST_S)
        self._full: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait(self, address: str) -> float:
        """Seconds that it has to wait, and then nothing was taken; 0: it may."""
        now = self.clock()
        left, at = self._full.pop(address, (self.most, now))
        left = min(self.most, left + (now - at) * self.rate)
        allowed = left >= 1
        self._full[address] = (left - 1 if allowed else left, now)
        if len(self._full) > KNOWN:
            self._full.popitem(last=False)
        return 0.0 if allowed else (1 - left) / self.rate


class Failures:
    """Tokens that were none, told in one entry a while."""

    def __init__(
        self,
        note: Callable[[Mapping[str, Any]], None],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.note = note
        self.clock = clock
        self._counts: Counter[str] = Counter()
        self._due = float("-inf")
        self._lock = Lock()

    def count(self, address: str) -> None:
        """One more from there."""
        with self._lock:
            if address not in self._counts and len(self._counts) >= KNOWN:
                address = "others"
            self._counts[address] += 1

    def tell(self, *, now: bool = False) -> None:
        """Have what was counted noted, if the last time is long enough ago, or `now`."""
        with self._lock:
            if not self._counts or (self.clock() < self._due and not now):
                return
            self._due = self.clock() + QUIET_S
            counts, self._counts = self._counts, Counter()
        addresses = dict(counts.most_common(NAMED))
        self.note({"failures": counts.total(), "addresses": addresses, "of": len(counts)})
