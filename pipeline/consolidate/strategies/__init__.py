"""Methods of consolidation, one file each, by name; another one is a file and a line here."""

from __future__ import annotations

from pipeline.consolidate.strategies.base import Strategy, Task
from pipeline.consolidate.strategies.ewc_replay import ewc_replay
from pipeline.consolidate.strategies.fine_tune import fine_tune

STRATEGIES: dict[str, Strategy] = {
    "ewc_replay": ewc_replay,
    "fine_tune": fine_tune,
}

__all__ = ["STRATEGIES", "Strategy", "Task"]
