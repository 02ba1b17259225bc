"""A database with rows in every table, made from the tables' own description."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    Boolean,
    Column,
    Engine,
    Float,
    Integer,
    LargeBinary,
    Table,
    func,
    insert,
    select,
)

from pipeline.config import Database
from pipeline.register import ledger
from pipeline.register.engine import connect, writing
from pipeline.register.tables import metadata

#: Rows of each table.
ROWS = 3
#: Where a column's type does not say what fits; by number of the row.
FITTING: dict[str, tuple[Any, ...]] = {
    "tasks.kind": ("normal", "fault", "ignore"),
    "sensor_events.kind": ("sensor_silent", "sensor_frozen", "sensor_back"),
    "requests.status": ("claimed", "folded", "done"),
    "requests.reason": ("manual",) * ROWS,
    "schedule_runs.kind": ("retrain", "verify", "prune"),
    "requests.folded_into": (None, 1, None),
    "requests.fence": (4, 5, 6),
    "requests.inputs": ("{}", '{"segment":"a"}', '{"reservoir":"b","segment":"c"}'),
    "versions.inputs": ("{}", '{"segments":[[1,"a"]]}', '{"held_out":{"1":["a","b"]}}'),
    "versions.figures": ("{}", '{"min_gain":0.02}', '{"gain":{"mean":0.5}}'),
    "versions.settings": ("{}", '{"learn":{"lr":0.1}}', '{"learn":{"epochs":2}}'),
    "versions.status": ("champion", "retired", "rejected"),
    "scored.end_offset": (2, 3, 4),
    "gaps.end_offset": (2, 3, 4),
    "dead_letters.status": ("replaying", "replayed", "dropped"),
    "tokens.role": ("reader", "operator", "approver"),
}


def fill(database: Database, rows: int = ROWS) -> None:
    """Put rows into every table of a database at head, and entries into its ledger."""
    engine = connect(database)
    with writing(engine) as conn:
        for table in metadata.sorted_tables:
            if table.name != "ledger":
                conn.execute(insert(table), [_row(table, n) for n in range(1, rows + 1)])
        for number in range(rows):
            ledger.append(conn, "tested", {"number": number}, at=number, actor="ada")
    _count_on(engine)
    engine.dispose()


def _row(table: Table, number: int) -> dict[str, Any]:
    return {c.name: _value(c, number) for c in table.c}


def _value(column: Column[Any], number: int) -> Any:
    fitting = FITTING.get(str(column))
    if fitting is not None:
        return fitting[(number - 1) % len(fitting)]
    if column.foreign_keys:
        (key,) = column.foreign_keys
        return _value(key.column, number) if not column.nullable or number > 1 else None
    if column.nullable and number == 1:
        return None
    kind = column.type
    if isinstance(kind, Boolean):
        return number % 2 == 0
    if isinstance(kind, Integer):
        return number
    if isinstance(kind, Float):
        return number / 3
    if isinstance(kind, LargeBinary):
        return bytes(range(256)) * number
    return f"{number}\u00e9\u4e2d"


def _count_on(engine: Engine) -> None:
    """PostgreSQL numbers new rows after those that were given numbers here."""
    if engine.dialect.name == "postgresql":
        with engine.begin() as conn:
            for table in metadata.sorted_tables:
                if (column := table.autoincrement_column) is not None:
                    last = conn.execute(select(func.max(column))).scalar()
                    sequence = func.pg_get_serial_sequence(table.name, column.name)
                    conn.execute(select(func.setval(sequence, last)))
