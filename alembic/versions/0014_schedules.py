"""What happens by the clock, when a training may begin, and how good champions are later."""

import sqlalchemy as sa

from alembic import op

revision = "0014"
down_revision = "0017"
branch_labels = None
depends_on = None

REASONS = ("bootstrap", "boundary", "refine", "schedule", "manual")


def upgrade():
    _count("checkpoints")
    op.add_column("requests", sa.Column("held", sa.Text(), nullable=True))
    _count("requests")
    _allow(*REASONS, "evaluate", "metric", "readings")
    _unique("stream_id", "reason", "due")
    op.create_table(
        "measurements",
        sa.Column("request_id", sa.Integer(), nullable=False),
        sa.Column("task_id", sa.Integer(), nullable=False),
        sa.Column("version_id", sa.Integer(), nullable=False),
        sa.Column("skill", sa.Float(), nullable=False),
        sa.Column("windows", sa.Integer(), nullable=False),
        sa.Column("measured", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["request_id"], ["requests.id"], name=op.f("fk_measurements_request_id")
        ),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.id"], name=op.f("fk_measurements_task_id")),
        sa.ForeignKeyConstraint(
            ["version_id"], ["versions.id"], name=op.f("fk_measurements_version_id")
        ),
        sa.PrimaryKeyConstraint("request_id", "task_id", name=op.f("pk_measurements")),
    )
    op.create_index(
        "ix_measurements_version_id_measured", "measurements", ["version_id", "measured"]
    )
    op.create_table(
        "schedules",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("definition", sa.Text(), nullable=False),
        sa.Column("since", sa.BigInteger(), nullable=False),
        sa.Column("gone", sa.BigInteger(), nullable=True),
        sa.Column("paused", sa.BigInteger(), nullable=True),
        sa.Column("paused_by", sa.Text(), nullable=True),
        sa.Column("paused_because", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_schedules")),
    )
    op.create_table(
        "schedule_runs",
        sa.Column("schedule", sa.String(length=64), nullable=False),
        sa.Column("due", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("kind", sa.String(length=8), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("started", sa.BigInteger(), nullable=True),
        sa.Column("owner", sa.String(length=255), nullable=True),
        sa.Column("finished", sa.BigInteger(), nullable=True),
        sa.Column("ok", sa.Boolean(), nullable=True),
        sa.Column("outcome", sa.Text(), nullable=True),
        sa.Column("request_id", sa.Integer(), nullable=True),
        sa.ForeignKeyConstraint(
            ["request_id"], ["requests.id"], name=op.f("fk_schedule_runs_request_id")
        ),
        sa.PrimaryKeyConstraint("schedule", "due", name=op.f("pk_schedule_runs")),
    )
    op.create_index(
        "ix_schedule_runs_unfinished",
        "schedule_runs",
        ["due"],
        sqlite_where=sa.text("finished IS NULL"),
        postgresql_where=sa.text("finished IS NULL"),
    )


def downgrade():
    op.drop_table("schedule_runs")
    op.drop_table("schedules")
    op.drop_table("measurements")
    op.execute("UPDATE requests SET reason = 'manual', due = NULL WHERE reason = 'evaluate'")
    op.execute("UPDATE requests SET reason = 'manual' WHERE reason IN ('metric', 'readings')")
    _unique("stream_id", "due")
    _allow(*REASONS)
    op.drop_column("requests", "held")
    op.drop_column("requests", "readings")
    op.drop_column("checkpoints", "readings")


def _count(table):
    readings = sa.Column("readings", sa.BigInteger(), nullable=False, server_default=sa.text("0"))
    op.add_column(table, readings)


def _allow(*reasons):
    known = op.f("ck_requests_known_reason")
    with op.batch_alter_table("requests") as requests:
        requests.drop_constraint(known, type_="check")
        requests.create_check_constraint(known, f"reason IN ({', '.join(map(repr, reasons))})")


def _unique(*columns):
    name = "uq_requests_once_a_due_time"
    op.drop_index(name, "requests")
    op.create_index(
        name,
        "requests",
        list(columns),
        unique=True,
        sqlite_where=sa.text("due IS NOT NULL"),
        postgresql_where=sa.text("due IS NOT NULL"),
    )
