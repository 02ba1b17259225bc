"""Entries of the ledger in, events out: what happened, how grave it is, a sentence, and facts.

Most entries are no events, and no entry is more than one: an event's number is its entry's.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import structlog
from msgspec import Struct
from sqlalchemy import Connection, select
from sqlalchemy.exc import NoResultFound

from pipeline.detect.explain import sensor_event
from pipeline.detect.tasks import titled
from pipeline.errors import PipelineError
from pipeline.records import EVENTS, SEVERITIES, SensorEvent
from pipeline.register import tables as t
from pipeline.serve import answers
from pipeline.serve.answers import iso

log = structlog.get_logger()

Facts = dict[str, Any]
#: Kind, sentence, facts; None: nothing that a person wants to be told of.
Told = tuple[str, str, Facts] | None
#: Entries that are read at once.
AT_ONCE = 500
#: What an entry raises that was made unreadable.
UNREADABLE = (
    LookupError, TypeError, ValueError, AttributeError,
    RecursionError, NoResultFound, PipelineError,
)  # fmt: skip
#: Findings that a sentence names, at most.
NAMED = 3


class Event(Struct, frozen=True, kw_only=True):
    """One thing that happened."""

    #: Its entry's number and the beginning of its hash: no other database has the same.
    id: str
    entry: int
    kind: str
    severity: str
    #: Name; None: of no stream.
    stream: str | None
    #: Microseconds since 1970 UTC.
    time: int
    text: str
    facts: Facts

    def plain(self) -> Facts:
        """As JSON has it."""
        told = {name: getattr(self, name) for name in ("id", "kind", "severity", "stream")}
        return told | {"at": iso(self.time), "text": self.text, "facts": self.facts}


def identity(entry: int, sha256: str) -> str:
    """What tells an event from every other one."""
    return f"{entry}-{sha256[:16]}"


def happened(
    conn: Connection,
    kinds: Collection[str],
    *,
    after: int,
    until: int,
    stream: str | None = None,
    wanted: Callable[[str | None], bool] = lambda _: True,
    severity: str = SEVERITIES[0],
    at_once: int = AT_ONCE,
) -> Iterator[Event]:
    """The events of these kinds in the entries (after, until], in order; read as they are used.

    stream: only of this one; empty: only of none; None: of all. wanted: whether to tell of a
    stream by its name; None: of what is of no stream. severity: the least.
    """
    teller, least = Teller(conn), SEVERITIES.index(severity)
    c = t.ledger.c
    names = sorted({name for name, (made, _) in TELL.items() if not made.isdisjoint(kinds)})
    rows = select(c.id, c.stream_id, c.at, c.kind, c.actor, c.entry, c.hash).where(
        c.id <= until, c.kind.in_(names)
    )
    if stream is not None:
        named = select(t.streams.c.id).where(t.streams.c.name == stream).scalar_subquery()
        rows = rows.where(c.stream_id == named if stream else c.stream_id.is_(None))
    rows = rows.order_by(c.id).limit(at_once)
    while found := conn.execute(rows.where(c.id > after)).all():
        for row in found:
            event = teller.event(row) if wanted(teller.stream(row.stream_id)[0]) else None
            if event is None or event.kind not in kinds:
                continue
            if SEVERITIES.index(event.severity) >= least:
                yield event
        after = found[-1].id


class Teller:
    """Makes events of entries inside one transaction, which knows what they name."""

    def __init__(self, conn: Connection) -> None:
        self.conn = conn
        self._streams: dict[int, tuple[str | None, Sequence[str]]] = {}

    def event(self, row: Any) -> Event | None:
        """The event that an entry is; None if it is none, or was made unreadable."""
        try:
            event = self._event(row)
            if event is not None:
                event.plain()  # its time may be none
        except UNREADABLE as exc:
            log.warning("entry_not_told", entry=row.id, reason=f"{type(exc).__name__}: {exc}")
            return None
        return event

    def _event(self, row: Any) -> Event | None:
        name, channels = self.stream(row.stream_id)
        told = TELL[row.kind][1](self, json.loads(row.entry), channels, row.actor)
        if told is None:
            return None
        kind, text, facts = told
        return Event(
            id=identity(row.id, row.hash),
            entry=row.id,
            kind=kind,
            severity=EVENTS[kind],
            stream=name,
            time=row.at,
            text=text,
            facts=facts,
        )

    def stream(self, number: int | None) -> tuple[str | None, Sequence[str]]:
        """Name and sensors of a stream; none of one that is not there."""
        if number is None:
            return None, ()
        if number not in self._streams:
            c = t.streams.c
            row = self.conn.execute(select(c.name, c.channels).where(c.id == number)).first()
            self._streams[number] = (row.name, json.loads(row.channels)) if row else (None, ())
        return self._streams[number]

    def version(self, version_id: int | None) -> int | None:
        """The number of a version within its stream."""
        c = t.versions.c
        return self.conn.execute(select(c.number).where(c.id == version_id)).scalar()

    def task(self, task_id: int) -> Any:
        """Number and name of a task; its kind is as the entry had it."""
        c = t.tasks.c
        return self.conn.execute(select(c.number, c.name).where(c.id == task_id)).one()


def _boundary(_: Teller, entry: Facts, channels: Sequence[str], __: str) -> Told:
    row = SimpleNamespace(**entry, task=None)
    names = ("partition", "series", "segment", "boundary_offset", "detected_offset")
    facts = {name: entry[name] for name in names}
    facts |= {name: entry[name] for name in ("signal", "statistic", "threshold")}
    facts |= {f"{name}_at": iso(entry[f"{name}_time"]) for name in ("boundary", "detected")}
    facts["sensors"] = [
        change | {"sensor": channels[change["channel"]]} for change in json.loads(entry["sensors"])
    ]
    return "boundary", answers.sentence(row, channels), facts


def _named(teller: Teller, entry: Facts, _: Sequence[str], __: str) -> Told:
    if not entry.get("changed"):
        return None
    kind, task = entry["kind"], teller.task(entry["task_id"])
    if kind == "fault":
        what = "fault_regime"
    elif kind == "asked":
        what = "regime_waits"
    else:
        what = "returning_regime" if entry["recurrence"] else "new_regime"
    facts = {name: entry[name] for name in ("partition", "series", "segment", "recurrence")}
    facts |= {"task": task.number, "kind": kind, "name": task.name, "distance": entry["distance"]}
    title = titled(task.number, kind, task.name, recurrence=entry["recurrence"])
    return what, f"{entry['series']}, segment {entry['segment']}: {title}.", facts


def _version(_: Teller, entry: Facts, __: Sequence[str], ___: str) -> Told:
    rejected = entry["status"] == "rejected"
    names = ("number", "decision", "request_id", "sha256", "strategy", "metrics")
    said = f"Version {entry['number']} was {'refused' if rejected else 'made'}: {entry['decision']}"
    return "refusal" if rejected else "version", said, {name: entry[name] for name in names}


def _waits(teller: Teller, entry: Facts, _: Sequence[str], __: str) -> Told:
    number = teller.version(entry["version"])
    said = f"Version {number} waits for `tidemark approve` or `refuse`."
    return "version_waits", said, entry | {"version": number}


def _refused(teller: Teller, entry: Facts, _: Sequence[str], actor: str) -> Told:
    number = teller.version(entry["version"])
    said = f"Version {number} was refused by {actor}: {entry['reason']}"
    return "refusal", said, entry | {"version": number, "actor": actor}


def _promotion(teller: Teller, entry: Facts, _: Sequence[str], actor: str) -> Told:
    number, before = teller.version(entry["version"]), teller.version(entry["instead_of"])
    facts = {"version": number, "instead_of": before, "actor": actor, "reason": entry["reason"]}
    instead = f" instead of {before}" if before is not None else ""
    return "promotion", f"Version {number} is champion{instead}: {entry['reason']}", facts


def _roll_back(teller: Teller, entry: Facts, _: Sequence[str], actor: str) -> Told:
    left, to = teller.version(entry["version"]), teller.version(entry["to"])
    facts = {"version": left, "to": to, "actor": actor, "reason": entry["reason"]}
    return "roll_back", f"Version {left} was left for {to} ({actor}): {entry['reason']}", facts


def _failed(_: Teller, entry: Facts, __: Sequence[str], ___: str) -> Told:
    goes_on = "it is tried again" if entry.get("retry") else "it was given up"
    return "training_failed", f"Request {entry['request']}, {goes_on}: {entry['reason']}", entry


def _sensor(_: Teller, entry: Facts, channels: Sequence[str], __: str) -> Told:
    names = ("series", "channel", "kind", "row", "offset", "time")
    event = SensorEvent(**{name: entry[name] for name in names})
    sensor = channels[event.channel]
    facts = {name: entry[name] for name in ("partition", "series", "row", "offset")}
    facts |= {"sensor": sensor, "known_at": iso(event.time)}
    return event.kind, sensor_event(event, sensor), facts


def _gap(_: Teller, entry: Facts, __: Sequence[str], ___: str) -> Told:
    names = ("partition", "first_offset", "end_offset", "went_on")
    facts = {name: entry[name] for name in names}
    lost = f"offsets {entry['first_offset']} to {entry['end_offset'] - 1}"
    return "gap", f"Partition {entry['partition']}: {lost} were gone before they were read.", facts


def _verify(_: Teller, entry: Facts, __: Sequence[str], ___: str) -> Told:
    found = entry["findings"]
    more = f", and {entry['count'] - NAMED} more" if entry["count"] > NAMED else ""
    some = "; ".join(found[:NAMED])
    return "verify_failed", f"The history is not as it was written: {some}{more}.", entry


def _login(_: Teller, entry: Facts, __: Sequence[str], ___: str) -> Told:
    return "login_failed", "Somebody was not let in over HTTP.", entry


def _restored(_: Teller, entry: Facts, __: Sequence[str], actor: str) -> Told:
    return "restored", f"The database was made what a backup held, by {actor}.", entry


def _expired(_: Teller, entry: Facts, __: Sequence[str], ___: str) -> Told:
    said = f"{entry['events']} events were too old for {entry['rule']}, which did not answer: "
    return "notifications_expired", f"{said}{entry['error'] or 'it was not asked'}", entry


#: Kind of an entry -> the kinds of events that it may be, and how it is told.
TELL: dict[str, tuple[frozenset[str], Callable[[Teller, Facts, Sequence[str], str], Told]]] = {
    "boundary": (frozenset({"boundary"}), _boundary),
    "task_named": (
        frozenset({"new_regime", "returning_regime", "fault_regime", "regime_waits"}),
        _named,
    ),
    "version": (frozenset({"version", "refusal"}), _version),
    "waiting": (frozenset({"version_waits"}), _waits),
    "refused": (frozenset({"refusal"}), _refused),
    "promotion": (frozenset({"promotion"}), _promotion),
    "rollback": (frozenset({"roll_back"}), _roll_back),
    "request_failed": (frozenset({"training_failed"}), _failed),
    "records_lost": (frozenset({"gap"}), _gap),
    "sensor_event": (frozenset({"sensor_silent", "sensor_frozen", "sensor_back"}), _sensor),
    "verify_failed": (frozenset({"verify_failed"}), _verify),
    "login_failed": (frozenset({"login_failed"}), _login),
    "restored": (frozenset({"restored"}), _restored),
    "notifications_expired": (frozenset({"notifications_expired"}), _expired),
}
