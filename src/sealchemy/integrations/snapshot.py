"""What the steps of a refresh know of a row: as anybody may read it, and as the holder of its lease has it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeAlias

from sealchemy import SecretString

Seen: TypeAlias = tuple[SecretString | None, datetime | None]

_SHARE_OF_A_LIFE = 0.5
"""How much of the life of a refreshed token a leeway may take; a longer one would refresh it at every call."""


@dataclass(frozen=True)
class Snapshot:
    """The row as it is read before anything is locked, without its refresh token.

    `is_renewable` is whether there is something to get another access token with.
    """

    id: Any
    access_token: SecretString | None
    is_renewable: bool
    expires_at: datetime | None
    refreshed_at: datetime | None
    reauthorization_required: bool
    last_error: str | None
    next_attempt_at: datetime | None
    lease: str | None
    lease_until: datetime | None
    now: datetime

    @property
    def seen(self) -> Seen:
        """The values that a refresh changes."""
        return (self.access_token, self.expires_at)

    def token(self, leeway: float, rejected: str | None) -> SecretString | None:
        """Return the access token if it is valid for so many seconds, and not the one that the provider rejected."""
        if not self.access_token or self.access_token == rejected:
            return None
        if self.expires_at is None:
            return self.access_token
        ahead = timedelta(seconds=leeway if self.is_renewable else 0)
        if self.refreshed_at is not None:
            ahead = min(ahead, (self.expires_at - self.refreshed_at) * _SHARE_OF_A_LIFE)
        return self.access_token if self.expires_at > self.now + ahead else None

    def is_leased(self) -> bool:
        """Return whether a refresh is under way."""
        return self.lease is not None and self.lease_until is not None and self.lease_until > self.now

    def seconds_to_wait(self) -> float:
        """Return the seconds until the provider may be asked again."""
        return (self.next_attempt_at - self.now).total_seconds() if self.next_attempt_at else 0.0


@dataclass(frozen=True)
class Claim:
    """The tokens that the holder of the lease works with."""

    id: Any
    access_token: SecretString | None
    refresh_token: SecretString | None
    is_expired: bool
