"""What a scheduler does itself, by kind: settings and a schedule in, whether all is well and a
sentence out. Each may be done twice: a scheduler that ends in its midst leaves it to the next."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from pipeline.config import Schedule, Settings
from pipeline.register.orders import Act
from pipeline.register.proof import note
from pipeline.register.proof import verify as prove
from pipeline.register.schedules import ACTOR
from pipeline.register.sql import SqlRegistry
from pipeline.run import pruning
from pipeline.run.anchoring import anchor as write

Chore = Callable[[Settings, Schedule], tuple[bool, str]]
#: Findings that a sentence names, at most.
NAMED = 5


def verify(settings: Settings, _: Schedule) -> tuple[bool, str]:
    """Whether ledger and tables are as they were written; if they are not, who listens is told."""
    proof = prove(settings.database)
    note(settings.database, proof, actor=ACTOR)
    found = proof.findings
    if not found:
        return True, f"{proof.head.entries} entries and the tables are as they were written"
    some = "; ".join(f"{each.where} {each.entry or ''}: {each.what}" for each in found[:NAMED])
    more = f"; and {len(found) - NAMED} more" if len(found) > NAMED else ""
    return False, f"changed behind the ledger's back: {some}{more}"


def anchor(settings: Settings, schedule: Schedule) -> tuple[bool, str]:
    """Write the ledger's head to where the schedule says."""
    key = Path(schedule.key) if schedule.key else None
    made = write(settings, to=schedule.to, key=key, actor=ACTOR)
    return True, f"entry {made.entries} noted in {schedule.to}"


def prune(settings: Settings, schedule: Schedule) -> tuple[bool, str]:
    """Let the content of old readings and weights go, by the settings."""
    registry = SqlRegistry(settings.database)
    try:
        act = Act(actor=ACTOR, reason=f"schedule {schedule.name}")
        return True, registry.act(None, pruning.order(settings), act).sentence
    finally:
        registry.close()


#: What is not here is a request, and a trainer's to do.
CHORES: Mapping[str, Chore] = {"verify": verify, "anchor": anchor, "prune": prune}
