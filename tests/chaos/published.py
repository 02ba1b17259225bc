"""A broker in; what the topics of a stream's results lack, out."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

from kafka import KafkaConsumer, TopicPartition
from sqlalchemy import Engine, select

from pipeline.register import tables as t
from tests.chaos.cast import TOPIC
from tests.chaos.log import NO_READING, START

BAD = {value for own, value in NO_READING if own}


class Log:
    """The topic as it was read: where each partition ends, which offsets are no reading, and how
    much of what is odd it holds."""

    def __init__(self, address: str) -> None:
        self.ends: dict[int, int] = {}
        self.bad: set[tuple[int, int]] = set()
        self.holds: Counter[str] = Counter()
        last: dict[bytes, int] = {}
        seen: set[tuple[bytes, bytes]] = set()
        for record in records(address, TOPIC):
            self.ends[record.partition] = record.offset + 1
            if record.key is None or (record.value or b"") in BAD:
                self.bad.add((record.partition, record.offset))
                continue
            reading = json.loads(record.value)
            if record.key not in last and reading["time"] > START:
                self.holds["series that began late"] += 1
            behind = last.get(record.key, reading["time"]) - reading["time"]
            twice = (record.key, record.value) in seen
            self.holds["readings twice"] += twice
            self.holds["readings an hour late"] += behind > 1800 and not twice
            self.holds["readings out of order"] += 0 < behind <= 1800 and not twice
            self.holds["readings without a cell"] += None in reading["values"]
            seen.add((record.key, record.value))
            last[record.key] = max(reading["time"], last.get(record.key, 0))
        self.holds["records that are no reading"] = len(self.bad)

    @property
    def length(self) -> int:
        return sum(self.ends.values())


def records(address: str, topic: str) -> Iterator[Any]:
    """All that a topic holds now, for readers of what was committed."""
    consumer = KafkaConsumer(
        bootstrap_servers=address, enable_auto_commit=False, isolation_level="read_committed"
    )
    try:
        partitions = [TopicPartition(topic, n) for n in consumer.partitions_for_topic(topic)]
        consumer.assign(partitions)
        consumer.seek_to_beginning()
        ends = consumer.end_offsets(partitions)
        while any(consumer.position(p) < ends[p] for p in partitions):
            for some in consumer.poll(500, max_records=5000).values():
                yield from some
    finally:
        consumer.close()


def dead_letters(address: str, log: Log) -> Iterator[str]:
    """Every record that is no reading is a dead letter, and nothing else is."""
    found = set()
    for record in records(address, f"{TOPIC}.dead"):
        headers = dict(record.headers)
        found.add((int(headers["partition"]), int(headers["offset"])))
    yield from (f"{place} is missing" for place in sorted(log.bad - found))
    yield from (f"{place} is one too many" for place in sorted(found - log.bad))


def scores(address: str, engine: Engine, log: Log) -> Iterator[str]:
    """Every reading from the first scored offset on has its score, perhaps twice."""
    found: dict[int, set[int]] = {partition: set() for partition in log.ends}
    for record in records(address, f"{TOPIC}.scores"):
        message = json.loads(record.value)
        found[message["partition"]].update(message["offsets"])
    with engine.connect() as conn:
        ranges = conn.execute(select(t.scored).order_by(t.scored.c.first_offset)).all()
    for row in ranges:
        for offset in range(row.first_offset, row.end_offset):
            if (row.partition, offset) not in log.bad and offset not in found[row.partition]:
                yield f"{(row.partition, offset)} has none"


def twice(address: str) -> Iterator[str]:
    """No reading has a second score."""
    found: set[tuple[int, int]] = set()
    for record in records(address, f"{TOPIC}.scores"):
        message = json.loads(record.value)
        for offset in message["offsets"]:
            if (place := (message["partition"], offset)) in found:
                yield f"{place} has two"
            found.add(place)


def boundaries(address: str, engine: Engine) -> Iterator[str]:
    """Every boundary, every transition's end and every last word of a name was told."""
    told: set[tuple[str, int | None]] = set()
    for record in records(address, f"{TOPIC}.boundaries"):
        told.add((record.key.decode(), json.loads(record.value).get("task")))
    with engine.connect() as conn:
        marked = conn.execute(select(t.boundaries)).all()
        named = conn.execute(
            select(t.segments, t.tasks.c.number)
            .join(t.tasks, t.tasks.c.id == t.segments.c.task_id)
            .where(t.segments.c.rows > 0)
        ).all()
    for row in marked:
        key = f"{TOPIC}/{row.partition}/{row.series}/{row.segment}"
        if (key, None) not in told:
            yield f"boundary {key} was not told"
        if row.end_row is not None and (f"{key}/end", None) not in told:
            yield f"the end of {key} was not told"
    for row in named:
        key = f"{TOPIC}/{row.partition}/{row.series}/{row.segment}/task"
        if (key, row.number) not in told:
            yield f"name {row.number} of {key} was not told"
