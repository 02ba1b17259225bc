"""A log in; what one process makes of it to which nothing happens, out.

It is another group's, on another database, with other polls.
"""

from __future__ import annotations

import time
from typing import Any

from pipeline.config import Database, Settings
from pipeline.detect.prints import Print
from pipeline.ingest.kafka_source import KafkaSource
from pipeline.ingest.memory import MemorySink
from pipeline.register.sql import SqlRegistry
from pipeline.run.stream import Streamer

#: (partition, series, segment, rows, whether it is the last) -> the fingerprint.
PrintsOf = dict[tuple[int, str, int, int, bool], Print]


class Listening(SqlRegistry):
    """A registry that remembers the fingerprints that it was given."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.prints: PrintsOf = {}

    def save(self, stream_id: int, partition: int, epoch: int, **what: Any) -> Any:
        for each in what.get("prints", ()):
            self.prints[partition, each.series, each.segment, each.rows, each.final] = each
        return super().save(stream_id, partition, epoch, **what)


def follow(settings: Settings, registry: SqlRegistry, records: int, limit_s: float) -> None:
    """Read all of the log; RuntimeError if nothing comes for as long as the limit."""
    source = KafkaSource(settings.kafka, settings.stream.topic)
    streamer = Streamer(settings, source, MemorySink(), registry, owner="undisturbed")
    source.subscribe(streamer)
    moved = time.monotonic()
    while sum(each.next_offset or 0 for each in streamer.owned.values()) < records:
        if streamer.poll_once():
            moved = time.monotonic()
        if time.monotonic() - moved > limit_s:
            raise RuntimeError(f"the undisturbed run stands still: {streamer.owned}")
    streamer.checkpoint()
    source.close()
