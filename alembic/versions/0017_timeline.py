"""Readings and scores in buckets, for charts."""

import sqlalchemy as sa

from alembic import op

revision = "0017"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade():
    op.create_table(
        "timelines",
        sa.Column("stream_id", sa.Integer(), nullable=False),
        sa.Column("partition", sa.Integer(), nullable=False),
        sa.Column("slot", sa.Integer(), nullable=False),
        sa.Column("series", sa.Text(), nullable=False),
        sa.Column("rows", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["stream_id"], ["streams.id"], name=op.f("fk_timelines_stream_id")),
        sa.PrimaryKeyConstraint("stream_id", "partition", "slot", name=op.f("pk_timelines")),
        sa.UniqueConstraint(
            "stream_id", "partition", "series", name=op.f("uq_timelines_stream_id_partition_series")
        ),
    )
    op.create_table(
        "timeline_buckets",
        sa.Column("stream_id", sa.Integer(), nullable=False),
        sa.Column("partition", sa.Integer(), nullable=False),
        sa.Column("slot", sa.Integer(), nullable=False),
        sa.Column("level", sa.Integer(), nullable=False),
        sa.Column("bucket", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("rows", sa.BigInteger(), nullable=False),
        sa.Column("first_time", sa.BigInteger(), nullable=False),
        sa.Column("last_time", sa.BigInteger(), nullable=False),
        sa.Column("first_offset", sa.BigInteger(), nullable=False),
        sa.Column("last_offset", sa.BigInteger(), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["stream_id"], ["streams.id"], name=op.f("fk_timeline_buckets_stream_id")
        ),
        sa.PrimaryKeyConstraint(
            "stream_id",
            "partition",
            "slot",
            "level",
            "bucket",
            name=op.f("pk_timeline_buckets"),
        ),
        sqlite_with_rowid=False,
    )
    op.create_index(
        "ix_timeline_buckets_first_time",
        "timeline_buckets",
        ["stream_id", "partition", "slot", "first_time"],
        sqlite_where=sa.text("level = 0"),
        postgresql_where=sa.text("level = 0"),
    )


def downgrade():
    op.drop_table("timeline_buckets")
    op.drop_table("timelines")
