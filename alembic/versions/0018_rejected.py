"""When a version was refused, by the gate or by a person, whatever became of it then."""

import sqlalchemy as sa

from alembic import op

revision = "0018"
down_revision = "0015"
branch_labels = None
depends_on = None

INDEX = "ix_versions_stream_id_rejected_number"
#: What an entry of the ledger says: a version's id or number, and what it was.
SAYS = {
    "sqlite": "json_extract(l.entry, '$.{name}')",
    "postgresql": "(l.entry::json ->> '{name}')",
}


def upgrade():
    op.add_column("versions", sa.Column("rejected", sa.BigInteger(), nullable=True))
    says = SAYS[op.get_bind().dialect.name]
    version, number, status = (says.format(name=n) for n in ("version", "number", "status"))
    op.execute("UPDATE versions SET rejected = created WHERE status = 'rejected'")
    op.execute(
        "UPDATE versions SET rejected = created WHERE rejected IS NULL AND EXISTS (SELECT 1 "
        "FROM ledger l WHERE l.stream_id = versions.stream_id AND l.kind = 'version' "
        f"AND l.at = versions.created AND CAST({number} AS INTEGER) = versions.number "
        f"AND {status} = 'rejected')"
    )
    op.execute(
        "UPDATE versions SET rejected = (SELECT MAX(l.at) FROM ledger l "
        "WHERE l.stream_id = versions.stream_id AND l.kind = 'refused' "
        f"AND CAST({version} AS INTEGER) = versions.id) WHERE rejected IS NULL AND EXISTS "
        "(SELECT 1 FROM judgements j WHERE j.version_id = versions.id AND j.outside <> '[]')"
    )
    op.create_index(INDEX, "versions", ["stream_id", "rejected", "number"])


def downgrade():
    op.drop_index(INDEX, "versions")
    op.drop_column("versions", "rejected")
