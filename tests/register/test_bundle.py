"""What leaves the database proves itself: any byte that changes is found, and so is any forgery."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.cli.proof import _line
from pipeline.config import Database
from pipeline.errors import PipelineError
from pipeline.register import anchors, tables
from pipeline.register.bundle import Manifest, export
from pipeline.register.container import MANIFEST, Member, directory, measure
from pipeline.register.engine import reading
from pipeline.register.ledger import canonical
from pipeline.register.sql import SqlRegistry
from pipeline.register.unbundle import verify_bundle
from tests.register.making import Clock, candidate, next_version, opened
from tests.register.test_agreement import fill


@pytest.fixture
def registry(at_head: Database) -> Iterator[SqlRegistry]:
    """A stream with a history of every kind, and another stream before it."""
    with opened(at_head, Clock()) as registry:
        other = registry.open_stream("other", ("a",))
        next_version(registry, other, made=candidate(weights=b"of the other"))
        fill(registry)
        yield registry


def rewritten(file: Path, to: Path, contents: dict[str, bytes]) -> Path:
    """A bundle with other contents, whose manifest was made to fit."""
    with zipfile.ZipFile(file) as read:
        held = {name: contents.get(name, read.read(name)) for name in read.namelist()}
    manifest = json.loads(held.pop(MANIFEST))
    members, body = [], b""
    for name, content in held.items():
        said = measure([content])
        (facts,) = (each for each in manifest["files"] if each["name"] == name)
        facts.update(size=said.size, crc32=said.crc32, sha256=said.sha256)
        members.append(Member(name=name, size=said.size, crc32=said.crc32))
        body += members[-1].local + content
    text = canonical(manifest).encode() + b"\n"
    said = measure([text])
    first = Member(name=MANIFEST, size=said.size, crc32=said.crc32)
    end = directory([first, *members], said.sha256)
    to.write_bytes(first.local + text + body + end)
    return to


@pytest.mark.parametrize("stream", [None, "readings"])
def test_a_bundle_holds_what_it_says(
    registry: SqlRegistry, tmp_path: Path, stream: str | None
) -> None:
    """Any zip reader opens it; equal histories give equal bytes; it finds nothing in itself.

    Of one stream alone nothing of another is told but its entries' hashes.
    """
    made = export(registry.database, tmp_path / "one.zip", stream)
    export(registry.database, tmp_path / "two.zip", stream)
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    assert verify_bundle(tmp_path / "one.zip").findings == []
    with zipfile.ZipFile(tmp_path / "one.zip") as read:
        assert read.testzip() is None
        assert read.namelist() == [MANIFEST, *(file.name for file in made.files)]
        entries = [json.loads(line) for line in read.read("ledger.jsonl").splitlines()]
        streams = [json.loads(line) for line in read.read("tables/streams.jsonl").splitlines()]
    hidden = [entry for entry in entries if entry.keys() == {"id", "previous", "hash"}]
    assert len(entries) == made.entries
    assert bool(hidden) == (stream is not None)
    named = {row["name"] for row in streams}
    assert named == ({"readings"} if stream else {"readings", "other"})
    told = {name.split("/")[1] for name in (f.name for f in made.files) if "tables/" in name}
    left_out = {"checkpoints", "checkpoint_pieces", "leases", "artifacts", "ledger", "task_prints"}
    left_out |= {"request_inputs", "tokens", "timelines", "timeline_buckets"}
    left_out |= {"notify_rules", "notifications", "schedules", "schedule_runs"}
    assert told == {f"{name}.jsonl" for name in tables.metadata.tables if name not in left_out}


def test_any_byte_that_is_flipped_is_found(
    sqlite_at_head: Database, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """In any file, header or the zip's own directory; and any that is cut off or added."""
    directory_ = tmp_path_factory.mktemp("bundle")
    file, changed = directory_ / "whole.zip", directory_ / "changed.zip"
    with opened(sqlite_at_head, Clock()) as registry:
        next_version(registry, registry.open_stream("readings", ("a",)))
        export(registry.database, file, None)
    whole = file.read_bytes()

    def is_found(content: bytes) -> bool:
        changed.write_bytes(content)
        try:
            return bool(verify_bundle(changed).findings)
        except PipelineError as exc:
            return "\n" not in str(exc)

    @settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow], deadline=None)
    @given(st.integers(0, len(whole) - 1), st.integers(1, 255))
    def flipped(at: int, by: int) -> None:
        assert is_found(whole[:at] + bytes([whole[at] ^ by]) + whole[at + 1 :])

    flipped()
    assert not is_found(whole)
    assert is_found(whole[:-1])
    assert is_found(whole + b"\0")
    assert is_found(b"")


def test_the_file_that_was_changed_is_named(registry: SqlRegistry, tmp_path: Path) -> None:
    """Which one, and whether it is its content or what stands around it."""
    made = export(registry.database, tmp_path / "b.zip", None)
    whole = (tmp_path / "b.zip").read_bytes()
    for file in made.files:
        if file.size:
            at = whole.index(file.member.local) + len(file.member.local)
            (tmp_path / "c.zip").write_bytes(whole[:at] + b"\0" + whole[at + 1 :])
            (finding,) = verify_bundle(tmp_path / "c.zip").findings
            assert (finding.where, finding.what) == (file.name, "edited")


def test_a_forger_who_mends_the_manifest_meets_the_ledger(
    registry: SqlRegistry, tmp_path: Path
) -> None:
    """Rows have to agree with entries, entries with the chain, weights with their names; and a
    ledger that was made anew from end to end with an anchor."""
    file = tmp_path / "b.zip"
    export(registry.database, file, "readings")
    with zipfile.ZipFile(file) as read:
        held = {name: read.read(name) for name in read.namelist()}
    with reading(registry.engine) as conn:
        anchor = anchors.made(anchors.head(conn))

    def found(name: str, content: bytes) -> set[tuple[str, str]]:
        forged = rewritten(file, tmp_path / "forged.zip", {name: content})
        looked = verify_bundle(forged, anchors=[("a", anchor)])
        return {(each.where, each.what) for each in looked.findings}

    versions = held["tables/versions.jsonl"]
    assert found("tables/versions.jsonl", versions) == set()
    forged = versions.replace(b'"seed":7', b'"seed":8', 1)
    assert found("tables/versions.jsonl", forged) == {("versions", "edited")}
    entries = held["ledger.jsonl"]
    edited = found("ledger.jsonl", entries.replace(b'"ada"', b'"eve"', 1))
    assert ("ledger", "edited") in edited
    cut = b"".join(entries.splitlines(keepends=True)[:-1])
    assert {("anchor a", "deleted"), (MANIFEST, "edited")} <= found("ledger.jsonl", cut)
    (weights,) = {name for name in held if name.startswith("weights/")}
    assert found(weights, b"other")
    assert found("ledger.jsonl", b"[]\n") == {("the bundle", "edited")}


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("previous", [[{}]]),
        ("hash", None),
        ("id", "x"),
        ("at", 10**30),
        ("stream_id", {"a": 1}),
        ("entry", '{"version":' + "9" * 40 + "}"),
        ("entry", "[" * 9999),
        ("kind", "\x1b[2J"),
    ],
)
def test_a_line_of_a_stranger_is_a_finding(
    sqlite_at_head: Database, tmp_path: Path, column: str, value: Any
) -> None:
    """Whatever stands where, in a bundle whose manifest fits; and nothing steers a terminal."""
    file = tmp_path / "b.zip"
    with opened(sqlite_at_head, Clock()) as registry:
        next_version(registry, registry.open_stream("readings", ("a",)))
        export(registry.database, file, None)
    with zipfile.ZipFile(file) as read:
        lines = read.read("ledger.jsonl").splitlines()
    for at in (0, len(lines) - 1):
        changed = json.dumps(json.loads(lines[at]) | {column: value}).encode()
        content = b"\n".join((*lines[:at], changed, *lines[at + 1 :], b""))
        looked = verify_bundle(rewritten(file, tmp_path / "f.zip", {"ledger.jsonl": content}))
        assert looked.findings
        assert all(_line(finding).isprintable() for finding in looked.findings)


def test_what_cannot_be_exported_or_read_is_told_in_a_line(
    sqlite_at_head: Database, tmp_path: Path
) -> None:
    """No traceback, and no half of a file."""
    with pytest.raises(PipelineError, match="no stream other"):
        export(sqlite_at_head, tmp_path / "b.zip", "other")
    assert not list(tmp_path.glob("b.zip*"))
    export(sqlite_at_head, tmp_path / "b.zip", None)
    assert verify_bundle(tmp_path / "b.zip").findings == []
    with pytest.raises(PipelineError, match="is there already"):
        export(sqlite_at_head, tmp_path / "b.zip", None)
    with pytest.raises(PipelineError, match="No such file"):
        export(sqlite_at_head, tmp_path / "none" / "b.zip", None)
    with pytest.raises(PipelineError, match="no bundle"):
        verify_bundle(Path(__file__))
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as other:
        other.writestr("../../etc/passwd", "x")
    with pytest.raises(PipelineError, match="no bundle"):
        verify_bundle(tmp_path / "other.zip")


def test_a_bundle_is_looked_at_without_torch(sqlite_at_head: Database, tmp_path: Path) -> None:
    """On whatever machine an auditor has."""
    export(sqlite_at_head, tmp_path / "b.zip", None)
    program = f"""
import sys
from pathlib import Path
from pipeline.register.unbundle import verify_bundle
assert not verify_bundle(Path({str(tmp_path / "b.zip")!r})).findings
assert not {{"torch", "river", "kafka"}} & sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_the_manifest_is_what_it_is_typed_as(sqlite_at_head: Database, tmp_path: Path) -> None:
    """Whoever reads it elsewhere finds these fields."""
    export(sqlite_at_head, tmp_path / "b.zip", None)
    with zipfile.ZipFile(tmp_path / "b.zip") as read:
        assert set(json.loads(read.read(MANIFEST))) == set(Manifest.__struct_fields__)
