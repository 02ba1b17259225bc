"""A real run for the page to show: part of the demo's recording through stream and trainer."""

from __future__ import annotations

import csv
from pathlib import Path

from pipeline.config import Database, Detect, Learn, Settings, Stream
from pipeline.ingest.memory import MemorySink, MemorySource
from pipeline.ingest.recording import Columns, Recording
from pipeline.register.sql import SqlRegistry
from pipeline.run import shuttle
from pipeline.run.stream import Streamer
from pipeline.run.trainer import Trainer

STREAM = "shuttle"
SERIES = ("orbiter-1", "orbiter-2")
#: Seconds of each: segments of 1,000, 290, 600 and 290 readings, the last one cut short.
ROWS = 2150
POLL = 500


def run(registry: SqlRegistry, database: Database, directory: Path) -> None:
    """Stream the recording into the registry, and train what it asks for between two polls."""
    settings = Settings(
        stream=Stream(topic=STREAM, channels=shuttle.CHANNELS),
        database=database,
        detect=Detect(settle_after=120),
        learn=Learn(adapt_after=128, refine_after=0),
    )
    recording = Recording(
        _cut(directory),
        Columns(time="time", series="series", sensors=shuttle.CHANNELS),
        topic=STREAM,
    )
    sink = MemorySink()
    streamer = Streamer(settings, MemorySource({}), sink, registry, owner="test")
    trainer = Trainer(settings, registry, owner="test")
    streamer.assigned([0])
    for chunk in recording.chunks(POLL):
        streamer.take(chunk.batch)
        streamer.checkpoint()
        while trainer.work_once():
            pass


def _cut(directory: Path) -> Path:
    """The first rows of two of the demo's series."""
    whole = shuttle.write(directory / "whole.csv").path
    part = directory / "part.csv"
    left = dict.fromkeys(SERIES, ROWS)
    with whole.open(newline="") as file, part.open("w", newline="") as out:
        rows, to = csv.reader(file), csv.writer(out)
        to.writerow(next(rows))
        for row in rows:
            if left.get(row[0], 0):
                left[row[0]] -= 1
                to.writerow(row)
    return part
