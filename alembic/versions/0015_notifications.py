"""What is still to be told to receivers, and how far each rule has looked through the ledger."""

import sqlalchemy as sa

from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade():
    op.create_table(
        "notify_rules",
        sa.Column("rule", sa.Text(), nullable=False),
        sa.Column("looked", sa.BigInteger(), nullable=False),
        sa.Column("since", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("rule", name=op.f("pk_notify_rules")),
    )
    op.create_table(
        "notifications",
        sa.Column("rule", sa.Text(), nullable=False),
        sa.Column("stream", sa.Text(), nullable=False),
        sa.Column("first", sa.BigInteger(), nullable=True),
        sa.Column("last", sa.BigInteger(), nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("not_before", sa.BigInteger(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("told", sa.BigInteger(), nullable=True),
        sa.Column("told_at", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(
            ["rule"], ["notify_rules.rule"], name=op.f("fk_notifications_rule")
        ),
        sa.PrimaryKeyConstraint("rule", "stream", name=op.f("pk_notifications")),
    )


def downgrade():
    op.drop_table("notifications")
    op.drop_table("notify_rules")
