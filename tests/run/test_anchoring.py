"""A head that was kept elsewhere finds what the chain cannot: a cut-off tail, a chain made anew."""

from __future__ import annotations

import os
import resource
import stat
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import msgspec
import pytest
from sqlalchemy import delete

from pipeline.config import Database, Kafka, Settings, deciding
from pipeline.errors import PipelineError
from pipeline.register import tables
from pipeline.register.anchors import Anchor
from pipeline.register.findings import Finding
from pipeline.register.proof import verify
from pipeline.register.sql import SqlRegistry
from pipeline.register.triggers import drop_triggers
from pipeline.run.anchoring import _append, anchor, kept
from pipeline.run.keys import make, signer, verifier
from tests.brokers import RealKafka, create_topic
from tests.register.making import Clock, column, next_version, opened

needs_keys = pytest.mark.skipif(
    find_spec("cryptography") is None and os.environ.get("CI") != "true",
    reason="no cryptography: install tidemark[sign]",
)


@pytest.fixture
def registry(at_head: Database) -> Iterator[SqlRegistry]:
    with opened(at_head, Clock()) as registry:
        next_version(registry, registry.open_stream("readings", ("a",)))
        yield registry


@pytest.fixture
def settings(at_head: Database) -> Settings:
    return Settings(database=at_head)


def found(settings: Settings, *places: str, key: Path | None = None) -> list[Finding]:
    signed = verifier(key) if key else None
    proof = verify(settings.database, anchors=kept(settings, places), signed=signed, tables=False)
    return list(proof.findings)


def cut(registry: SqlRegistry, after: int) -> None:
    with registry.engine.begin() as conn:
        drop_triggers(conn)
        conn.execute(delete(tables.ledger).where(tables.ledger.c.id > after))


def test_a_cut_off_tail_is_found(registry: SqlRegistry, settings: Settings, tmp_path: Path) -> None:
    """The chain that is left is sound; each anchor beyond its end says so, those before do not."""
    file = str(tmp_path / "anchors.jsonl")
    first = anchor(settings, to=file, actor="ada")
    second = anchor(settings, to=file, actor="ada")
    assert second.entries == first.entries + 1  # that it was anchored is an entry
    assert (
        column(registry.engine, "SELECT actor FROM ledger WHERE kind = 'anchored'") == ["ada"] * 2
    )
    assert found(settings, file) == []

    cut(registry, first.entries)
    assert found(settings) == []
    (finding,) = found(settings, file)
    assert (finding.where, finding.what) == (f"anchor {file}:2", "deleted")
    cut(registry, 0)
    assert [each.what for each in found(settings, file)] == ["edited", "edited"]


def test_a_chain_that_was_made_anew_is_found(
    registry: SqlRegistry, settings: Settings, tmp_path: Path
) -> None:
    """Cut off and written on, it is as long as it was; the anchored entry is another."""
    file = str(tmp_path / "anchors.jsonl")
    made = anchor(settings, to=file)
    cut(registry, made.entries - 1)
    for _ in range(3):
        next_version(registry, registry.open_stream("readings", ("a",)))
    assert found(settings) == []
    (finding,) = found(settings, file)
    assert (finding.entry, finding.what) == (made.entries, "edited")


def test_anchors_of_another_database_are_told(
    registry: SqlRegistry, settings: Settings, tmp_path: Path
) -> None:
    """Two ledgers never begin alike; an empty one fits everything that goes on from it."""
    empty = anchor(settings, to=None)
    file = tmp_path / "anchors.jsonl"
    other = msgspec.structs.replace(empty, database="0" * 63 + "1")
    file.write_bytes(other.line)
    assert [each.what for each in found(settings, str(file))] == ["edited"]
    file.write_bytes(msgspec.structs.replace(empty, entries=0, hash="0" * 64).line)
    assert found(settings, str(file)) == []


@pytest.mark.parametrize("text", [b"{}\n", b"[", b"\xff\n", b'{"database":1}\n', b"\n"])
def test_a_line_that_is_no_anchor_is_told(settings: Settings, tmp_path: Path, text: bytes) -> None:
    """By file and line; so is a file without any, and one that is not there."""
    file = tmp_path / "anchors.jsonl"
    file.write_bytes(text)
    with pytest.raises(PipelineError, match=r"anchors.jsonl:1: no anchor"):
        kept(settings, [str(file)])
    file.write_bytes(b"")
    with pytest.raises(PipelineError, match="holds no anchor"):
        kept(settings, [str(file)])
    with pytest.raises(PipelineError, match="No such file"):
        kept(settings, [str(tmp_path / "none")])


def test_an_anchor_that_cannot_be_kept_is_not_noted(
    registry: SqlRegistry, settings: Settings, tmp_path: Path
) -> None:
    """The ledger must not say that there is one."""
    with pytest.raises(PipelineError, match="No such file"):
        anchor(settings, to=str(tmp_path / "none" / "anchors"))
    assert column(registry.engine, "SELECT id FROM ledger WHERE kind = 'anchored'") == []


def test_what_a_power_cut_left_of_an_anchor_spoils_none(settings: Settings, tmp_path: Path) -> None:
    """At whatever byte: what was whole before is there, and what is kept after it."""
    file = tmp_path / "anchors"
    first, lost, last = (
        Anchor(database="d" * 64, entries=n, hash=f"{n:064d}", at=n) for n in (1, 2, 3)
    )
    for bytes_of_it in range(len(lost.line) + 1):
        file.write_bytes(first.line + lost.line[:bytes_of_it])
        _append(file, last.line)
        there = [first, lost, last] if bytes_of_it >= len(lost.line) - 1 else [first, last]
        assert [each for _, each in kept(settings, [str(file)])] == there


def test_a_disk_without_room_leaves_no_half_anchor(tmp_path: Path) -> None:
    """There is some for half a line only: it is said why, and the file is as it was."""
    file, line = tmp_path / "anchors", b'{"at":1,"x":"' + b"y" * 50 + b'"}\n'
    _append(file, line)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(line) + 20, limits[1]))
    try:
        with pytest.raises(PipelineError, match="anchors: File too large"):
            _append(file, line)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert file.read_bytes() == line


def test_a_stranger_s_file_is_not_cut(tmp_path: Path) -> None:
    """Whoever names the wrong file finds it as it was."""
    file = tmp_path / "notes"
    file.write_bytes(b"one\ntwo")
    with pytest.raises(PipelineError, match="its last line has no end, and is no anchor"):
        _append(file, Anchor(database="", entries=0, hash="0" * 64, at=0).line)
    assert file.read_bytes() == b"one\ntwo"


def test_anchors_are_kept_in_kafka(sqlite_at_head: Database, real_kafka: RealKafka) -> None:
    """Where whoever owns the database cannot write them away."""
    topic = "anchors"
    create_topic(real_kafka.address, topic, 1)
    settings = Settings(database=sqlite_at_head, kafka=Kafka(bootstrap_servers=real_kafka.address))
    with opened(sqlite_at_head, Clock()) as registry:
        next_version(registry, registry.open_stream("readings", ("a",)))
        made = anchor(settings, to=f"kafka:{topic}")
        assert [each for _, each in kept(settings, [f"kafka:{topic}"])] == [made]
        assert found(settings, f"kafka:{topic}") == []
        cut(registry, made.entries - 1)
        assert [each.what for each in found(settings, f"kafka:{topic}")] == ["deleted"]


@needs_keys
def test_only_what_the_key_signed_is_believed(
    registry: SqlRegistry, settings: Settings, tmp_path: Path
) -> None:
    """An unsigned anchor, another key's, and one that was changed after it was signed are told."""
    key, file = tmp_path / "key", tmp_path / "anchors.jsonl"
    public = make(key)
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    made = anchor(settings, to=str(file), key=key)
    assert found(settings, str(file), key=public) == []
    changes = [
        msgspec.structs.replace(made, at=made.at + 1),
        msgspec.structs.replace(made, signature=None),
        msgspec.structs.replace(made, signature="?"),
    ]
    for changed in changes:
        file.write_bytes(changed.line)
        assert [each.what for each in found(settings, str(file), key=public)] == ["unsigned"]
        assert found(settings, str(file)) == [] or changed.at != made.at
    file.write_bytes(made.line)
    other = make(tmp_path / "other")
    assert [each.what for each in found(settings, str(file), key=other)] == ["unsigned"]
    public.unlink()
    with pytest.raises(PipelineError, match="File exists"):
        make(key)
    with pytest.raises(PipelineError, match="is there already"):
        make(tmp_path / "other")
    with pytest.raises(PipelineError, match="no private Ed25519 key"):
        signer(other)
    with pytest.raises(PipelineError, match="no public Ed25519 key"):
        verifier(key)


def test_without_cryptography_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is an extra."""
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives", None)
    with pytest.raises(PipelineError, match=r"install tidemark\[sign\]"):
        make(tmp_path / "key")


def test_settings_are_noted_when_they_change(registry: SqlRegistry) -> None:
    """For each role and topic by itself; and what they are, without a secret."""

    def note(settings: Settings, role: str = "stream") -> None:
        registry.note_settings(role, settings.stream.topic, deciding(settings), "host")

    usual = Settings(kafka=Kafka(sasl_password="canary"))  # noqa: S106
    other = msgspec.structs.replace(usual, gate=msgspec.structs.replace(usual.gate, min_gain=0.5))
    for settings in (usual, usual, other, other, usual):
        note(settings)
    note(usual, "train")
    note(usual, "train")
    entries = column(
        registry.engine, "SELECT entry FROM ledger WHERE kind = 'settings' ORDER BY id"
    )
    told = [msgspec.json.decode(entry) for entry in entries]
    assert [each["settings"]["gate"]["min_gain"] for each in told] == [0.02, 0.5, 0.02, 0.02]
    assert [each["role"] for each in told] == ["stream", "stream", "stream", "train"]
    assert told[0]["sha256"] == told[2]["sha256"] != told[1]["sha256"]
    assert not any("canary" in entry for entry in entries)
