"""Databases for tests: a new one on a PostgreSQL server, or a copy of one with its schema."""

from __future__ import annotations

import uuid

from sqlalchemy import create_engine, make_url, text
from sqlalchemy.pool import NullPool

from pipeline.config import Database


def new_database(server: str, template: Database | None = None) -> Database:
    """A new database on the server of this URL, empty or a copy of `template`."""
    name = f"t{uuid.uuid4().hex}"
    like = f" TEMPLATE {make_url(template.url).database}" if template else ""
    engine = create_engine(server, isolation_level="AUTOCOMMIT", poolclass=NullPool)
    with engine.connect() as conn:
        conn.execute(text(f"CREATE DATABASE {name}{like}"))
    engine.dispose()
    return Database(url=make_url(server).set(database=name).render_as_string(hide_password=False))
