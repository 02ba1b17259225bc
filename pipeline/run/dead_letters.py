"""Bad records in; the dead-letter topic, a count by kind and few log lines out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import structlog

from pipeline.ingest.message import KINDS
from pipeline.ports import Outlet, Sink
from pipeline.records import DeadLetter
from pipeline.telemetry import Metrics

log = structlog.get_logger()

#: A key or value is cut here, so that the dead-letter topic takes it, in bytes.
LONGEST = 450_000


class DeadLetters:
    """Sends every bad record to `TOPIC.dead`; logs the first of each kind, then a rate."""

    def __init__(self, topic: str, sink: Sink, metrics: Metrics) -> None:
        self.topic = f"{topic}.dead"
        self.sink = sink
        self.metrics = metrics
        self.counts: Counter[str] = Counter()
        self._reported: Counter[str] = Counter()
        for kind in KINDS:  # a series that begins above 0 has not risen, to Prometheus
            metrics.dead_letters(kind)

    def send(self, letters: Sequence[DeadLetter], to: Outlet | None = None) -> None:
        """Hand the records over as they came, with where and why in their headers.

        to: where they go out, if not by the sink.
        """
        for letter in letters:
            (to or self.sink).send(
                self.topic, key=_cut(letter.key), value=_cut(letter.value), headers=_why(letter)
            )
            self.metrics.dead_letters(letter.kind).inc()
            if not self.counts[letter.kind]:
                self._log_first(letter)
            self.counts[letter.kind] += 1

    def report(self) -> None:
        """One line with what has come since the last one, if anything has."""
        since = self.counts - self._reported
        if since:
            log.warning("dead_letters", since_last=dict(since), total=self.counts.total())
            self._reported = self.counts.copy()

    def _log_first(self, letter: DeadLetter) -> None:
        log.warning(
            "dead_letter",
            kind=letter.kind,
            reason=letter.reason,
            partition=letter.partition,
            offset=letter.offset,
        )
        self._reported[letter.kind] += 1


def _cut(content: bytes | None) -> bytes | None:
    return content if content is None else content[:LONGEST]


def _why(letter: DeadLetter) -> list[tuple[str, bytes]]:
    facts: dict[str, object] = {
        "topic": letter.topic,
        "partition": letter.partition,
        "offset": letter.offset,
        "kind": letter.kind,
        "reason": letter.reason,
    }
    if letter.value is not None and len(letter.value) > LONGEST:
        facts["cut_from_bytes"] = len(letter.value)
    return [(name, str(fact).encode()) for name, fact in facts.items()]
