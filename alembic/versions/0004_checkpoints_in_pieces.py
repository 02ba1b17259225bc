"""Checkpoints in pieces: a row a series, chunks of what only grows."""

import sqlalchemy as sa

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade():
    op.create_table(
        "checkpoint_pieces",
        sa.Column("stream_id", sa.Integer(), nullable=False),
        sa.Column("partition", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("slot", sa.Integer(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.Column("crc32", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["stream_id"], ["streams.id"], name=op.f("fk_checkpoint_pieces_stream_id")
        ),
        sa.PrimaryKeyConstraint(
            "stream_id", "partition", "kind", "slot", "number", name=op.f("pk_checkpoint_pieces")
        ),
    )
    if op.get_bind().dialect.name == "postgresql":  # numbers hardly get smaller
        op.execute("ALTER TABLE checkpoint_pieces ALTER COLUMN content SET STORAGE EXTERNAL")


def downgrade():
    op.drop_table("checkpoint_pieces")
