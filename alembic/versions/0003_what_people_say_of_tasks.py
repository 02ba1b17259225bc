"""Names of tasks, tasks that wait for a word, and versions without one of them."""

import sqlalchemy as sa

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

KINDS = ("normal", "fault", "ignore")


def upgrade():
    op.add_column("requests", sa.Column("without_task", sa.Integer(), nullable=True))
    with op.batch_alter_table("tasks") as tasks:
        tasks.add_column(sa.Column("name", sa.String(length=100), nullable=True))
        _allow(tasks, *KINDS, "asked")


def downgrade():
    op.execute("UPDATE tasks SET kind = 'ignore' WHERE kind = 'asked'")
    with op.batch_alter_table("tasks") as tasks:
        tasks.drop_column("name")
        _allow(tasks, *KINDS)
    op.drop_column("requests", "without_task")


def _allow(tasks, *kinds):
    known = op.f("ck_tasks_known_kind")
    tasks.drop_constraint(known, type_="check")
    tasks.create_check_constraint(known, f"kind IN ({', '.join(map(repr, kinds))})")
