"""Where the ledger's head is kept besides the database: a file or a Kafka topic."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from io import FileIO
from pathlib import Path

import structlog

from pipeline.config import Settings
from pipeline.errors import PipelineError
from pipeline.register import anchors as heads
from pipeline.register import ledger
from pipeline.register.anchors import Anchor
from pipeline.register.engine import connect, now_us, reading, writing
from pipeline.run.keys import signer

log = structlog.get_logger()

#: Before the name of a topic.
KAFKA = "kafka:"
#: A longer line is no anchor, in bytes.
LONGEST = 4096
#: Bytes by which every anchor begins: `{"at":`.
BEGINNING = 6


def anchor(
    settings: Settings,
    *,
    to: str | None = None,
    key: Path | None = None,
    actor: str = "tidemark",
) -> Anchor:
    """Write the ledger's head to a file or `kafka:TOPIC`, and that it was, into the ledger.

    to: None: nowhere, the caller keeps it. key: file of the private key that signs it.

    Raises
    ------
    PipelineError
        The file, topic or key is not there. Nothing is noted then.
    """
    sign = signer(key) if key else None
    engine = connect(settings.database)
    try:
        with reading(engine) as conn:
            made = heads.made(heads.head(conn), sign)
        if to is None:
            return made
        if to.startswith(KAFKA):
            _send(settings, to.removeprefix(KAFKA), made.line)
        else:
            _append(Path(to), made.line)
        facts = {"entries": made.entries, "hash": made.hash, "to": to, "signed": key is not None}
        with writing(engine) as conn:
            ledger.append(conn, "anchored", facts, at=now_us(), actor=actor)
    finally:
        engine.dispose()
    log.info("anchored", to=to, entries=made.entries, hash=made.hash)
    return made


def kept(settings: Settings, places: Sequence[str]) -> list[tuple[str, Anchor]]:
    """(where, anchor) of all that files and topics hold.

    Raises
    ------
    PipelineError
        One is not there or holds none, or something in it is no anchor.
    """
    found: list[tuple[str, Anchor]] = []
    for place in places:
        lines = _topic(settings, place) if place.startswith(KAFKA) else _file(Path(place))
        before = len(found)
        found += heads.read(lines)
        if len(found) == before:
            raise PipelineError(f"{place} holds no anchor")
    return found


def _append(file: Path, line: bytes) -> None:
    """One line more, on the disk when this returns; or, where there is no room, none.

    Half a line, as a power cut leaves it, goes: the ledger knows nothing of it, and it would spoil
    the anchor behind it.
    """
    try:
        with file.open("a+b", buffering=0) as out:
            end, half = _whole(out)
            if half and not line[:BEGINNING].startswith(half[:BEGINNING]):
                raise PipelineError(f"{file}: its last line has no end, and is no anchor")
            if half.endswith(b"}"):  # all of one but its newline
                end, line = end + len(half), b"\n" + line
            out.truncate(end)
            try:
                while line:
                    line = line[out.write(line) :]
                os.fsync(out.fileno())
            except OSError:
                out.truncate(end)
                raise
    except OSError as exc:
        raise PipelineError(f"{file}: {exc.strerror}") from None


def _whole(out: FileIO) -> tuple[int, bytes]:
    """Where the last whole line ends, and the half one behind it."""
    size = out.seek(0, os.SEEK_END)
    out.seek(max(0, size - LONGEST))
    half = out.read().rpartition(b"\n")[2]
    return size - len(half), half


def _file(file: Path) -> Iterator[tuple[str, bytes]]:
    try:
        with file.open("rb") as lines:
            number = 0
            while line := lines.readline(LONGEST):
                number += 1
                yield f"{file}:{number}", line
    except OSError as exc:
        raise PipelineError(f"{file}: {exc.strerror}") from None


def _send(settings: Settings, topic: str, line: bytes) -> None:
    from pipeline.ingest.kafka_sink import KafkaSink

    sink = KafkaSink(settings.kafka)
    try:
        sink.require([topic])
        sink.send(topic, key=None, value=line)
        sink.flush()
    finally:
        sink.close()


def _topic(settings: Settings, place: str) -> Iterator[tuple[str, bytes]]:
    from pipeline.ingest.kafka_log import KafkaLog

    log = KafkaLog(settings.kafka, place.removeprefix(KAFKA))
    try:
        for records in log.read():
            for record in records:
                yield f"{place}[{record.partition}]@{record.offset}", record.value or b""
    finally:
        log.close()
