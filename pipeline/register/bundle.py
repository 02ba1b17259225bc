"""A history in, one file that proves itself on a machine without a database, out.

ledger.jsonl has every entry; those of streams that were not asked for are there by number and hash
only, so that the chain can be followed. tables/*.jsonl are the rows that answer the audit's
questions, weights/*.safetensors the versions' weights by their sha256, but for those that were
pruned.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import msgspec
from sqlalchemy import Connection, Select, exists, select

import pipeline
from pipeline.config import Database
from pipeline.errors import PipelineError
from pipeline.register import anchors as heads
from pipeline.register import tables as t
from pipeline.register.chain import BATCH
from pipeline.register.container import (
    MANIFEST,
    PIECE,
    Member,
    directory,
    measure,
    pieces,
)
from pipeline.register.engine import connect, reading
from pipeline.register.ledger import canonical

#: Tables whose rows say of what stream they are, and those that say of what version.
OF_STREAM = (
    "boundaries", "sensor_events", "gaps", "tasks", "segments", "requests", "versions",
    "promotions", "scored", "dead_letters", "acts", "envelopes",
)  # fmt: skip
OF_VERSION = ("metrics", "evaluations", "measurements", "judgements")
#: Columns that are left out: they say who works at what just now.
PASSING = {"requests": ("owner", "lease_until", "not_before", "fence", "attempts")}
#: Called with (files done, files in all, name).
Progress = Callable[[int, int | None, str], None]


class File(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A file of the bundle."""

    name: str
    size: int
    crc32: int
    sha256: str

    @property
    def member(self) -> Member:
        """As the container knows it."""
        return Member(name=self.name, size=self.size, crc32=self.crc32)


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a bundle holds."""

    format: int
    tidemark: str
    #: None: all of them.
    stream: str | None
    #: The ledger's first hash, how many entries it has, and its last hash and time.
    database: str
    entries: int
    head: str
    at: int
    files: list[File]


FORMAT = 1


def export(
    database: Database, file: Path, stream: str | None, progress: Progress = lambda *_: None
) -> Manifest:
    """Write one moment's history to a new file; equal histories give equal bytes.

    Raises
    ------
    PipelineError
        The file is there already or cannot be written, or there is no such stream.
    """
    if os.path.lexists(file):
        raise PipelineError(f"{file} is there already")
    engine = connect(database)
    try:
        with ExitStack() as stack:
            conn = stack.enter_context(reading(engine))
            wanted = _stream(conn, stream)
            spool = stack.enter_context(tempfile.TemporaryFile(dir=file.parent))
            files = []
            contents = list(_contents(conn, wanted))
            for done, (name, content) in enumerate(contents):
                progress(done, len(contents), name)
                found = measure(content, spool.write)
                files.append(
                    File(name=name, size=found.size, crc32=found.crc32, sha256=found.sha256)
                )
            head = heads.head(conn)
            manifest = Manifest(
                format=FORMAT,
                tidemark=pipeline.__version__,
                stream=stream,
                database=head.database,
                entries=head.entries,
                head=head.hash,
                at=head.at,
                files=files,
            )
            _write(file, manifest, spool)
    except OSError as exc:
        raise PipelineError(f"{file}: {exc.strerror}") from None
    finally:
        engine.dispose()
    return manifest


def _write(file: Path, manifest: Manifest, spool: IO[bytes]) -> None:
    """All of it, or no file."""
    with file.open("xb") as out:  # what somebody else put there meanwhile stays
        try:
            _put(out, manifest, spool)
        except BaseException:
            file.unlink(missing_ok=True)
            raise


def _put(out: IO[bytes], manifest: Manifest, spool: IO[bytes]) -> None:
    content = canonical(manifest).encode() + b"\n"
    said = measure([content])
    first = Member(name=MANIFEST, size=said.size, crc32=said.crc32)
    out.write(first.local + content)
    spool.seek(0)
    for file in manifest.files:
        out.write(file.member.local)
        for piece in pieces(spool, file.size):
            out.write(piece)
    out.write(directory([first, *(file.member for file in manifest.files)], said.sha256))


def _stream(conn: Connection, name: str | None) -> int | None:
    if name is None:
        return None
    found: int | None = conn.execute(
        select(t.streams.c.id).where(t.streams.c.name == name)
    ).scalar()
    if found is None:
        raise PipelineError(f"no stream {name}")
    return found


def _contents(conn: Connection, stream: int | None) -> Iterator[tuple[str, Iterable[bytes]]]:
    """(name, content in pieces) of every file but the manifest."""
    yield "ledger.jsonl", _lines(_entries(conn, stream))
    for name in ("streams", *OF_STREAM, *OF_VERSION):
        yield f"tables/{name}.jsonl", _lines(_rows(conn, _of(name, stream), name))
    kept = exists().where(
        t.artifacts.c.sha256 == t.versions.c.sha256, t.artifacts.c.pruned.is_(None)
    )
    weights = _of("versions", stream).with_only_columns(t.versions.c.sha256).where(kept).distinct()
    for sha in sorted(conn.execute(weights.order_by(None)).scalars()):
        yield f"weights/{sha}.safetensors", _artifact(conn, sha)


def _of(name: str, stream: int | None) -> Select[Any]:
    """A table's rows, of one stream if it is asked for."""
    table = t.metadata.tables[name]
    query = select(table).order_by(*table.primary_key)
    if stream is None:
        return query
    if name in OF_VERSION:
        its = (t.versions.c.id == table.c.version_id) & (t.versions.c.stream_id == stream)
        return query.where(exists().where(its))
    of = table.c.id if name == "streams" else table.c.stream_id
    return query.where((of == stream) | of.is_(None))  # NULL: it is of all streams


def _rows(conn: Connection, query: Select[Any], name: str) -> Iterator[Mapping[str, Any]]:
    passing = PASSING.get(name, ())
    with conn.execute(query, execution_options={"yield_per": BATCH}) as result:
        for row in result.mappings():
            yield {column: value for column, value in row.items() if column not in passing}


def _entries(conn: Connection, stream: int | None) -> Iterator[Mapping[str, Any]]:
    for row in _rows(conn, select(t.ledger).order_by(t.ledger.c.id), "ledger"):
        if stream is None or row["stream_id"] in (None, stream):
            yield row
        else:
            yield {name: row[name] for name in ("id", "previous", "hash")}


def _lines(rows: Iterable[Mapping[str, Any]]) -> Iterator[bytes]:
    """JSON lines, in pieces."""
    held: list[bytes] = []
    for row in rows:
        held.append(canonical(row).encode() + b"\n")
        if len(held) == BATCH:
            yield b"".join(held)
            held.clear()
    yield b"".join(held)


def _artifact(conn: Connection, sha: str) -> Iterator[bytes]:
    content = conn.execute(select(t.artifacts.c.content).where(t.artifacts.c.sha256 == sha))
    whole: bytes = content.scalar() or b""
    for first in range(0, len(whole), PIECE):
        yield whole[first : first + PIECE]
