"""Limits and facts in, the limits passed over out: from tables, with clocks that jump."""

from __future__ import annotations

from datetime import UTC, datetime
from math import inf, nan
from typing import Any

import pytest

from pipeline.errors import PipelineError
from pipeline.register.envelope import Facts, Limits, day_of, judge, parsed

NOON = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)


def facts(**changes: Any) -> Facts:
    """A candidate that moved by a tenth, serves two tasks, and was asked for by a boundary."""
    made: dict[str, Any] = {
        "has_parent": True,
        "weight_change": 0.1,
        "skills": {1: 0.9, 2: 0.5},
        "triggers": frozenset({"boundary"}),
    }
    return Facts(**(made | changes))


def passed(limits: dict[str, Any], now: datetime = NOON, today: int = 0, **changes: Any) -> list:
    return [each.limit for each in judge(facts(**changes), parsed(limits), now, today)]


@pytest.mark.parametrize(
    ("limits", "changes", "expected"),
    [
        ({}, {"weight_change": 1e9, "skills": {1: -1e9}, "triggers": frozenset({"manual"})}, []),
        ({"max_weight_change": 0.1}, {}, []),
        ({"max_weight_change": 0.0999}, {}, ["max_weight_change"]),
        ({"max_weight_change": 0}, {"weight_change": 0.0}, []),
        ({"max_weight_change": 9}, {"weight_change": None}, ["max_weight_change"]),
        ({"max_weight_change": 9}, {"weight_change": nan}, ["max_weight_change"]),
        ({"max_weight_change": 9}, {"weight_change": inf}, ["max_weight_change"]),
        ({"max_weight_change": 0}, {"has_parent": False, "weight_change": None}, []),
        ({"min_skill": 0.5}, {}, []),
        ({"min_skill": 0.6}, {}, ["min_skill"]),
        ({"min_skill": 0.95}, {}, ["min_skill", "min_skill"]),
        ({"min_skill": 0.6, "min_skill_of_task": {"2": 0.5}}, {}, []),
        ({"min_skill": 0.5, "min_skill_of_task": {"1": 0.95}}, {}, ["min_skill"]),
        ({"min_skill_of_task": {"3": -5}}, {}, ["min_skill"]),
        ({"min_skill": 0.0}, {"skills": {}}, []),
        ({"triggers": ["boundary", "refine"]}, {}, []),
        ({"triggers": ["refine"]}, {}, ["triggers"]),
        ({"triggers": []}, {}, ["triggers"]),
        ({"triggers": ["boundary"]}, {"triggers": frozenset({"boundary", "manual"})}, ["triggers"]),
        (
            {"max_weight_change": 0, "min_skill": 0.6, "triggers": [], "hours": "13:00-14:00",
             "max_promotions_a_day": 0},
            {},
            ["max_weight_change", "min_skill", "triggers", "hours", "max_promotions_a_day"],
        ),
    ],
)  # fmt: skip
def test_what_is_passed_over(
    limits: dict[str, Any], changes: dict[str, Any], expected: list[str]
) -> None:
    """By each limit's definition; a figure on the limit is inside, one not measured is outside."""
    assert passed(limits, **changes) == expected


@pytest.mark.parametrize(
    ("hours", "zone", "now", "inside"),
    [
        ("08:00-18:00", "UTC", "2026-03-02T08:00:00+00:00", True),
        ("08:00-18:00", "UTC", "2026-03-02T07:59:59.999999+00:00", False),
        ("08:00-18:00", "UTC", "2026-03-02T17:59:59.999999+00:00", True),
        ("08:00-18:00", "UTC", "2026-03-02T18:00:00+00:00", False),
        # over midnight
        ("22:00-06:00", "UTC", "2026-03-02T22:00:00+00:00", True),
        ("22:00-06:00", "UTC", "2026-03-02T00:00:00+00:00", True),
        ("22:00-06:00", "UTC", "2026-03-02T06:00:00+00:00", False),
        ("22:00-00:00", "UTC", "2026-03-02T23:59:00+00:00", True),
        ("22:00-00:00", "UTC", "2026-03-02T00:00:00+00:00", False),
        # Vienna is UTC+1, from 2026-03-29T01:00Z on UTC+2, from 2026-10-25T01:00Z on UTC+1 again
        ("08:00-18:00", "Europe/Vienna", "2026-03-28T07:00:00+00:00", True),
        ("08:00-18:00", "Europe/Vienna", "2026-03-28T06:59:00+00:00", False),
        ("08:00-18:00", "Europe/Vienna", "2026-03-29T06:00:00+00:00", True),
        ("08:00-18:00", "Europe/Vienna", "2026-03-29T05:59:00+00:00", False),
        ("08:00-18:00", "Europe/Vienna", "2026-03-29T16:00:00+00:00", False),
        ("02:00-03:00", "Europe/Vienna", "2026-03-29T00:59:59+00:00", False),  # 01:59 ...
        ("02:00-03:00", "Europe/Vienna", "2026-03-29T01:00:00+00:00", False),  # ... and 03:00
        ("02:00-03:00", "Europe/Vienna", "2026-10-25T00:30:00+00:00", True),  # 02:30, once
        ("02:00-03:00", "Europe/Vienna", "2026-10-25T01:30:00+00:00", True),  # and again
        ("02:00-03:00", "Europe/Vienna", "2026-10-25T02:00:00+00:00", False),
        # a time given in another zone is the same time
        ("08:00-18:00", "Asia/Kolkata", "2026-03-02T03:30:00+01:00", True),
        ("08:00-18:00", "Asia/Kolkata", "2026-03-02T03:29:00+01:00", False),
    ],
)
def test_hours_are_those_of_the_clock_on_the_wall(
    hours: str, zone: str, now: str, inside: bool
) -> None:
    """Half-open; offsets of the zones as the IANA database has them, written down beside each."""
    found = passed({"hours": hours, "timezone": zone}, datetime.fromisoformat(now))
    assert found == ([] if inside else ["hours"])


@pytest.mark.parametrize(
    ("most", "today", "inside"), [(0, 0, False), (1, 0, True), (1, 1, False), (3, 2, True)]
)
def test_so_many_promotions_a_day(most: int, today: int, inside: bool) -> None:
    """This one would be number today + 1."""
    assert (passed({"max_promotions_a_day": most}, today=today) == []) is inside


@pytest.mark.parametrize(
    ("zone", "now", "began"),
    [
        ("UTC", "2026-03-02T00:00:00+00:00", "2026-03-02T00:00:00+00:00"),
        ("UTC", "2026-03-01T23:59:59.999999+00:00", "2026-03-01T00:00:00+00:00"),
        ("Europe/Vienna", "2026-03-01T23:00:00+00:00", "2026-03-01T23:00:00+00:00"),
        ("Europe/Vienna", "2026-03-01T22:59:59+00:00", "2026-02-28T23:00:00+00:00"),
        # days of 23 and 25 hours
        ("Europe/Vienna", "2026-03-29T21:59:59+00:00", "2026-03-28T23:00:00+00:00"),
        ("Europe/Vienna", "2026-03-29T22:00:00+00:00", "2026-03-29T22:00:00+00:00"),
        ("Europe/Vienna", "2026-10-25T22:59:59+00:00", "2026-10-24T22:00:00+00:00"),
        ("Europe/Vienna", "2026-10-25T23:00:00+00:00", "2026-10-25T23:00:00+00:00"),
        # Cairo's clocks went from 24 April 2026 00:00 to 01:00: the day began then, at 22:00Z
        ("Africa/Cairo", "2026-04-24T10:00:00+00:00", "2026-04-23T22:00:00+00:00"),
        ("Africa/Cairo", "2026-04-23T21:59:00+00:00", "2026-04-22T22:00:00+00:00"),
    ],
)
def test_a_day_begins_at_midnight_of_the_zone(zone: str, now: str, began: str) -> None:
    """Also where clocks jump on that day, or over its midnight."""
    found = day_of(datetime.fromisoformat(now), Limits(timezone=zone))
    assert found.astimezone(UTC) == datetime.fromisoformat(began)


def test_the_sentences_name_what_was_found_and_what_is_allowed() -> None:
    """A person decides by them."""
    limits = parsed(
        {
            "max_weight_change": 0.05, "min_skill": 0.6, "min_skill_of_task": {"7": 0.1},
            "triggers": ["refine", "schedule"], "hours": "13:00-14:00", "timezone": "Europe/Vienna",
            "max_promotions_a_day": 2,
        }
    )  # fmt: skip
    assert [each.said for each in judge(facts(), limits, NOON.replace(hour=13), 2)] == [
        "its weights moved by 0.1, more than 0.05",
        "its skill on task 2 is 0.5, less than 0.6",
        "task 7 was not measured",
        "it was asked for by boundary, and allowed are refine, schedule",
        "it is 14:00 in Europe/Vienna, outside of 13:00-14:00",
        "promotions of this day: 2, and 2 are allowed",
    ]


@pytest.mark.parametrize(
    ("tree", "says"),
    [
        ({"max_weight_chnge": 1}, "unknown field `max_weight_chnge`"),
        ({"max_weight_change": "a"}, "got `str`"),
        ({"max_weight_change": -1}, ">= 0"),
        ({"max_weight_change": inf}, "a limit is a finite number"),
        ({"min_skill": nan}, "a limit is a finite number"),
        ({"min_skill_of_task": {"1": inf}}, "a limit is a finite number"),
        ({"min_skill_of_task": {"0": 1.0}}, ">= 1"),
        ({"min_skill_of_task": {"one": 1.0}}, "`int`"),
        ({"min_skill": 10**400}, "out of range"),
        ({"min_skill_of_task": {"2147483648": 1.0}}, "<= 2147483647"),
        ({"max_promotions_a_day": 2**31}, "<= 2147483647"),
        ({"\ud800": 1}, "a character that no text has"),
        ({"triggers": ["whim"]}, "whim"),
        ({"hours": "8-18"}, "HH:MM-HH:MM"),
        ({"hours": "08:00-24:00"}, "HH:MM-HH:MM"),
        ({"hours": "08:00-08:00"}, "from and until differ"),
        ({"timezone": "Mars/Olympus"}, "no time zone 'Mars/Olympus'"),
        ({"timezone": "../etc/passwd"}, "no time zone"),
        ({"max_promotions_a_day": 1.5}, "got `float`"),
        ({"max_promotions_a_day": -1}, ">= 0"),
    ],
)
def test_limits_that_cannot_be_meant_are_one_line(tree: dict[str, Any], says: str) -> None:
    """Nobody may believe in a limit that does not hold."""
    with pytest.raises(PipelineError, match=r"^envelope: ") as error:
        parsed(tree)
    assert says in str(error.value)
    assert "\n" not in str(error.value)
