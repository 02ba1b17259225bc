"""What an engineer reads."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.detect.explain import explain, told
from pipeline.records import Boundary, Change

NAMES = ("pressure", "flow")


def change(kind: str, by: float, before: float, after: float, **more: Any) -> Change:
    return Change(kind=kind, channel=0, change=by, before=before, after=after, **more)


@pytest.mark.parametrize(
    ("what", "clause"),
    [
        (
            change("level", 0.512, 1234.5, 1240.0),
            "pressure rose by 0.5 standard deviations (1,234 to 1,240)",
        ),
        (
            change("level", -9.0, 100.0002, 100.0001),
            "pressure fell by 9.0 standard deviations (100.0002 to 100.0001)",
        ),
        (change("spread", 0.5, 2.0, 1.0), "pressure varies 0.5 times as much"),
        (
            change("correlation", -0.7, 0.8, 0.1, other=1),
            "pressure and flow no longer move together (correlation 0.80 to 0.10)",
        ),
        (
            change("correlation", 0.9, 0.0, 0.9, other=1),
            "pressure and flow now move together (correlation 0.00 to 0.90)",
        ),
        (
            change("correlation", -1.4, 0.8, -0.6, other=1),
            "pressure and flow move in opposite directions instead of together "
            "(correlation 0.80 to -0.60)",
        ),
        (
            change("correlation", -0.4, -0.5, -0.9, other=1),
            "pressure and flow move in opposite directions more closely "
            "(correlation -0.50 to -0.90)",
        ),
        (
            change("dynamics", 0.3, 0.5, 0.8),
            "pressure follows its own past more closely (autocorrelation 0.50 to 0.80)",
        ),
        (change("dynamics", 0.0, 0.8, 0.8), "pressure reacts in another way to what came before"),
    ],
)
def test_every_kind_has_its_clause(what: Change, clause: str) -> None:
    """Sensors by name, values with as many digits as tell them apart."""
    assert told(what, NAMES) == clause


def test_the_sentence_says_where_what_and_how_late() -> None:
    """In the order of the record."""
    boundary = Boundary(
        series="press", segment=1, boundary_row=2000, detected_row=2001,
        boundary_offset=0, detected_offset=0, boundary_time=0, detected_time=0,
        signal="level", statistic=9.1, threshold=5.0, detectors=("ADWIN",),
        sensors=(change("spread", 2.0, 1.0, 2.0), change("spread", 0.25, 1.0, 0.25)),
    )  # fmt: skip
    assert explain(boundary, NAMES) == (
        "press, from row 2,000: pressure varies 2 times as much; "
        "pressure varies 0.25 times as much (noticed 1 reading later)."
    )
    assert explain(boundary, NAMES, "noon").startswith("press, from noon: ")


@pytest.mark.parametrize(
    ("what", "effect"),
    [
        (change("level", -3.0, 0.0, -6.0), 3.0),
        (change("spread", 0.5, 2.0, 1.0), 0.693147),  # ln 2, as for a factor of 2
        (change("spread", 2.0, 1.0, 2.0), 0.693147),
        (change("correlation", 1.2, -0.6, 0.6, other=1), 1.386294),  # 2 atanh .6 = ln 4
        (change("dynamics", 0.6, 0.0, 0.6), 0.693147),
    ],
)
def test_the_effect_is_in_one_currency(what: Change, effect: float) -> None:
    """A deviation, the logarithm of a factor, Fisher's z: a doubling is ln 2 either way."""
    assert what.effect == pytest.approx(effect, abs=1e-6)
