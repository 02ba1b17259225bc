"""Any order of submit, claim, wait, fail and finish, against a plain list of what must be so."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, field
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
from pipeline.errors import LeaseLost
from pipeline.records import Claim
from pipeline.register.engine import reading
from pipeline.register.ledger import broken
from pipeline.register.requests import PAUSE_S
from pipeline.register.sql import SqlRegistry
from pipeline.register.tables import requests
from tests.register.making import SECOND, Clock, by_hand, hasty

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
            if one.status == "claimed" and one.until < now:
                self.free(number, "pending")
        busy = {
            one.stream
            for one in self.all.values()
            if one.status == "claimed" or (one.status == "pending" and one.not_before > now)
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


class Requests(RuleBasedStateMachine):
    """Two streams; claims are kept for ever, so that late holders come back with old ones."""

    template: Path

    @initialize()
    def begin(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        file = Path(self.folder.name) / "tidemark.db"
        shutil.copy(self.template, file)
        self.clock = Clock()
        database = Database(url=f"sqlite:///{file}")
        self.registry = hasty(SqlRegistry(database, clock=self.clock))
        self.streams = [self.registry.open_stream(name, []) for name in ("a", "b")]
        self.model = Model()
        self.claims: list[Claim] = []
        #: What each claim last did.
        self.did: dict[tuple[int, int], str] = {}

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

    @rule(seconds=st.sampled_from([1, PAUSE_S, LEASE_S, LEASE_S + 1]))
    def wait(self, seconds: int) -> None:
        self.clock.pass_s(seconds)

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), act=st.sampled_from(["finish", "retry", "give up", "release", "renew"]))
    def use(self, data: st.DataObject, act: str) -> None:
        claim = data.draw(st.sampled_from(self.claims))
        holds = self.model.holds(claim)
        try:
            if act == "finish":
                self.registry.finish(claim, "done")
            elif act == "renew":
                self.registry.renew(claim, LEASE_S)
            elif act == "release":
                self.registry.release(claim, "interrupted")
            else:
                self.registry.fail(claim, "failed", retry=act == "retry")
        except LeaseLost:
            assert not holds
            return
        if not holds:  # its answer may have been lost: the same again is answered, and does nothing
            assert self.did.get((claim.id, claim.fence)) == act
            return
        self.did[claim.id, claim.fence] = act
        if act == "finish":
            self.model.finish(claim.id)
        elif act == "renew":
            self.model.all[claim.id].until = self.clock.now + LEASE_S * SECOND
        elif act == "release":
            self.model.free(claim.id, "pending")
            self.model.all[claim.id].attempts -= 1
        else:
            self.model.free(claim.id, "pending" if act == "retry" else "failed")
            pause = PAUSE_S * 2 ** (claim.attempts - 1) if act == "retry" else 0
            self.model.all[claim.id].not_before = self.clock.now + pause * SECOND

    @invariant()
    def the_table_is_as_expected(self) -> None:
        columns = (requests.c.id, requests.c.status, requests.c.attempts, requests.c.fence)
        with reading(self.registry.engine) as conn:
            rows = conn.execute(select(*columns).order_by(requests.c.id)).all()
        assert [tuple(row) for row in rows] == [
            (number, one.status, one.attempts, one.fence)
            for number, one in sorted(self.model.all.items())
        ]
        claimed = [one.stream for one in self.model.all.values() if one.status == "claimed"]
        assert len(claimed) == len(set(claimed))

    def teardown(self) -> None:
        with reading(self.registry.engine) as conn:
            assert list(broken(conn)) == []
        self.registry.close()
        self.folder.cleanup()


@pytest.mark.parametrize("steps", [30])
def test_requests_are_never_lost_and_never_done_twice(steps: int, sqlite_template: Path) -> None:
    """A race of crashes, leases and retries is what the list is there for."""

    class Here(Requests):
        template = sqlite_template

    run_state_machine_as_test(
        Here, settings=settings(max_examples=25, stateful_step_count=steps, deadline=None)
    )
