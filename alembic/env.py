"""Runs migrations on the connection that pipeline.register.migrate opened.

It has SQLite's foreign keys off before BEGIN, so that rebuilding a table (batch mode) deletes no
children, and BEGIN is explicit, so that a failed migration leaves nothing behind.
"""

from alembic import context
from pipeline.config import load
from pipeline.register.engine import connect
from pipeline.register.tables import metadata


def run(connection):
    context.configure(
        connection=connection,
        target_metadata=metadata,
        render_as_batch=connection.dialect.name == "sqlite",
        transactional_ddl=True,
        transaction_per_migration=False,
    )
    context.run_migrations()


connection = context.config.attributes.get("connection")
if connection is not None:
    run(connection)
else:  # the alembic command, for developers
    with connect(load().database, foreign_keys=False).begin() as connection:
        run(connection)
