"""What the audit's questions look things up by: artifacts by their hashes, and indexes."""

import sqlalchemy as sa

from alembic import op

revision = "0012"
down_revision = "0006"
branch_labels = None
depends_on = None

#: JSON of a request's inputs -> its hash of one role.
HASH = {
    "sqlite": "json_extract(inputs, '$.{role}')",
    "postgresql": "inputs::json ->> '{role}'",
}
INDEXES = {
    "requests": ["folded_into"],
    "request_inputs": ["sha256"],
    "versions": ["parent_id"],
    "promotions": ["version_id"],
    "ledger": ["stream_id", "kind", "at"],
}
REJECTED = ["stream_id", "status", "created", "number"]


def upgrade():
    op.create_table(
        "request_inputs",
        sa.Column("request_id", sa.Integer(), nullable=False),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("readings", sa.Integer(), nullable=True),
        sa.Column("first_offset", sa.BigInteger(), nullable=True),
        sa.Column("last_offset", sa.BigInteger(), nullable=True),
        sa.Column("until", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(
            ["request_id"], ["requests.id"], name=op.f("fk_request_inputs_request_id")
        ),
        sa.PrimaryKeyConstraint("request_id", "role", name=op.f("pk_request_inputs")),
    )
    hash_ = HASH[op.get_bind().dialect.name]
    for role in ("segment", "reservoir"):
        found = hash_.format(role=role)
        op.execute(
            "INSERT INTO request_inputs (request_id, role, sha256) "
            f"SELECT id, '{role}', {found} FROM requests WHERE {found} IS NOT NULL"
        )
    for table, columns in INDEXES.items():
        op.create_index(f"ix_{table}_{'_'.join(columns)}", table, columns)
    op.create_index("ix_versions_stream_id_status_created_number", "versions", REJECTED)


def downgrade():
    op.drop_index("ix_versions_stream_id_status_created_number", "versions")
    for table, columns in INDEXES.items():
        op.drop_index(f"ix_{table}_{'_'.join(columns)}", table)
    op.drop_table("request_inputs")
