"""Members that come, go and stop on real Kafka: who owns what, and who is told."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from pipeline.ingest.kafka_source import KafkaSource
from tests.ingest.kafka_topics import PATIENCE_S, Topics
from tests.ingest.owners import KeepingOwner

Member = tuple[KafkaSource, KeepingOwner]
Joining = Callable[..., Member]
#: A group may share its partitions out again soon after a join; then it rests, in seconds.
SETTLING_S = 2.0


@pytest.fixture
def member() -> Iterator[Joining]:
    """Makes members of a group; none outlives the test, however it ends."""
    with ExitStack() as stack:

        def join(topics: Topics, topic: str, **changed: object) -> Member:
            source, owner = KafkaSource(topics.kafka(topic, **changed), topic), KeepingOwner()
            stack.callback(source.close)
            source.subscribe(owner)
            return source, owner

        yield join


def settle(members: list[Member]) -> None:
    """Poll until nobody has been told anything for a while."""
    told, since = [list(owner.told) for _, owner in members], time.monotonic()
    while time.monotonic() - since < SETTLING_S:
        for source, _ in members:
            source.poll(0.1)
        if (now := [list(owner.told) for _, owner in members]) != told:
            told, since = now, time.monotonic()


def poll_until(members: list[Member], condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, [owner.told for _, owner in members]
        for source, _ in members:
            source.poll(0.1)


def owned(owner: KeepingOwner) -> list[int]:
    """What an owner has by what he was told."""
    found: set[int] = set()
    for word, partitions in owner.told:
        found = found | set(partitions) if word == "assigned" else found - set(partitions)
    return sorted(found)


def test_cooperative_members_keep_what_does_not_move(real_topics: Topics, member: Joining) -> None:
    """A second member takes one of two partitions; the first gives up that one and no other, and
    has both again when the second leaves: he goes on with the one that he kept throughout."""
    topic = real_topics.new()
    first = member(real_topics, topic, assignment="cooperative-sticky")
    poll_until([first], lambda: owned(first[1]) == [0, 1])
    second = member(real_topics, topic, assignment="cooperative-sticky")
    poll_until([first, second], lambda: len(owned(second[1])) == 1)
    (moved,) = owned(second[1])
    assert first[1].told == [("assigned", [0, 1]), ("revoked", [moved])]
    second[0].close()
    poll_until([first], lambda: owned(first[1]) == [0, 1])
    assert first[1].told[2:] == [("assigned", [moved])]
    first[0].close()


def test_who_is_assigned_nothing_waits(real_topics: Topics, member: Joining) -> None:
    """One process more than there are partitions: kafka-python takes no partitions for all that it
    has, and fails where it has none."""
    source, owner = member(real_topics, real_topics.new())
    source._listener.on_partitions_assigned([])
    assert owner.told == []
    source.close()


def test_a_static_member_that_restarts_costs_the_others_nothing(
    real_topics: Topics, member: Joining
) -> None:
    """Within the session timeout its partition waits for it, and nobody else hears a word."""
    topic = real_topics.new()
    stays = member(real_topics, topic, group_instance_id="a")
    poll_until([stays], lambda: owned(stays[1]) == [0, 1])
    restarts = member(real_topics, topic, group_instance_id="b")
    poll_until([stays, restarts], lambda: len(owned(stays[1])) == len(owned(restarts[1])) == 1)
    told, had = list(stays[1].told), owned(restarts[1])
    restarts[0].close()
    again = member(real_topics, topic, group_instance_id="b")
    poll_until([stays, again], lambda: owned(again[1]) == had)
    for _ in range(10):
        stays[0].poll(0.1)
    assert stays[1].told == told
    stays[0].close()
    again[0].close()


def test_who_rejoins_is_assigned_everything_anew(real_topics: Topics, member: Joining) -> None:
    """After a write that was refused nothing that is held may be gone on with."""
    for assignment in ("range", "cooperative-sticky"):
        topic = real_topics.new()
        alone = member(real_topics, topic, assignment=assignment)
        poll_until([alone], lambda owner=alone[1]: owned(owner) == [0, 1])
        settle([alone])
        before = len(alone[1].told)
        alone[0].rejoin()
        poll_until([alone], lambda told=alone[1].told, before=before: len(told) >= before + 2)
        assert alone[1].told[before:][:2] == [("lost", [0, 1]), ("assigned", [0, 1])]
        alone[0].close()


def test_who_waits_for_something_else_stays_in_the_group_and_takes_nothing(
    real_topics: Topics, member: Joining
) -> None:
    """Longer than max_poll_interval_ms, in which a process that does not poll is thrown out."""
    topic = real_topics.new()
    waits = member(real_topics, topic, max_poll_interval_ms=2000)
    poll_until([waits], lambda: owned(waits[1]) == [0, 1])
    settle([waits])
    real_topics.fill(topic, {0: [(b"k", b"x")]})
    told = list(waits[1].told)
    for _ in range(6):
        waits[0].idle(0.5)
    assert waits[1].told == told
    polled: list[bytes | None] = []
    deadline = time.monotonic() + PATIENCE_S
    while not polled and time.monotonic() < deadline:
        polled += [value for records in waits[0].poll(0.1) for value in records.values]
    assert polled == [b"x"]
    waits[0].close()


def test_what_is_revoked_from_who_can_write_nothing_is_lost(
    real_topics: Topics, member: Joining
) -> None:
    """While the owner waits for a database in the midst of a poll, a rebalance must not wait."""
    topic = real_topics.new()
    waits = member(real_topics, topic)
    poll_until([waits], lambda: owned(waits[1]) == [0, 1])
    other = member(real_topics, topic)
    deadline = time.monotonic() + PATIENCE_S
    while not owned(other[1]) and time.monotonic() < deadline:
        other[0].poll(0.1)
        waits[0].idle(0.1)
    assert waits[1].told == [("assigned", [0, 1]), ("lost", [0, 1])]
    poll_until([waits, other], lambda: len(owned(waits[1])) == 1)
    waits[0].close()
    other[0].close()
