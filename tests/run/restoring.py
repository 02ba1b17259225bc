"""A partition that goes on from pieces in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pipeline.register.checkpoints import AT_ONCE, Checkpoint, Piece
from pipeline.run.partition import Partition


def restore(made: Partition, head: bytes, pieces: Iterable[Piece]) -> None:
    """As from a database that has these and no others."""
    stored = sorted(pieces)
    kinds = sorted({piece.kind for piece in stored})
    checkpoint = Checkpoint(epoch=1, next_offset=0, head=head, kinds=kinds)

    def pages(kind: str) -> Iterator[list[Piece]]:
        mine = [piece for piece in stored if piece.kind == kind]
        for begin in range(0, len(mine), AT_ONCE):
            yield mine[begin : begin + AT_ONCE]

    made.restore(checkpoint, pages)
