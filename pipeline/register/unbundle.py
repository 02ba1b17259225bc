"""A bundle in, what in it is not as it was written out; no database, no torch, nothing unpacked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import msgspec

from pipeline.errors import PipelineError
from pipeline.register import anchors as heads
from pipeline.register.agreement import differences
from pipeline.register.anchors import Anchor
from pipeline.register.bundle import FORMAT, File, Manifest
from pipeline.register.chain import BATCH, Entry, Head, follow
from pipeline.register.container import (
    LARGEST_MANIFEST,
    MANIFEST,
    Member,
    directory,
    measure,
    pieces,
)
from pipeline.register.damage import diagnose
from pipeline.register.findings import Finding
from pipeline.register.proof import of_entry, of_row
from pipeline.register.telling import Row, hashes_of

#: A longer line is none of ours, in bytes.
LONGEST_LINE = 64 << 20
#: What a line raises that is none of ours: of another form, or a number that no column holds.
FOREIGN = (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError)
#: Tables of no stream: they are not in a bundle.
LEFT_OUT = ("tokens", "schedules", "schedule_runs")


@dataclass(frozen=True, slots=True, kw_only=True)
class Looked:
    """What was looked at, and what was found."""

    manifest: Manifest
    anchors: int
    findings: Sequence[Finding]


def verify_bundle(
    file: Path,
    *,
    anchors: Sequence[tuple[str, Anchor]] = (),
    signed: Callable[[bytes, bytes], bool] | None = None,
    progress: Callable[[int, int | None, str], None] = lambda *_: None,
) -> Looked:
    """Look at every byte; then, if all files are whole, at the chain, the tables and the weights.

    anchors, signed: as `proof.verify` has them.

    Raises
    ------
    PipelineError
        It cannot be read, or is no bundle or one of a later format.
    """
    try:
        with file.open("rb") as content:
            manifest, starts, findings = _files(file, content, progress)
            if not findings:
                findings = list(_History(content, manifest, starts).findings(anchors, signed))
    except OSError as exc:
        raise PipelineError(f"{file}: {exc.strerror}") from None
    return Looked(manifest=manifest, anchors=len(anchors), findings=findings)


def _files(
    file: Path, content: IO[bytes], progress: Callable[[int, int | None, str], None]
) -> tuple[Manifest, dict[str, int], list[Finding]]:
    """The manifest, where each file's content begins, and the files that are not what it says."""
    manifest, first, digest, findings = _manifest(file, content)
    starts = {}
    for done, each in enumerate(manifest.files):
        progress(done, len(manifest.files), each.name)
        header = each.member.local
        is_header = content.read(len(header)) == header
        starts[each.name] = content.tell()
        found = measure(pieces(content, each.size))
        if not is_header or (found.size, found.crc32, found.sha256) != (
            each.size,
            each.crc32,
            each.sha256,
        ):
            findings.append(_edited(each.name, "its content is another" if is_header else "header"))
    members = [first, *(each.member for each in manifest.files)]
    end = directory(members, digest)
    if content.read(len(end) + 1) != end:
        findings.append(_edited("the zip's directory", "it does not fit the manifest"))
    return manifest, starts, findings


def _manifest(file: Path, content: IO[bytes]) -> tuple[Manifest, Member, str, list[Finding]]:
    """The manifest, its member, its sha256, and whether its header is another."""
    unknown = Member(name=MANIFEST, size=0, crc32=0).local
    header = content.read(len(unknown))
    size = int.from_bytes(header[-8:], "little")
    if header[:4] != unknown[:4] or not 0 < size <= LARGEST_MANIFEST:
        raise PipelineError(f"{file}: no bundle, or its first bytes were changed")
    raw = content.read(size)
    try:
        manifest = msgspec.json.decode(raw, type=Manifest)
        names = {MANIFEST, *(each.name for each in manifest.files)}
        sound = all(map(_is_sound, manifest.files))
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise PipelineError(f"{file}: {MANIFEST} was changed: {exc}") from None
    if manifest.format != FORMAT or len(names) != len(manifest.files) + 1 or not sound:
        raise PipelineError(f"{file}: {MANIFEST} was changed, or is of a later tidemark")
    said = measure([raw])
    first = Member(name=MANIFEST, size=said.size, crc32=said.crc32)
    findings = [] if header == first.local else [_edited(MANIFEST, "header")]
    return manifest, first, said.sha256, findings


def _is_sound(file: File) -> bool:
    """Whether a zip's headers can say it."""
    return 0 <= file.size < 1 << 48 and 0 <= file.crc32 < 1 << 32 and len(file.name) < 1 << 8


def _edited(where: str, detail: str) -> Finding:
    return Finding(where=where, what="edited", detail=detail)


class _History:
    """The files of a bundle that is whole, as a ledger and tables."""

    def __init__(self, content: IO[bytes], manifest: Manifest, starts: dict[str, int]) -> None:
        self.content = content
        self.manifest = manifest
        self.starts = starts
        self.files = {each.name: each for each in manifest.files}

    def findings(
        self,
        anchors: Sequence[tuple[str, Anchor]],
        signed: Callable[[bytes, bytes], bool] | None,
    ) -> Iterator[Finding]:
        """Of what the files say, whatever their manifest does."""
        try:
            yield from self._ledger(anchors, signed)
            yield from map(of_row, differences(self._entries, self._rows, left_out=LEFT_OUT))
            yield from self._weights()
        except FOREIGN as exc:
            yield _edited("the bundle", f"a line is none of tidemark's: {exc}")

    def _ledger(
        self,
        anchors: Sequence[tuple[str, Anchor]],
        signed: Callable[[bytes, bytes], bool] | None,
    ) -> Iterator[Finding]:
        wanted = {anchor.entries for _, anchor in anchors}
        hashes: dict[int, str] = {}

        def noted() -> Iterator[list[Entry]]:
            for batch in self._batches():
                hashes.update((each.id, each.hash) for each in batch if each.id in wanted)
                yield batch

        head, sound = follow(noted())
        if not sound:
            yield from map(of_entry, diagnose(self._batches()))
            return
        said = self.manifest
        told = Head(entries=said.entries, hash=said.head, at=said.at, database=said.database)
        is_hidden = said.stream is not None and head.hash == told.hash  # its time is not told
        if head != told and not is_hidden:
            yield _edited(MANIFEST, f"the ledger ends at entry {head.entries}")
        yield from heads.check(anchors, head, hashes.get, signed)

    def _weights(self) -> Iterator[Finding]:
        """Every version's weights are there, under the name of what they are, or were pruned."""
        pruned = {sha for entry in self._entries(("pruned",)) for sha in hashes_of(entry)}
        for row in self._rows("versions"):
            found = self.files.get(f"weights/{row['sha256']}.safetensors")
            if found is None and row["sha256"] in pruned:
                continue
            if found is None or found.sha256 != row["sha256"]:
                what = "deleted" if found is None else "edited"
                detail = f"not the weights of version {row['number']}"
                yield Finding(where=f"weights/{row['sha256']}", what=what, detail=detail)

    def _batches(self) -> Iterator[list[Entry]]:
        batch: list[Entry] = []
        for row in self._lines(self.files["ledger.jsonl"]):
            batch.append(
                Entry(**row)
                if "kind" in row
                else Entry("", 0, "", row["id"], None, None, row["previous"], row["hash"])
            )
            if len(batch) == BATCH:
                yield batch
                batch = []
        if batch:
            yield batch

    def _entries(self, kinds: tuple[str, ...]) -> Iterator[Row]:
        return (row for row in self._lines(self.files["ledger.jsonl"]) if row.get("kind") in kinds)

    def _rows(self, name: str) -> Iterator[Row]:
        return self._lines(self.files[f"tables/{name}.jsonl"])

    def _lines(self, file: File) -> Iterator[dict[str, Any]]:
        """Its JSON lines; several files may be read in turns."""
        offset = self.starts[file.name]
        end = offset + file.size
        while offset < end:
            self.content.seek(offset)
            line = self.content.readline(min(LONGEST_LINE, end - offset))
            offset += len(line)
            yield msgspec.json.decode(line, type=dict[str, Any])
