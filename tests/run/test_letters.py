"""Dead letters go back once, whatever breaks in between, and are safe to look at."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select

from pipeline.config import Database
from pipeline.errors import LeaseLost, PipelineError
from pipeline.ingest.memory import MemoryLog, MemorySink
from pipeline.records import DeadLetter, LogRecord
from pipeline.register import tables
from pipeline.register.damage import first_of
from pipeline.register.letters import LetterBook
from pipeline.register.sql import SqlRegistry
from pipeline.run import letters
from pipeline.run.dead_letters import DeadLetters
from pipeline.run.letters import HEADER, STRANGER, Turn, Wanted, drop, find, parse, replay
from pipeline.run.letters_report import shown, survey
from pipeline.telemetry import Metrics
from tests.register.making import Clock, everything

WHO: dict[str, Any] = {"actor": "ada", "reason": "the gateway sends JSON again"}


class Loop(MemorySink):
    """A broker in memory: what is sent to `readings` lies in its log, and so with dead letters."""

    def __init__(self) -> None:
        super().__init__()
        self.logs: dict[str, dict[int, list[LogRecord]]] = {
            "readings": {0: [], 1: []},
            "readings.dead": {0: []},
        }
        self.waiting: list[tuple[str, int, LogRecord]] = []

    def send(self, topic, *, key, value, headers=(), partition=None) -> None:
        record = LogRecord(
            partition=partition or 0,
            offset=-1,
            time=sum(len(log) for log in self.logs[topic].values()) * 1_000_000,
            key=key,
            value=value,
            headers=dict(headers),
        )
        self.waiting.append((topic, partition or 0, record))

    def flush(self) -> None:
        for topic, partition, record in self.waiting:
            self.keep(topic, partition, record)
        self.waiting = []

    def keep(self, topic: str, partition: int, record: LogRecord) -> None:
        from dataclasses import replace

        log = self.logs[topic][partition]
        log.append(replace(record, offset=len(log)))

    def log(self, topic: str) -> MemoryLog:
        return MemoryLog(self.logs[topic])

    def bad(self, kind: str, partition: int = 0, value: bytes | None = b"{", **facts: Any) -> int:
        """A bad record and its dead letter, as the stream makes it; its offset."""
        offset = facts.pop("offset", None)
        if offset is None:
            self.send("readings", key=b"k", value=value, partition=partition)
            self.flush()
            offset = len(self.logs["readings"][partition]) - 1
        letter = DeadLetter(
            topic="readings",
            partition=partition,
            offset=offset,
            kind=kind,
            reason=f"because {kind}",
            key=b"k",
            value=value,
        )
        DeadLetters("readings", self, Metrics("t")).send([letter])
        self.flush()
        return offset

    def replayed(self) -> list[tuple[int, bytes | None, bytes | None, str]]:
        """(partition, key, value, mark) of what came back to the topic."""
        return [
            (p, r.key, r.value, r.headers[HEADER].decode())
            for p, log in self.logs["readings"].items()
            for r in log
            if HEADER in r.headers
        ]


@pytest.fixture
def loop() -> Loop:
    return Loop()


@pytest.fixture
def book(at_head: Database) -> Iterator[LetterBook]:
    registry = SqlRegistry(at_head)
    stream = registry.open_stream("readings", ["a"])
    registry.close()
    book = LetterBook(at_head, stream.id, clock=Clock())
    yield book
    book.close()


def send_back(loop: Loop, book: LetterBook, **options: Any) -> letters.Done:
    wanted = Wanted(**{k: options.pop(k) for k in [*options] if k in Wanted.__slots__})
    return replay(
        loop.log("readings.dead"),
        loop.log("readings"),
        options.pop("sink", loop),
        book,
        wanted,
        topic="readings",
        **WHO | options,
    )


def states(loop: Loop, book: LetterBook) -> list[tuple[int, int, str]]:
    found = find(loop.log("readings.dead"), book, Wanted())
    return [(*letter.place[:2], letter.state) for letter in found]


def noted(book: LetterBook) -> list[tuple[str, str, Any]]:
    with book.engine.connect() as conn:
        assert first_of(conn) is None
        rows = conn.execute(select(tables.ledger).order_by(tables.ledger.c.id))
        return [(r.kind, r.actor, json.loads(r.entry)) for r in rows if "dead" in r.kind]


def test_a_letter_goes_back_to_its_partition_as_it_was_and_once(
    loop: Loop, book: LetterBook
) -> None:
    """Same key, value and partition, marked; a second run finds nothing to do."""
    loop.bad("not_json", 1, b"\x00{")
    loop.bad("no_time", 0, None)
    for _ in range(2):
        send_back(loop, book)
        assert [r[:3] for r in loop.replayed()] == [(0, b"k", None), (1, b"k", b"\x00{")]
    assert states(loop, book) == [(1, 0, "replayed"), (0, 0, "replayed")]
    assert loop.replayed()[1][3].startswith("1/0/")
    (entry,) = noted(book)
    assert entry[:2] == ("dead_letters_replayed", "ada")
    assert sorted(entry[2]["letters"]) == [[0, 0, 1], [1, 0, 1]]
    assert entry[2]["reason"] == WHO["reason"]


def test_a_letter_that_was_published_twice_is_one(loop: Loop, book: LetterBook) -> None:
    """After a crash the stream sends its dead letters again."""
    offset = loop.bad("not_json")
    loop.bad("not_json", offset=offset)
    assert len(loop.logs["readings.dead"][0]) == 2
    assert send_back(loop, book).letters == 1
    assert len(loop.replayed()) == 1


def test_a_letter_that_comes_back_is_known_and_waits_for_a_word(
    loop: Loop, book: LetterBook
) -> None:
    """Else replaying on a timer would send the same bad bytes for ever."""
    loop.bad("not_json")
    send_back(loop, book)
    loop.bad("not_json", offset=1)  # the stream found the replayed record bad again
    assert states(loop, book) == [(0, 0, "replayed"), (0, 1, "returned")]
    assert send_back(loop, book).letters == 0
    assert send_back(loop, book, again=True).letters == 1  # for both: they are one reading
    assert [mark.split("/")[1] for *_, mark in loop.replayed()] == ["0", "1"]
    assert states(loop, book) == [(0, 0, "replayed"), (0, 1, "replayed")]


class Dies(Exception):
    """The process is gone."""


@pytest.mark.parametrize("arrived", [0, 1, 2, 3])
def test_a_crash_while_sending_sends_nothing_twice_and_loses_nothing(
    loop: Loop, book: LetterBook, arrived: int
) -> None:
    """Killed when some of three had arrived: the next run looks which, and sends the rest."""
    for _ in range(3):
        loop.bad("not_json")

    def flush() -> None:
        for topic, partition, record in loop.waiting[:arrived]:
            loop.keep(topic, partition, record)
        loop.waiting.clear()
        raise Dies

    loop.flush = flush  # type: ignore[method-assign]
    with pytest.raises(Dies):
        send_back(loop, book)
    del loop.flush  # type: ignore[attr-defined]
    assert {state for *_, state in states(loop, book)} == {"replaying"}
    done = send_back(loop, book)
    assert (done.settled, done.letters) == (arrived, 3 - arrived)
    marks = Counter(mark for *_, mark in loop.replayed())
    assert (len(marks), set(marks.values())) == (3, {1})
    assert {state for *_, state in states(loop, book)} == {"replayed"}
    told = [tuple(each) for _, _, entry in noted(book) for each in entry["letters"]]
    assert sorted(told)[-1][:2] == (0, 2)
    assert len(told) == len(set(told)) == 3


def test_a_crash_before_the_note_sends_nothing_twice(
    loop: Loop, book: LetterBook, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All had arrived, and nobody knew."""
    loop.bad("not_json")
    real = LetterBook.settle

    def dies(*_: Any) -> None:
        raise Dies

    monkeypatch.setattr(LetterBook, "settle", dies)
    with pytest.raises(Dies):
        send_back(loop, book)
    monkeypatch.setattr(LetterBook, "settle", real)
    assert send_back(loop, book).settled == 1
    assert len(loop.replayed()) == 1


def test_a_dropped_letter_stays_dropped_until_somebody_says_again(
    loop: Loop, book: LetterBook
) -> None:
    """The decision is kept with who and why; the bytes stay where they are."""
    loop.bad("not_json")
    for expected in (1, 0):
        done = drop(loop.log("readings.dead"), book, Wanted(), **WHO)
        assert done.letters == expected
    assert noted(book) == [
        ("dead_letters_dropped", "ada", {"letters": [[0, 0]], "reason": WHO["reason"]})
    ]
    assert send_back(loop, book).letters == 0
    assert states(loop, book) == [(0, 0, "dropped")]
    assert send_back(loop, book, again=True).letters == 1


def test_a_topic_that_was_made_anew_has_new_letters(loop: Loop, book: LetterBook) -> None:
    """Same partition and offset, other content: not the letter that was decided on."""
    loop.bad("not_json", value=b"{")
    send_back(loop, book)
    loop.logs["readings"][0].clear()
    loop.logs["readings.dead"][0].clear()
    loop.bad("not_json", value=b"[")
    assert states(loop, book) == [(0, 0, "open")]


def test_filters_and_limit_choose(loop: Loop, book: LetterBook) -> None:
    """Each by itself, and all of them together."""
    for number in range(6):
        loop.bad(("not_json", "no_time")[number % 2], number // 3)

    def chosen(**wanted: Any) -> list[tuple[int, int]]:
        found = find(loop.log("readings.dead"), book, Wanted(**wanted))
        return [letter.place[:2] for letter in found]

    assert chosen() == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]
    assert chosen(kinds=("no_time",)) == [(0, 1), (1, 0), (1, 2)]
    assert chosen(partition=1) == [(1, 0), (1, 1), (1, 2)]
    assert chosen(offset=0) == [(0, 0), (1, 0)]
    assert chosen(since=4_000_000) == [(1, 1), (1, 2)]  # a letter a second, from 0
    assert chosen(kinds=("no_time",), partition=1, since=5_000_000) == [(1, 2)]
    assert send_back(loop, book, limit=2).letters == 2
    assert chosen(states=("replayed",)) == [(0, 0), (0, 1)]
    assert send_back(loop, book, dry_run=True).letters == 4
    assert len(loop.replayed()) == 2


@pytest.mark.parametrize("who", [{"actor": " "}, {"actor": "gate"}, {"reason": ""}])
def test_nobody_decides_and_nothing_without_a_reason(
    loop: Loop, book: LetterBook, who: dict[str, str]
) -> None:
    """As everywhere that people decide: it is asked for later."""
    loop.bad("not_json")
    with pytest.raises(PipelineError, match=f"--{next(iter(who))}"):
        send_back(loop, book, **who)
    with pytest.raises(PipelineError, match=f"--{next(iter(who))}"):
        drop(loop.log("readings.dead"), book, Wanted(), **WHO | who)
    assert states(loop, book) == [(0, 0, "open")]
    assert loop.replayed() == []


def test_what_cannot_go_back_is_left_out_and_counted(loop: Loop, book: LetterBook) -> None:
    """A value of which a part is gone, a partition that is not there, a stranger's record."""
    loop.bad("too_large", value=b"x" * 450_001)
    loop.bad("not_json", 7, offset=3)
    loop.send("readings.dead", key=None, value=b"?", headers=[("partition", b"9" * 30)])
    loop.flush()
    done = send_back(loop, book, again=True)
    assert done.letters == 0
    assert done.skipped == {"cut": 1, "no_such_partition": 1, STRANGER: 1}
    assert loop.replayed() == []


def test_two_at_once_take_turns(loop: Loop, book: LetterBook, at_head: Database) -> None:
    """The second says so and does nothing; when the first has ended, it may."""
    registry = SqlRegistry(at_head)
    loop.bad("not_json")
    first, second = (Turn(registry, "dlq:1", owner) for owner in "ab")
    first.keep()
    before = everything(registry.engine)
    with pytest.raises(LeaseLost, match="another `tidemark dlq`"):
        send_back(loop, book, turn=second)
    assert everything(registry.engine) == before
    first.end()
    assert send_back(loop, book, turn=second).letters == 1
    registry.close()


def test_ctrl_c_ends_between_two_steps(
    loop: Loop, book: LetterBook, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was sent is noted; the next run goes on with the rest."""
    monkeypatch.setattr(letters, "CHUNK", 2)
    for _ in range(5):
        loop.bad("not_json")
    turn, flush = Turn(), loop.flush

    def stop_after() -> None:
        flush()
        turn.stop.set()

    loop.flush = stop_after  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        send_back(loop, book, turn=turn)
    loop.flush = flush  # type: ignore[method-assign]
    assert Counter(state for *_, state in states(loop, book)) == {"replayed": 2, "open": 3}
    assert send_back(loop, book).letters == 3


def test_the_survey_counts_by_kind_and_state(loop: Loop, book: LetterBook) -> None:
    """And shows the newest."""
    for kind in ("b", "a", "b"):
        loop.bad(kind)
    send_back(loop, book, limit=1)
    found = survey(find(loop.log("readings.dead"), book, Wanted()), 2)
    none = dict.fromkeys(letters.STATES, 0)
    assert found["count"] == 3
    assert found["kinds"] == {"a": none | {"open": 1}, "b": none | {"open": 1, "replayed": 1}}
    assert [each["offset"] for each in found["newest"]] == [1, 2]


@given(st.binary(max_size=300), st.integers(1, 100))
def test_no_bytes_steer_a_terminal(content: bytes, longest: int) -> None:
    """Whatever a stranger sent: printable characters, one line, not longer than asked for."""
    text = shown(content, longest)
    assert text is not None
    assert text.isprintable()
    assert len(text) <= longest + 3


@given(st.dictionaries(st.sampled_from(["partition", "offset", "kind", "reason", "cut_from_bytes"]),
                       st.binary(max_size=30)))  # fmt: skip
def test_no_headers_break_the_reader(headers: dict[str, bytes]) -> None:
    """They are a stranger's, or numbers that SQL takes."""
    record = LogRecord(partition=2, offset=5, time=0, key=None, value=b"x", headers=headers)
    letter = parse(record)
    assert 0 <= letter.place.partition < 2**31
    assert 0 <= letter.place.offset < 2**63
    assert letter.kind == STRANGER or {"partition", "offset", "kind", "reason"} <= set(headers)
