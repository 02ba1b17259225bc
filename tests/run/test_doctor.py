from __future__ import annotations

from typing import Any

import pytest

from pipeline.config import Settings, Stream
from pipeline.run import doctor


def test_every_topic_that_a_stream_needs_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is told that all is well must not meet a missing topic at the start."""
    asked: list[tuple[Any, ...]] = []

    def check(*arguments: Any) -> list[tuple[str, bool, str]]:
        asked.append(arguments)
        return [("topic", True, "there")]

    monkeypatch.setattr("pipeline.ingest.kafka_client.check", check)
    settings = Settings(stream=Stream(topic="t", publish_scores=False))
    assert list(doctor._broker(settings)) == [("topic", True, "there")]
    assert asked == [(settings.kafka, "t", ("t.boundaries", "t.events", "t.dead"))]
