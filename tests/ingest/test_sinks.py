from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from pipeline.config import Kafka
from pipeline.errors import BrokerAway, SourceError
from pipeline.ingest.embedded import EmbeddedBroker
from pipeline.ingest.kafka_client import CODECS
from pipeline.ingest.kafka_sink import KafkaSink
from pipeline.ingest.memory import MemorySink
from pipeline.ports import Sink
from tests.ingest.kafka_topics import Topics

Kept = tuple[bytes | None, bytes | None, dict[str, bytes]]


@dataclass
class Outlet:
    """A sink, a topic to send to, and what the topic has kept."""

    sink: Sink
    topic: str
    kept: Callable[[int], list[Kept]]


class SinkContract:
    """What `pipeline.ports.Sink` promises; `new_outlet` is the only thing to say."""

    def new_outlet(self, request: pytest.FixtureRequest) -> Outlet:
        raise NotImplementedError

    @pytest.fixture
    def outlet(self, request: pytest.FixtureRequest) -> Outlet:
        return self.new_outlet(request)

    def test_what_was_sent_before_flush_returns_is_kept(self, outlet: Outlet) -> None:
        """In the order of its key: a checkpoint is written on the word of `flush`."""
        for i in range(300):
            outlet.sink.send(outlet.topic, key=b"k%d" % (i % 3), value=b"%d" % i)
        outlet.sink.flush()
        kept = outlet.kept(300)
        for k in range(3):
            values = [value for key, value, _ in kept if key == b"k%d" % k]
            assert values == [b"%d" % i for i in range(k, 300, 3)]
        outlet.sink.close()

    def test_key_value_and_headers_arrive_as_they_were(self, outlet: Outlet) -> None:
        """A dead letter may lack its key or its value, and hold bytes that are no text."""
        sent: list[Kept] = [
            (b"k", None, {"kind": b"tombstone"}),
            (None, b"", {"kind": b"empty"}),
            (b"\xff", b"\x00\xfe", {"a": b"\xff"}),
        ]
        for key, value, headers in sent:
            outlet.sink.send(outlet.topic, key=key, value=value, headers=list(headers.items()))
        outlet.sink.flush()
        kept = outlet.kept(3)
        assert all(record in kept for record in sent)
        outlet.sink.close()

    def test_a_topic_that_is_there_is_all_that_is_required(self, outlet: Outlet) -> None:
        """And nothing is sent to find out."""
        outlet.sink.require([outlet.topic])
        outlet.sink.send(outlet.topic, key=b"k", value=b"only")
        outlet.sink.close()
        assert outlet.kept(1) == [(b"k", b"only", {})]

    def test_closing_sends_what_is_left(self, outlet: Outlet) -> None:
        """A process that ends in order loses nothing that it has handed over."""
        outlet.sink.send(outlet.topic, key=b"k", value=b"last")
        outlet.sink.close()
        assert outlet.kept(1) == [(b"k", b"last", {})]


class TestMemorySink(SinkContract):
    def new_outlet(self, request: pytest.FixtureRequest) -> Outlet:
        sink = MemorySink()
        return Outlet(sink, "t", lambda _: [(k, v, h) for t, k, v, h in sink.sent if t == "t"])


def kafka_outlet(topics: Topics, **changed: Any) -> Outlet:
    topic = topics.new()
    return Outlet(
        KafkaSink(topics.kafka(topic, **changed)),
        topic,
        lambda n: [(r.key, r.value, dict(r.headers)) for r in topics.read(topic, n)],
    )


class TestKafkaSinkOnTheEmbeddedBroker(SinkContract):
    def new_outlet(self, request: pytest.FixtureRequest) -> Outlet:
        return kafka_outlet(request.getfixturevalue("embedded_topics"))


class TestKafkaSinkOnRealKafka(SinkContract):
    def new_outlet(self, request: pytest.FixtureRequest) -> Outlet:
        return kafka_outlet(request.getfixturevalue("real_topics"))


@pytest.mark.parametrize("codec", ["none", *CODECS])
def test_every_codec_comes_back(embedded_topics: Topics, codec: str) -> None:
    """Each needs its own module; we promise them all."""
    outlet = kafka_outlet(embedded_topics, compression=codec)
    outlet.sink.send(outlet.topic, key=b"k", value=b"x" * 10_000)
    outlet.sink.flush()
    assert outlet.kept(1) == [(b"k", b"x" * 10_000, {})]
    outlet.sink.close()


def one_line(caught: pytest.ExceptionInfo[SourceError]) -> str:
    (line,) = str(caught.value).splitlines()
    return line


def test_a_record_with_neither_key_nor_value_goes_out_as_well(topics: Topics) -> None:
    """Such a record is a dead letter like any other, and must not end the process."""
    outlet = kafka_outlet(topics)
    outlet.sink.send(outlet.topic, key=None, value=None, headers=[("kind", b"tombstone")])
    outlet.sink.flush()
    assert outlet.kept(1) == [(None, b"", {"kind": b"tombstone"})]
    outlet.sink.close()


def test_a_broker_that_is_not_there_is_one_line_with_its_address(nobody: Kafka) -> None:
    """At the start, so that nothing is computed for nobody."""
    with pytest.raises(SourceError) as caught:
        KafkaSink(nobody)
    assert nobody.bootstrap_servers in one_line(caught)


def test_flush_says_so_when_the_broker_has_gone(
    away: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No word would mean acknowledged, and the checkpoint would be written.

    Closing says it again, and leaves no thread behind that might send the record after all.
    """
    monkeypatch.setattr("pipeline.ingest.kafka_sink.FLUSH_S", 1)
    with EmbeddedBroker({"readings": 1}) as broker:
        sink = KafkaSink(Kafka(bootstrap_servers=broker.address, api_version="2.3"))
        sink.send("readings", key=b"k", value=b"kept")
        sink.flush()
    sink.send("readings", key=b"k", value=b"lost")
    with pytest.raises(SourceError) as caught:
        sink.flush()
    assert broker.address in one_line(caught)
    with pytest.raises(BrokerAway, match=f"{broker.address}.* 1 records were not acknowledged"):
        sink.close()
    assert not sink._producer._sender.is_alive()


def test_a_topic_that_is_not_there_is_named(
    real_topics: Topics, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker makes none by itself here, and the name is what has to be corrected."""
    monkeypatch.setattr("pipeline.ingest.kafka_sink.SEND_MS", 500)
    sink = KafkaSink(real_topics.kafka("nobody"))
    with pytest.raises(SourceError, match="misspelt") as caught:
        sink.send("misspelt", key=None, value=b"x")
    one_line(caught)
    sink.close()


def test_a_required_topic_that_is_not_there_is_named_before_anything_is_computed(
    real_topics: Topics, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first dead letter may come after days: too late to learn that nobody made its topic."""
    monkeypatch.setattr("pipeline.ingest.kafka_sink.SEND_MS", 500)
    sink = KafkaSink(real_topics.kafka("nobody"))
    with pytest.raises(SourceError) as caught:
        sink.require([real_topics.new(), "misspelt"])
    assert one_line(caught) == f"no topic misspelt at {real_topics.address}: create it"
    sink.close()


def test_a_required_topic_may_be_made_by_the_broker(embedded_topics: Topics) -> None:
    """The embedded one makes a topic for whoever wants to send to it."""
    sink = KafkaSink(embedded_topics.kafka("g"))
    sink.require(["made-when-required"])
    sink.close()
    embedded_topics.read("made-when-required", 0)


def test_a_record_that_no_broker_takes_is_an_error_and_the_next_one_goes(
    real_topics: Topics,
) -> None:
    """2 MB is over Kafka's limit; the sink stays of use after it has said so."""
    outlet = kafka_outlet(real_topics, compression="none")
    with pytest.raises(SourceError) as caught:
        send_and_flush(outlet, b"x" * 2_000_000)
    one_line(caught)
    send_and_flush(outlet, b"small")
    assert outlet.kept(1) == [(b"k", b"small", {})]
    outlet.sink.close()


def send_and_flush(outlet: Outlet, value: bytes) -> None:
    outlet.sink.send(outlet.topic, key=b"k", value=value)
    outlet.sink.flush()


def test_a_codec_whose_module_is_not_there_is_said_at_the_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """kafka-python would fail at the first record, with an assertion."""
    monkeypatch.setitem(CODECS, "zstd", "no_such_module")
    with pytest.raises(SourceError, match="install no_such_module"):
        KafkaSink(Kafka(compression="zstd"))
