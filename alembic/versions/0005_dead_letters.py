"""What became of dead letters."""

import sqlalchemy as sa

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade():
    op.create_table(
        "dead_letters",
        sa.Column("stream_id", sa.Integer(), nullable=False),
        sa.Column("partition", sa.Integer(), nullable=False),
        sa.Column("offset", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("status", sa.String(length=9), nullable=False),
        sa.Column("searched_from", sa.BigInteger(), nullable=True),
        sa.Column("replayed_offset", sa.BigInteger(), nullable=True),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("decided", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "status IN ('replaying', 'replayed', 'dropped')",
            name=op.f("ck_dead_letters_known_status"),
        ),
        sa.ForeignKeyConstraint(
            ["stream_id"], ["streams.id"], name=op.f("fk_dead_letters_stream_id")
        ),
        sa.PrimaryKeyConstraint(
            "stream_id", "partition", "offset", "sha256", name=op.f("pk_dead_letters")
        ),
    )
    op.create_index(
        "ix_dead_letters_stream_id_partition_replayed_offset",
        "dead_letters",
        ["stream_id", "partition", "replayed_offset"],
    )


def downgrade():
    op.drop_table("dead_letters")
