"""Alembic environment of the ready-made table."""

from __future__ import annotations

import logging

from alembic import context
from alembic.util import CommandError
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.pool import NullPool

from sealchemy import SealchemyError, attach_key_ring
from sealchemy._databases.async_drivers import is_async, make_engine
from sealchemy._databases.async_drivers import run as run_in_a_loop
from sealchemy.integrations.models import Base
from sealchemy.integrations.settings import IntegrationSettings


def run_offline(settings: IntegrationSettings) -> None:
    """Print the SQL; the revisions that encrypt refuse to."""
    context.configure(url=settings.database_url, target_metadata=Base.metadata, literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()


def run_online(settings: IntegrationSettings) -> None:
    """Run the revisions on an engine that has the keys."""
    engine = make_engine(settings.database_url, poolclass=NullPool)
    attach_key_ring(engine, settings.key_ring(), rollout=settings.integration_token_encryption_rollout)
    with engine.connect() as connection:
        context.configure(
            connection=connection,
            target_metadata=Base.metadata,
            autogenerate_plugins=["alembic.autogenerate.*", "sealchemy"],
            transaction_per_migration=True,
        )
        with context.begin_transaction():
            context.run_migrations()


def run() -> None:
    """Run in the requested mode; on the command line, an error that the user can fix is one line."""
    from_command_line = hasattr(context.config.cmd_opts, "cmd")
    if from_command_line:
        logging.basicConfig(level=logging.INFO, format="%(levelname)s [%(name)s] %(message)s")
    settings = context.config.attributes.get("settings") or IntegrationSettings()
    try:
        if context.is_offline_mode():
            run_offline(settings)
        elif is_async(settings.url()):
            run_in_a_loop(lambda: run_online(settings))
        else:
            run_online(settings)
    except (SealchemyError, DBAPIError, ArgumentError) as error:
        if not from_command_line:
            raise
        raise CommandError(str(error)) from None


run()
