"""Versions that were rolled back, and the scores that the gate saw."""

import sqlalchemy as sa

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

STATES = ("candidate", "champion", "retired", "rejected")


def upgrade():
    _allow(11, *STATES, "rolled_back")
    op.add_column("evaluations", sa.Column("score_mean", sa.Float(), nullable=True))
    op.add_column("evaluations", sa.Column("score_spread", sa.Float(), nullable=True))


def downgrade():
    op.drop_column("evaluations", "score_spread")
    op.drop_column("evaluations", "score_mean")
    op.execute("UPDATE versions SET status = 'retired' WHERE status = 'rolled_back'")
    _allow(9, *STATES)


def _allow(length, *states):
    known = op.f("ck_versions_known_status")
    with op.batch_alter_table("versions") as versions:
        versions.drop_constraint(known, type_="check")
        versions.alter_column("status", type_=sa.String(length), existing_nullable=False)
        versions.create_check_constraint(known, f"status IN ({', '.join(map(repr, states))})")
