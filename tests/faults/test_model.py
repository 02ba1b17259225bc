"""Any order of what processes do to the registry, against a plain model of what must be so.

Partitions change owners and write checkpoints with requests; trainers claim, renew, fail, release,
finish and register; clocks go on and back; whoever came too late comes all the same. After each:
one champion and one live claim a stream, nothing written by a stale epoch or fence, each request
done at most once, offsets that only grow, and the ledger's chain whole.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import select

from pipeline.config import Database
from pipeline.errors import LeaseLost, StaleEpoch, VersionConflict
from pipeline.records import Claim
from pipeline.register.chain import sound
from pipeline.register.checkpoints import Key, Piece, State, paged
from pipeline.register.engine import reading
from pipeline.register.requests import LONGEST_S, PAUSE_S
from pipeline.register.sql import SqlRegistry
from pipeline.register.tables import checkpoints, promotions, requests, versions
from tests.databases import new_database
from tests.faults.following import copy
from tests.register.making import (
    SECOND,
    Clock,
    asked,
    by_hand,
    candidate,
    everything,
    hasty,
    promoted,
    register,
    rejected,
)

ATTEMPTS = 2
LEASE_S = 10


@dataclass
class Expected:
    """One request, as the documentation says it must be."""

    stream: int
    status: str = "pending"
    attempts: int = 0
    fence: int = 0
    until: int = 0
    not_before: int = 0
    into: int | None = None
    #: How the claim with this fencing number ended: the very same word again is a lost answer.
    ended: tuple[int, str] | None = None


@dataclass
class Owned:
    """A partition as its newest owner has it."""

    epoch: int = 0
    next_offset: int | None = None
    #: Content by slot.
    pieces: dict[int, bytes] = field(default_factory=dict)


@dataclass
class Model:
    """All requests by number, and the rules of the list, in plain loops."""

    all: dict[int, Expected] = field(default_factory=dict)

    def free(self, number: int, status: str) -> None:
        """A claim ended like this: those it took along are pending again."""
        self.all[number].status = status
        for other in self.all.values():
            if other.status == "folded" and other.into == number:
                other.status, other.into = "pending", None

    def claim(self, now: int) -> int | None:
        for number, one in self.all.items():
            if one.status == "claimed" and not now <= one.until <= now + 2 * LEASE_S * SECOND:
                self.free(number, "pending")
        busy = {
            one.stream
            for one in self.all.values()
            if one.status == "claimed"
            or (one.status == "pending" and now < one.not_before <= now + LONGEST_S * SECOND)
        }
        for number, one in sorted(self.all.items()):
            if one.status != "pending" or one.stream in busy:
                continue
            if one.attempts >= ATTEMPTS:
                one.status = "failed"
                continue
            one.status, one.until = "claimed", now + LEASE_S * SECOND
            one.attempts, one.fence = one.attempts + 1, one.fence + 1
            for other in self.all.values():
                fresh = one.attempts == 1 and not other.attempts
                if fresh and other.status == "pending" and other.stream == one.stream:
                    other.status, other.into = "folded", number
            return number
        return None

    def finish(self, number: int) -> None:
        for one in self.all.values():
            if one.status == "folded" and one.into == number:
                one.status = "done"
        self.all[number].status = "done"

    def holds(self, claim: Claim) -> bool:
        one = self.all[claim.id]
        return one.status == "claimed" and one.fence == claim.fence


class Registry(RuleBasedStateMachine):
    """Two streams of one partition; claims and epochs are kept, so that late holders come back."""

    fresh: Callable[[], Database]

    @initialize()
    def begin(self) -> None:
        self.clock = Clock()
        self.registry = hasty(SqlRegistry(type(self).fresh(), clock=self.clock))
        self.streams = [self.registry.open_stream(name, ["x"]) for name in ("a", "b")]
        self.model = Model()
        self.claims: list[Claim] = []
        self.owned = [Owned() for _ in self.streams]
        self.champions = [0 for _ in self.streams]
        self.segments = 0

    # Partitions

    @rule(which=st.integers(0, 1))
    def acquire(self, which: int) -> None:
        own = self.owned[which]
        found = self.registry.acquire(self.streams[which].id, 0, "s")
        own.epoch += 1
        assert (found.epoch, found.next_offset) == (own.epoch, own.next_offset)

    @precondition(lambda self: any(own.epoch for own in self.owned))
    @rule(which=st.integers(0, 1), late=st.integers(0, 2))
    def read(self, which: int, late: int) -> None:
        """Its own state, or nothing that somebody else may be writing just now."""
        own, stream = self.owned[which], self.streams[which]
        pages = paged(partial(self.registry.pieces, stream.id, 0, own.epoch - late))
        if late or not own.epoch:
            with pytest.raises(StaleEpoch):
                next(pages("series"))
        else:
            found = {piece.slot: piece.content for page in pages("series") for piece in page}
            assert list(found.items()) == sorted(own.pieces.items())

    @precondition(lambda self: any(own.epoch for own in self.owned))
    @rule(which=st.integers(0, 1), late=st.integers(0, 2), records=st.integers(1, 5))
    def save(self, which: int, late: int, records: int) -> None:
        """By the owner, or by one who was it some epochs ago: a piece is new, another one goes, and
        something is asked for."""
        own, stream = self.owned[which], self.streams[which]
        epoch, upto = own.epoch - late, (own.next_offset or 0) + records
        if epoch < 1:
            return
        self.segments += 1
        before = everything(self.registry.engine)
        try:
            self.registry.save(
                stream.id, 0, epoch, next_offset=upto, requests=[asked(stream, self.segments)],
                state=State(b"%d" % upto, [Piece("series", records, 0, b"%d" % upto)],
                            [Key("series", upto % 5, 0)]),
            )  # fmt: skip
        except StaleEpoch:
            assert late
            assert everything(self.registry.engine) == before
            return
        assert not late
        own.next_offset = upto
        own.pieces.pop(upto % 5, None)
        own.pieces[records] = b"%d" % upto
        self.model.all[self.registry.last_request(stream.id)] = Expected(stream=stream.id)

    # Requests

    @rule(which=st.integers(0, 1))
    def submit(self, which: int) -> None:
        stream = self.streams[which]
        number = self.registry.submit(by_hand(stream))
        assert number is not None
        self.model.all[number] = Expected(stream=stream.id)

    @rule()
    def claim(self) -> None:
        expected = self.model.claim(self.clock.now)
        claim = self.registry.claim("t", LEASE_S, max_attempts=ATTEMPTS)
        assert (claim.id if claim else None) == expected
        if claim is not None:
            one = self.model.all[claim.id]
            assert (claim.fence, claim.attempts) == (one.fence, one.attempts)
            assert [n for n, _ in claim.folded] == sorted(
                n for n, o in self.model.all.items() if o.status == "folded" and o.into == claim.id
            )
            self.claims.append(claim)

    @rule(seconds=st.sampled_from([1, PAUSE_S, LEASE_S, LEASE_S + 1, -1, -3 * LEASE_S, -86_400]))
    def wait(self, seconds: int) -> None:
        self.clock.pass_s(seconds)

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), act=st.sampled_from(["finish", "retry", "give up", "release", "renew"]))
    def use(self, data: st.DataObject, act: str) -> None:
        claim = data.draw(st.sampled_from(self.claims))
        one = self.model.all[claim.id]
        holds, before = self.model.holds(claim), everything(self.registry.engine)
        acts = {
            "finish": lambda: self.registry.finish(claim, "done"),
            "renew": lambda: self.registry.renew(claim, LEASE_S),
            "release": lambda: self.registry.release(claim, "interrupted"),
            "retry": lambda: self.registry.fail(claim, "failed", retry=True),
            "give up": lambda: self.registry.fail(claim, "failed", retry=False),
        }
        try:
            acts[act]()
        except LeaseLost:
            assert not holds
            assert everything(self.registry.engine) == before
            return
        if not holds:
            assert one.ended == (claim.fence, act)
            assert everything(self.registry.engine) == before
            return
        one.ended = (claim.fence, act) if act != "renew" else None
        if act == "finish":
            self.model.finish(claim.id)
        elif act == "renew":
            one.until = self.clock.now + LEASE_S * SECOND
        elif act == "release":
            self.model.free(claim.id, "pending")
            one.attempts -= 1
        else:
            self.model.free(claim.id, "pending" if act == "retry" else "failed")
            if act == "retry":
                pause = PAUSE_S * 2 ** (claim.attempts - 1)
                one.not_before = self.clock.now + pause * SECOND

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), promote=st.booleans(), stale=st.booleans())
    def register(self, data: st.DataObject, promote: bool, stale: bool) -> None:
        """A version; where another champion came meanwhile (stale), it is refused."""
        claim = data.draw(st.sampled_from(self.claims))
        if self.model.all[claim.id].ended == (claim.fence, "register"):
            return  # a lost answer: tests/register/test_outages.py
        which = [s.id for s in self.streams].index(claim.request.stream_id)
        parent = None if stale else self.registry.champion(claim.request.stream_id)
        holds, before = self.model.holds(claim), everything(self.registry.engine)
        conflict = promote and stale and self.champions[which] > 0
        made = candidate(weights=b"weights %d" % claim.id)
        decision = promoted() if promote else rejected()
        try:
            version = register(self.registry, claim, decision, parent=parent, made=made)
        except LeaseLost:
            assert not holds
            assert everything(self.registry.engine) == before
            return
        except VersionConflict:
            assert conflict
            assert everything(self.registry.engine) == before
            return
        assert holds
        assert not conflict
        self.model.finish(claim.id)
        self.model.all[claim.id].ended = claim.fence, "register"
        if promote:
            self.champions[which] = version.id

    # Invariants

    @invariant()
    def the_requests_are_as_expected(self) -> None:
        columns = (requests.c.id, requests.c.status, requests.c.attempts, requests.c.fence)
        with reading(self.registry.engine) as conn:
            rows = conn.execute(select(*columns).order_by(requests.c.id)).all()
        assert [tuple(row) for row in rows] == [
            (number, one.status, one.attempts, one.fence)
            for number, one in sorted(self.model.all.items())
        ]
        claimed = [one.stream for one in self.model.all.values() if one.status == "claimed"]
        assert len(claimed) == len(set(claimed))

    @invariant()
    def each_stream_has_one_champion_and_each_request_one_version(self) -> None:
        with reading(self.registry.engine) as conn:
            lives = select(promotions.c.version_id).where(promotions.c.live_until.is_(None))
            live = sorted(conn.execute(lives).scalars())
            is_champion = versions.c.status == "champion"
            champions = sorted(conn.execute(select(versions.c.id).where(is_champion)).scalars())
            made = list(conn.execute(select(versions.c.request_id)).scalars())
        assert live == champions == sorted(filter(None, self.champions))
        assert len(made) == len(set(made))
        assert {self.model.all[number].status for number in made} <= {"done"}

    @invariant()
    def the_checkpoints_are_their_newest_owners(self) -> None:
        with reading(self.registry.engine) as conn:
            c = checkpoints.c
            rows = conn.execute(select(c.stream_id, c.epoch, c.next_offset, c.state)).all()
        assert sorted(tuple(row) for row in rows) == [
            (stream.id, own.epoch, own.next_offset, b"%d" % own.next_offset)
            if own.next_offset
            else (stream.id, own.epoch, None, None)
            for stream, own in zip(self.streams, self.owned, strict=True)
            if own.epoch
        ]

    def teardown(self) -> None:
        with reading(self.registry.engine) as conn:
            assert sound(conn)
        self.registry.close()


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_no_order_of_events_breaks_what_the_registry_promises(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """A race of crashes, leases, clocks and retries is what it is there for. `FAULTS=all`: more."""
    template = request.getfixturevalue(f"{kind}_template")
    names = iter(range(10**6))

    def fresh() -> Database:
        if kind == "postgresql":
            return new_database(request.getfixturevalue("postgres"), template)
        start = Database(url=f"sqlite:///{template}")
        return copy(start, tmp_path / f"{next(names)}.db")

    class Here(Registry):
        pass

    Here.fresh = staticmethod(fresh)
    ended = list[Registry]()

    def teardown(machine: Registry) -> None:
        Registry.teardown(machine)  # the chain of the ledger is whole
        ended.append(machine)

    Here.teardown = teardown
    examples = 500 if os.environ.get("FAULTS") == "all" else {"sqlite": 15, "postgresql": 4}[kind]
    run_state_machine_as_test(
        Here, settings=settings(max_examples=examples, stateful_step_count=30, deadline=None)
    )
    assert len(ended) >= examples
