"""Who is told of what, in which order, and again until it was taken: on both databases."""

from __future__ import annotations

import itertools
import json
import subprocess
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from msgspec.structs import replace as altered
from sqlalchemy import insert

from pipeline.config import Database, Kafka, Notify, Run, Settings
from pipeline.config import Stream as StreamSettings
from pipeline.errors import SettingsError, SourceError
from pipeline.records import EVENTS, Gap, SensorEvent
from pipeline.register import boundaries, ledger, tables
from pipeline.register.engine import reading, writing
from pipeline.register.notifications import NotificationBook
from pipeline.register.proof import note, verify
from pipeline.register.sql import SqlRegistry, Stream
from pipeline.register.tokens import TokenBook
from pipeline.run import notifier
from pipeline.run.notifier import LONGEST_S, PAUSE_S, Notifier, Post, asked, published
from pipeline.run.notify_report import standing
from pipeline.run.receivers import NotDelivered, Topic, Webhook, body
from pipeline.serve.events import Event, happened
from tests.register.making import (
    SECOND,
    Clock,
    boundary,
    by_hand,
    change,
    claimed,
    column,
    next_version,
    opened,
    rejected,
)
from tests.run.receiving import Inbox, free_port, listening

SECRET = "a secret of the plant's own"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def registry(at_head: Database, clock: Clock) -> Iterator[SqlRegistry]:
    with opened(at_head, clock) as registry:
        yield registry


@pytest.fixture
def inbox() -> Iterator[Inbox]:
    with listening(Inbox()) as inbox:
        yield inbox


def rule(name: str = "ops", **more: Any) -> Notify:
    return Notify(name=name, url="http://127.0.0.1:1/", secret_variable="S", **more)


def post(registry: SqlRegistry, to: Any, asks: Notify | None = None) -> Post:
    """A rule's own thread, by hand; pauses are never cut."""
    book = NotificationBook(registry.engine, clock=registry.clock)
    return Post(asked(asks or rule()), to, book, chance=lambda _, most: most)


def webhook(inbox: Inbox, timeout_s: float = 10.0) -> Webhook:
    return Webhook(inbox.url, SECRET, timeout_s, clock=lambda: 1_774_000_000)


def silent(registry: SqlRegistry, stream: Stream, row: int) -> None:
    """A sensor falls silent: one event, whose sentence has the row in it."""
    told = SensorEvent(
        series="pump", channel=1, kind="sensor_silent", row=row, offset=row, time=row * SECOND
    )
    with writing(registry.engine) as conn:
        boundaries.record_events(conn, stream.id, 0, [told], at=registry.clock())


def sentence(row: int) -> str:
    return f"flow says nothing any more (reading {row} of pump)."


@pytest.fixture
def stream(registry: SqlRegistry) -> Stream:
    return registry.open_stream("press", ["heat", "flow"])


class Listed:
    """A receiver in memory that fails as often as it is told to."""

    def __init__(self, *failures: str) -> None:
        self.failures = list(failures)
        self.told: list[list[Event]] = []

    def send(self, events: Sequence[Event]) -> None:
        if self.failures:
            raise NotDelivered(self.failures.pop(0))
        self.told.append(list(events))

    def close(self) -> None:
        pass

    def texts(self) -> list[str]:
        return [event.text for events in self.told for event in events]


# In order, at least once ----------------------------------------------------------------------


def test_a_new_rule_is_told_of_what_comes_after_it(
    registry: SqlRegistry, stream: Stream, inbox: Inbox
) -> None:
    """Not of the history: a receiver is no archive."""
    silent(registry, stream, 1)
    teller = post(registry, webhook(inbox))
    for row in (2, 3, 4):
        silent(registry, stream, row)
    teller.step()
    assert inbox.texts() == [sentence(2), sentence(3), sentence(4)]
    assert [message["count"] for message in inbox.taken] == [1, 1, 1]
    assert teller.step() == 0
    assert len(inbox.tried) == 3


def test_a_message_is_sent_until_it_is_taken_with_growing_pauses(
    registry: SqlRegistry, stream: Stream, inbox: Inbox, clock: Clock
) -> None:
    """1, 2, 4 seconds; one id; nothing that came later overtakes it."""
    teller = post(registry, webhook(inbox))
    inbox.answers = [500, 503, 404]
    silent(registry, stream, 1)
    silent(registry, stream, 2)
    for attempt in range(3):
        teller.step()
        pause = PAUSE_S * 2**attempt
        clock.pass_s(pause - 0.001)
        teller.step()  # still pauses
        assert len(inbox.tried) == attempt + 1
        clock.pass_s(0.001)
    (owed,) = teller.book.all()
    assert (owed.attempts, owed.error) == (3, "it answered 404")
    teller.step()
    assert inbox.texts() == [sentence(1), sentence(2)]
    first, *again, second = inbox.ids()
    assert again == [first] * 3
    assert second != first
    (owed,) = teller.book.all()
    assert (owed.first, owed.attempts, owed.error) == (None, 0, None)


def test_the_longest_pause_is_never_exceeded(
    registry: SqlRegistry, stream: Stream, clock: Clock
) -> None:
    """After a thousand failures it is still asked every LONGEST_S."""
    teller = post(registry, Listed(*["away"] * 3))
    silent(registry, stream, 1)
    teller.step()
    change(registry.engine, "UPDATE notifications SET attempts = 1000")
    clock.pass_s(LONGEST_S)
    teller.step()
    (owed,) = teller.book.all()
    assert owed.not_before == clock() + LONGEST_S * SECOND


def test_a_clock_that_was_set_back_leaves_no_pause_behind(
    registry: SqlRegistry, stream: Stream, clock: Clock
) -> None:
    """A pause further away than the longest there is was written by another clock."""
    to = Listed("away")
    teller = post(registry, to)
    silent(registry, stream, 1)
    teller.step()
    clock.pass_s(-2 * LONGEST_S)
    teller.step()
    assert to.texts() == [sentence(1)]


def test_killed_between_sending_and_writing_it_down_sends_the_same_again(
    registry: SqlRegistry, stream: Stream, inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Same id, same bytes; what follows comes after it."""
    teller = post(registry, webhook(inbox))
    silent(registry, stream, 1)
    with monkeypatch.context() as patch:
        patch.setattr(NotificationBook, "told", killed)
        with pytest.raises(KeyboardInterrupt):
            teller.step()
    silent(registry, stream, 2)
    post(registry, webhook(inbox)).step()  # another process
    assert inbox.texts() == [sentence(1), sentence(1), sentence(2)]
    (first, once), (second, twice), _ = inbox.tried
    assert first == second
    assert once == twice


def test_a_burst_that_was_killed_is_sent_again_as_it_was(
    registry: SqlRegistry,
    stream: Stream,
    inbox: Inbox,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What came after it is the next message's: the id says what a message holds."""
    rarely = rule(at_most_every_s=60)
    teller = post(registry, webhook(inbox), rarely)
    silent(registry, stream, 1)
    silent(registry, stream, 2)
    with monkeypatch.context() as patch:
        patch.setattr(NotificationBook, "told", killed)
        with pytest.raises(KeyboardInterrupt):
            teller.step()
    silent(registry, stream, 3)
    again = post(registry, webhook(inbox), rarely)
    again.step()
    assert inbox.tried[0] == inbox.tried[1]
    clock.pass_s(60)
    again.step()
    assert [message["count"] for message in inbox.taken] == [2, 2, 1]


def killed(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_process_that_was_overtaken_writes_nothing(registry: SqlRegistry, stream: Stream) -> None:
    """Two tell for one rule for a moment: the slower's cursor does not go back."""
    slow, quick = Listed(), Listed()
    one, other = post(registry, slow), post(registry, quick)
    silent(registry, stream, 1)
    one.look()
    (owed,) = one.book.due("ops", LONGEST_S)
    silent(registry, stream, 2)
    other.step()
    other.step()
    before = other.book.all()
    assert not one.tell(owed)
    assert other.book.all() == before
    assert quick.texts() == [sentence(1), sentence(2)]


def test_a_stream_that_is_refused_holds_up_only_itself(
    registry: SqlRegistry, stream: Stream, clock: Clock
) -> None:
    """Order is kept within a stream, and each goes on by itself."""

    class Picky(Listed):
        def send(self, events: Sequence[Event]) -> None:
            if events[0].stream == "press":
                raise NotDelivered("not that one")
            super().send(events)

    other = registry.open_stream("mill", ["heat", "flow"])
    to = Picky()
    teller = post(registry, to)
    silent(registry, stream, 1)
    silent(registry, other, 2)
    silent(registry, stream, 3)
    silent(registry, other, 4)
    teller.step()
    assert to.texts() == [sentence(2), sentence(4)]
    teller.to = healthy = Listed()
    clock.pass_s(LONGEST_S)
    teller.step()
    assert healthy.texts() == [sentence(1), sentence(3)]


# Receivers ------------------------------------------------------------------------------------


def test_a_receiver_that_was_dead_gets_all_of_it_once_it_is_back(
    registry: SqlRegistry, stream: Stream, clock: Clock
) -> None:
    """Nobody listens, then somebody does, on the same port."""
    inbox, port = Inbox(), free_port()
    inbox.port = port
    teller = post(registry, webhook(inbox))
    for row in (1, 2, 3):
        silent(registry, stream, row)
    teller.step()
    (owed,) = teller.book.all()
    assert owed.error is not None
    assert "127.0.0.1" in owed.error
    with listening(inbox, port):
        clock.pass_s(PAUSE_S)
        teller.step()
    assert inbox.texts() == [sentence(1), sentence(2), sentence(3)]


def test_a_receiver_that_hangs_is_given_up_on(registry: SqlRegistry, stream: Stream) -> None:
    """It took the connection and says nothing: that is a failure like any other."""
    with listening(Inbox()) as inbox:
        inbox.answers = [None]
        teller = post(registry, webhook(inbox, timeout_s=0.2))
        silent(registry, stream, 1)
        teller.step()
        (owed,) = teller.book.all()
        assert owed.attempts == 1


def test_a_receiver_that_dribbles_is_cut_off() -> None:
    """Every byte begins a socket's time-out anew; the limit is for all of it."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        done = threading.Event()

        def dribble() -> None:
            line, _ = server.accept()
            with line:
                for byte in itertools.cycle(b"x"):
                    if done.wait(0.05):
                        return
                    try:
                        line.sendall(bytes([byte]))
                    except OSError:
                        return

        thread = threading.Thread(target=dribble)
        thread.start()
        to = Webhook(f"http://127.0.0.1:{server.getsockname()[1]}/", SECRET, 0.3)
        with pytest.raises(NotDelivered):
            to.send([made(1)])
        done.set()
        thread.join()


def test_a_redirect_is_not_followed(inbox: Inbox) -> None:
    """Whoever can answer for a receiver must not choose who hears."""
    inbox.answers, inbox.elsewhere = [307], inbox.url
    with pytest.raises(NotDelivered, match="307: redirects are not followed"):
        webhook(inbox).send([made(1)])
    assert len(inbox.tried) == 1


def test_openssl_finds_the_signature_to_be_ours(inbox: Inbox) -> None:
    """Another program's HMAC of the bytes that went over the line, and of no others."""
    webhook(inbox).send([made(1)])
    ((headers, content),) = inbox.tried
    signed = headers["Tidemark-Timestamp"].encode() + b"." + content

    def openssl(what: bytes) -> str:
        command = ["openssl", "dgst", "-sha256", "-hmac", SECRET]
        return (
            subprocess.run(command, input=what, capture_output=True, check=True)
            .stdout.split()[-1]
            .decode()
        )

    assert headers["Tidemark-Timestamp"] == "1774000000"
    assert headers["Tidemark-Signature"] == f"v1={openssl(signed)}"
    assert headers["Tidemark-Signature"] != f"v1={openssl(signed + b' ')}"


def test_secrets_and_paths_stand_in_no_error(registry: SqlRegistry, stream: Stream) -> None:
    """An error is kept in SQL and logged."""
    url = f"http://127.0.0.1:{free_port()}/hooks/canary?token=canary"
    teller = post(registry, Webhook(url, "canary-canary-canary", 1.0))
    silent(registry, stream, 1)
    teller.step()
    assert "canary" not in str(teller.book.all())


# What is told ---------------------------------------------------------------------------------


def made(number: int, kind: str = "gap", time: int = 0) -> Event:
    return Event(
        id=f"{number}-ab",
        entry=number,
        kind=kind,
        severity=EVENTS[kind],
        stream="press",
        time=time,
        text=f"text {number}",
        facts={},
    )


def test_a_burst_is_one_message_that_says_how_many(
    registry: SqlRegistry, stream: Stream, clock: Clock
) -> None:
    """The first at once, what comes within the minute as one when it is over."""
    to = Listed()
    teller = post(registry, to, rule(at_most_every_s=60))
    silent(registry, stream, 1)
    teller.step()
    for row in (2, 3, 4):
        clock.pass_s(10)
        silent(registry, stream, row)
        teller.step()
    assert [len(events) for events in to.told] == [1]
    clock.pass_s(30)
    teller.step()
    assert [len(events) for events in to.told] == [1, 3]
    told = body(to.told[1])
    assert (told["count"], told["kinds"]) == (3, {"sensor_silent": 3})
    assert told["text"] == f"3 events (3 sensor_silent); the last: {sentence(4)}"
    first, *_, last = to.told[1]
    assert told["id"] == f"{first.entry}-{last.id}"


def test_a_burst_is_as_grave_as_its_gravest() -> None:
    """And shows the newest of what it counts."""
    many = [made(number, "boundary") for number in range(1, 151)]
    told = body([made(0, "gap"), *many])
    assert (told["severity"], told["count"]) == ("error", 151)
    assert [event["id"] for event in told["events"]] == [f"{n}-ab" for n in range(51, 151)]


@pytest.mark.parametrize(
    ("wants", "rows"),
    [
        ({}, [1, 2, 3]),
        ({"streams": ("press",)}, [1]),
        ({"streams": ("mill-*",)}, [2, 3]),
        ({"kinds": ("gap", "boundary")}, []),
        ({"kinds": ("sensor_silent",)}, [1, 2, 3]),
        ({"severity": "warning"}, [1, 2, 3]),
        ({"severity": "error"}, []),
    ],
)
def test_a_rule_hears_of_what_it_asks_for(
    registry: SqlRegistry, stream: Stream, wants: dict[str, Any], rows: list[int]
) -> None:
    """A silent sensor is a warning."""
    to = Listed()
    teller = post(registry, to, rule(**wants))
    silent(registry, stream, 1)
    for number, name in enumerate(("mill-1", "mill-2"), 2):
        silent(registry, registry.open_stream(name, ["heat", "flow"]), number)
    teller.step()
    assert sorted(to.texts()) == [sentence(row) for row in rows]


def test_what_is_too_old_is_left_out_and_the_ledger_says_so(
    registry: SqlRegistry, stream: Stream, clock: Clock
) -> None:
    """And the receiver is told of that, before what is still young enough."""
    to = Listed("nobody there")
    teller = post(registry, to, rule(give_up_after_s=100))
    silent(registry, stream, 1)
    silent(registry, stream, 2)
    teller.step()
    clock.pass_s(60)
    silent(registry, stream, 3)
    clock.pass_s(41)
    teller.step()
    teller.step()
    assert to.texts()[0] == sentence(3)
    assert to.texts()[1] == "2 events were too old for ops, which did not answer: nobody there"
    (entry,) = column(
        registry.engine, "SELECT entry FROM ledger WHERE kind = 'notifications_expired'"
    )
    assert json.loads(entry)["events"] == 2


def test_a_rule_that_was_narrowed_leaves_out_what_it_wants_no_more(
    registry: SqlRegistry, stream: Stream
) -> None:
    """What was found for the wider rule does not hold it up."""
    silent_rule, to = rule(), Listed("away")
    teller = post(registry, to, silent_rule)
    silent(registry, stream, 1)
    teller.step()
    change(registry.engine, "UPDATE notifications SET not_before = NULL")
    narrowed = post(registry, to, rule(kinds=("gap",)))
    narrowed.step()
    (owed,) = narrowed.book.all()
    assert owed.first is None
    assert to.told == []


def test_whoever_looks_writes_nothing_where_nothing_is_wanted(
    registry: SqlRegistry, stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But notes how far it is every STRIDE entries, so that a restart is quick."""
    monkeypatch.setattr(notifier, "STRIDE", 4)
    teller = post(registry, Listed(), rule(kinds=("gap",)))
    begun = teller.book.looked()["ops"]
    for row in range(3):
        silent(registry, stream, row)
    teller.step()
    assert teller.book.looked()["ops"] == begun
    for row in range(3, 6):
        silent(registry, stream, row)
    teller.step()
    assert teller.book.looked()["ops"] == begun + 6


def test_every_kind_of_event_is_told_of(registry: SqlRegistry, stream: Stream) -> None:
    """From the registry's own methods to sentences: nothing is made up of entries by hand."""
    with writing(registry.engine) as conn:
        boundaries.record(conn, stream.id, 0, [boundary()], at=registry.clock())
        gap = Gap(first_offset=5, end_offset=9, went_on="earliest")
        boundaries.record_gaps(conn, stream.id, 0, [gap], at=registry.clock())
    first = next_version(registry, stream)
    next_version(registry, stream)
    next_version(registry, stream, rejected("task 1 forgot"))
    registry.roll_back(stream.id, actor="ada", reason="noise")
    registry.submit(by_hand(stream))
    registry.fail(claimed(registry), "disk", retry=False)
    TokenBook(registry.engine).note_failures({"from": "10.0.0.7"})
    with reading(registry.engine) as conn:
        told = {each.kind: each for each in happened(conn, set(EVENTS), after=0, until=99)}
    texts = {kind: event.text for kind, event in told.items()}
    told_of_boundary = "pump, from row 96: flow rose by 4.5 standard deviations (10 to 19); "
    assert texts.pop("boundary").startswith(told_of_boundary)
    assert texts == {
        "gap": "Partition 0: offsets 5 to 8 were gone before they were read.",
        "version": "Version 2 was made: better",
        "promotion": "Version 2 is champion instead of 1: better",
        "refusal": "Version 3 was refused: task 1 forgot",
        "roll_back": "Version 2 was left for 1 (ada): noise",
        "training_failed": "Request 4, it was given up: disk",
        "login_failed": "Somebody was not let in over HTTP.",
    }
    assert first.number == 1
    assert told["gap"].severity == "error"
    assert told["login_failed"].stream is None
    assert told["gap"].stream == "press"


def test_a_segment_is_told_of_when_it_is_named_and_named_otherwise(
    registry: SqlRegistry, stream: Stream
) -> None:
    """Not again as more is seen of it; a fault and what waits are kinds of their own."""
    change(
        registry.engine,
        "INSERT INTO tasks (id, stream_id, number, kind, name, fingerprint, created) "
        "VALUES (7, 1, 4, 'fault', 'bearing', '[]', 0)",
    )
    segment = {"partition": 0, "series": "pump", "segment": 2, "distance": 0.5}
    segment |= {"task_id": 7, "rows": 9, "final": False, "stream_id": 1}
    steps = [
        {"kind": "normal", "recurrence": False, "changed": True},
        {"kind": "normal", "recurrence": False, "changed": False},
        {"kind": "normal", "recurrence": True, "changed": True},
        {"kind": "fault", "recurrence": True, "changed": True},
        {"kind": "asked", "recurrence": False, "changed": True},
        {"kind": "normal", "recurrence": False},  # of before there was `changed`
    ]
    with writing(registry.engine) as conn:
        entries = [segment | step for step in steps]
        ledger.append(conn, "task_named", *entries, at=registry.clock(), stream_id=stream.id)
    with reading(registry.engine) as conn:
        told = list(happened(conn, set(EVENTS), after=0, until=99))
    kinds = ["new_regime", "returning_regime", "fault_regime", "regime_waits"]
    assert [each.kind for each in told] == kinds
    assert told[2].text == 'pump, segment 2: task 4 again: fault "bearing".'


def test_an_entry_that_was_made_unreadable_holds_nothing_up(
    registry: SqlRegistry, stream: Stream
) -> None:
    """Somebody edited the ledger: that is for `audit verify` to tell."""
    to = Listed()
    teller = post(registry, to)
    with writing(registry.engine) as conn:
        ledger.append(conn, "records_lost", {"partition": 0}, at=1, stream_id=stream.id)
        odd = {"partition": 0, "first_offset": 1, "end_offset": 2, "went_on": "latest"}
        for at, kind, entry in (
            (2**62, "records_lost", json.dumps(odd)),
            (1, "request_failed", "[]"),
            (1, "verify_failed", "[" * 9999),
        ):
            facts = {"kind": kind, "entry": entry, "at": at, "actor": "eve", "stream_id": stream.id}
            number = ledger.last(conn) + 1
            facts |= {"id": number, "previous": "p", "hash": f"h{number}"}
            conn.execute(insert(tables.ledger).values(facts))
    silent(registry, stream, 2)
    teller.step()
    assert to.texts() == [sentence(2)]


def test_a_history_that_is_not_as_it_was_is_told_of_once(
    registry: SqlRegistry, stream: Stream
) -> None:
    """However often it is looked at; the note itself is sound."""
    to = Listed()
    teller = post(registry, to)
    change(registry.engine, "UPDATE streams SET name = 'else'")
    for _ in range(2):
        proof = verify(registry.database)
        assert len(proof.findings) == 1
        note(registry.database, proof, actor="verify")
    teller.step()
    (event,) = to.told[0]
    assert (event.kind, event.severity, event.facts["count"]) == ("verify_failed", "error", 1)
    assert event.text.startswith("The history is not as it was written: streams")
    assert len(to.told) == 1


def test_a_sound_history_is_no_event(registry: SqlRegistry, stream: Stream) -> None:
    """Looking changes nothing."""
    before = column(registry.engine, "SELECT count(*) FROM ledger")
    note(registry.database, verify(registry.database), actor="verify")
    assert column(registry.engine, "SELECT count(*) FROM ledger") == before


# The process ----------------------------------------------------------------------------------


class Records:
    """A sink that keeps what is sent, and fails when it is told to."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, bytes | None, Any]] = []
        self.failing = False

    def require(self, topics: Sequence[str]) -> None:
        assert topics == ["press.events"]

    def send(self, topic: str, *, key: bytes | None, value: bytes | None, **_: Any) -> None:
        self.sent.append((topic, key, json.loads(value or b"null")))

    def flush(self) -> None:
        if self.failing:
            raise SourceError("not acknowledged")

    def close(self) -> None:
        pass


def test_every_event_goes_to_the_topic_of_events_with_its_id(
    registry: SqlRegistry, stream: Stream, clock: Clock
) -> None:
    """A record an event, again if it was not acknowledged; other streams' events are not its."""
    sink = Records()
    book = NotificationBook(registry.engine, clock=clock)
    teller = Post(published("press"), Topic(Kafka(), "press.events", lambda _: sink), book)
    for row in (1, 2, 3):
        silent(registry, stream, row)
    silent(registry, registry.open_stream("mill", ["heat", "flow"]), 4)
    sink.failing = True
    teller.step()
    sink.failing = False
    clock.pass_s(PAUSE_S)
    teller.step()
    assert sink.sent[:3] == sink.sent[3:]
    topics, keys, values = zip(*sink.sent[3:], strict=True)
    assert set(topics) == {"press.events"}
    assert [value["text"] for value in values] == [sentence(row) for row in (1, 2, 3)]
    assert list(keys) == [f"event/{value['id']}".encode() for value in values]
    assert {value["event"] for value in values} == {"sensor_silent"}


def told_by(settings: Settings, registry: SqlRegistry, until: Any) -> None:
    """Run the process's own loop until something has happened."""
    stop = threading.Event()
    process = Notifier(settings, registry, owner="here", stop=stop)
    thread = threading.Thread(target=process.run)
    thread.start()
    assert wait_for(until)
    stop.set()
    thread.join(20)
    assert not thread.is_alive()


def wait_for(what: Any) -> bool:
    for _ in range(2000):
        if what():
            return True
        threading.Event().wait(0.01)
    return False


def test_a_receiver_that_hangs_holds_nobody_else_up(
    registry: SqlRegistry, stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each rule has its own thread; the one that hangs is in its request all the while."""
    monkeypatch.setenv("OURS", SECRET)
    with listening(Inbox()) as deaf, listening(Inbox()) as quick:
        deaf.answers = [None] * 9
        rules = tuple(
            altered(
                rule(name, give_up_after_s=0), url=to.url, secret_variable="OURS", timeout_s=30.0
            )
            for name, to in (("deaf", deaf), ("quick", quick))
        )
        settings = Settings(
            notify=rules,
            stream=StreamSettings(topic="press", publish_events=False),
            run=Run(lease_s=60),
        )
        book = NotificationBook(registry.engine)
        for each in rules:
            book.begin(each.name)
        silent(registry, stream, 1)

        def quick_alone() -> bool:
            heard = len(quick.taken) == 1 and len(deaf.tried) == 1
            if heard:
                assert not deaf.let_go.is_set()
                deaf.let_go.set()
            return heard

        told_by(settings, registry, quick_alone)
        assert deaf.taken == []


def test_of_two_processes_one_tells(registry: SqlRegistry, stream: Stream) -> None:
    """Under a lease of the rule's own, given up at the end."""
    book = NotificationBook(registry.engine, clock=registry.clock)
    assert book.lease("ops", "one", 60)
    assert not book.lease("ops", "other", 60)
    assert book.lease("night", "other", 60)
    long = f"{'x' * 249}.events"
    assert book.lease(long, "one", 60)
    assert not book.lease(long, "other", 60)
    book.release("ops", "one")
    assert book.lease("ops", "other", 60)


def test_a_rule_whose_secret_is_not_there_stops_the_start(
    registry: SqlRegistry, stream: Stream
) -> None:
    """In one line that names the rule."""
    settings = Settings(notify=(rule(),))
    with pytest.raises(SettingsError, match=r"^notify ops: S: there is no secret$"):
        Notifier(settings, registry, owner="here", stop=threading.Event()).run()


def test_the_standing_says_how_far_behind_and_why(
    registry: SqlRegistry, stream: Stream, clock: Clock
) -> None:
    """Of a rule in the settings; one that is not there any more is shown as such."""
    teller = post(registry, Listed("it answered 500"))
    silent(registry, stream, 1)
    silent(registry, stream, 2)
    teller.step()
    change(registry.engine, "INSERT INTO notify_rules VALUES ('gone', 0, 0)")
    quiet = StreamSettings(topic="press", publish_events=False)
    settings = Settings(database=registry.database, notify=(rule(),), stream=quiet)
    gone, ops = standing(settings)
    assert (gone["rule"], gone["in_settings"], gone["stream"]) == ("gone", False, None)
    expected = {"rule": "ops", "stream": "press", "behind": 2, "attempts": 1, "told": None}
    assert expected.items() <= ops.items()
    assert ops["error"] == "it answered 500"
