"""The OpenAPI document is sound, and whatever fits it, or does not, never is a fault of ours."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error

from pipeline.config import Database, Serve, Settings
from pipeline.register.migrate import upgrade
from pipeline.register.sql import SqlRegistry
from pipeline.serve.http.app import create
from tests.model.making import version
from tests.register.making import Clock, by_hand, candidate, claimed, promoted, register
from tests.serve.http.test_predict import FORECASTER

#: Never ends by itself, and has tests of its own.
ENDLESS = "/v1/events"


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The application of a database with two versions of a stream, as schemathesis sees it."""
    file: Path = tmp_path_factory.mktemp("openapi") / "tidemark.db"
    database = Database(url=f"sqlite:///{file}")
    upgrade(database)
    registry = SqlRegistry(database, clock=Clock())
    stream = registry.open_stream("plant", ["a", "b"])
    for seed in (1, 2):
        registry.submit(by_hand(stream))
        made = candidate(weights=version(FORECASTER, seed).to_bytes())
        parent = registry.champion(stream.id)
        claim = claimed(registry)
        register(registry, claim, promoted(), parent=parent, made=made, inputs={"segments": []})
    app = create(Settings(database=database, serve=Serve(requests_per_second=1e6)), registry)
    here = {"Host": "127.0.0.1"}
    found = schemathesis.openapi.from_asgi("/v1/openapi.json", app, headers=here)
    yield found.exclude(path=ENDLESS)
    registry.close()


schema = schemathesis.pytest.from_fixture("document")


@schema.parametrize()
@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
def test_nothing_that_is_sent_is_a_fault_of_ours(case: Any) -> None:
    """Right and wrong values by the document, on a stream that is there and on others."""
    if "name" in (case.path_parameters or {}):
        case.path_parameters["name"] = "plant"
    headers = {"Host": "127.0.0.1"}
    response = case.call(headers=headers)
    case.validate_response(response, checks=[not_a_server_error])
