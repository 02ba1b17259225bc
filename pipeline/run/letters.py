"""The dead-letter topic in; what lies there, and what people decide about it, out."""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice

from pipeline.errors import LeaseLost, PipelineError
from pipeline.ports import Log, Sink
from pipeline.records import LogRecord
from pipeline.register.acts import by_somebody
from pipeline.register.letters import LetterBook, Place
from pipeline.register.sql import SqlRegistry
from pipeline.run.progress import Show, silent

#: Marks a replayed record in the source topic; its value: PARTITION/OFFSET/SHA256 of the bad one.
HEADER = "tidemark-replay"
#: Letters decided on in one transaction.
CHUNK = 200
#: Of a record in the dead-letter topic that this tool cannot tell the origin of.
STRANGER = "not_a_letter"
STATES = ("open", "replaying", "replayed", "returned", "dropped")


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """A dead letter, and what became of it."""

    place: Place
    kind: str
    reason: str
    #: When it was written to the dead-letter topic, in microseconds since 1970 UTC.
    time: int
    key: bytes | None
    value: bytes | None
    #: Bytes that its value had, if not all of them are here.
    cut_from: int | None
    #: One of STATES; returned: it is a replayed letter, dead again.
    state: str = "open"
    replayed_offset: int | None = None

    @property
    def mark(self) -> bytes:
        """What its replayed record says in HEADER."""
        return _mark(self.place)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which letters; what is None or empty asks for nothing."""

    kinds: Sequence[str] = ()
    partition: int | None = None
    offset: int | None = None
    #: Microseconds since 1970 UTC, of the letter's own time.
    since: int | None = None
    states: Sequence[str] = ()

    def takes(self, letter: Letter) -> bool:
        """Whether it is one of them."""
        return (
            (not self.kinds or letter.kind in self.kinds)
            and self.partition in (None, letter.place.partition)
            and self.offset in (None, letter.place.offset)
            and (self.since is None or letter.time >= self.since)
            and (not self.states or letter.state in self.states)
        )


@dataclass(slots=True)
class Done:
    """What was done, and what could not be."""

    letters: int = 0
    #: Replays of an earlier run that had ended before it knew whether they were sent.
    settled: int = 0
    #: Why -> letters that were left out.
    skipped: Counter[str] = field(default_factory=Counter)


def find(log: Log, book: LetterBook, wanted: Wanted, show: Show = silent) -> Iterator[Letter]:
    """Every wanted letter once, however often it was published, with its state."""
    seen: set[Place] = set()
    total, done = sum(log.ends().values()), 0
    for records in log.read(since=wanted.since or 0):
        new = {(letter := parse(r)).place: letter for r in reversed(records)}
        letters = [letter for place, letter in reversed(new.items()) if place not in seen]
        seen |= new.keys()
        yield from filter(wanted.takes, _with_states(book, letters))
        show(done := done + len(records), max(total, done))


def replay(
    log: Log,
    source: Log,
    sink: Sink,
    book: LetterBook,
    wanted: Wanted,
    *,
    topic: str,
    actor: str,
    reason: str,
    again: bool = False,
    limit: int | None = None,
    dry_run: bool = False,
    turn: Turn | None = None,
    show: Show = silent,
) -> Done:
    """Send letters back to where they came from: same partition, key and value, marked by HEADER.

    1. Settle what an earlier run left: look in the source topic whether it was sent.
    2. Note in SQL which letters are about to be sent, and the source topic's ends.
    3. Send, and wait for every acknowledgement.
    4. Find them in the source topic by their mark; note where, and the decision in the ledger.

    A crash anywhere between leaves letters that step 1 of the next run finds sent, or not.

    again: those too that were replayed, dropped or have returned; of one that has returned, not
    the letter that it was.

    Raises
    ------
    SourceError
        A record was not acknowledged; the next run finds out which.
    LeaseLost
        Another run works on this stream.
    PipelineError
        Nobody replays them, or for no reason.
    """
    by_somebody(actor, reason)
    turn = turn or Turn()
    done = Done()
    if not dry_run:
        turn.keep()
        done.settled = _settle(source, book, release=True)
    gone = _superseded(log, book) if again else set()
    letters = (
        letter
        for letter in find(log, book, wanted, show)
        if (again or letter.state == "open") and letter.place not in gone
    )
    partitions = source.ends()
    sendable = (letter for letter in letters if _can_go(letter, partitions, done))
    for chunk in _chunks(sendable, limit):
        if not dry_run:
            turn.keep()
            places = [letter.place for letter in chunk]
            book.begin(places, source.ends(), actor=actor, reason=reason)  # 2
            for letter in chunk:  # 3
                sink.send(
                    topic,
                    key=letter.key,
                    value=letter.value,
                    headers=[(HEADER, letter.mark)],
                    partition=letter.place.partition,
                )
            sink.flush()
            _settle(source, book, release=False)  # 4
        done.letters += len(chunk)
    return done


def drop(
    log: Log,
    book: LetterBook,
    wanted: Wanted,
    *,
    actor: str,
    reason: str,
    limit: int | None = None,
    dry_run: bool = False,
    turn: Turn | None = None,
    show: Show = silent,
) -> Done:
    """Decide that letters are wanted no more: those that are open, or have returned.

    Kafka deletes no single record: their bytes stay until the topic's retention removes them.

    Raises
    ------
    LeaseLost, PipelineError
        As `replay` does.
    """
    by_somebody(actor, reason)
    turn = turn or Turn()
    done = Done()
    letters = (each for each in find(log, book, wanted, show) if each.state in ("open", "returned"))
    for chunk in _chunks(letters, limit):
        if not dry_run:
            turn.keep()
            book.drop([letter.place for letter in chunk], actor=actor, reason=reason)
        done.letters += len(chunk)
    return done


@dataclass(slots=True)
class Turn:
    """One at a time decides about a stream's letters: a lease, and a way to be stopped."""

    registry: SqlRegistry | None = None
    name: str = ""
    owner: str = ""
    lease_s: float = 60.0
    stop: threading.Event = field(default_factory=threading.Event)

    def keep(self) -> None:
        """Between two chunks: LeaseLost if it is somebody else's turn; Ctrl-C ends here."""
        if self.stop.is_set():
            raise KeyboardInterrupt
        if self.registry and not self.registry.lease(self.name, self.owner, self.lease_s):
            raise LeaseLost(
                "another `tidemark dlq` works on this stream: wait for it; "
                f"if it was killed, {self.lease_s:.0f} s"
            )

    def end(self) -> None:
        """The next one need not wait."""
        if self.registry:
            self.registry.end_lease(self.name, self.owner)


def parse(record: LogRecord) -> Letter:
    """A record of the dead-letter topic as a letter; one without our headers is a STRANGER."""
    facts = {name: value.decode(errors="replace") for name, value in record.headers.items()}
    try:
        where = _number(facts["partition"], 31), _number(facts["offset"], 63)
        kind, reason = facts["kind"], facts["reason"]
        cut_from = int(facts["cut_from_bytes"]) if "cut_from_bytes" in facts else None
    except (KeyError, ValueError):
        where, kind, cut_from = (record.partition, record.offset), STRANGER, None
        reason = "its headers do not say where it comes from"
    return Letter(
        place=Place(*where, _digest(record)),
        kind=kind,
        reason=reason,
        time=record.time,
        key=record.key,
        value=record.value,
        cut_from=cut_from,
    )


def _mark(place: Place) -> bytes:
    return "/".join(map(str, place)).encode()


def _number(text: str, bits: int) -> int:
    """A number that SQL takes; ValueError for any other."""
    if not 0 <= (number := int(text)) < 2**bits:
        raise ValueError(f"not in {bits} bits: {text}")
    return number


def _digest(record: LogRecord) -> str:
    key = record.key or b""
    return hashlib.sha256(b"%d:%b%b" % (len(key), key, record.value or b"")).hexdigest()


def _with_states(book: LetterBook, letters: Sequence[Letter]) -> Iterator[Letter]:
    if not letters:
        return
    places = [letter.place for letter in letters]
    decided, returned = book.decided(places), book.returned(places)
    for letter in letters:
        if (found := decided.get(letter.place)) is not None:
            status, offset = found
            yield replace(letter, state=status, replayed_offset=offset)
        elif letter.place[:2] in returned and letter.kind != STRANGER:
            yield replace(letter, state="returned")
        else:
            yield letter


def _superseded(log: Log, book: LetterBook) -> set[Place]:
    """Letters that have returned as another: that one stands for them."""
    letters = list(_bare(find(log, book, Wanted())))
    spots = {place[:2] for place, _ in letters}
    return {place for place, offset in letters if (place.partition, offset) in spots}


def _bare(letters: Iterator[Letter]) -> Iterator[tuple[Place, int | None]]:
    """Without their contents."""
    return ((letter.place, letter.replayed_offset) for letter in letters)


def _can_go(letter: Letter, ends: dict[int, int], done: Done) -> bool:
    if letter.kind == STRANGER:
        done.skipped[STRANGER] += 1
    elif letter.cut_from is not None:
        done.skipped["cut"] += 1
    elif letter.place.partition not in ends:
        done.skipped["no_such_partition"] += 1
    else:
        return True
    return False


def _chunks(letters: Iterator[Letter], limit: int | None) -> Iterator[list[Letter]]:
    letters = islice(letters, limit)
    for letter in letters:
        yield [*chain([letter], islice(letters, CHUNK - 1))]


def _settle(source: Log, book: LetterBook, *, release: bool) -> int:
    """Look for every record that may have been sent; the number of those that were.

    release: those that are not there were never sent, and are open again.
    """
    wanted = book.unsettled()
    if not wanted:
        return 0
    marks = {_mark(place): place for place in wanted}
    first: dict[int, int] = {}
    for place, offset in wanted.items():
        first[place.partition] = min(offset, first.get(place.partition, offset))
    found: dict[Place, int] = {}
    for records in source.read(first):
        for record in records:
            place_ = marks.get(record.headers.get(HEADER, b""))
            if place_ is not None and record.offset >= wanted[place_]:
                found.setdefault(place_, record.offset)
    missing = wanted.keys() - found.keys()
    if missing and not release:
        raise PipelineError(
            f"{len(missing)} records were acknowledged and are not in the topic yet: run it again"
        )
    book.settle(found, missing)
    return len(found)
