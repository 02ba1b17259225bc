"""Files in, one zip of which every byte is known, out; and back, without unpacking anything.

Nothing is compressed and no field is left to chance, so equal files give equal bytes, and a reader
knows every header before it sees it. The first member, `manifest.json`, holds name, size, CRC-32
and sha256 of all others, in their order; the zip's comment is its own sha256. So no byte of a file
can change unseen, no member can be larger than the zip, and no name ever becomes a path.

Format: APPNOTE.TXT 6.3.10 of PKWARE, with Zip64 fields (4.5.3) throughout.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import IO

#: Bytes in memory at once.
PIECE = 1 << 20
MANIFEST = "manifest.json"
#: A larger manifest is none, in bytes.
LARGEST_MANIFEST = 64 << 20
#: 1980-01-01, the first day that a zip knows: (date, time).
DAY, TIME = 0x21, 0
#: Zip64, names in UTF-8, nothing compressed; a plain file that anyone may read.
VERSION, UTF8, STORED, MODE = 45, 0x800, 0, 0o100644 << 16
WIDE = 0xFFFFFFFF


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A file in the zip; all that its headers say."""

    name: str
    size: int
    crc32: int

    @property
    def local(self) -> bytes:
        """The header before its content."""
        name = self.name.encode()
        fixed = struct.pack(
            "<4s5H3I2H", b"PK\3\4", VERSION, UTF8, STORED, TIME, DAY,
            self.crc32, WIDE, WIDE, len(name), 20,
        )  # fmt: skip
        return fixed + name + struct.pack("<2H2Q", 1, 16, self.size, self.size)

    def central(self, offset: int) -> bytes:
        """Its line in the directory; offset: of its local header."""
        name = self.name.encode()
        fixed = struct.pack(
            "<4s6H3I5H2I", b"PK\1\2", VERSION | 3 << 8, VERSION, UTF8, STORED, TIME, DAY,
            self.crc32, WIDE, WIDE, len(name), 28, 0, 0, 0, MODE, WIDE,
        )  # fmt: skip
        return fixed + name + struct.pack("<2H3Q", 1, 24, self.size, self.size, offset)


def directory(members: Sequence[Member], comment: str) -> bytes:
    """All that follows the last member's content."""
    lines, offset = [], 0
    for member in members:
        lines.append(member.central(offset))
        offset += len(member.local) + member.size
    size, count = sum(map(len, lines)), len(members)
    end64 = struct.pack(
        "<4sQ2H2I4Q", b"PK\6\6", 44, VERSION | 3 << 8, VERSION, 0, 0, count, count, size, offset
    )
    locator = struct.pack("<4sIQI", b"PK\6\7", 0, offset + size, 1)
    few = min(count, 0xFFFF)
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, few, few, WIDE, WIDE, len(comment))
    return b"".join((*lines, end64, locator, end, comment.encode()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What is known of a file's content once it was read."""

    size: int
    crc32: int
    sha256: str


def measure(pieces: Iterable[bytes], to: Callable[[bytes], object] = lambda _: None) -> Measured:
    """Read a content once, and pass it on."""
    size, crc, digest = 0, 0, hashlib.sha256()
    for piece in pieces:
        size += len(piece)
        crc = zlib.crc32(piece, crc)
        digest.update(piece)
        to(piece)
    return Measured(size=size, crc32=crc, sha256=digest.hexdigest())


def pieces(file: IO[bytes], size: int) -> Iterator[bytes]:
    """The next `size` bytes of a file, or what there is of them."""
    while size > 0 and (piece := file.read(min(PIECE, size))):
        size -= len(piece)
        yield piece
