"""What the database itself refuses: the ledger is append-only, by triggers."""

from __future__ import annotations

from sqlalchemy import Connection

_PG_FUNCTION = """
CREATE OR REPLACE FUNCTION tidemark_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION USING MESSAGE = TG_TABLE_NAME || ' is append-only';
END
$$
"""


def create_triggers(conn: Connection) -> None:
    """Make the ledger append-only; every migration that touches it calls this again at its end."""
    drop_triggers(conn)
    if conn.dialect.name == "postgresql":
        conn.exec_driver_sql(_PG_FUNCTION)
        conn.exec_driver_sql(
            "CREATE TRIGGER ledger_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger "
            "FOR EACH STATEMENT EXECUTE FUNCTION tidemark_append_only()"
        )
        return
    there = "EXISTS (SELECT 1 FROM ledger WHERE id = NEW.id OR hash = NEW.hash)"
    for name, when in (
        ("update", "BEFORE UPDATE ON ledger"),
        ("delete", "BEFORE DELETE ON ledger"),
        ("replace", f"BEFORE INSERT ON ledger WHEN {there}"),  # REPLACE fires no DELETE
    ):
        conn.exec_driver_sql(
            f"CREATE TRIGGER ledger_no_{name} {when} "
            "BEGIN SELECT RAISE(ABORT, 'ledger is append-only'); END"
        )


def drop_triggers(conn: Connection) -> None:
    """Take the triggers away, before the table goes."""
    if conn.dialect.name == "postgresql":
        conn.exec_driver_sql("DROP TRIGGER IF EXISTS ledger_append_only ON ledger")
        conn.exec_driver_sql("DROP FUNCTION IF EXISTS tidemark_append_only()")
        return
    for name in ("update", "delete", "replace"):
        conn.exec_driver_sql(f"DROP TRIGGER IF EXISTS ledger_no_{name}")
