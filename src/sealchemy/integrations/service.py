"""Hand out access tokens that work, refreshing them where necessary.

A refresh has two short transactions with the HTTP request between them, and holds nothing meanwhile:

    caller A                       the row                        caller B
    ─────────────────────────────  ─────────────────────────────  ─────────────────────────
    transaction 1: lock, lease  →  lease = A, until …
    POST /token                                                ←  sees the lease; sleeps, looks
    (no connection, no lock)                                      again, with no connection
    transaction 2: lock, store  →  new tokens, no lease        ←  gets the new access token

A provider that rotates refresh tokens revokes the grant when an old one comes back. So one caller at a time holds the
lease, and a grant replaces only the refresh token that was sent for it.
"""

from __future__ import annotations

import logging
import random
import time
import uuid
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import Session

from sealchemy import IntegrationError, ReauthorizationRequiredError, RefreshFailedError, SecretString
from sealchemy._values.secret import hide

from .integration_row import Claim, IntegrationRow, Snapshot
from .models import Integration, IntegrationMixin
from .sync_async import AsyncRunner, BlockingRunner, Runner, run, run_to_its_end
from .token_grant import TokenGrant, require_text
from .upsert import upsert_integration  # the path in version 0.1

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession  # needs greenlet, which not every application has

    from .oauth import OAuthClient

__all__ = [
    "disconnect_integration",
    "disconnect_integration_async",
    "get_valid_token",
    "get_valid_token_async",
    "upsert_integration",
]

logger = logging.getLogger("sealchemy")

_LONGEST_LEEWAY = 365 * 24 * 3600.0
_MARGIN = 15.0  # seconds of a lease after the HTTP request: to store the response, even if the database restarts
_LATEST = 5.0  # of these, the seconds that may pass before the request


def get_valid_token(
    session_factory: Callable[[], Session],
    *,
    user_id: str,
    provider: str,
    client: OAuthClient,
    account: str = "",
    leeway: timedelta | float = 300.0,
    rejected: str | None = None,
    model: type[IntegrationMixin] = Integration,
) -> SecretString:
    """Return an access token that is valid for at least `leeway` from now, refreshing it if necessary.

    However many callers in however many processes ask at once, the provider gets one request, and no connection is
    checked out during it. A new token is committed before it is returned, in a transaction of its own, so a rollback
    of the caller does not lose it.

    Args:
        session_factory: such as `sessionmaker(engine)`, not a session: this function has its own transactions.
        user_id: the application's id of the user.
        provider: the application's name of the provider.
        client: the application, as the provider knows it.
        account: the name of the account at the provider, as it was given to `upsert_integration`.
        leeway: how long the token has to stay valid, in seconds or as a timedelta. Keep it below the lifetime of the
            provider's tokens. It is ignored where there is no refresh token.
        rejected: an access token that the provider has just refused (HTTP status 401); it is not returned again.
        model: the table, if it is not the ready-made one.

    Raises:
        IntegrationNotFoundError: the user has not connected this provider.
        ReauthorizationRequiredError: the provider has revoked the grant, or there is no refresh token: the user must
            connect again. The row says so in `reauthorization_required`.
        RefreshFailedError: the provider issued no token, for a reason that may pass; the stored ones are unchanged.
        EnvelopeError, UnknownKeyError, DecryptionError: the stored token cannot be read, or does not belong to this
            row; nothing is sent, and nothing changes.
        sqlalchemy.exc.SQLAlchemyError: the database was unavailable before the provider was asked.
    """
    rejected = hide(rejected)
    row, runner = IntegrationRow(model, user_id, provider, account), BlockingRunner(session_factory)
    return run(_valid_token(runner, row, client, _seconds(leeway), rejected))


async def get_valid_token_async(
    session_factory: Callable[[], AsyncSession],
    *,
    user_id: str,
    provider: str,
    client: OAuthClient,
    account: str = "",
    leeway: timedelta | float = 300.0,
    rejected: str | None = None,
    model: type[IntegrationMixin] = Integration,
) -> SecretString:
    """Do what `get_valid_token` does, with `async_sessionmaker(engine)`.

    If its task is cancelled, a refresh that has begun is still completed: its token exists nowhere else.
    """
    rejected = hide(rejected)
    row, runner = IntegrationRow(model, user_id, provider, account), AsyncRunner(session_factory)
    return await run_to_its_end(_valid_token(runner, row, client, _seconds(leeway), rejected))


def disconnect_integration(
    session_factory: Callable[[], Session],
    *,
    user_id: str,
    provider: str,
    client: OAuthClient,
    account: str = "",
    model: type[IntegrationMixin] = Integration,
) -> None:
    """Revoke the grant at the provider, if it has an endpoint for that, then delete the row.

    It waits for a refresh that is under way, so that no token outlives the row.

    Raises:
        IntegrationNotFoundError: the user has not connected this provider.
        RevocationFailedError: the provider did not revoke it. The row is kept, since the token exists nowhere else; to
            forget it all the same, delete the row.
        RefreshFailedError: a refresh under way did not end.
    """
    run(_disconnect(BlockingRunner(session_factory), IntegrationRow(model, user_id, provider, account), client))


async def disconnect_integration_async(
    session_factory: Callable[[], AsyncSession],
    *,
    user_id: str,
    provider: str,
    client: OAuthClient,
    account: str = "",
    model: type[IntegrationMixin] = Integration,
) -> None:
    """Do what `disconnect_integration` does, with `async_sessionmaker(engine)`."""
    await run_to_its_end(
        _disconnect(AsyncRunner(session_factory), IntegrationRow(model, user_id, provider, account), client)
    )


async def _valid_token(
    runner: Runner, row: IntegrationRow, client: OAuthClient, leeway: float, rejected: str | None
) -> SecretString:
    if rejected is not None:
        require_text("rejected", rejected)
    waiting = _Waiting(client)
    before = None
    while True:
        snapshot = await runner.transaction(row.look)
        if snapshot.reauthorization_required:
            row.refuse(snapshot)
        # A token whose lifetime is below the leeway is refreshed once as well.
        enough = leeway if before in (None, snapshot.seen) else 0.0
        if snapshot.access_token and _is_valid(snapshot, enough, rejected):
            return snapshot.access_token
        before = snapshot.seen
        waiting.check(snapshot, provider=row.provider)
        began = time.monotonic()
        claim = await runner.transaction(
            partial(row.claim, lease=waiting.lease, seconds=waiting.seconds, to_replace=before)
        )
        if claim is None:
            await waiting.sleep(runner)
        elif claim.refresh_token is None:
            await runner.transaction(lambda session: row.give_up(session, waiting.lease, None))
        elif token := await _refresh(runner, row, client, waiting.lease, claim, began):
            return token
        else:
            await waiting.sleep(runner)


async def _refresh(
    runner: Runner, row: IntegrationRow, client: OAuthClient, lease: str, claim: Claim, began: float
) -> SecretString | None:
    """Ask the provider for a grant and store it; None if the row must be looked at again."""
    sent = claim.refresh_token or SecretString()

    def ask() -> TokenGrant | None:
        late = time.monotonic() - began > _LATEST  # the lease runs while the request waits for a thread
        return None if late else client.refresh(sent)

    try:
        grant = await runner.request(ask)
    except ReauthorizationRequiredError as error:
        logger.warning("integration %s (%s): %s", claim.id, row.provider, error)
        await runner.persistently(lambda session: row.give_up(session, lease, sent))
        return None
    except RefreshFailedError as error:
        logger.warning("integration %s (%s): %s", claim.id, row.provider, error)
        await _release(runner, row, lease)
        raise
    if grant is None:
        await _release(runner, row, lease)
        return None
    if not await runner.persistently(lambda session: row.store(session, lease, sent, grant)):
        return None
    took = time.monotonic() - began
    logger.info("integration %s (%s): refreshed in %.2f s", claim.id, row.provider, took)
    return SecretString(grant.access_token)


async def _release(runner: Runner, row: IntegrationRow, lease: str) -> None:
    try:
        await runner.transaction(lambda session: row.release(session, lease))
    except (DBAPIError, PoolTimeoutError, OSError) as error:
        logger.warning("a lease could not be released (%s); it expires by itself", type(error).__name__)


async def _disconnect(runner: Runner, row: IntegrationRow, client: OAuthClient) -> None:
    waiting = _Waiting(client)
    while True:
        await runner.transaction(row.look)
        take = partial(row.claim, lease=waiting.lease, seconds=waiting.seconds)
        if claim := await runner.transaction(take):
            await _revoke(runner, row, client, waiting.lease, claim)
            if await runner.persistently(partial(row.remove, lease=waiting.lease, claim=claim)):
                break
        await waiting.sleep(runner)
    how = "revoked" if client.revocation_endpoint else "not revoked, the provider has no endpoint for it"
    logger.info("integration %s (%s): disconnected; %s", claim.id, row.provider, how)


async def _revoke(runner: Runner, row: IntegrationRow, client: OAuthClient, lease: str, claim: Claim) -> None:
    token = claim.refresh_token or claim.access_token
    if not token or not client.revocation_endpoint:
        return
    try:
        await runner.request(lambda: client.revoke(token))
    except IntegrationError as error:
        logger.warning("integration %s (%s): %s", claim.id, row.provider, error)
        await _release(runner, row, lease)
        raise


def _is_valid(snapshot: Snapshot, leeway: float, rejected: str | None) -> bool:
    if snapshot.access_token == rejected:
        return False
    ahead = timedelta(seconds=leeway if snapshot.has_refresh_token else 0)
    return snapshot.expires_at is None or snapshot.expires_at > snapshot.now + ahead


def _seconds(leeway: timedelta | float) -> float:
    seconds = leeway.total_seconds() if isinstance(leeway, timedelta) else float(leeway)
    if not 0 <= seconds <= _LONGEST_LEEWAY:
        raise IntegrationError(
            f"leeway is {seconds:g}; give the seconds for which the token has to stay valid, 0 to {_LONGEST_LEEWAY:g}"
        )
    return seconds


class _Waiting:
    """One caller: the name of its lease, and its patience with other callers."""

    def __init__(self, client: OAuthClient) -> None:
        self.lease, self.seconds = str(uuid.uuid4()), client.timeout + _MARGIN
        self._began, self._pause, self._other = time.monotonic(), 0.02, False

    def check(self, snapshot: Snapshot, provider: str) -> None:
        """Raise if the refresh of another caller has ended without a new token."""
        if self._other and snapshot.lease is None:
            raise RefreshFailedError(
                "no new token: the refresh of another caller, which this call waited for, ended without one; try again"
            )
        if snapshot.lease not in (None, self.lease) and not self._other:
            logger.info("integration %s (%s): waiting for the refresh of another caller", snapshot.id, provider)
            self._other = True

    async def sleep(self, runner: Runner) -> None:
        if time.monotonic() - self._began > 2 * self.seconds:
            raise RefreshFailedError(
                "no new token: the row stayed locked, or leased to other callers, for too long; try again"
            )
        self._pause = min(self._pause * 1.5, 0.5)
        await runner.sleep(self._pause * random.uniform(0.5, 1.5))  # noqa: S311 - spreads the callers
