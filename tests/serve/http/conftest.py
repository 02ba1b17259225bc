from __future__ import annotations

from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient

from pipeline.config import Database, Settings
from pipeline.register.sql import SqlRegistry, Stream
from pipeline.register.tokens import ROLES
from pipeline.serve.http.app import create
from tests.register.making import (
    SECOND,
    Clock,
    admitted,
    by_hand,
    claimed,
    opened,
    promoted,
    register,
    rejected,
)

#: Where a browser on this machine would look.
HERE = "http://127.0.0.1:8321"


@pytest.fixture
def clock() -> Clock:
    """Time for the registry."""
    return Clock(1_000 * SECOND)


@pytest.fixture
def registry(sqlite_at_head: Database, clock: Clock) -> Iterator[SqlRegistry]:
    """A registry over a new schema; on SQLite, where SQL is not what is tested."""
    with opened(sqlite_at_head, clock) as registry:
        yield registry


@pytest.fixture
def stream(registry: SqlRegistry, clock: Clock) -> Stream:
    """A stream with a champion, 3, before it 1, and 2, which was refused."""
    stream = registry.open_stream("readings", ["pressure", "flow"])
    for decision in (promoted("first"), rejected("worse"), promoted("better")):
        registry.submit(by_hand(stream))
        claim, champion = claimed(registry), registry.champion(stream.id)
        register(registry, claim, decision, parent=champion, inputs={"segments": []})
        clock.pass_s(10)
    return stream


@pytest.fixture
def client(registry: SqlRegistry, stream: Stream) -> Iterator[TestClient]:
    """Whoever sits at this machine, without a token."""
    with connected(registry) as client:
        yield client


def connected(registry: SqlRegistry, **serve: object) -> TestClient:
    """A client of an application with these settings."""
    settings = Settings(database=registry.database)
    changed = type(settings.serve)(**{"requests_per_second": 1e6} | serve)
    settings = Settings(database=registry.database, serve=changed)
    return TestClient(create(settings, registry), base_url=HERE, raise_server_exceptions=True)


@pytest.fixture
def tokens(registry: SqlRegistry) -> dict[str, str]:
    """A token of each role, by its name, which is the role's."""
    return {role: admitted(registry, role, role) for role in ROLES}


@pytest.fixture
def guarded(registry: SqlRegistry, stream: Stream, tokens: dict[str, str]) -> Iterator[TestClient]:
    """A client of an application that everybody needs a token for, and has none yet."""
    with connected(registry, tokens="always") as client:
        yield client


def bearer(token: str) -> dict[str, str]:
    """The header that shows a token."""
    return {"Authorization": f"Bearer {token}"}
