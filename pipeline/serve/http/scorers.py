"""Versions that answer, loaded once: the hash of the weights in, what scores with them out."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from pipeline.config import Settings
from pipeline.register.sql import SqlRegistry

if TYPE_CHECKING:
    from pipeline.score.scoring import Scorer

#: Versions that are kept ready; the one not asked for longest goes.
READY = 4


class Scorers:
    """The versions asked for last. One thread at a time may ask."""

    def __init__(self, registry: SqlRegistry, settings: Settings) -> None:
        self.registry = registry
        self.settings = settings
        self._ready: OrderedDict[str, Scorer] = OrderedDict()

    def of(self, sha256: str) -> Scorer:
        """What scores with the weights of that hash; ArtifactCorrupt if they are damaged."""
        scorer = self._ready.pop(sha256, None) or self._load(sha256)
        self._ready[sha256] = scorer
        if len(self._ready) > READY:
            self._ready.popitem(last=False)
        return scorer

    def _load(self, sha256: str) -> Scorer:
        import torch

        from pipeline.score.scoring import Scorer

        torch.set_num_threads(self.settings.score.threads)
        return Scorer.load(self.registry.get(sha256), self.settings.score.factory)
