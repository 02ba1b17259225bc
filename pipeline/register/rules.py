"""Whether a training may begin now: rules and the stream's state in, a sentence or none out. Pure.

A request that is held back stays pending and is taken along by the next one that is not. What a
person asks for is never held back, and neither is anything as long as the stream has no champion:
without a first version nothing is scored.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

from pipeline.config import Retrain

#: Reasons of requests that say that the stream has changed, and not that a training is wanted now.
OF_THE_STREAM = ("bootstrap", "boundary", "refine")
#: Reasons that no rule holds back: a person asks, or nothing is trained.
FREE = ("manual", "evaluate")


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What the rules look at of a stream."""

    has_champion: bool
    #: Reasons of its pending requests.
    reasons: Collection[str]
    #: When its newest version was made, aware.
    last_version: datetime | None
    #: Versions made on the day of `day_of`, so far.
    versions_today: int


def judge(rules: Retrain, state: State, now: datetime) -> str | None:
    """Why no training may begin; None if one may.

    now: aware. A version that was made later than now, by a clock that was set back since, holds
    nothing up.
    """
    if not state.has_champion:
        return None
    return "; ".join(_held(rules, state, now)) or None


def day_of(now: datetime, timezone: str) -> datetime:
    """When the day began that it is in a time zone, in UTC.

    Where clocks are changed at midnight, that is the first moment of the date.
    """
    local = now.astimezone(ZoneInfo(timezone))
    midnight = local.replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
    return midnight.astimezone(UTC)


def _held(rules: Retrain, state: State, now: datetime) -> list[str]:
    """Each rule that holds back, as a sentence that stays the same while it does."""
    found = []
    if not rules.on_boundary and set(state.reasons) <= set(OF_THE_STREAM):
        found.append("boundaries wait for a schedule, a rule or a person")
    if rules.budget_per_day and state.versions_today >= rules.budget_per_day:
        day = f"{now.astimezone(ZoneInfo(rules.timezone)):%Y-%m-%d} in {rules.timezone}"
        found.append(f"the {rules.budget_per_day} a day are used up on {day}")
    pause = timedelta(seconds=rules.at_most_every_s)
    if state.last_version is not None and timedelta(0) <= now - state.last_version < pause:
        until = (state.last_version + pause).astimezone(UTC)
        found.append(f"one version in {rules.at_most_every_s:g} s: not before {until:%FT%TZ}")
    if rules.quiet_hours and _within(rules.quiet_hours, now.astimezone(ZoneInfo(rules.timezone))):
        found.append(f"quiet hours, {rules.quiet_hours} in {rules.timezone}")
    return found


def _within(hours: str, local: datetime) -> bool:
    """Half-open, by the clock on the wall, over midnight too: an hour that comes twice is quiet
    twice."""
    begin, end = (time.fromisoformat(each) for each in hours.split("-"))
    at = local.time()
    return begin <= at < end if begin < end else at >= begin or at < end
