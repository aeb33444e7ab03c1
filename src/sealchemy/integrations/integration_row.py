"""`IntegrationRow`: what each short transaction does to the row of a user and a provider."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any, NoReturn

from sqlalchemy import Column, Engine, MetaData, Table, Text, delete, false, inspect, select, update
from sqlalchemy.orm import Session

from sealchemy import (
    IntegrationError,
    IntegrationNotFoundError,
    ReauthorizationRequiredError,
    SealchemyError,
)
from sealchemy._values.secret import hide

from .details import merged_details
from .failures import REJECTED, Failures, Outcome
from .identity import label, require_identity
from .models import IntegrationMixin, utc_now
from .snapshot import Claim, Seen, Snapshot
from .token_grant import TokenGrant, fitting

logger = logging.getLogger("sealchemy")

_PLAIN: dict[str, Any] = {"execution_options": {"synchronize_session": False}}
_NO_LEASE = {"refresh_lease": None, "refresh_lease_until": None}


class IntegrationRow:
    """The row of a user, a provider and an account; each method is the work of one transaction.

    Its tokens are bound to these three. One that is not authentic is a `SealchemyError`, and nothing else happens.
    """

    def __init__(self, model: type[IntegrationMixin], user_id: Any, provider: str, account: str) -> None:
        require_identity(model, user_id, provider, account)
        self.model, self.user_id, self.provider, self.account = model, user_id, provider, account

    def label(self, number: object) -> str:
        """Return what errors and the log call the row."""
        return label(number, self.provider)

    def look(self, session: Session) -> Snapshot:
        """Read the row, locking nothing."""
        m = self.model
        tokens = (m.access_token, m.has_refresh_token, m.expires_at, m.refreshed_at)
        state = (m.reauthorization_required, m.last_error, m.next_attempt_at, m.refresh_lease, m.refresh_lease_until)
        row = self._read(session, self._find(m.id, *tokens, *state, utc_now()))
        if row is None:
            self._refuse_unknown()
        return Snapshot(*row)

    def number(self, session: Session) -> Any:
        """Return the id of the row, whose tokens are not read."""
        found = session.scalar(self._find(self.model.id))
        return self._refuse_unknown() if found is None else found

    def _refuse_unknown(self) -> NoReturn:
        account = f", account {self.account!r}" if self.account else ""
        raise IntegrationNotFoundError(
            f"user {self.user_id!r} has no integration with {self.provider!r}{account}; connect it first"
        )

    def claim(self, session: Session, lease: str, seconds: float, to_replace: Seen | None = None) -> Claim | None:
        """Take the lease; None if another caller has it, or if there is nothing left to do.

        There is nothing left to do if the token is not the one `to_replace`, or the provider is not to be asked now.
        """
        row = self._lock(session, skip_locked=True)
        if row is None:
            return None
        seen = (row.access_token, row.expires_at)
        if to_replace is not None:
            waits = row.next_attempt_at is not None and row.next_attempt_at > row.now
            if row.reauthorization_required or waits or seen != to_replace:
                return None
        if row.refresh_lease not in (None, lease) and row.refresh_lease_until > row.now:
            return None
        if row.refresh_lease not in (None, lease):
            logger.warning("%s: taking over a refresh that did not end", self.label(row.id))
        until = row.now + timedelta(seconds=seconds)
        self._update(session, row.id, refresh_lease=lease, refresh_lease_until=until)
        is_expired = row.expires_at is not None and row.expires_at <= row.now
        return Claim(row.id, row.access_token, row.refresh_token, is_expired)

    def store(self, session: Session, lease: str, claim: Claim, grant: TokenGrant) -> bool:
        """Store a grant if the row still has the tokens of the claim; return whether it had.

        If the user has connected again and got no refresh token, only the new refresh token is stored.
        """
        row = self._lock(session)
        if row is None or row.refresh_token != claim.refresh_token:
            self.release(session, lease)
            return False
        if row.access_token != claim.access_token:
            rotated = {} if grant.refresh_token is None else {"refresh_token": grant.refresh_token}
            self._update(session, row.id, **rotated, **_freed(row, lease))
            return False
        values = {**fitting(self.model, grant.columns(row.now)), **WORKS, "refreshed_at": row.now}
        if row.reauthorization_required:  # another caller sent the same refresh token, and was refused
            values |= {"refresh_token": grant.refresh_token, "reauthorization_required": False}
        self._update(session, row.id, **values, **_freed(row, lease), updated_at=row.now)
        return True

    def keep_details(self, session: Session, grant: TokenGrant) -> None:
        """Add what a grant says besides its tokens to the row that has these."""
        row = self._lock(session)
        if row is None or row.access_token != grant.access_token:
            return
        if details := merged_details(session, self.model, self._find, grant.details):
            self._update(session, row.id, **details)

    def fail(
        self,
        session: Session,
        lease: str,
        claim: Claim,
        code: str,
        *,
        retry_after: float | None = None,
        is_dead: bool = False,
    ) -> Outcome:
        """Record a failure, if the row still has the tokens of the claim."""
        row = self._lock(session)
        if row is None or row.refresh_token != claim.refresh_token:
            self.release(session, lease)
            return Outcome()
        if row.access_token != claim.access_token:  # as in `store`
            self._update(session, row.id, **({"refresh_token": None} if is_dead else {}), **_freed(row, lease))
            return Outcome()
        before = Failures(*(getattr(row, name) for name in Failures._fields))
        after = before.and_then(code, row.now, retry_after)
        values = {**after._asdict(), **_freed(row, lease)}
        if must_connect := is_dead or after.shows_a_dead_grant:
            values |= {"reauthorization_required": True, "updated_at": row.now}
        self._update(session, row.id, **values)
        return Outcome(must_connect, is_new=must_connect and not row.reauthorization_required)

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

    def stored(self, session: Session) -> tuple[Any, ...]:
        """Return the id and the tokens as they are stored, which need not be readable."""
        mapper = inspect(self.model)
        key, *tokens = (mapper.columns[name] for name in ("id", "access_token", "refresh_token"))
        whole: Any = mapper.local_table
        columns = [Column(key.name, key.type), *(Column(item.name, Text) for item in tokens)]
        plain = Table(whole.name, MetaData(), *columns, schema=whole.schema)
        query = select(*plain.c).where(plain.c[key.name] == self.number(session))
        found = session.execute(query, bind_arguments={"mapper": mapper}).one_or_none()
        if found is None:
            self._refuse_unknown()
        return found[0], *map(hide, found[1:])

    def forget(self, session: Session, stored: tuple[Any, ...]) -> bool:
        """Delete the row if it is still as it was stored; return whether it was."""
        _begin(session, self.model)
        if session.scalar(self._find(self.model.id).with_for_update()) is None or self.stored(session) != stored:
            return False
        session.execute(delete(self.model).where(self.model.id == stored[0]), **_PLAIN)
        return True

    def refuse(self, snapshot: Snapshot) -> NoReturn:
        """Raise the error that tells the user to connect again."""
        code = snapshot.last_error
        reason = f"the provider refuses its grant ({code or 'revoked'})"
        if not snapshot.is_renewable:
            what = "the provider rejected its access token" if code == REJECTED else "its access token has expired"
            reason = f"it has no refresh token, and {what}"
        raise ReauthorizationRequiredError(
            f"{self.label(snapshot.id)}: {reason}; user {self.user_id!r} must connect again", code=code
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
            *(getattr(m, name) for name in Failures._fields),
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
            logger.error("%s: nothing is sent: %s", self.label(found), error)  # noqa: TRY400 - raised
            raise

    def _update(self, session: Session, number: Any, **values: Any) -> None:
        # Taking a lease does not change the integration, so it leaves `updated_at` as it is.
        changed = {"updated_at": self.model.updated_at, **values}
        session.execute(self._where(update(self.model).values(changed)).where(self.model.id == number), **_PLAIN)

    def _find(self, *columns: Any) -> Any:
        return self._where(select(*columns))

    def _where(self, statement: Any) -> Any:
        m = self.model
        return statement.where(m.user_id == self.user_id, m.provider == self.provider, m.account == self.account)


WORKS: dict[str, Any] = Failures()._asdict()
"""The columns of an integration whose provider issues tokens."""


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
