"""Databases without room for more, until they are given some."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import event, select, text

from pipeline.register import tables
from pipeline.register.sql import SqlRegistry

#: PostgreSQL's own error for want of room, where a table would grow.
_REFUSE = """
CREATE FUNCTION no_room() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = '53100';
END $$
"""


def fill(registry: SqlRegistry, table: str) -> Callable[[], None]:
    """Let the registry's database be full; what gives it room again.

    SQLite may take no further page, which is its own limit and error, wherever one is needed.
    PostgreSQL raises what it does on a full disk, where `table` is written.
    """
    engine = registry.engine
    if engine.dialect.name == "postgresql":
        with engine.begin() as conn:
            conn.execute(text(_REFUSE))
            conn.execute(
                text(
                    f"CREATE TRIGGER no_room BEFORE INSERT OR UPDATE ON {table} "
                    "FOR EACH ROW EXECUTE FUNCTION no_room()"
                )
            )

        def give_room() -> None:
            with engine.begin() as conn:
                conn.execute(text("DROP FUNCTION no_room CASCADE"))

        return give_room

    engine.dispose()
    raw = engine.raw_connection()
    raw.cursor().execute("PRAGMA journal_mode = DELETE")  # else pages keep their size
    raw.cursor().execute("PRAGMA page_size = 4096")  # or there would be room in the last ones
    raw.cursor().execute("VACUUM")  # or pages that migrations left free would do
    (pages,) = raw.cursor().execute("PRAGMA page_count").fetchone()
    raw.close()

    def limit(dbapi: Any, _: Any) -> None:
        dbapi.execute(f"PRAGMA max_page_count = {pages}")

    event.listen(engine, "connect", limit)
    engine.dispose()

    def more() -> None:
        event.remove(engine, "connect", limit)
        engine.dispose()

    return more


def rows(registry: SqlRegistry) -> dict[str, list[Any]]:
    """Every row of every table, by its columns' names."""
    with registry.engine.connect() as conn:
        return {
            table.name: list(conn.execute(select(table).order_by(*table.primary_key)))
            for table in tables.metadata.sorted_tables
        }
