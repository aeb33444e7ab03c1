"""`IntegrationRow`: what each short transaction does to the row of a user and a provider."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NoReturn, TypeAlias

from sqlalchemy import Engine, delete, false, select, update
from sqlalchemy.orm import Session

from sealchemy import (
    IntegrationError,
    IntegrationNotFoundError,
    ReauthorizationRequiredError,
    SealchemyError,
    SecretString,
)

from .models import IntegrationMixin, utc_now
from .token_grant import TokenGrant

logger = logging.getLogger("sealchemy")

_PLAIN: dict[str, Any] = {"execution_options": {"synchronize_session": False}}
_NO_LEASE = {"refresh_lease": None, "refresh_lease_until": None}

Seen: TypeAlias = tuple[SecretString | None, datetime | None]


@dataclass(frozen=True)
class Snapshot:
    """The row as it is read before anything is locked; it has no refresh token."""

    id: int
    access_token: SecretString | None
    has_refresh_token: bool
    expires_at: datetime | None
    reauthorization_required: bool
    lease: str | None
    now: datetime

    @property
    def seen(self) -> Seen:
        """The values that a refresh changes."""
        return (self.access_token, self.expires_at)


@dataclass(frozen=True)
class Claim:
    """The tokens that the holder of the lease works with."""

    id: int
    access_token: SecretString | None
    refresh_token: SecretString | None


class IntegrationRow:
    """The row of a user, a provider and an account; each method is the work of one transaction.

    Its tokens are bound to these three. One that is not authentic is a `SealchemyError`, and nothing else happens.
    """

    def __init__(self, model: type[IntegrationMixin], user_id: str, provider: str, account: str) -> None:
        require_identity(user_id, provider, account)
        self.model, self.user_id, self.provider, self.account = model, user_id, provider, account

    def look(self, session: Session) -> Snapshot:
        """Read the row, locking nothing."""
        m = self.model
        columns = (m.access_token, m.has_refresh_token, m.expires_at, m.reauthorization_required, m.refresh_lease)
        row = self._read(session, self._find(m.id, *columns, utc_now()))
        if row is None:
            account = f", account {self.account!r}" if self.account else ""
            raise IntegrationNotFoundError(
                f"user {self.user_id!r} has no integration with {self.provider!r}{account}; connect it first"
            )
        return Snapshot(*row)

    def claim(self, session: Session, lease: str, seconds: float, to_replace: Seen | None = None) -> Claim | None:
        """Take the lease; None if another caller has it, or if there is nothing left to do.

        There is nothing left to do if the token is not the one `to_replace`, or the provider has revoked the grant.
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
        """Store a grant if the row still has the refresh token that was sent for it; return whether it had."""
        row = self._lock(session)
        if row is None or row.refresh_token != sent:
            self.release(session, lease)
            return False
        self._update(session, row.id, **values_of(grant, row.now), **_freed(row, lease), updated_at=utc_now())
        return True

    def give_up(self, session: Session, lease: str, sent: SecretString | None) -> None:
        """Record that the user must connect again, if the row still has the refresh token that was refused."""
        row = self._lock(session)
        if row is not None and row.refresh_token == sent:
            self._update(session, row.id, reauthorization_required=True, **_freed(row, lease), updated_at=utc_now())
        else:
            self.release(session, lease)

    def release(self, session: Session, lease: str) -> None:
        """Give up the lease, if it is still this one."""
        m = self.model
        freed = {**_NO_LEASE, "updated_at": m.updated_at}
        session.execute(self._where(update(m).values(freed)).where(m.refresh_lease == lease), **_PLAIN)

    def remove(self, session: Session, lease: str, claim: Claim) -> bool:
        """Delete the row if it still has the tokens that were revoked; return whether it is gone."""
        row = self._lock(session)
        if row is None:
            return True
        if (row.access_token, row.refresh_token) != (claim.access_token, claim.refresh_token):
            self.release(session, lease)
            return False
        session.execute(delete(self.model).where(self.model.id == row.id), **_PLAIN)
        return True

    def refuse(self, snapshot: Snapshot) -> NoReturn:
        """Raise the error that tells the user to connect again."""
        reason = "the provider has revoked its grant" if snapshot.has_refresh_token else "it has no refresh token"
        raise ReauthorizationRequiredError(
            f"integration {snapshot.id} ({self.provider}): {reason}; user {self.user_id!r} must connect again"
        )

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
        return self._read(session, query.with_for_update(key_share=True, skip_locked=skip_locked))

    def _read(self, session: Session, query: Any) -> Any:
        """Return the row; one whose tokens are not authentic is logged by its id."""
        try:
            return session.execute(query).one_or_none()
        except SealchemyError as error:
            found = session.scalar(self._find(self.model.id))
            logger.error("integration %s (%s): nothing is sent: %s", found, self.provider, error)  # noqa: TRY400 - raised
            raise

    def _update(self, session: Session, number: int, **values: Any) -> None:
        # Taking a lease does not change the integration, so it leaves `updated_at` as it is.
        changed = {"updated_at": self.model.updated_at, **values}
        session.execute(self._where(update(self.model).values(changed)).where(self.model.id == number), **_PLAIN)

    def _find(self, *columns: Any) -> Any:
        return self._where(select(*columns))

    def _where(self, statement: Any) -> Any:
        m = self.model
        return statement.where(m.user_id == self.user_id, m.provider == self.provider, m.account == self.account)


def _freed(row: Any, lease: str) -> dict[str, Any]:
    """Return the columns that give up the lease of a locked row, if it is still this one."""
    return _NO_LEASE if row.refresh_lease == lease else {}


def _begin(session: Session, model: type[IntegrationMixin]) -> None:
    """Begin a transaction, whatever the engine's isolation level is, in which rows that were read stay as they are."""
    bind = session.get_bind(model)
    if "READ COMMITTED" in bind.dialect.get_isolation_level_values(None):  # type: ignore[arg-type] # needs none
        if isinstance(bind, Engine):
            session.connection({"bind": bind}, {"isolation_level": "READ COMMITTED"})
        return
    session.execute(update(model).where(false()).values(refresh_lease=None), **_PLAIN)  # takes the write lock
    if not getattr(session.connection({"bind": bind}).connection.driver_connection, "in_transaction", True):
        raise IntegrationError("this engine is in AUTOCOMMIT, where tokens can be lost; use sessions of another engine")


def require_identity(user_id: object, provider: object, account: object) -> None:
    """Refuse arguments that would select any row but one.

    Raises:
        IntegrationError: `provider` or `account` is not text, or `user_id` not a value.
    """
    if not isinstance(provider, str) or user_id is None or hasattr(user_id, "__clause_element__"):
        raise IntegrationError(
            f"user_id is {type(user_id).__name__} and provider {type(provider).__name__}; pass two values"
        )
    if not isinstance(account, str):
        raise IntegrationError(f'account is {type(account).__name__}; pass text, "" for the only account')


def values_of(grant: TokenGrant, now: datetime) -> dict[str, Any]:
    """Return the columns that a grant fills; those that it does not mention stay as they are."""
    expires_at = grant.expires_at
    if grant.expires_in is not None:
        expires_at = now + timedelta(seconds=grant.expires_in)
    optional = {"refresh_token": grant.refresh_token, "scope": grant.scope}
    return {
        "access_token": grant.access_token,
        "token_type": grant.token_type,
        "expires_at": expires_at,
        **{name: value for name, value in optional.items() if value is not None},
    }
