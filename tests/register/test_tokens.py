"""Tokens: told once, kept as a hash, good until revoked, each step in the ledger."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator

import pytest
from msgspec import UNSET
from sqlalchemy import select

from pipeline.config import Database
from pipeline.errors import RegistryError
from pipeline.register import tables as t
from pipeline.register.orders import Act, AddToken, RevokeToken
from pipeline.register.sql import SqlRegistry
from pipeline.register.tokens import RESERVED, TokenBook
from tests.register.making import Clock, admitted, everything, opened, race


@pytest.fixture
def registry(at_head: Database) -> Iterator[SqlRegistry]:
    """A registry over a new schema."""
    with opened(at_head, Clock()) as registry:
        yield registry


@pytest.fixture
def book(registry: SqlRegistry) -> TokenBook:
    """Its tokens."""
    return TokenBook(registry.engine, clock=registry.clock)


def test_a_token_is_told_once_and_kept_nowhere(registry: SqlRegistry, book: TokenBook) -> None:
    """No row and no entry has it, or a part of it; its hash is there, and lets it in."""
    token = admitted(registry, "ada", "operator")
    secret = token.split("_", 2)[2]
    assert len(secret) >= 40
    assert secret not in str(everything(registry.engine))
    with registry.engine.connect() as conn:
        (kept,) = conn.execute(select(t.tokens.c.sha256)).scalars()
    assert kept == hashlib.sha256(token.encode()).hexdigest()
    found = book.find(token)
    assert found is not None
    assert (found.name, found.role, found.actor) == ("ada", "operator", "root")


def test_no_two_tokens_are_alike(registry: SqlRegistry, book: TokenBook) -> None:
    """Nor does one let in as another: the number in front is not what counts."""
    a, b = (admitted(registry, name) for name in "ab")
    swapped = "_".join([*a.split("_", 2)[:2], b.split("_", 2)[2]])
    assert a != b
    for bad in (
        swapped,
        a[:-1],
        a + "a",
        f"{a}\0",
        "",
        "_",
        "tidemark_",
        "tidemark_²_x",
        "x" * 9999,
    ):
        assert book.find(bad) is None


def revoke(registry: SqlRegistry, name: str, actor: str = "root") -> None:
    registry.act(None, RevokeToken(name=name), Act(actor=actor, reason="left", request_id="r-2"))


def test_revoked_is_revoked_and_the_name_is_free_again(
    registry: SqlRegistry, book: TokenBook
) -> None:
    """The old token stays outside when there is a new one of that name."""
    old = admitted(registry, "ada")
    with pytest.raises(RegistryError, match="there is a token ada: revoke it first"):
        admitted(registry, "ada")
    with pytest.raises(RegistryError, match="there is no token eve"):
        revoke(registry, "eve")
    revoke(registry, "ada")
    assert book.find(old) is None
    new = admitted(registry, "ada", "approver")
    assert book.find(old) is None
    assert book.find(new) is not None
    assert [token.revoked is None for token in book.all()] == [False, True]


def test_every_step_is_in_the_ledger(registry: SqlRegistry, book: TokenBook) -> None:
    """Who made and revoked which, of what role, and why; and who was not let in."""
    first = Act(actor="root", reason="on call", request_id="r-1")
    registry.act(None, AddToken(name="ada", role="reader"), first)
    revoke(registry, "ada", actor="eve")
    book.note_failures({"failures": 3})
    with registry.engine.connect() as conn:
        rows = conn.execute(select(t.ledger).order_by(t.ledger.c.id)).all()
    assert [(row.kind, row.actor, json.loads(row.entry)) for row in rows] == [
        (
            *("token_added", "root"),
            {"token": 1, "name": "ada", "role": "reader", "reason": "on call", "request_id": "r-1"},
        ),
        (
            *("token_revoked", "eve"),
            {"token": 1, "name": "ada", "reason": "left", "request_id": "r-2"},
        ),
        ("login_failed", "http", {"failures": 3}),
    ]


@pytest.mark.parametrize("name", [*RESERVED, "a\nb", "a" * 101])
def test_a_token_has_a_persons_name(registry: SqlRegistry, name: str) -> None:
    """It acts in the ledger: not as the gate, nor with a line's end in it."""
    before = everything(registry.engine)
    with pytest.raises(RegistryError):
        admitted(registry, name)
    with pytest.raises(RegistryError, match="no role king"):
        admitted(registry, "ada", "king")
    assert everything(registry.engine) == before


def test_a_token_that_is_asked_for_again_is_not_told_again(
    registry: SqlRegistry, book: TokenBook
) -> None:
    """The same answer but for its text, and nothing is written; so it is when it is revoked."""
    order, act = AddToken(name="ada", role="reader"), Act(actor="root", reason="r", request_id="1")
    first = registry.act(None, order, act)
    before = everything(registry.engine)
    again = registry.act(None, order, act)
    assert (again.sentence, again.facts, again.at) == (first.sentence, first.facts, first.at)
    assert again.token is UNSET
    assert everything(registry.engine) == before
    assert len(book.all()) == 1
    revoke(registry, "ada")
    before = everything(registry.engine)
    revoke(registry, "ada")
    assert everything(registry.engine) == before


def test_of_two_of_one_name_in_the_same_moment_one_is_made(
    registry: SqlRegistry, book: TokenBook
) -> None:
    """Whoever comes second is told."""
    made = race(*[lambda: admitted(registry, "ada")] * 2)
    assert sorted(isinstance(each, str) for each in made) == [False, True]
    assert len(book.all()) == 1
