"""Encrypt integration tokens in place.

Revision ID: 0002
Revises: 0001
"""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

CONTEXTS = {
    "access_token": "integrations.access_token",
    "refresh_token": "integrations.refresh_token",
}


def upgrade() -> None:
    op.encrypt_columns("integrations", CONTEXTS)


def downgrade() -> None:
    op.decrypt_columns("integrations", CONTEXTS)
