"""Make the database refuse plaintext tokens.

Revision ID: 0003
Revises: 0002
"""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

CONTEXTS = {
    "access_token": "integrations.access_token",
    "refresh_token": "integrations.refresh_token",
}


def upgrade() -> None:
    op.require_encryption("integrations", CONTEXTS)


def downgrade() -> None:
    op.allow_plaintext("integrations", CONTEXTS)
