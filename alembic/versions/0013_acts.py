"""What people do: acts, pauses, envelopes with what they let wait, and what was pruned."""

import sqlalchemy as sa

from alembic import op

revision = "0013"
down_revision = "0016"
branch_labels = None
depends_on = None

STATES = ("candidate", "champion", "retired", "rejected", "rolled_back")


def upgrade():
    _allow(*STATES, "waiting", "refused")
    op.add_column("streams", sa.Column("paused", sa.BigInteger(), nullable=True))
    op.add_column("streams", sa.Column("paused_by", sa.Text(), nullable=True))
    op.add_column("streams", sa.Column("paused_because", sa.Text(), nullable=True))
    op.add_column("artifacts", sa.Column("pruned", sa.BigInteger(), nullable=True))
    op.add_column("artifacts", sa.Column("pruned_by", sa.Text(), nullable=True))
    op.create_table(
        "acts",
        sa.Column("request_id", sa.String(length=100), nullable=False),
        sa.Column("stream_id", sa.Integer(), nullable=True),
        sa.Column("asked", sa.Text(), nullable=False),
        sa.Column("answer", sa.Text(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["stream_id"], ["streams.id"], name=op.f("fk_acts_stream_id")),
        sa.PrimaryKeyConstraint("request_id", name=op.f("pk_acts")),
    )
    op.create_table(
        "envelopes",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("stream_id", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("limits", sa.Text(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["stream_id"], ["streams.id"], name=op.f("fk_envelopes_stream_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_envelopes")),
        sa.UniqueConstraint("stream_id", "number", name=op.f("uq_envelopes_stream_id_number")),
    )
    op.create_table(
        "judgements",
        sa.Column("version_id", sa.Integer(), nullable=False),
        sa.Column("envelope_id", sa.Integer(), nullable=False),
        sa.Column("instead_of", sa.Integer(), nullable=True),
        sa.Column("outside", sa.Text(), nullable=False),
        sa.Column("judged", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["envelope_id"], ["envelopes.id"], name=op.f("fk_judgements_envelope_id")
        ),
        sa.ForeignKeyConstraint(
            ["instead_of"], ["versions.id"], name=op.f("fk_judgements_instead_of")
        ),
        sa.ForeignKeyConstraint(
            ["version_id"], ["versions.id"], name=op.f("fk_judgements_version_id")
        ),
        sa.PrimaryKeyConstraint("version_id", name=op.f("pk_judgements")),
    )


def downgrade():
    for table in ("judgements", "envelopes", "acts"):
        op.drop_table(table)
    for column in ("pruned_by", "pruned"):
        op.drop_column("artifacts", column)
    for column in ("paused_because", "paused_by", "paused"):
        op.drop_column("streams", column)
    op.execute("UPDATE versions SET status = 'rejected' WHERE status IN ('waiting', 'refused')")
    _allow(*STATES)


def _allow(*states):
    """Have a version be one of these; SQLite's tables are made anew under views that read them."""
    known, sqlite = op.f("ck_versions_known_status"), op.get_bind().dialect.name == "sqlite"
    if sqlite:
        op.execute("PRAGMA legacy_alter_table = ON")
    with op.batch_alter_table("versions") as versions:
        versions.drop_constraint(known, type_="check")
        versions.create_check_constraint(known, f"status IN ({', '.join(map(repr, states))})")
    if sqlite:
        op.execute("PRAGMA legacy_alter_table = OFF")
