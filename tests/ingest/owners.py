"""An owner that keeps what a source told it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipeline.records import Gap


class KeepingOwner:
    """Answers `assigned` with `where`, and keeps gaps there; `told` has every call in order."""

    def __init__(self, where: Mapping[int, int] | None = None) -> None:
        self.where = dict(where or {})
        self.told: list[tuple[str, list[int]]] = []

    def assigned(self, partitions: Sequence[int]) -> Mapping[int, int]:
        self.told.append(("assigned", list(partitions)))
        return {p: self.where[p] for p in partitions if p in self.where}

    def revoked(self, partitions: Sequence[int]) -> None:
        self.told.append(("revoked", list(partitions)))

    def skipped(self, partition: int, gap: Gap) -> None:
        self.told.append(("skipped", [partition, gap.first_offset, gap.end_offset]))
        self.where[partition] = gap.end_offset

    def lost(self, partitions: Sequence[int]) -> None:
        self.told.append(("lost", list(partitions)))
