"""Settings in, an order to prune out: by whom it is given, a person or the clock, is all one."""

from __future__ import annotations

from pipeline.config import Settings
from pipeline.errors import PipelineError
from pipeline.register.orders import Prune


def order(settings: Settings, keep_days: int | None = None) -> Prune:
    """What `SqlRegistry.act` is to do; keep_days: by default audit.min_keep_days.

    Raises
    ------
    PipelineError
        Fewer days would be kept than agreed.
    """
    from pipeline.consolidate.strategies import STRATEGIES

    least = settings.audit.min_keep_days
    if keep_days is not None and keep_days < least:
        raise PipelineError(f"{keep_days} days are fewer than audit.min_keep_days = {least}")
    keeps = STRATEGIES[settings.learn.strategy].keeps
    return Prune(
        keep_days=least if keep_days is None else keep_days,
        replays_all=keeps in ("latest", "everything"),
    )
