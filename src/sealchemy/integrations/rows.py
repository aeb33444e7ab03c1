"""What each short transaction does to the row of a user and a provider."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

from sqlalchemy import Engine, delete, false, select, update

from sealchemy import IntegrationError, IntegrationNotFoundError, ReauthorizationRequiredError, SecretString

from .models import IntegrationMixin, utc_now

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from .grants import TokenGrant

logger = logging.getLogger("sealchemy")

_PLAIN: dict[str, Any] = {"execution_options": {"synchronize_session": False}}


Seen: TypeAlias = tuple[SecretString | None, datetime | None]


@dataclass(frozen=True)
class Row:
    """What is looked at before anything is locked; it has no refresh token."""

    id: int
    access_token: SecretString | None
    has_refresh_token: bool
    expires_at: datetime | None
    reauthorization_required: bool
    lease: str | None
    now: datetime

    @property
    def seen(self) -> Seen:
        """What a refresh changes."""
        return (self.access_token, self.expires_at)


@dataclass(frozen=True)
class Claim:
    """What whoever holds the lease needs."""

    id: int
    access_token: SecretString | None
    refresh_token: SecretString | None


class Rows:
    """The row of a user and a provider: each method is what one transaction does to it."""

    def __init__(self, model: type[IntegrationMixin], user_id: str, provider: str) -> None:
        check_whose(user_id, provider)
        self.model, self.user_id, self.provider = model, user_id, provider

    def look(self, session: Session) -> Row:
        """Return what is there, locking nothing."""
        m = self.model
        columns = (m.access_token, m.has_refresh_token, m.expires_at, m.reauthorization_required, m.refresh_lease)
        row = session.execute(self._find(m.id, *columns, utc_now())).one_or_none()
        if row is None:
            message = f"there is no integration with {self.provider!r} for user {self.user_id!r}: connect it first"
            raise IntegrationNotFoundError(message)
        return Row(*row)

    def claim(self, session: Session, lease: str, seconds: float, to_replace: Seen | None = None) -> Claim | None:
        """Take the lease; None if somebody else has it, or if there is no need any more.

        There is none if the token is not the one `to_replace`, or the provider has ended the grant.
        """
        row = self._lock(session, skip_locked=True)
        if row is None:
            return None
        seen = (row.access_token, row.expires_at)
        if to_replace is not None and (row.reauthorization_required or seen != to_replace):
            return None
        if row.refresh_lease not in (None, lease) and row.refresh_lease_until > row.now:
            return None
        if row.refresh_lease not in (None, lease):
            logger.warning("integration %s (%s): taking over a refresh that did not end", row.id, self.provider)
        until = row.now + timedelta(seconds=seconds)
        self._update(session, row.id, refresh_lease=lease, refresh_lease_until=until)
        return Claim(row.id, row.access_token, row.refresh_token)

    def store(self, session: Session, lease: str, sent: SecretString, grant: TokenGrant) -> bool:
        """Store a grant if the refresh token is the one that it was got with; return whether it was."""
        row = self._lock(session)
        if row is None or row.refresh_token != sent:
            self.release(session, lease)
            return False
        self._update(session, row.id, **values_of(grant, row.now), updated_at=utc_now())
        self.release(session, lease)
        return True

    def give_up(self, session: Session, lease: str, sent: SecretString | None) -> None:
        """Note that the user must connect again, if the refresh token is the one that was refused."""
        row = self._lock(session)
        if row is not None and row.refresh_token == sent:
            self._update(session, row.id, reauthorization_required=True, updated_at=utc_now())
        self.release(session, lease)

    def release(self, session: Session, lease: str) -> None:
        """Give up the lease, if it is still this one."""
        m = self.model
        freed = {"refresh_lease": None, "refresh_lease_until": None, "updated_at": m.updated_at}
        session.execute(self._where(update(m).values(freed)).where(m.refresh_lease == lease), **_PLAIN)

    def remove(self, session: Session, lease: str, claim: Claim) -> bool:
        """Delete the row if its tokens are those that were revoked; return whether it is gone."""
        row = self._lock(session)
        if row is None:
            return True
        if (row.access_token, row.refresh_token) != (claim.access_token, claim.refresh_token):
            self.release(session, lease)
            return False
        session.execute(delete(self.model).where(self.model.id == row.id), **_PLAIN)
        return True

    def refuse(self, row: Row) -> NoReturn:
        """Say that the user must connect again."""
        reason = "the provider has ended its grant" if row.has_refresh_token else "it has no refresh token"
        message = f"integration {row.id} ({self.provider}): {reason}; user {self.user_id!r} must connect again"
        raise ReauthorizationRequiredError(message)

    def _lock(self, session: Session, *, skip_locked: bool = False) -> Any:
        m = self.model
        _begin(session, m)
        query = self._find(
            m.id,
            m.access_token,
            m.refresh_token,
            m.expires_at,
            m.reauthorization_required,
            m.refresh_lease,
            m.refresh_lease_until,
            utc_now().label("now"),
        )
        return session.execute(query.with_for_update(key_share=True, skip_locked=skip_locked)).one_or_none()

    def _update(self, session: Session, number: int, **values: Any) -> None:
        # A lease is no change of the integration, so it leaves `updated_at`.
        changed = {"updated_at": self.model.updated_at, **values}
        session.execute(update(self.model).where(self.model.id == number).values(changed), **_PLAIN)

    def _find(self, *columns: Any) -> Any:
        return self._where(select(*columns))

    def _where(self, statement: Any) -> Any:
        return statement.where(self.model.user_id == self.user_id, self.model.provider == self.provider)


def _begin(session: Session, model: type[IntegrationMixin]) -> None:
    """Have a transaction, whatever the engine's isolation level is, in which what is read stays so."""
    bind = session.get_bind(model)
    if bind.dialect.name != "sqlite":
        if isinstance(bind, Engine):
            session.connection({"bind": bind}, {"isolation_level": "READ COMMITTED"})
        return
    session.execute(update(model).where(false()).values(refresh_lease=None), **_PLAIN)  # takes the write lock
    if not getattr(session.connection({"bind": bind}).connection.driver_connection, "in_transaction", True):
        message = "this engine is in AUTOCOMMIT, where tokens can be lost: give sessions of another engine"
        raise IntegrationError(message)


def check_whose(user_id: object, provider: object) -> None:
    """Refuse what would select other rows than one.

    Raises:
        IntegrationError: `provider` is no text, or `user_id` no value.

    """
    if not isinstance(provider, str) or user_id is None or hasattr(user_id, "__clause_element__"):
        message = f"user_id is {type(user_id).__name__} and provider {type(provider).__name__}; give two values"
        raise IntegrationError(message)


def values_of(grant: TokenGrant, now: datetime) -> dict[str, Any]:
    """Return the columns that a grant fills; what it does not say stays as it is."""
    expires_at = grant.expires_at
    if grant.expires_in is not None:
        expires_at = now + timedelta(seconds=grant.expires_in)
    said = {"refresh_token": grant.refresh_token, "scope": grant.scope}
    return {
        "access_token": grant.access_token,
        "token_type": grant.token_type,
        "expires_at": expires_at,
        **{name: value for name, value in said.items() if value is not None},
    }
