"""The view audit_metrics tells what the clock had measured again; env.py makes all views anew."""

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade():
    pass


def downgrade():
    pass
