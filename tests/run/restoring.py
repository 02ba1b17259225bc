"""A partition that goes on from pieces in memory."""

from __future__ import annotations

from collections.abc import Iterable

from pipeline.register.checkpoints import Checkpoint, Piece
from pipeline.run.partition import Partition


def restore(made: Partition, head: bytes, pieces: Iterable[Piece]) -> None:
    """As from a database that has these and no others."""
    stored = sorted(pieces)
    kinds = sorted({piece.kind for piece in stored})
    checkpoint = Checkpoint(epoch=1, next_offset=0, head=head, kinds=kinds)
    made.restore(checkpoint, lambda kind: [piece for piece in stored if piece.kind == kind])
