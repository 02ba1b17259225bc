"""The nine questions at the command line: for machines what they answer, for people in tables."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.config import Database
from pipeline.errors import PipelineError, SettingsError
from pipeline.records import Decision, Extent
from pipeline.register.checkpoints import State
from pipeline.serve.audit import Audit
from tests.register.making import (
    SECOND,
    Clock,
    asked,
    boundary,
    candidate,
    claimed,
    next_version,
    opened,
    rejected,
)
from tests.serve.test_audit import weights

#: Question at the command line -> the method that it is, and what a person must be able to read.
QUESTIONS: dict[str, tuple[str, tuple[Any, ...], tuple[str, ...]]] = {
    "live-at 1970-01-01T01:16:40.000001+01:00": (
        "live_at", (1_000 * SECOND + 1,), ("version: 1", "promoted_by: gate"),
    ),
    "why 2": ("why", (2,), ("flow rose by 4.5", "ADWIN", "level 7.50 > 5.25")),
    "data 2": ("data", (2,), ("learned", "1096 to 1351", "task 1 256")),
    "metrics-at now": ("metrics_at", (2**50,), ("loss_after 0.125",)),
    "decided 2": ("decided", (2,), ("better", "min_gain 0.02", "promotion", "gate")),
    "rejected --from 1970-01-01T00:00:00Z": ("rejected", (0,), ("worse", "manual")),
    "scored plant 0 1500": ("scored", (0, 1500), ("version: 1",)),
    "diff 1 2": ("diff", (1, 2), ("model.0", "loss_after", "distance: 6")),
    "lineage 2": ("lineage", (2,), ("● 2  boundary, champion", "│ ○ 3  rejected"[4:], "● 1")),
}  # fmt: skip


@pytest.fixture
def audit(sqlite_at_head: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[Audit]:
    """Version 1 by hand, 2 of a boundary, 3 refused; the commands find them by the settings."""
    clock = Clock()
    with opened(sqlite_at_head, clock) as registry:
        stream = registry.open_stream("plant", ["pressure", "flow"])
        first = next_version(registry, stream, made=candidate(weights=weights(0.0, 1.0)))
        clock.pass_s(10)
        extent = Extent(readings=256, first_offset=1096, last_offset=1351, until=clock.now)
        epoch = registry.acquire(stream.id, 0, "owner").epoch
        registry.save(
            stream.id, 0, epoch, next_offset=2000, state=State(b"s"), boundaries=[boundary()],
            requests=[asked(stream, extent=extent)], scored=[(first.id, 1000, 2000)],
        )  # fmt: skip
        claim = claimed(registry)
        task = registry.assign(claim, claim.id, np.zeros((2, 2)))
        registry.register(
            claim,
            candidate({task: 0.5}, weights=weights(2.0, 1.0), loss_after=0.125),
            Decision(promote=True, reason="better", figures={"min_gain": 0.02}),
            parent=first, inputs={"segments": [(task, "segment-1")]}, settings={},
            strategy="ewc", seed=7, code_version="0",
        )  # fmt: skip
        next_version(registry, stream, rejected("worse"))
    monkeypatch.setenv("TIDEMARK_DATABASE_URL", sqlite_at_head.url)
    monkeypatch.setenv("TIDEMARK_STREAM_TOPIC", "plant")
    audit = Audit(sqlite_at_head)
    yield audit
    audit.close()


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_question_is_answered_to_machines_and_to_people(audit: Audit, question: str) -> None:
    """`--json` is what the method gives; the text has what matters, and no column cut off."""
    method, arguments, said = QUESTIONS[question]
    done = CliRunner().invoke(app, ["audit", *question.split(), "--json"])
    assert done.exit_code == 0, done.output
    expected, found = getattr(audit, method)("plant", *arguments), json.loads(done.stdout)
    if "now" in question:
        del expected["at"], found["at"]
    assert found == expected
    shown = CliRunner().invoke(app, ["audit", *question.split()])
    assert shown.exit_code == 0, shown.output
    for words in said:
        assert words in shown.stdout


def test_a_lineage_shows_what_else_was_tried_beside_its_line(audit: Audit) -> None:
    """Version 3 was made of version 2 and is no forebear of it."""
    del audit
    shown = CliRunner().invoke(app, ["audit", "lineage", "2"]).stdout.splitlines()
    assert shown[0].split()[:2] == ["│", "○"]
    assert [line.split()[0] for line in shown[1:]] == ["●", "●"]


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ("live-at 2026-03-01T12:00:00", SettingsError, "has no zone"),
        ("rejected --to 2026-03-01", SettingsError, "has no zone"),
        ("data 9", PipelineError, "no version 9: the stream has 3"),
        ("scored plant 0 2000", PipelineError, "was scored by no version"),
        ("scored nowhere 0 0", PipelineError, "no stream nowhere; known: plant"),
    ],
)
def test_what_cannot_be_answered_is_one_line(
    audit: Audit, arguments: str, error: type[Exception], says: str
) -> None:
    del audit
    done = CliRunner().invoke(app, ["audit", *arguments.split()])
    assert isinstance(done.exception, error)
    assert says in str(done.exception)
    assert "\n" not in str(done.exception)
