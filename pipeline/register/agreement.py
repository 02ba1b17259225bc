"""Ledger and tables in, where they differ out: what was changed in a table behind its back.

What can be seen: streams, boundaries with their ends, sensor events, gaps, regimes, what segments
were named, requests and how they ended, versions with status, inputs, settings, figures and R's
row, promotions and roll-backs, and decisions on dead letters. The ledger says nothing of which
version scored which offsets, of checkpoints, leases and claims.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any

import msgspec
from sqlalchemy import Connection, select

from pipeline.register import tables as t
from pipeline.register.chain import BATCH
from pipeline.register.ledger import canonical

Key = tuple[Any, ...]
Values = dict[str, Any]
Row = Mapping[str, Any]
#: Kinds -> the entries of those kinds, in order, as mappings of the ledger's columns.
Entries = Callable[[tuple[str, ...]], Iterable[Row]]
#: A table's name -> its rows in order of their keys.
Rows = Callable[[str], Iterable[Row]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A row that is not what the ledger says."""

    table: str
    #: Columns that tell the row, with their values.
    row: Mapping[str, Any]
    #: edited | deleted | inserted
    what: str
    #: Columns that differ.
    columns: tuple[str, ...] = ()
    #: The last entry that tells of the row, its kind and its time in microseconds since 1970 UTC.
    entry: int | None = None
    kind: str | None = None
    at: int | None = None


#: What an entry says: the row's key, and values of some of its columns.
Said = Iterator[tuple[Key, Values]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """How one table follows from the ledger."""

    table: str
    key: tuple[str, ...]
    kinds: tuple[str, ...]
    #: (entry, what it says as JSON) -> the rows that it tells of.
    said: Callable[[Row, Values], Said]
    #: A row as the ledger would tell it; None: it says nothing of a row in that state.
    shown: Callable[[Row], Values | None] = dict
    #: Rows may be there that the ledger tells nothing of, or gone.
    loose: bool = False


def differences(entries: Entries, rows: Rows) -> Iterator[Difference]:
    """All that differ, table by table."""
    for rule in _rules():
        yield from _differing(rule, _expected(rule, entries), rows)


def in_sql(conn: Connection) -> tuple[Entries, Rows]:
    """A database's own ledger and tables."""

    def entries(kinds: tuple[str, ...]) -> Iterator[Row]:
        c = t.ledger.c
        return _streamed(conn, select(t.ledger).where(c.kind.in_(kinds)).order_by(c.id))

    def rows(name: str) -> Iterator[Row]:
        table = t.metadata.tables[name]
        return _streamed(conn, select(table).order_by(*table.primary_key))

    return entries, rows


def _streamed(conn: Connection, query: Any) -> Iterator[Row]:
    with conn.execute(query, execution_options={"yield_per": BATCH}) as result:
        rows: Any = result.mappings()
        yield from rows


@dataclass(slots=True)
class _Told:
    """What the ledger says of a row so far; packed, since there may be a million."""

    entry: int
    kind: str
    at: int
    packed: bytes


def _expected(rule: Rule, entries: Entries) -> dict[Key, _Told]:
    told: dict[Key, _Told] = {}
    for entry in entries(rule.kinds):
        for key, values in _said(rule, entry):
            if (before := told.get(key)) is not None:
                values = msgspec.msgpack.decode(before.packed) | values
            packed = msgspec.msgpack.encode(values)
            told[key] = _Told(entry["id"], entry["kind"], entry["at"], packed)
    return told


def _said(rule: Rule, entry: Row) -> list[tuple[Key, Values]]:
    """What an entry says; nothing where it makes no sense: then the chain does not hold there."""
    try:
        said = list(rule.said(entry, json.loads(entry["entry"])))
        return said if all(hash(key) is not None for key, _ in said) else []
    except (ValueError, KeyError, TypeError, AttributeError):
        return []


def _differing(rule: Rule, told: dict[Key, _Told], rows: Rows) -> Iterator[Difference]:
    for row in _in_turn(rule, rows):
        key = tuple(row[name] for name in rule.key)
        named = dict(zip(rule.key, key, strict=True))
        if (found := told.pop(key, None)) is None:
            if not rule.loose:
                yield Difference(table=rule.table, row=named, what="inserted")
            continue
        meant = msgspec.msgpack.decode(found.packed)
        if (shown := rule.shown(row)) is None:
            continue
        columns = tuple(name for name in meant if _worded(shown.get(name)) != _worded(meant[name]))
        if columns:
            yield _difference(rule, named, found, "edited", columns)
    for key, found in () if rule.loose else told.items():
        yield _difference(rule, dict(zip(rule.key, key, strict=True)), found, "deleted", ())


def _difference(
    rule: Rule, row: Mapping[str, Any], found: _Told, what: str, columns: tuple[str, ...]
) -> Difference:
    return Difference(
        table=rule.table,
        row=row,
        what=what,
        columns=columns,
        entry=found.entry,
        kind=found.kind,
        at=found.at,
    )


def _in_turn(rule: Rule, rows: Rows) -> Iterator[Row]:
    """Rows; those told by their turn in the stream with that."""
    turns: Counter[int] = Counter()
    for row in rows(rule.table):
        if "turn" in rule.key:
            turns[row["stream_id"]] += 1
            row = dict(row) | {"turn": turns[row["stream_id"]]}
        yield row


def _worded(value: Any) -> Any:
    """As canonical JSON has it."""
    return str(value) if isinstance(value, float) and not isfinite(value) else value


# What the kinds say -------------------------------------------------------------------------------


def _stream(entry: Row, facts: Values) -> Said:
    begun = {"topic_id": None} if entry["kind"] == "stream" else {}
    yield (entry["stream_id"],), begun | facts


def _boundary(entry: Row, facts: Values) -> Said:
    ends = {"end_row": None, "end_offset": None, "end_time": None}
    if entry["kind"] == "transition_over":
        yield _place(facts), {name: facts[name] for name in ends}
    else:
        yield _place(facts), facts | ends | {"recorded": entry["at"]}


def _place(facts: Values) -> Key:
    return facts["stream_id"], facts["partition"], facts["series"], facts["segment"]


def _event(entry: Row, facts: Values) -> Said:
    key = tuple(facts[name] for name in ("stream_id", "partition", "series", "channel", "row"))
    yield key, facts | {"recorded": entry["at"]}


def _gap(entry: Row, facts: Values) -> Said:
    key = facts["stream_id"], facts["partition"], facts["first_offset"]
    yield key, facts | {"recorded": entry["at"]}


def _task(entry: Row, facts: Values) -> Said:
    if entry["kind"] == "task_marked":
        yield (entry["stream_id"], facts["task"]), facts["after"]
    else:
        yield (entry["stream_id"], facts["number"]), facts | {"name": None}


def _segment(entry: Row, facts: Values) -> Said:
    said = {k: v for k, v in facts.items() if k not in ("kind", "changed")}
    yield _place(facts), said | {"named": entry["at"]}


def _request(entry: Row, facts: Values) -> Said:
    at = entry["at"]
    match entry["kind"]:
        case "request":
            made = {k: v for k, v in facts.items() if k != "request"}
            made |= {"inputs": canonical(facts["inputs"]), "created": at}
            yield (facts["request"],), made | {"over": None, "finished": None}
        case "request_failed":
            if not facts.get("retry", False):
                yield (facts["request"],), {"over": "failed", "finished": at}
        case kind:
            number = facts["request_id" if kind == "version" else "request"]
            for each in (number, *facts.get("folded", ())):
                yield (each,), {"over": "done", "finished": at}


def _request_shown(row: Row) -> Values:
    over = row["status"] if row["status"] in ("done", "failed") else None
    return dict(row) | {"over": over}


def _version(entry: Row, facts: Values) -> Said:
    match entry["kind"]:
        case "version":
            others = ("version", "folded", "metrics", "skills", "evaluations")
            yield (facts["version"],), {k: v for k, v in facts.items() if k not in others}
        case "promotion":
            yield (facts["version"],), {"status": "champion"}
            if facts["instead_of"] is not None:
                yield (facts["instead_of"],), {"status": "retired"}
        case _:
            yield (facts["version"],), {"status": "rolled_back"}
            yield (facts["to"],), {"status": "champion"}


def _metric(_: Row, facts: Values) -> Said:
    for name, value in facts["metrics"].items():
        if not isinstance(value, str):  # not finite: it has no row
            yield (facts["version"], name), {"value": value}


def _evaluation(_: Row, facts: Values) -> Said:
    for row in facts["evaluations"]:
        yield (facts["version"], row["task_id"]), row


def _promotions() -> Callable[[Row, Values], Said]:
    turns: Counter[int] = Counter()

    def said(entry: Row, facts: Values) -> Said:
        stream, at = entry["stream_id"], entry["at"]
        if turns[stream]:
            yield (stream, turns[stream]), {"live_until": at}
        turns[stream] += 1
        yield (
            (stream, turns[stream]),
            {
                "version_id": facts["to"] if entry["kind"] == "rollback" else facts["version"],
                "live_from": at,
                "live_until": None,
                "actor": entry["actor"],
                "reason": facts["reason"],
            },
        )

    return said


def _letter(entry: Row, facts: Values) -> Said:
    status = entry["kind"].removeprefix("dead_letters_")
    for partition, offset, *replayed in facts["letters"]:
        told = {"replayed_offset": replayed[0]} if replayed else {}
        yield (entry["stream_id"], partition, offset), {"status": status} | told


def _letter_shown(row: Row) -> Values | None:
    return None if row["status"] == "replaying" else dict(row)


#: What tells a segment.
SEGMENT = ("stream_id", "partition", "series", "segment")
CHANNEL = ("stream_id", "partition", "series", "channel", "row")
LETTER = ("stream_id", "partition", "offset")


def _rules() -> Iterator[Rule]:
    """All of them; a rule may count while it is used."""
    yield Rule(table="streams", key=("id",), kinds=("stream", "channels", "topic"), said=_stream)
    yield Rule(
        table="boundaries", key=SEGMENT, kinds=("boundary", "transition_over"), said=_boundary
    )
    yield Rule(table="sensor_events", key=CHANNEL, kinds=("sensor_event",), said=_event)
    gap = ("stream_id", "partition", "first_offset")
    yield Rule(table="gaps", key=gap, kinds=("records_lost",), said=_gap)
    task = ("stream_id", "number")
    yield Rule(table="tasks", key=task, kinds=("task", "task_marked"), said=_task)
    yield Rule(table="segments", key=SEGMENT, kinds=("task_named",), said=_segment)
    ended = ("request", "request_failed", "request_done", "version")
    yield Rule(table="requests", key=("id",), kinds=ended, said=_request, shown=_request_shown)
    fates = ("version", "promotion", "rollback")
    yield Rule(table="versions", key=("id",), kinds=fates, said=_version)
    yield Rule(table="metrics", key=("version_id", "name"), kinds=("version",), said=_metric)
    measured = ("version_id", "task_id")
    yield Rule(table="evaluations", key=measured, kinds=("version",), said=_evaluation)
    turn = ("stream_id", "turn")
    yield Rule(table="promotions", key=turn, kinds=fates[1:], said=_promotions())
    yield Rule(
        table="dead_letters",
        key=LETTER,
        kinds=("dead_letters_replayed", "dead_letters_dropped"),
        said=_letter,
        shown=_letter_shown,
        loose=True,
    )
