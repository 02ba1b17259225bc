from __future__ import annotations

import subprocess
from typing import Any

import pytest

from pipeline.errors import SourceError
from pipeline.ingest import embedded
from pipeline.ingest.embedded import EmbeddedBroker, MockCluster


class Refusing:
    """librdkafka that makes no topic, and the names of what was called in it."""

    def __init__(self, library: Any) -> None:
        self.library = library
        self.called: list[str] = []

    def __getattr__(self, name: str) -> Any:
        self.called.append(name)
        refuses = name == "rd_kafka_mock_topic_create"
        return (lambda *_: 1) if refuses else getattr(self.library, name)


def test_a_cluster_that_cannot_be_made_whole_is_released(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its broker would listen on, and its threads run, for as long as the process does."""
    library = Refusing(embedded._library())
    monkeypatch.setattr(embedded, "_library", lambda: library)
    with pytest.raises(SourceError, match="topic readings cannot be made"):
        MockCluster({"readings": 1})
    assert library.called[-2:] == ["rd_kafka_mock_cluster_destroy", "rd_kafka_destroy"]


@pytest.mark.parametrize("command", ["pass", "print('no address')"])
def test_a_broker_without_an_address_leaves_no_process(
    monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """It has ended by itself, or has said something else: it is gone, and its pipes are closed."""
    started: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen

    def start(words: list[str], **options: Any) -> subprocess.Popen[bytes]:
        started.append(popen([words[0], "-c", command], **options))
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", start)
    with pytest.raises(SourceError, match="embedded broker"):
        EmbeddedBroker({"readings": 1}).__enter__()
    (process,) = started
    assert process.returncode is not None
    assert process.stdin is not None
    assert process.stdin.closed
    assert process.stdout is not None
    assert process.stdout.closed
