"""The first schema."""

import sqlalchemy as sa

from alembic import op
from pipeline.register.triggers import create_triggers, drop_triggers

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade():
    op.create_table(
        "artifacts",
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("sha256", name=op.f("pk_artifacts")),
    )
    op.create_table(
        "leases",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("owner", sa.String(length=255), nullable=False),
        sa.Column("until", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_leases")),
    )
    op.create_table(
        "streams",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("channels", sa.Text(), nullable=False),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_streams")),
        sa.UniqueConstraint("name", name=op.f("uq_streams_name")),
    )
    op.create_table(
        "boundaries",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("stream_id", sa.Integer(), nullable=False),
        sa.Column("partition", sa.Integer(), nullable=False),
        sa.Column("series", sa.Text(), nullable=False),
        sa.Column("segment", sa.Integer(), nullable=False),
        sa.Column("boundary_row", sa.BigInteger(), nullable=False),
        sa.Column("detected_row", sa.BigInteger(), nullable=False),
        sa.Column("boundary_offset", sa.BigInteger(), nullable=False),
        sa.Column("detected_offset", sa.BigInteger(), nullable=False),
        sa.Column("boundary_time", sa.BigInteger(), nullable=False),
        sa.Column("detected_time", sa.BigInteger(), nullable=False),
        sa.Column("end_row", sa.BigInteger(), nullable=True),
        sa.Column("end_offset", sa.BigInteger(), nullable=True),
        sa.Column("end_time", sa.BigInteger(), nullable=True),
        sa.Column("signal", sa.String(length=16), nullable=False),
        sa.Column("statistic", sa.Float(), nullable=False),
        sa.Column("threshold", sa.Float(), nullable=False),
        sa.Column("detectors", sa.Text(), nullable=False),
        sa.Column("sensors", sa.Text(), nullable=False),
        sa.Column("recorded", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["stream_id"], ["streams.id"], name=op.f("fk_boundaries_stream_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_boundaries")),
        sa.UniqueConstraint(
            "stream_id",
            "partition",
            "series",
            "segment",
            name=op.f("uq_boundaries_stream_id_partition_series_segment"),
        ),
    )
    op.create_table(
        "checkpoints",
        sa.Column("stream_id", sa.Integer(), nullable=False),
        sa.Column("partition", sa.Integer(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("owner", sa.String(length=255), nullable=False),
        sa.Column("next_offset", sa.BigInteger(), nullable=True),
        sa.Column("state", sa.LargeBinary(), nullable=True),
        sa.Column("sha256", sa.String(length=64), nullable=True),
        sa.Column("updated", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["stream_id"], ["streams.id"], name=op.f("fk_checkpoints_stream_id")
        ),
        sa.PrimaryKeyConstraint("stream_id", "partition", name=op.f("pk_checkpoints")),
    )
    op.create_table(
        "ledger",
        sa.Column(
            "id",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=False,
            nullable=False,
        ),
        sa.Column("stream_id", sa.Integer(), nullable=True),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("entry", sa.Text(), nullable=False),
        sa.Column("previous", sa.String(length=64), nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(["stream_id"], ["streams.id"], name=op.f("fk_ledger_stream_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ledger")),
        sa.UniqueConstraint("hash", name=op.f("uq_ledger_hash")),
    )
    op.create_table(
        "sensor_events",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("stream_id", sa.Integer(), nullable=False),
        sa.Column("partition", sa.Integer(), nullable=False),
        sa.Column("series", sa.Text(), nullable=False),
        sa.Column("channel", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("row", sa.BigInteger(), nullable=False),
        sa.Column("offset", sa.BigInteger(), nullable=False),
        sa.Column("time", sa.BigInteger(), nullable=False),
        sa.Column("recorded", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "kind IN ('sensor_silent', 'sensor_frozen', 'sensor_back')",
            name=op.f("ck_sensor_events_known_event"),
        ),
        sa.ForeignKeyConstraint(
            ["stream_id"], ["streams.id"], name=op.f("fk_sensor_events_stream_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sensor_events")),
        sa.UniqueConstraint(
            "stream_id",
            "partition",
            "series",
            "channel",
            "row",
            name=op.f("uq_sensor_events_stream_id_partition_series_channel_row"),
        ),
    )
    op.create_table(
        "tasks",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("stream_id", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(length=6), nullable=False),
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "kind IN ('normal', 'fault', 'ignore')", name=op.f("ck_tasks_known_kind")
        ),
        sa.ForeignKeyConstraint(["stream_id"], ["streams.id"], name=op.f("fk_tasks_stream_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tasks")),
        sa.UniqueConstraint("stream_id", "number", name=op.f("uq_tasks_stream_id_number")),
    )
    op.create_table(
        "task_prints",
        sa.Column("task_id", sa.Integer(), nullable=False),
        sa.Column("partition", sa.Integer(), nullable=False),
        sa.Column("series", sa.Text(), nullable=False),
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.id"], name=op.f("fk_task_prints_task_id")),
        sa.PrimaryKeyConstraint("task_id", "partition", "series", name=op.f("pk_task_prints")),
    )
    op.create_table(
        "segments",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("stream_id", sa.Integer(), nullable=False),
        sa.Column("partition", sa.Integer(), nullable=False),
        sa.Column("series", sa.Text(), nullable=False),
        sa.Column("segment", sa.Integer(), nullable=False),
        sa.Column("task_id", sa.Integer(), nullable=False),
        sa.Column("recurrence", sa.Boolean(), nullable=False),
        sa.Column("distance", sa.Float(), nullable=True),
        sa.Column("rows", sa.BigInteger(), nullable=False),
        sa.Column("final", sa.Boolean(), nullable=False),
        sa.Column("named", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["stream_id"], ["streams.id"], name=op.f("fk_segments_stream_id")),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.id"], name=op.f("fk_segments_task_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_segments")),
        sa.UniqueConstraint(
            "stream_id",
            "partition",
            "series",
            "segment",
            name=op.f("uq_segments_stream_id_partition_series_segment"),
        ),
    )
    with op.batch_alter_table("segments", schema=None) as batch_op:
        batch_op.create_index("ix_segments_task_id", ["task_id"], unique=False)

    op.create_table(
        "requests",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("stream_id", sa.Integer(), nullable=False),
        sa.Column("reason", sa.String(length=9), nullable=False),
        sa.Column("status", sa.String(length=7), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("partition", sa.Integer(), nullable=True),
        sa.Column("series", sa.Text(), nullable=True),
        sa.Column("segment", sa.Integer(), nullable=True),
        sa.Column("inputs", sa.Text(), nullable=False),
        sa.Column("due", sa.BigInteger(), nullable=True),
        sa.Column("task_id", sa.Integer(), nullable=True),
        sa.Column("owner", sa.String(length=255), nullable=True),
        sa.Column("lease_until", sa.BigInteger(), nullable=True),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("not_before", sa.BigInteger(), nullable=True),
        sa.Column("folded_into", sa.Integer(), nullable=True),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.Column("finished", sa.BigInteger(), nullable=True),
        sa.Column("outcome", sa.Text(), nullable=True),
        sa.CheckConstraint(
            "reason IN ('bootstrap', 'boundary', 'refine', 'schedule', 'manual')",
            name=op.f("ck_requests_known_reason"),
        ),
        sa.CheckConstraint(
            "status IN ('pending', 'claimed', 'done', 'failed', 'folded')",
            name=op.f("ck_requests_known_status"),
        ),
        sa.ForeignKeyConstraint(
            ["folded_into"], ["requests.id"], name=op.f("fk_requests_folded_into")
        ),
        sa.ForeignKeyConstraint(["stream_id"], ["streams.id"], name=op.f("fk_requests_stream_id")),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.id"], name=op.f("fk_requests_task_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_requests")),
    )
    with op.batch_alter_table("requests", schema=None) as batch_op:
        batch_op.create_index("ix_requests_status_id", ["status", "id"], unique=False)
        batch_op.create_index("ix_requests_task_id_id", ["task_id", "id"], unique=False)
        batch_op.create_index(
            "uq_requests_once_a_due_time",
            ["stream_id", "due"],
            unique=True,
            postgresql_where=sa.text("due IS NOT NULL"),
            sqlite_where=sa.text("due IS NOT NULL"),
        )
        batch_op.create_index(
            "uq_requests_once_a_segment",
            ["stream_id", "partition", "series", "segment", "reason"],
            unique=True,
            postgresql_where=sa.text("partition IS NOT NULL"),
            sqlite_where=sa.text("partition IS NOT NULL"),
        )
        batch_op.create_index(
            "uq_requests_one_claim",
            ["stream_id"],
            unique=True,
            postgresql_where=sa.text("status = 'claimed'"),
            sqlite_where=sa.text("status = 'claimed'"),
        )

    op.create_table(
        "versions",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("stream_id", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("parent_id", sa.Integer(), nullable=True),
        sa.Column("request_id", sa.Integer(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("ewc_sha256", sa.String(length=64), nullable=True),
        sa.Column("status", sa.String(length=9), nullable=False),
        sa.Column("decision", sa.Text(), nullable=False),
        sa.Column("figures", sa.Text(), nullable=False),
        sa.Column("strategy", sa.String(length=32), nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("inputs", sa.Text(), nullable=False),
        sa.Column("settings", sa.Text(), nullable=False),
        sa.Column("code_version", sa.String(length=32), nullable=False),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "status IN ('candidate', 'champion', 'retired', 'rejected')",
            name=op.f("ck_versions_known_status"),
        ),
        sa.ForeignKeyConstraint(
            ["ewc_sha256"], ["artifacts.sha256"], name=op.f("fk_versions_ewc_sha256")
        ),
        sa.ForeignKeyConstraint(["parent_id"], ["versions.id"], name=op.f("fk_versions_parent_id")),
        sa.ForeignKeyConstraint(
            ["request_id"], ["requests.id"], name=op.f("fk_versions_request_id")
        ),
        sa.ForeignKeyConstraint(["sha256"], ["artifacts.sha256"], name=op.f("fk_versions_sha256")),
        sa.ForeignKeyConstraint(["stream_id"], ["streams.id"], name=op.f("fk_versions_stream_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_versions")),
        sa.UniqueConstraint("stream_id", "number", name=op.f("uq_versions_stream_id_number")),
    )
    with op.batch_alter_table("versions", schema=None) as batch_op:
        batch_op.create_index("ix_versions_request_id", ["request_id"], unique=False)
        batch_op.create_index(
            "uq_versions_one_champion",
            ["stream_id"],
            unique=True,
            postgresql_where=sa.text("status = 'champion'"),
            sqlite_where=sa.text("status = 'champion'"),
        )

    op.create_table(
        "evaluations",
        sa.Column("version_id", sa.Integer(), nullable=False),
        sa.Column("task_id", sa.Integer(), nullable=False),
        sa.Column("skill", sa.Float(), nullable=False),
        sa.Column("parent_skill", sa.Float(), nullable=True),
        sa.Column("windows", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.id"], name=op.f("fk_evaluations_task_id")),
        sa.ForeignKeyConstraint(
            ["version_id"], ["versions.id"], name=op.f("fk_evaluations_version_id")
        ),
        sa.PrimaryKeyConstraint("version_id", "task_id", name=op.f("pk_evaluations")),
    )
    op.create_table(
        "metrics",
        sa.Column("version_id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("value", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(
            ["version_id"], ["versions.id"], name=op.f("fk_metrics_version_id")
        ),
        sa.PrimaryKeyConstraint("version_id", "name", name=op.f("pk_metrics")),
    )
    op.create_table(
        "promotions",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("stream_id", sa.Integer(), nullable=False),
        sa.Column("version_id", sa.Integer(), nullable=False),
        sa.Column("live_from", sa.BigInteger(), nullable=False),
        sa.Column("live_until", sa.BigInteger(), nullable=True),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.CheckConstraint(
            "live_until IS NULL OR live_until >= live_from", name=op.f("ck_promotions_forward")
        ),
        sa.ForeignKeyConstraint(
            ["stream_id"], ["streams.id"], name=op.f("fk_promotions_stream_id")
        ),
        sa.ForeignKeyConstraint(
            ["version_id"], ["versions.id"], name=op.f("fk_promotions_version_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_promotions")),
    )
    with op.batch_alter_table("promotions", schema=None) as batch_op:
        batch_op.create_index(
            "ix_promotions_stream_id_live_from", ["stream_id", "live_from"], unique=False
        )
        batch_op.create_index(
            "uq_promotions_one_live",
            ["stream_id"],
            unique=True,
            postgresql_where=sa.text("live_until IS NULL"),
            sqlite_where=sa.text("live_until IS NULL"),
        )

    op.create_table(
        "scored",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("stream_id", sa.Integer(), nullable=False),
        sa.Column("partition", sa.Integer(), nullable=False),
        sa.Column("version_id", sa.Integer(), nullable=False),
        sa.Column("first_offset", sa.BigInteger(), nullable=False),
        sa.Column("end_offset", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("end_offset > first_offset", name=op.f("ck_scored_forward")),
        sa.ForeignKeyConstraint(["stream_id"], ["streams.id"], name=op.f("fk_scored_stream_id")),
        sa.ForeignKeyConstraint(["version_id"], ["versions.id"], name=op.f("fk_scored_version_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_scored")),
        sa.UniqueConstraint(
            "stream_id",
            "partition",
            "first_offset",
            name=op.f("uq_scored_stream_id_partition_first_offset"),
        ),
    )
    create_triggers(op.get_bind())


def downgrade():
    drop_triggers(op.get_bind())
    op.drop_table("scored")
    with op.batch_alter_table("promotions", schema=None) as batch_op:
        batch_op.drop_index(
            "uq_promotions_one_live",
            postgresql_where=sa.text("live_until IS NULL"),
            sqlite_where=sa.text("live_until IS NULL"),
        )
        batch_op.drop_index("ix_promotions_stream_id_live_from")

    op.drop_table("promotions")
    op.drop_table("metrics")
    op.drop_table("evaluations")
    with op.batch_alter_table("versions", schema=None) as batch_op:
        batch_op.drop_index(
            "uq_versions_one_champion",
            postgresql_where=sa.text("status = 'champion'"),
            sqlite_where=sa.text("status = 'champion'"),
        )
        batch_op.drop_index("ix_versions_request_id")

    op.drop_table("versions")
    with op.batch_alter_table("requests", schema=None) as batch_op:
        batch_op.drop_index(
            "uq_requests_one_claim",
            postgresql_where=sa.text("status = 'claimed'"),
            sqlite_where=sa.text("status = 'claimed'"),
        )
        batch_op.drop_index(
            "uq_requests_once_a_segment",
            postgresql_where=sa.text("partition IS NOT NULL"),
            sqlite_where=sa.text("partition IS NOT NULL"),
        )
        batch_op.drop_index(
            "uq_requests_once_a_due_time",
            postgresql_where=sa.text("due IS NOT NULL"),
            sqlite_where=sa.text("due IS NOT NULL"),
        )
        batch_op.drop_index("ix_requests_task_id_id")
        batch_op.drop_index("ix_requests_status_id")

    op.drop_table("requests")
    with op.batch_alter_table("segments", schema=None) as batch_op:
        batch_op.drop_index("ix_segments_task_id")

    op.drop_table("segments")
    op.drop_table("task_prints")
    op.drop_table("tasks")
    op.drop_table("sensor_events")
    op.drop_table("ledger")
    op.drop_table("checkpoints")
    op.drop_table("boundaries")
    op.drop_table("streams")
    op.drop_table("leases")
    op.drop_table("artifacts")
