"""Bind tokens and details to the user, the provider and the account of their row.

Revision ID: 0005
Revises: 0004
"""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

CONTEXTS = {
    "access_token": "integrations.access_token",
    "refresh_token": "integrations.refresh_token",
    "details": "integrations.details",
}
BIND_TO = ("user_id", "provider", "account")
KINDS = {"details": "json"}


def upgrade() -> None:
    op.bind_columns("integrations", CONTEXTS, kinds=KINDS, bind_to=BIND_TO)


def downgrade() -> None:
    op.unbind_columns("integrations", CONTEXTS, kinds=KINDS, bind_to=BIND_TO)
