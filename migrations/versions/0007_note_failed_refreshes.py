"""Add the columns for failed refreshes to a database whose 0004 was run before it added them.

Revision ID: 0007
Revises: 0006
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

TABLE = "integrations"


def upgrade() -> None:
    found = {item["name"] for item in sa.inspect(op.get_bind()).get_columns(TABLE)}
    columns: list[sa.Column[object]] = [
        sa.Column("refreshed_at", sa.DateTime(timezone=True)),
        sa.Column("failing_since", sa.DateTime(timezone=True)),
        sa.Column("failures", sa.Integer, server_default="0", nullable=False),
        sa.Column("last_error", sa.String(64)),
        sa.Column("next_attempt_at", sa.DateTime(timezone=True)),
    ]
    for column in columns:
        if column.name not in found:
            op.add_column(TABLE, column)


def downgrade() -> None:
    """Leave the columns to the downgrade of 0004."""
