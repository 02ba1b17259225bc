"""Which topic a stream follows, and which of its records were lost."""

import sqlalchemy as sa

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade():
    op.add_column("streams", sa.Column("topic_id", sa.String(length=36), nullable=True))
    op.create_table(
        "gaps",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("stream_id", sa.Integer(), nullable=False),
        sa.Column("partition", sa.Integer(), nullable=False),
        sa.Column("first_offset", sa.BigInteger(), nullable=False),
        sa.Column("end_offset", sa.BigInteger(), nullable=False),
        sa.Column("went_on", sa.String(length=8), nullable=False),
        sa.Column("recorded", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("end_offset > first_offset", name=op.f("ck_gaps_forward")),
        sa.ForeignKeyConstraint(["stream_id"], ["streams.id"], name=op.f("fk_gaps_stream_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_gaps")),
        sa.UniqueConstraint(
            "stream_id",
            "partition",
            "first_offset",
            name=op.f("uq_gaps_stream_id_partition_first_offset"),
        ),
    )


def downgrade():
    op.drop_table("gaps")
    op.drop_column("streams", "topic_id")
