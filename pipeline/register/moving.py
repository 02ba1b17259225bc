"""A whole history from one database to another: all of it, proven equal, or nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import msgspec
from sqlalchemy import Connection, LargeBinary, Row, Table, func, insert, select, text
from sqlalchemy.exc import IntegrityError

from pipeline.config import Database
from pipeline.errors import RegistryError
from pipeline.register.damage import first_of
from pipeline.register.engine import connect, exists, reading, shown, translated
from pipeline.register.files import is_empty
from pipeline.register.migrate import check_schema, current_and_head, upgrade
from pipeline.register.presence import alone
from pipeline.register.tables import metadata

#: Rows in memory at once; of tables with content such as weights, far fewer.
BATCH, HEAVY_BATCH = 1000, 16
#: Sums of row hashes are taken modulo this.
_MODULUS = 2**256
#: Called with (rows done, rows in all, table).
Progress = Callable[[int, int, str], None]


def copy(
    source: Database, target: Database, progress: Progress | None = None
) -> dict[str, tuple[int, str]]:
    """Copy every table; table -> (rows, hash), the same on both sides.

    The target is empty, or gets its schema here. All rows are one transaction: they are counted,
    hashed and the ledger's chain followed on the target before it is committed. A table's hash is
    the sum, modulo 2^256, of the sha256 of its rows (as MessagePack): databases sort text
    differently.

    Raises
    ------
    RegistryError
        Schemas differ, the target has content, a process runs on either, or what was read back is
        not what was written. In all cases the target has no rows.
    """
    check_schema(source)
    _prepare(target)
    origin, goal = connect(source), connect(target, foreign_keys=False)
    try:
        with ExitStack() as held, translated(goal), goal.begin() as to:
            held.enter_context(alone(to))  # both until the transaction has ended
            if not is_empty(to):
                raise RegistryError(f"{shown(goal.url)} has content: copy to an empty database")
            with reading(origin) as from_:
                held.enter_context(alone(from_))
                written = _write(from_, to, progress or (lambda *_: None))
            _check(to, written)
            _set_sequences(to)
    except IntegrityError as exc:
        raise RegistryError(f"not copied: {str(exc.orig).splitlines()[0]}") from exc
    finally:
        origin.dispose()
        goal.dispose()
    return written


def _prepare(target: Database) -> None:
    """A schema where there is none; RegistryError where there is another one."""
    engine = connect(target)
    is_new = not exists(engine) or current_and_head(target)[0] is None
    engine.dispose()
    if is_new:
        upgrade(target)
    check_schema(target)


def _write(
    from_: Connection, to: Connection, progress: Callable[[int, int, str], None]
) -> dict[str, tuple[int, str]]:
    """Every table, parents first; what was written."""
    tables = metadata.sorted_tables
    total = sum(from_.execute(select(func.count()).select_from(t)).scalar_one() for t in tables)
    done = 0

    def inserted(table: Table) -> Iterator[Sequence[Row[Any]]]:
        nonlocal done
        for rows in _batches(from_, table):
            to.execute(insert(table), [dict(row._mapping) for row in rows])  # noqa: SLF001
            done += len(rows)
            progress(done, total, table.name)
            yield rows

    return {table.name: _digest(inserted(table)) for table in tables}


def _check(to: Connection, written: dict[str, tuple[int, str]]) -> None:
    """Read all of it back; RegistryError if it is not what was written."""
    for table in metadata.sorted_tables:
        if (found := _digest(_batches(to, table))) != written[table.name]:
            raise RegistryError(
                f"{table.name} was not copied: {found[0]} rows with hash {found[1][:12]}, "
                f"{written[table.name][0]} with {written[table.name][1][:12]} were written"
            )
    if (damage := first_of(to)) is not None:
        raise RegistryError(f"the ledger's chain is broken at entry {damage.id}")
    if to.dialect.name == "sqlite" and to.exec_driver_sql("PRAGMA foreign_key_check").first():
        raise RegistryError("there are rows without their parent")


def _batches(conn: Connection, table: Table) -> Iterable[Sequence[Row[Any]]]:
    """Rows in the order of their keys: whoever refers to a row of the same table comes later."""
    heavy = any(isinstance(column.type, LargeBinary) for column in table.c)
    size = HEAVY_BATCH if heavy else BATCH
    query = select(table).order_by(*table.primary_key)
    return conn.execute(query, execution_options={"yield_per": size}).partitions()


def _digest(batches: Iterable[Sequence[Row[Any]]]) -> tuple[int, str]:
    """How many rows there are, and the sum of their hashes."""
    encode, count, value = msgspec.msgpack.encode, 0, 0
    for rows in batches:
        count += len(rows)
        hashes = (hashlib.sha256(encode(tuple(row))).digest() for row in rows)
        value += sum(int.from_bytes(each, "big") for each in hashes)
    return count, f"{value % _MODULUS:064x}"


def _set_sequences(to: Connection) -> None:
    """Have PostgreSQL number new rows after the copied ones; SQLite does by itself."""
    if to.dialect.name != "postgresql":
        return
    for table in metadata.sorted_tables:
        if (column := table.autoincrement_column) is None:
            continue
        sequence = to.execute(select(func.pg_get_serial_sequence(table.name, column.name))).scalar()
        last = to.execute(select(func.max(column))).scalar()
        if sequence and last:
            to.execute(
                text("SELECT setval(:sequence, :last)"), {"sequence": sequence, "last": last}
            )
