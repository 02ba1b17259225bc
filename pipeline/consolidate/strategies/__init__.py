"""Methods of consolidation, one file each, by name; another one is a file and a line here."""

from __future__ import annotations

from pipeline.consolidate.strategies.base import Strategy
from pipeline.consolidate.strategies.der import Der
from pipeline.consolidate.strategies.derpp import Derpp
from pipeline.consolidate.strategies.ewc import Ewc
from pipeline.consolidate.strategies.ewc_only import EwcOnly
from pipeline.consolidate.strategies.ewc_replay import EwcReplay
from pipeline.consolidate.strategies.fifo import Fifo
from pipeline.consolidate.strategies.fine_tune import FineTune
from pipeline.consolidate.strategies.joint import Joint
from pipeline.consolidate.strategies.online_ewc import OnlineEwc
from pipeline.consolidate.strategies.replay import Replay
from pipeline.consolidate.strategies.replay_only import ReplayOnly

STRATEGIES: dict[str, Strategy] = {
    "ewc_replay": EwcReplay(),
    "replay_only": ReplayOnly(),
    "ewc_only": EwcOnly(),
    "fine_tune": FineTune(),
    "joint": Joint(),
    "replay": Replay(),
    "fifo": Fifo(),
    "ewc": Ewc(),
    "online_ewc": OnlineEwc(),
    "der": Der(),
    "derpp": Derpp(),
}

__all__ = ["STRATEGIES", "Strategy"]
