"""The agreed envelope: limits inside which a candidate becomes champion without a person's word.

Facts of a candidate and limits in, the limits that it passes over out; pure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, time
from math import isfinite
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

import msgspec
from msgspec import Meta, Struct

from pipeline.errors import PipelineError

#: Of tasks and promotions, whatever happens.
MOST = 2**31 - 1
#: Why a training is asked for, as requests have it.
Trigger = Literal["bootstrap", "boundary", "refine", "schedule", "manual", "metric", "readings"]
_HOURS = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)")


class Limits(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What was agreed on; None: no limit."""

    #: Largest relative change of the weights, |w - w_parent| / |w_parent| (L2).
    max_weight_change: Annotated[float, Meta(ge=0)] | None = None
    #: Least skill on every task that was measured, and on single ones by their number.
    min_skill: float | None = None
    min_skill_of_task: dict[Annotated[int, Meta(ge=1, le=MOST)], float] = {}
    #: Allowed reasons of requests.
    triggers: tuple[Trigger, ...] | None = None
    #: Time of day, half-open, HH:MM-HH:MM on clocks of the zone; it may run over midnight.
    hours: str | None = None
    timezone: str = "UTC"
    #: Versions that become champion for the first time, on one day of the zone.
    max_promotions_a_day: Annotated[int, Meta(ge=0, le=MOST)] | None = None

    def __post_init__(self) -> None:
        figures = (self.max_weight_change, self.min_skill, *self.min_skill_of_task.values())
        if not all(isfinite(figure) for figure in figures if figure is not None):
            raise ValueError("a limit is a finite number")
        if self.hours is not None and _span(self.hours) is None:
            raise ValueError(f"hours are HH:MM-HH:MM, from and until differ: {self.hours!r}")
        try:
            ZoneInfo(self.timezone)
        except (LookupError, ValueError, OSError):
            raise ValueError(f"no time zone {self.timezone!r}") from None


class Passed(Struct, frozen=True):
    """A limit that a candidate is outside of."""

    limit: str
    said: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is judged of a candidate."""

    #: Without a parent there is no change of the weights.
    has_parent: bool
    #: None: it was not measured, or is not finite.
    weight_change: float | None
    #: Task's number -> skill on its held-out readings.
    skills: Mapping[int, float]
    #: Reasons of all requests that it answers.
    triggers: frozenset[str]


def judge(facts: Facts, limits: Limits, now: datetime, promotions_today: int) -> list[Passed]:
    """The limits that a candidate passes over, in the order of `Limits`; none: it is inside.

    What a limit speaks of and was not measured cannot be shown to be inside, so it is outside.

    now: aware; hours are judged by the clock on the wall, so that an hour that comes twice is the
    same hour twice. promotions_today: without this one, as `day_of` has the day.
    """
    found = []
    if facts.has_parent and limits.max_weight_change is not None:
        said = _weights(facts.weight_change, limits.max_weight_change)
        found += [Passed("max_weight_change", said)] if said else []
    found += [Passed("min_skill", said) for said in _skills(facts, limits)]
    if limits.triggers is not None and (others := facts.triggers - set(limits.triggers)):
        allowed = ", ".join(limits.triggers) or "none"
        found.append(Passed("triggers", f"it was asked for by {', '.join(sorted(others))}, "
                                        f"and allowed are {allowed}"))  # fmt: skip
    local = now.astimezone(ZoneInfo(limits.timezone))
    if limits.hours is not None and not _within(limits.hours, local.time()):
        found.append(Passed("hours", f"it is {local:%H:%M} in {limits.timezone}, "
                                     f"outside of {limits.hours}"))  # fmt: skip
    most = limits.max_promotions_a_day
    if most is not None and promotions_today >= most:
        found.append(Passed("max_promotions_a_day", f"promotions of this day: {promotions_today}, "
                                                    f"and {most} are allowed"))  # fmt: skip
    return found


def day_of(now: datetime, limits: Limits) -> datetime:
    """When the day of `now` began on clocks of the envelope's zone."""
    zone = ZoneInfo(limits.timezone)
    return datetime.combine(now.astimezone(zone).date(), time(), zone)


def parsed(tree: Mapping[str, Any]) -> Limits:
    """Limits of a TOML file's tree, or of JSON.

    Raises
    ------
    PipelineError
        One line: a key that there is not, another type, a value out of range.
    """
    try:
        return msgspec.convert(tree, Limits, str_keys=True)
    except msgspec.ValidationError as exc:
        raise PipelineError(f"envelope: {exc}") from None
    except UnicodeEncodeError:
        raise PipelineError("envelope: a key has a character that no text has") from None


def _weights(change: float | None, most: float) -> str:
    if change is None or not isfinite(change):
        return "how far its weights moved was not measured"
    return f"its weights moved by {change:.4g}, more than {most:g}" if change > most else ""


def _skills(facts: Facts, limits: Limits) -> list[str]:
    """Tasks whose skill is too low; a task's own limit holds in place of that of all."""
    least = dict(limits.min_skill_of_task)
    if limits.min_skill is not None:
        least = dict.fromkeys(facts.skills, limits.min_skill) | least
    said = []
    for task, limit in sorted(least.items()):
        skill = facts.skills.get(task)
        if skill is None or not isfinite(skill):
            said.append(f"task {task} was not measured")
        elif skill < limit:
            said.append(f"its skill on task {task} is {skill:.4g}, less than {limit:g}")
    return said


def _span(hours: str) -> tuple[time, time] | None:
    found = _HOURS.fullmatch(hours)
    if found is None:
        return None
    first, last = time(int(found[1]), int(found[2])), time(int(found[3]), int(found[4]))
    return (first, last) if first != last else None


def _within(hours: str, at: time) -> bool:
    span = _span(hours)
    if span is None:
        return True
    first, last = span
    return first <= at < last if first < last else at >= first or at < last
