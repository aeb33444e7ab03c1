"""Settings of the ready-made table, from the environment and `.env`."""

from __future__ import annotations

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from sealchemy import KeyRing, Rollout

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
