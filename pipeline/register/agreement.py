"""Ledger and tables in, where they differ out: what was changed in a table behind its back.

What can be seen is in telling.py and telling_clock.py. The ledger says nothing of which version
scored which offsets, of checkpoints, leases and claims.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from math import isfinite
from typing import Any

import msgspec
from sqlalchemy import Connection, select

from pipeline.register import tables as t
from pipeline.register import telling_clock
from pipeline.register.chain import BATCH
from pipeline.register.telling import Key, Row, Rows, Rule, Values, rules

#: Kinds -> the entries of those kinds, in order, as mappings of the ledger's columns.
Entries = Callable[[tuple[str, ...]], Iterable[Row]]


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


def differences(
    entries: Entries, rows: Rows, *, left_out: Collection[str] = ()
) -> Iterator[Difference]:
    """All that differ, table by table; left_out: tables that are not there to be compared."""
    for rule in chain(rules(rows), telling_clock.rules()):
        if rule.table not in left_out:
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
            if values is None:
                told.pop(key, None)
                continue
            if (before := told.get(key)) is not None:
                values = msgspec.msgpack.decode(before.packed) | values
            with suppress(OverflowError):  # a number that no row holds: the chain breaks there
                packed = msgspec.msgpack.encode(values)
                told[key] = _Told(entry["id"], entry["kind"], entry["at"], packed)
    return told


def _said(rule: Rule, entry: Row) -> list[tuple[Key, Values | None]]:
    """What an entry says; nothing where it makes no sense: then the chain does not hold there."""
    try:
        told = rule.said(entry, json.loads(entry["entry"]))
        said = [(key, None if values is None else dict(values)) for key, values in told]
        return said if all(hash(key) is not None for key, _ in said) else []
    except (ValueError, KeyError, TypeError, AttributeError):
        return []


def _shown(rule: Rule, row: Row) -> Values | None:
    """A row as the ledger would tell it; nothing of it where it makes no sense."""
    try:
        return rule.shown(row)
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


def _differing(rule: Rule, told: dict[Key, _Told], rows: Rows) -> Iterator[Difference]:
    for row in _in_turn(rule, rows):
        key = tuple(row[name] for name in rule.key)
        named = dict(zip(rule.key, key, strict=True))
        found = told.pop(key, None)
        if (shown := _shown(rule, row)) is None:
            continue
        if found is None:
            if not rule.loose and not rule.untold(row):
                yield Difference(table=rule.table, row=named, what="inserted")
            continue
        meant = msgspec.msgpack.decode(found.packed)
        columns = tuple(
            name
            for name, value in meant.items()
            if shown.get(name) != value and _worded(shown.get(name)) != _worded(value)
        )
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
