"""Settings of the ready-made table, from the environment and `.env`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict
from sqlalchemy import MetaData, create_engine, make_url

from sealchemy import KeyRing, Rollout, attach_key_ring
from sealchemy.status import check_encryption

from .models import Base

if TYPE_CHECKING:
    from sqlalchemy import Engine
    from sqlalchemy.ext.asyncio import AsyncEngine

PREFIX = "INTEGRATION_TOKEN_ENCRYPTION"


class IntegrationSettings(BaseSettings):
    """`DATABASE_URL`, and the keys and rollout stage under `INTEGRATION_TOKEN_ENCRYPTION_...`.

    A variable of the environment goes before the line of `.env` in the working directory. Printing the
    settings shows neither keys nor the database's password.
    """

    model_config = SettingsConfigDict(env_file=".env", env_ignore_empty=True, extra="ignore")

    database_url: str = Field(default="sqlite:///integrations.db", repr=False)
    integration_token_encryption_key: SecretStr = SecretStr("")
    integration_token_encryption_key_file: SecretStr = SecretStr("")
    integration_token_encryption_previous_keys: SecretStr = SecretStr("")
    integration_token_encryption_previous_keys_file: SecretStr = SecretStr("")
    integration_token_encryption_rollout: Rollout = Rollout.STRICT

    def key_ring(self) -> KeyRing:
        """Return the key ring, or raise as `KeyRing.from_env` does."""
        values = {
            f"{PREFIX}_KEY": self.integration_token_encryption_key,
            f"{PREFIX}_KEY_FILE": self.integration_token_encryption_key_file,
            f"{PREFIX}_PREVIOUS_KEYS": self.integration_token_encryption_previous_keys,
            f"{PREFIX}_PREVIOUS_KEYS_FILE": self.integration_token_encryption_previous_keys_file,
        }
        return KeyRing.from_env(PREFIX, {name: value.get_secret_value() for name, value in values.items()})


def create_protected_engine(
    settings: IntegrationSettings, *, metadata: MetaData = Base.metadata, **options: Any
) -> Engine:
    """Return an engine with the key ring attached, having checked that all that is stored can be read.

    Call it where the application starts, and let what it raises end the process. The check has the database read the
    tables once.

    Args:
        settings: usually `IntegrationSettings()`.
        metadata: of the models, if they are not the ready-made table.
        options: of `create_engine`.

    Raises:
        MissingKeyError, KeyFormatError: there is no key, or a bad one.
        UnknownKeyError, PlaintextFoundError, EnvelopeFormatError: values are stored that could not be read.
        ColumnDefinitionError: a table does not exist: run `alembic upgrade head`.

    """
    key_ring = settings.key_ring()
    engine = create_engine(settings.database_url, **{"hide_parameters": True, **options})
    attach_key_ring(engine, key_ring, rollout=settings.integration_token_encryption_rollout)
    try:
        check_encryption(engine, metadata)
    except BaseException:
        engine.dispose()
        raise
    return engine


async def create_protected_engine_async(
    settings: IntegrationSettings, *, metadata: MetaData = Base.metadata, **options: Any
) -> AsyncEngine:
    """Do what `create_protected_engine` does, for an `AsyncEngine`; `sqlite://` means aiosqlite here."""
    from sqlalchemy.ext.asyncio import create_async_engine  # noqa: PLC0415 - needs greenlet, which not all have

    key_ring, url = settings.key_ring(), make_url(settings.database_url)
    if url.drivername == "sqlite":
        url = url.set(drivername="sqlite+aiosqlite")
    engine = create_async_engine(url, **{"hide_parameters": True, **options})
    attach_key_ring(engine, key_ring, rollout=settings.integration_token_encryption_rollout)
    try:
        async with engine.connect() as connection:
            await connection.run_sync(check_encryption, metadata)
    except BaseException:
        await engine.dispose()
        raise
    return engine
