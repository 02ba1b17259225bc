"""What people may order, who they are, and what they are told: plain data, over HTTP too."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from msgspec import UNSET, Struct, UnsetType

from pipeline.config import Schedule
from pipeline.errors import PipelineError
from pipeline.register.envelope import Limits

#: Who acts where nobody does: no person's name.
RESERVED = ("", "tidemark", "gate", "rollback", "http", "scheduler", "verify")
#: Characters of a name, at most.
LONGEST_NAME = 100


def person(name: str) -> str:
    """The name; PipelineError if nobody is called so: the ledger tells people from what acts by
    itself, and each from any other."""
    is_one_line = name.isprintable() and name == name.strip() and len(name) <= LONGEST_NAME
    if name in RESERVED or not is_one_line:
        raise PipelineError(f"--actor {name[:LONGEST_NAME]!r} is nobody's name: say who decides")
    return name


@dataclass(frozen=True, slots=True, kw_only=True)
class Act:
    """Who does something, and why.

    request_id: the same one again does nothing more; by default one of its own.
    """

    actor: str
    reason: str
    request_id: str = field(default_factory=lambda: uuid4().hex)


class Order(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="act"):
    """What is to be done."""


class Promote(Order, frozen=True, kw_only=True, tag="promote"):
    """Make any version champion, whatever the gate or the envelope said of it."""

    version: int


class RollBack(Order, frozen=True, kw_only=True, tag="rollback"):
    """Make the champion before, or version `to`, champion again."""

    to: int | None = None


class Approve(Order, frozen=True, kw_only=True, tag="approve"):
    """Make a version that waits champion."""

    version: int


class Refuse(Order, frozen=True, kw_only=True, tag="refuse"):
    """Have a version that waits never become champion by itself."""

    version: int


class Retrain(Order, frozen=True, kw_only=True, tag="retrain"):
    """Ask for a consolidation."""

    without_task: int | None = None


class Pause(Order, frozen=True, kw_only=True, tag="pause"):
    """Train nothing and ask for nothing by the clock; scoring goes on."""


class Resume(Order, frozen=True, kw_only=True, tag="resume"):
    """End a pause."""


class Mark(Order, frozen=True, kw_only=True, tag="task"):
    """Give a task a kind, a name or both."""

    task: int
    kind: str | None = None
    name: str | None = None


class Agree(Order, frozen=True, kw_only=True, tag="envelope"):
    """Set the limits that hold from now on."""

    limits: Limits


class Prune(Order, frozen=True, kw_only=True, tag="prune"):
    """Let the content of old readings and weights go; of all streams."""

    keep_days: int
    #: Whether the strategy trains on all earlier readings again.
    replays_all: bool


class PauseSchedule(Order, frozen=True, kw_only=True, tag="schedule_pause"):
    """Have nothing done by a schedule until it is resumed; of all streams, as the next four."""

    schedule: Schedule


class ResumeSchedule(Order, frozen=True, kw_only=True, tag="schedule_resume"):
    """Have a schedule count from now on."""

    schedule: Schedule


class RunSchedule(Order, frozen=True, kw_only=True, tag="schedule_run"):
    """Do what a schedule says without waiting for the clock."""

    schedule: Schedule


class AddToken(Order, frozen=True, kw_only=True, tag="token_add"):
    """Make a token for HTTP."""

    name: str
    role: str


class RevokeToken(Order, frozen=True, kw_only=True, tag="token_revoke"):
    """Let nobody in with a token from now on."""

    name: str


class Done(Struct, frozen=True, kw_only=True):
    """What an act did."""

    act: str
    #: Microseconds since 1970 UTC.
    at: int
    #: False: everything was so already.
    changed: bool = True
    #: For programs; versions and tasks by their numbers.
    facts: dict[str, Any] = {}
    #: For people.
    sentence: str
    #: Of a token that was made just now: it is kept nowhere, and not told again.
    token: str | UnsetType = UNSET
