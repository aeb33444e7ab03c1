"""The steps of a refresh, for callers with threads and with an event loop."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import Session

from sealchemy import (
    ReauthorizationRequiredError,
    RefreshFailedError,
    SealchemyError,
    SecretString,
)
from sealchemy.metrics import count_token_event

from . import audit
from .dead_grant import DeadGrant
from .failures import REJECTED, Outcome
from .integration_row import IntegrationRow
from .snapshot import Claim, Snapshot
from .sync_async import Runner, TimeLimitReachedError
from .token_grant import TokenGrant
from .waiting import Waiting, release

if TYPE_CHECKING:
    from .oauth import OAuthClient

logger = logging.getLogger("sealchemy")


class Refresh:
    """One caller who needs a token.

    Attributes:
        has_asked: whether the provider was asked.
        failure: the code with which it refused the last time, or None.
        retry_after: the seconds that it asked to wait, or None.
    """

    def __init__(
        self, runner: Runner, row: IntegrationRow, client: OAuthClient, leeway: float, rejected: str | None = None
    ) -> None:
        self._runner, self._row, self._client = runner, row, client
        self._leeway, self._rejected = leeway, rejected
        self._waiting = Waiting(client)
        self._number: object = None
        self.has_asked = False
        self.failure: str | None = None
        self.retry_after: float | None = None

    async def hand_out(self, seconds: float | None, purpose: str) -> SecretString:
        """Return a valid token, and tell the audit trail."""
        token = await self.token(seconds)
        row = self._row
        audit.handed_out(self._number, row.user_id, row.provider, row.account, purpose)
        return token

    async def token(self, seconds: float | None) -> SecretString:
        """Return a valid token.

        The caller waits, and may be interrupted there; an attempt to get a new one runs to its end.

        Args:
            seconds: how long to wait; None for as long as attempts take.
        """
        waiting, until = self._waiting, None if seconds is None else time.monotonic() + seconds
        while True:
            snapshot = await self._look()
            if ready := self._ready(snapshot):
                return ready
            waiting.check(snapshot, self._row)
            token = None
            left = None if until is None else max(until - time.monotonic(), 0.0)
            try:
                if not snapshot.is_leased():
                    token = await self._runner.run_to_its_end(partial(self._attempt, snapshot), left)
                if token is not None:
                    return token
                await waiting.sleep(self._runner, left)
            except TimeLimitReachedError:
                return await self._at_the_deadline(seconds or 0.0)

    async def _look(self) -> Snapshot:
        snapshot = await self._runner.transaction(self._row.look)
        self._number = snapshot.id
        is_renewable = self._client.can_renew(snapshot.access_token, snapshot.is_renewable)
        return replace(snapshot, is_renewable=is_renewable)

    def _ready(self, snapshot: Snapshot) -> SecretString | None:
        """Return the token if the provider need not, or may not, be asked for another one.

        Raises:
            ReauthorizationRequiredError: the user must connect again.
            RefreshFailedError: there is no valid token, and the provider is not to be asked now.
        """
        if snapshot.reauthorization_required:
            self._row.refuse(snapshot)
        if token := snapshot.token(self._leeway, self._rejected):
            return token
        valid, seconds = snapshot.token(0.0, self._rejected), snapshot.seconds_to_wait()
        if seconds <= 0:
            return valid if snapshot.is_leased() else None
        if valid is None:
            self._refuse_now(snapshot, seconds)
        return valid

    def _refuse_now(self, snapshot: Snapshot, seconds: float) -> None:
        if not snapshot.is_renewable:
            self._row.refuse(snapshot)
        raise RefreshFailedError(
            f"no token: {self._row.label(snapshot.id)}: the last attempts failed ({snapshot.last_error}); the provider"
            f" is asked again in {seconds:.0f} s",
            seconds,
            code=snapshot.last_error,
        )

    async def _attempt(self, snapshot: Snapshot) -> SecretString | None:
        """Take the lease and ask the provider; None if the row must be looked at again."""
        runner, row, waiting = self._runner, self._row, self._waiting
        began = time.monotonic()
        take = partial(row.claim, lease=waiting.lease, seconds=waiting.seconds, to_replace=snapshot.seen)
        claim = await runner.transaction(take)
        if claim is None:  # others have it, or the row is another one by now
            now = await self._look()
            is_same = now.seen == snapshot.seen and not now.reauthorization_required
            return now.token(0.0, self._rejected) if is_same else None
        if not self._client.can_renew(claim.access_token, claim.refresh_token):
            code = REJECTED if not claim.is_expired else "expired_access_token"
            await self._fail(runner.transaction, claim, code, is_dead=claim.is_expired)
            return None
        return await self._ask(claim, began)

    async def _fail(
        self,
        transaction: Callable[[Callable[[Session], Outcome]], Awaitable[Outcome]],
        claim: Claim,
        code: str,
        *,
        retry_after: float | None = None,
        is_dead: bool = False,
    ) -> bool:
        """Record a failure, and return whether the user must connect again; who finds that out tells it, once."""
        is_new = False

        def fail(session: Session) -> Outcome:
            nonlocal is_new
            lease = self._waiting.lease
            outcome = self._row.fail(session, lease, claim, code, retry_after=retry_after, is_dead=is_dead)
            is_new |= outcome.is_new  # also if it is run again, after a commit of unknown outcome
            return outcome

        outcome = await transaction(fail)
        if is_new and outcome.must_connect:
            row = self._row
            count_token_event("reauthorization_required", row.provider, code)
            dead = DeadGrant(claim.id, row.user_id, row.provider, row.account, code)
            await self._runner.request(partial(self._client.hooks.lost, dead))
        return outcome.must_connect

    async def _ask(self, claim: Claim, began: float) -> SecretString | None:
        """Ask the provider for a grant and store it; None if the row must be looked at again."""
        runner, row, lease = self._runner, self._row, self._waiting.lease

        def ask() -> TokenGrant | None:
            if self._waiting.is_late(began):
                return None
            return self._client.renew(claim.access_token, claim.refresh_token)

        self.has_asked, self.failure = True, None
        try:
            grant = await runner.request(ask)
        except ReauthorizationRequiredError as error:
            logger.warning("%s: %s", row.label(claim.id), error)
            self.failure = error.code or "invalid_grant"
            await self._fail(runner.persistently, claim, self.failure, is_dead=True)
            return None
        except RefreshFailedError as error:
            return await self._after_failure(claim, error)
        if grant is None:
            await release(runner, row, lease)
            return None
        if not await runner.persistently(lambda session: row.store(session, lease, claim, grant)):
            return None
        logger.info("%s: refreshed in %.2f s", row.label(claim.id), time.monotonic() - began)
        count_token_event("refreshed", row.provider)
        await self._keep_details(claim, grant)
        return SecretString(grant.access_token)

    async def _keep_details(self, claim: Claim, grant: TokenGrant) -> None:
        """Keep what the provider and the application say besides the tokens, which are stored by now."""
        await self._runner.request(partial(self._client.hooks.granted, grant))
        if not grant.details:
            return
        try:
            await self._runner.transaction(partial(self._row.keep_details, grant=grant))
        except (SealchemyError, SQLAlchemyError, OSError) as error:
            label, name = self._row.label(claim.id), type(error).__name__
            logger.error("%s: its details could not be stored (%s)", label, name)  # noqa: TRY400 - its text may be secret

    async def _after_failure(self, claim: Claim, error: RefreshFailedError) -> SecretString | None:
        """Return the token that is stored if it is still valid, or raise the error."""
        logger.warning("%s: %s", self._row.label(claim.id), error)
        self.failure = code = error.code or "unreachable"
        self.retry_after = error.retry_after
        count_token_event("refresh_failed", self._row.provider, code)
        try:
            if await self._fail(self._runner.transaction, claim, code, retry_after=error.retry_after):
                return None
            valid = (await self._look()).token(0.0, self._rejected)
        except (DBAPIError, PoolTimeoutError, OSError) as problem:
            logger.warning("a failure could not be recorded (%s); its lease expires by itself", type(problem).__name__)
            valid = None
        if valid is None:
            raise error
        return valid

    async def _at_the_deadline(self, seconds: float) -> SecretString:
        """Return the token that is stored, if it is still valid."""
        snapshot = await self._look()
        if token := snapshot.token(0.0, self._rejected):
            return token
        raise RefreshFailedError(
            f"no new token within the deadline of {seconds:g} s; a refresh under way goes on", code="deadline"
        )
