"""Runs migrations on the connection that pipeline.register.migrate opened.

It has SQLite's foreign keys off before BEGIN, so that rebuilding a table (batch mode) deletes no
children, and BEGIN is explicit, so that a failed migration leaves nothing behind. The views are
gone meanwhile, since SQLite rebuilds no table and PostgreSQL changes no column that one reads. They
are of the newest tables: an older schema has none.
"""

from alembic import context
from pipeline.config import load
from pipeline.register.engine import connect
from pipeline.register.tables import metadata
from pipeline.register.views import create_views, drop_views


def run(connection):
    context.configure(
        connection=connection,
        target_metadata=metadata,
        render_as_batch=connection.dialect.name == "sqlite",
        transactional_ddl=True,
        transaction_per_migration=False,
    )
    drop_views(connection)
    context.run_migrations()
    if context.get_context().get_current_revision() == context.get_head_revision():
        create_views(connection)


connection = context.config.attributes.get("connection")
if connection is not None:
    run(connection)
else:  # the alembic command, for developers
    with connect(load().database, foreign_keys=False).begin() as connection:
        run(connection)
