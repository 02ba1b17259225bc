"""How what happens by the clock follows from the ledger: schedules, their runs, measurements."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator

from pipeline.register.ledger import canonical
from pipeline.register.telling import PAUSE, Row, Rule, Said, Values


def rules() -> Iterator[Rule]:
    """All of them; a rule may count while it is used."""
    steered = ("schedule_changed", "schedule_paused", "schedule_resumed")
    yield Rule(table="schedules", key=("name",), kinds=steered, said=_schedules())
    yield Rule(
        table="schedule_runs",
        key=("schedule", "due"),
        kinds=("schedule_ordered", "schedule_run", "pruned"),
        said=_runs(),
        untold=lambda row: row["finished"] is None,
    )
    measured = ("request_id", "task_id")
    yield Rule(table="measurements", key=measured, kinds=("measured",), said=_measurement)


def _schedules() -> Callable[[Row, Values], Said]:
    known: set[str] = set()

    def said(entry: Row, facts: Values) -> Said:
        name, at = facts["schedule"], entry["at"]
        told = {} if name in known else dict.fromkeys(PAUSE)
        known.add(name)
        match entry["kind"]:
            case "schedule_paused":
                told |= dict(zip(PAUSE, (at, entry["actor"], facts["reason"]), strict=True))
            case "schedule_resumed":
                told |= dict.fromkeys(PAUSE) | {"since": at}
            case _ if facts["after"] is None:
                told |= {"gone": at}
            case _:
                told |= {"definition": canonical(facts["after"]), "since": at, "gone": None}
        yield (name,), told

    return said


def _runs() -> Callable[[Row, Values], Said]:
    #: Schedule -> {due time: when the run was over}.
    over: defaultdict[str, dict[int, int]] = defaultdict(dict)

    def said(entry: Row, facts: Values) -> Said:
        if entry["kind"] == "pruned":
            for name, until in facts.get("runs", ()):
                ended = over[name].items()
                for due in [d for d, at in ended if d < until and at < facts["before"]]:
                    del over[name][due]
                    yield (name, due), None
            return
        key = name, due = facts["schedule"], facts["due"]
        told = {name: facts[name] for name in ("kind", "reason")} | {"actor": entry["actor"]}
        told |= dict.fromkeys(("finished", "ok", "outcome"))
        if entry["kind"] == "schedule_run":
            over[name][due] = entry["at"]
            told |= {"finished": entry["at"], "ok": facts["ok"], "outcome": facts["outcome"]}
        yield key, told

    return said


def _measurement(entry: Row, facts: Values) -> Said:
    for task, skill in facts["skills"].items():
        if not isinstance(skill, str):  # not finite: it has no row
            told = {"version_id": facts["version"], "skill": skill, "measured": entry["at"]}
            yield (facts["request"], int(task)), told
