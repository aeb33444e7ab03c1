"""Make the database refuse tokens and details that are not bound to their row.

Revision ID: 0006
Revises: 0005
"""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

CONTEXTS = {
    "access_token": "integrations.access_token",
    "refresh_token": "integrations.refresh_token",
    "details": "integrations.details",
}


def upgrade() -> None:
    op.require_encryption("integrations", CONTEXTS, bound=True)


def downgrade() -> None:
    op.allow_unbound("integrations", CONTEXTS)
