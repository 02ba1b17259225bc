"""The OpenAPI document is sound, and whatever fits it, or does not, never is a fault of ours."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error

from pipeline.config import Database, Serve, Settings
from pipeline.register.migrate import upgrade
from pipeline.register.sql import SqlRegistry
from pipeline.serve.http.app import create
from tests.model.making import version
from tests.register.making import Clock, by_hand, candidate, claimed, promoted, register
from tests.serve.http.test_predict import FORECASTER

#: Of each path and mode.
EXAMPLES = 8
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


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_nothing_that_is_sent_is_a_fault_of_ours(document: Any, mode: GenerationMode) -> None:
    """What fits the document and what does not, on a stream that is there.

    schemathesis' own pytest plugin does not know pytest 9.
    """
    paths = 0
    for found in document.get_all_operations():
        operation = found.ok()
        paths += 1

        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def ask(case: Any) -> None:
            if "name" in (case.path_parameters or {}):
                case.path_parameters["name"] = "plant"
            response = case.call(headers={"Host": "127.0.0.1"})
            case.validate_response(response, checks=[not_a_server_error])

        try:
            ask()
        except Unsatisfiable:
            assert mode is GenerationMode.NEGATIVE  # nothing is wrong where nothing is asked
    assert paths > 25
