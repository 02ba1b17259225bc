"""The ledger in, messages out: who is told, of what, when, and again until it was taken.

Each rule has a thread of its own, and goes through its streams by itself: a receiver that is dead
or hangs holds up nobody else, and nothing that follows a topic waits for any of it. Of several
processes one tells for a rule, under a lease.

    look      entries of the ledger that the rule wants -> first one to tell of each stream
    tell      the next message of a stream -> told, or a pause and the same message again

A message is sent before it is written down that it was: after a crash between the two it is sent
again, under the same id.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from itertools import islice, takewhile
from typing import Any

import structlog

from pipeline.config import Notify, Settings
from pipeline.errors import PipelineError
from pipeline.outage import Outage
from pipeline.records import EVENTS
from pipeline.register.engine import reading
from pipeline.register.notifications import NotificationBook, Owed
from pipeline.register.sql import SqlRegistry
from pipeline.run.receivers import NotDelivered, Receiver, Topic, receiver
from pipeline.serve.events import AT_ONCE, Event, happened

log = structlog.get_logger()

#: Asks the database, again if it was away.
Ask = Callable[[Callable[[], Any]], Any]

#: First pause after a failed attempt, doubled each time, and the longest, in seconds; each is cut
#: by up to half at random.
PAUSE_S, LONGEST_S = 1.0, 600.0
#: How often the ledger is looked at, in seconds.
LOOK_S = 1.0
#: Entries that are looked through in one go, and events in one message, at most.
STRIDE, BURST = 10_000, 10_000
#: Records that go to Kafka at once.
RECORDS = 500
#: Entries that are read at once where one event is looked for.
FEW = 20
#: How long the threads have to end what they do, in seconds.
LEAVE_S = 3.0
#: Messages of a stream in one round: then it is the others' turn.
TURN = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What a receiver is told of, and how."""

    name: str
    kinds: frozenset[str]
    severity: str
    #: Whether it is told of a stream; None: of what is of no stream.
    streams: Callable[[str | None], bool]
    #: Events in one message, at most.
    most: int
    at_most_every_s: float
    #: 0: nothing is ever too old.
    give_up_after_s: float

    @property
    def longest_s(self) -> float:
        """No pause of the rule is longer."""
        return max(LONGEST_S, self.at_most_every_s)


def asked(rule: Notify) -> Rule:
    """What a [[notify]] of the settings asks for."""

    def streams(name: str | None) -> bool:
        return not rule.streams or (
            name is not None and any(fnmatchcase(name, each) for each in rule.streams)
        )

    return Rule(
        name=rule.name,
        kinds=frozenset(rule.kinds or EVENTS),
        severity=rule.severity,
        streams=streams,
        most=BURST if rule.at_most_every_s else 1,
        at_most_every_s=rule.at_most_every_s,
        give_up_after_s=rule.give_up_after_s,
    )


def published(topic: str) -> Rule:
    """Everything that happens to a stream, or to the database, on the stream's topic of events."""
    return Rule(
        name=f"{topic}.events",
        kinds=frozenset(EVENTS),
        severity="info",
        streams=lambda name: name in (topic, None),
        most=RECORDS,
        at_most_every_s=0.0,
        give_up_after_s=0.0,
    )


class Post:
    """Tells one receiver what its rule wants.

    Parameters
    ----------
    ask
        Asks the database, again if it was away.
    """

    def __init__(
        self,
        rule: Rule,
        to: Receiver,
        book: NotificationBook,
        *,
        ask: Ask = lambda act: act(),
        chance: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self.rule = rule
        self.to = to
        self.book = book
        self.chance = chance
        self._ask = ask
        self._looked = self._saved = ask(lambda: book.begin(rule.name))

    def step(self, stop: Callable[[], bool] = lambda: False) -> int:
        """Look, and tell what is due; how often a stream came further."""
        while not stop() and self.look():
            pass
        further = 0
        for owed in self._due():
            for _ in range(TURN):
                if stop() or not self.tell(owed):
                    break
                further += 1
                left = [each for each in self._due() if each.stream == owed.stream]
                if not left:
                    break
                owed = left[0]
        return further

    def look(self) -> bool:
        """Look through the ledger from where the rule left off; whether there may be more.

        Where nothing is wanted nothing is written, but for every STRIDE entries.
        """
        head = int(self._ask(self.book.head))
        until = min(head, self._looked + STRIDE)
        if until <= self._looked:
            return False
        firsts: dict[str, int] = {}
        for event in self._events(self._looked, until):
            firsts.setdefault(event.stream or "", event.entry)
        if firsts or until - self._saved >= STRIDE:
            rule, saved = self.rule.name, self._saved
            if not self._ask(lambda: self.book.found(rule, saved, until, firsts)):
                until = int(self._ask(lambda: self.book.begin(rule)))
            self._saved = until
        self._looked = until
        return bool(until < head)

    def tell(self, owed: Owed) -> bool:
        """Send the next message of a stream; whether the stream came further."""
        events = self._pending(owed, owed.last or self._looked, self.rule.most)
        if not events:  # the rule, as it is now, does not want them
            following = self._following(owed, owed.last or self._looked)
            return bool(self._ask(lambda: self.book.leave_out(owed, following)))
        if self._is_old(events[0]):
            return self._expire(owed)
        if owed.last is None and self.rule.at_most_every_s:
            last = events[-1].entry
            if not self._ask(lambda: self.book.fix(owed, last)):
                return False
            owed = replace(owed, last=last)
        try:
            self.to.send(events)
        except NotDelivered as exc:
            self._failed(owed, str(exc))
            return False
        return self._told(owed, events[-1].entry)

    def _told(self, owed: Owed, last: int) -> bool:
        following, pause = self._following(owed, last), self.rule.at_most_every_s
        if owed.attempts:
            log.warning("receiver_back", rule=owed.rule, stream=owed.stream)
        return bool(self._ask(lambda: self.book.told(owed, last, following, pause)))

    def _failed(self, owed: Owed, error: str) -> None:
        pause = min(LONGEST_S, PAUSE_S * 2 ** min(owed.attempts, 30)) * self.chance(0.5, 1.0)
        if not owed.attempts:
            log.warning("receiver_away", rule=owed.rule, stream=owed.stream, reason=error)
        self._ask(lambda: self.book.failed(owed, error, pause))

    def _is_old(self, event: Event) -> bool:
        limit = self.rule.give_up_after_s
        return limit > 0 and event.time < self.book.clock() - int(limit * 1e6)

    def _expire(self, owed: Owed) -> bool:
        """Leave out what is too old, and have the ledger say so."""
        old = list(takewhile(self._is_old, self._pending(owed, self._looked, BURST)))
        following = self._following(owed, old[-1].entry)
        log.warning("notifications_expired", rule=owed.rule, stream=owed.stream, events=len(old))
        return bool(self._ask(lambda: self.book.expire(owed, old[-1].entry, len(old), following)))

    def _due(self) -> list[Owed]:
        found: list[Owed] = self._ask(lambda: self.book.due(self.rule.name, self.rule.longest_s))
        return found

    def _pending(self, owed: Owed, until: int, most: int) -> list[Event]:
        """What is to be told of a stream, as far as that entry."""
        return self._events((owed.first or 1) - 1, until, owed.stream, most)

    def _following(self, owed: Owed, last: int) -> int | None:
        """The next entry to tell of a stream."""
        found = self._events(last, self._looked, owed.stream, 1)
        return found[0].entry if found else None

    def _events(
        self, after: int, until: int, stream: str | None = None, most: int | None = None
    ) -> list[Event]:
        """What the rule wants of the entries (after, until], `most` of it; stream: None: of all."""

        def read() -> list[Event]:
            with reading(self.book.engine) as conn:
                found = happened(
                    conn,
                    self.rule.kinds,
                    after=after,
                    until=until,
                    stream=stream,
                    wanted=self.rule.streams,
                    severity=self.rule.severity,
                    at_once=AT_ONCE if most is None else min(max(most, FEW), AT_ONCE),
                )
                return list(islice(found, most))

        found: list[Event] = self._ask(read)
        return found


class Notifier:
    """A thread for each rule, until it is told to stop."""

    def __init__(
        self, settings: Settings, registry: SqlRegistry, *, owner: str, stop: threading.Event
    ) -> None:
        self.settings = settings
        self.registry = registry
        self.owner = owner
        self.stop = stop
        self._over = threading.Event()
        self._failure: Exception | None = None

    def run(self) -> None:
        """Tell everybody; raises what ended a rule's thread, if something did."""
        from pipeline.ingest.kafka_sink import KafkaSink

        settings, topic = self.settings, self.settings.stream.topic
        posts = [(asked(rule), receiver(rule)) for rule in settings.notify]
        if settings.stream.publish_events:
            rule = published(topic)
            posts.append((rule, Topic(settings.kafka, rule.name, KafkaSink)))
        threads = [
            threading.Thread(target=self._guarded, args=post, name=post[0].name, daemon=True)
            for post in posts
        ]
        if not threads:
            log.info("nobody_is_told", keys=["notify", "stream.publish_events"])
        for thread in threads:
            thread.start()
        while not self.stop.wait(0.2) and self._failure is None:
            pass
        self._over.set()
        deadline = time.monotonic() + LEAVE_S
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        if self._failure is not None:
            raise self._failure

    def _guarded(self, rule: Rule, to: Receiver) -> None:
        try:
            self._tell(rule, to)
        except Exception as exc:
            if not self._over.is_set():
                self._failure = exc
        finally:
            to.close()

    def _tell(self, rule: Rule, to: Receiver) -> None:
        """What one thread does: tell, while the lease is ours."""
        length = self.settings.run.lease_s
        outage = Outage("database", self.settings.run.outage_limit_s, self._over)
        book = NotificationBook(self.registry.engine)
        post: Post | None = None
        renew = 0.0
        while not self._over.is_set():
            if time.monotonic() >= renew:
                if not outage.ask(lambda: book.lease(rule.name, self.owner, length)):
                    post = None  # somebody else tells, and may come further than we know
                    self._over.wait(length / 3)
                    continue
                renew = time.monotonic() + length / 3
            if post is None:
                post = Post(rule, to, book, ask=outage.ask)
            until = renew

            def over(until: float = until) -> bool:
                return self._over.is_set() or time.monotonic() >= until

            if not post.step(over):
                self._over.wait(LOOK_S)
        with suppress(PipelineError):
            book.release(rule.name, self.owner)
