"""Databases for tests: new ones on a PostgreSQL server."""

from __future__ import annotations

import uuid

from sqlalchemy import create_engine, make_url, text
from sqlalchemy.pool import NullPool

from pipeline.config import Database


def make_hasty(server: str) -> None:
    """Let the server wait for no disk: nothing here has to survive a power cut."""
    engine = create_engine(server, isolation_level="AUTOCOMMIT", poolclass=NullPool)
    with engine.connect() as conn:
        for name in ("fsync", "full_page_writes", "synchronous_commit"):
            conn.execute(text(f"ALTER SYSTEM SET {name} = off"))
        conn.execute(text("SELECT pg_reload_conf()"))


def new_database(server: str) -> Database:
    """A new, empty database on the server of this URL."""
    name = f"t{uuid.uuid4().hex}"
    engine = create_engine(server, isolation_level="AUTOCOMMIT", poolclass=NullPool)
    with engine.connect() as conn:
        conn.execute(text(f"CREATE DATABASE {name}"))
    return Database(url=make_url(server).set(database=name).render_as_string(hide_password=False))
