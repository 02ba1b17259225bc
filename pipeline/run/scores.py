"""TOPIC.scores in, every reading's score once out: for people, and for programs as JSON lines."""

from __future__ import annotations

from collections.abc import Iterator
from threading import Event
from typing import Any

import msgspec

from pipeline.errors import SourceError
from pipeline.ingest.once import Once
from pipeline.ports import Log
from pipeline.records import LogRecord
from pipeline.run.messages import iso

#: Pause before a follower looks for more, in seconds.
PAUSE_S = 0.2


class Message(msgspec.Struct):
    """What a message of scores has at least."""

    partition: int
    series: str
    version: int
    place: int
    offsets: list[int]
    times: list[int]
    scores: list[float | None]

    def __post_init__(self) -> None:
        if not len(self.offsets) == len(self.times) == len(self.scores) > 0:
            raise ValueError("its lists differ in length, or are empty")


def read(log: Log, *, follow: bool, from_beginning: bool, stop: Event) -> Iterator[dict[str, Any]]:
    """Each message without what an earlier one said; follow: go on with what comes until `stop`.

    Raises
    ------
    SourceError
        The topic cannot be read, or holds what is no message of scores.
    """
    once, first = Once(), log.ends()
    if from_beginning:
        first = dict.fromkeys(first, 0)
    while True:
        for records in log.read(first):
            for record in records:
                if stop.is_set():
                    return
                first[record.partition] = record.offset + 1
                if (new := once.new(_decoded(record))) is not None:
                    yield new
        if not follow or stop.wait(PAUSE_S):
            return
        first = {number: first.get(number, 0) for number in log.ends()}


def _decoded(record: LogRecord) -> dict[str, Any]:
    try:
        found: dict[str, Any] = msgspec.json.decode(record.value or b"")
        msgspec.convert(found, Message)
    except msgspec.MsgspecError as exc:
        where = f"partition {record.partition}, offset {record.offset}"
        raise SourceError(f"{where}: no message of scores ({exc})") from None
    return found


def lines(message: dict[str, Any]) -> Iterator[str]:
    """One a reading: time, series, place in the topic, version, score, class if there is one."""
    whose = f"{message['series']} {message['partition']}"
    classes = message.get("classes") or [None] * len(message["offsets"])
    columns = message["times"], message["offsets"], message["scores"], classes
    for time, offset, score, said in zip(*columns, strict=True):
        told = "-" if score is None else f"{score:.4f}"
        line = f"{iso(time)} {whose}:{offset} v{message['version']} {told}"
        yield line if said is None else f"{line} {said}"
