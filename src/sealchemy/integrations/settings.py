"""Settings of the ready-made table, from the environment and `.env`."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict
from sqlalchemy import URL, Engine, MetaData, create_engine, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from sealchemy import IntegrationError, KeyRing, Rollout, RolloutError, attach_key_ring
from sealchemy.status import check_encryption

from .models import Base

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine  # needs greenlet, which not every application has

PREFIX = "INTEGRATION_TOKEN_ENCRYPTION"

_ASYNC_DRIVERS = {"sqlite": "sqlite+aiosqlite"}


class IntegrationSettings(BaseSettings):
    """`DATABASE_URL`, and the keys and rollout stage under `INTEGRATION_TOKEN_ENCRYPTION_...`.

    Environment variables take precedence over `.env` in the working directory. Printing the settings shows neither
    keys nor the database's password.
    """

    model_config = SettingsConfigDict(env_file=".env", env_ignore_empty=True, extra="ignore")

    database_url: str = Field(default="sqlite:///integrations.db", repr=False)
    integration_token_encryption_key: SecretStr = SecretStr("")
    integration_token_encryption_key_file: SecretStr = SecretStr("")
    integration_token_encryption_previous_keys: SecretStr = SecretStr("")
    integration_token_encryption_previous_keys_file: SecretStr = SecretStr("")
    integration_token_encryption_size_limit: SecretStr = SecretStr("")
    integration_token_encryption_rollout: Rollout = Rollout.STRICT

    def __init__(self, **values: Any) -> None:
        """Read the environment and `.env`; arguments take precedence over both.

        Raises:
            RolloutError: the rollout stage, or another variable, has an invalid value.
        """
        problem = None
        try:
            super().__init__(**values)
        except ValidationError as error:  # its frames hold the key
            found = error.errors(include_url=False, include_context=False, include_input=False)
            problem = "; ".join(f"{'.'.join(map(str, item['loc'])).upper()}: {item['msg']}" for item in found)
        if problem is not None:
            values = {}  # error trackers print the variables of a frame
            raise RolloutError(problem)

    def __reduce__(self) -> Any:
        """Leave the keys out of a pickle: whoever loads it reads those of its own environment."""
        values = {name: value for name, value in self if not isinstance(value, SecretStr)}
        return partial(type(self), **values), ()

    def url(self) -> URL:
        """Return the URL of the database; raises `IntegrationError` if it is malformed."""
        try:
            url = make_url(self.database_url)
            url.get_dialect()
        except (ArgumentError, NoSuchModuleError, ValueError):  # they print it, with its password
            pass
        else:
            return url
        raise IntegrationError(
            "DATABASE_URL is not a URL that SQLAlchemy knows; write sqlite:///file.db or"
            " postgresql+psycopg://user:password@host/database"
        )

    def key_ring(self) -> KeyRing:
        """Return the key ring, or raise as `KeyRing.from_env` does."""
        values = {
            f"{PREFIX}_KEY": self.integration_token_encryption_key,
            f"{PREFIX}_KEY_FILE": self.integration_token_encryption_key_file,
            f"{PREFIX}_PREVIOUS_KEYS": self.integration_token_encryption_previous_keys,
            f"{PREFIX}_PREVIOUS_KEYS_FILE": self.integration_token_encryption_previous_keys_file,
            f"{PREFIX}_SIZE_LIMIT": self.integration_token_encryption_size_limit,
        }
        return KeyRing.from_env(PREFIX, {name: value.get_secret_value() for name, value in values.items()})


def create_protected_engine(
    settings: IntegrationSettings, *, metadata: MetaData = Base.metadata, **options: Any
) -> Engine:
    """Return an engine with the key ring attached, after checking that every value can be read.

    Call it where the application starts, and let its errors end the process. For the check, the database reads the
    tables once.

    Args:
        settings: usually `IntegrationSettings()`.
        metadata: of the models, if they are not the ready-made table.
        options: of `create_engine`.

    Raises:
        MissingKeyError, KeyFormatError: there is no valid key.
        UnknownKeyError, PlaintextFoundError, EnvelopeFormatError: the tables have values that could not be read.
        ColumnDefinitionError: a table does not exist; run `alembic upgrade head`.
        IntegrationError: `DATABASE_URL` is not a valid URL.
    """
    key_ring, url = settings.key_ring(), settings.url()
    engine = create_engine(url, **{"hide_parameters": True, **options})
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
    from sqlalchemy.ext.asyncio import create_async_engine  # noqa: PLC0415 - needs greenlet

    key_ring, url = await asyncio.to_thread(settings.key_ring), settings.url()  # a KMS may be slow
    url = url.set(drivername=_ASYNC_DRIVERS.get(url.drivername, url.drivername))
    engine = create_async_engine(url, **{"hide_parameters": True, **options})
    attach_key_ring(engine, key_ring, rollout=settings.integration_token_encryption_rollout)
    try:
        async with engine.connect() as connection:
            await connection.run_sync(check_encryption, metadata)
    except BaseException:
        await engine.dispose()
        raise
    return engine
