"""Store what a provider granted, and hand out an access token that works.

A refresh has two short transactions with the HTTP request between them, and nothing held meanwhile:

    caller A                       the row                        caller B
    ─────────────────────────────  ─────────────────────────────  ─────────────────────────
    transaction 1: lock, lease  →  lease = A, until …
    POST /token                                                ←  sees the lease; sleeps, looks
    (no connection, no lock)                                      again, with no connection
    transaction 2: lock, store  →  new tokens, no lease        ←  gets the new access token

A provider that rotates refresh tokens ends the grant when an old one comes back. So a lease is held by one caller at
a time, and a grant is stored only over the refresh token that it was got with.
"""

from __future__ import annotations

import logging
import random
import time
import uuid
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from sqlalchemy import select
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from sealchemy import IntegrationError, ReauthorizationRequiredError, RefreshFailedError, SecretString

from .grants import hide, require_text
from .models import Integration, IntegrationMixin, utc_now
from .rows import Rows, check_whose, values_of
from .runners import AsyncRunner, BlockingRunner, run, run_to_its_end

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.ext.asyncio import AsyncSession
    from sqlalchemy.orm import Session

    from .grants import TokenGrant
    from .oauth import OAuthClient
    from .rows import Claim, Row
    from .runners import Runner

logger = logging.getLogger("sealchemy")

_LONGEST_LEEWAY = 365 * 24 * 3600.0
_MARGIN = 15.0  # seconds of a lease beside the HTTP request: to store the answer, also if the database restarts
_LATEST = 5.0  # seconds of them that may pass before the request
_Table = TypeVar("_Table", bound=IntegrationMixin)


def upsert_integration(
    session: Session,
    *,
    user_id: str,
    provider: str,
    grant: TokenGrant,
    model: type[_Table] = Integration,  # type: ignore[assignment] # the default of a type variable
) -> _Table:
    """Store what a provider granted when a user connected, in the one row of this user and provider.

    It is part of the caller's transaction: commit the session. Two callers at once make one row, of the later one. A
    grant without a refresh token, or without a scope, keeps what is stored.

    Args:
        session: with a key ring on its engine. From an `AsyncSession`:
            `await session.run_sync(upsert_integration, user_id=..., provider=..., grant=...)`.
        user_id: of the application.
        provider: the application's name for it, such as `google-calendar`.
        grant: the tokens.
        model: the table, if it is not the ready-made one.

    Returns:
        the integration, with its tokens not loaded.

    """
    check_whose(user_id, provider)
    given = {"user_id": user_id, "provider": provider}
    now = session.scalars(select(utc_now()), bind_arguments={"mapper": model}).one()
    values = {**values_of(grant, now), "reauthorization_required": False, "updated_at": utc_now()}
    session.flush()
    dialect = session.get_bind(model).dialect.name
    if dialect in {"mysql", "mariadb"}:
        on_mysql = mysql.insert(model).values(**given, **values)
        session.execute(on_mysql.on_duplicate_key_update({name: on_mysql.inserted[name] for name in values}))
    else:
        statement = (postgresql if dialect == "postgresql" else sqlite).insert(model).values(**given, **values)
        replaced = {name: statement.excluded[name] for name in values}
        session.execute(statement.on_conflict_do_update(index_elements=list(given), set_=replaced))
    query = select(model).filter_by(**given).execution_options(populate_existing=True)
    integration = session.scalars(query).one()
    session.expire(integration, ["access_token", "refresh_token"])
    logger.info("integration %s (%s): connected", integration.id, provider)
    return integration


def get_valid_token(
    session_factory: Callable[[], Session],
    *,
    user_id: str,
    provider: str,
    client: OAuthClient,
    leeway: timedelta | float = 300.0,
    rejected: str | None = None,
    model: type[IntegrationMixin] = Integration,
) -> SecretString:
    """Return an access token that is valid for `leeway` from now, refreshing it if it is not.

    However many callers in however many processes ask at once, the provider gets one request, and no connection is
    checked out while it answers. What was refreshed is committed before it is returned, in transactions of its own,
    so a rollback of the caller's does not lose it.

    Args:
        session_factory: such as `sessionmaker(engine)`, not a session: this function has its own transactions.
        user_id: of the application.
        provider: the application's name for it.
        client: the application, as the provider knows it.
        leeway: seconds, or a timedelta: for how long the token has to be valid. Keep it below the life of the
            provider's tokens. Without a refresh token it does not count.
        rejected: an access token that the provider has just refused (HTTP status 401): it is not returned again.
        model: the table, if it is not the ready-made one.

    Raises:
        IntegrationNotFoundError: nothing is stored for this user and provider.
        ReauthorizationRequiredError: the provider has ended the grant, or there is no refresh token: the user must
            connect again. The row says so in `reauthorization_required`.
        RefreshFailedError: the provider gave no token, which may pass; what is stored is unchanged.
        EnvelopeError, UnknownKeyError, DecryptionError: the stored token cannot be read.
        sqlalchemy.exc.SQLAlchemyError: the database did not answer before the provider was asked.

    """
    refused = hide(rejected)
    del rejected
    if refused is not None:
        require_text("rejected", refused)
    rows, runner = Rows(model, user_id, provider), BlockingRunner(session_factory)
    return run(_valid_token(runner, rows, client, _seconds(leeway), refused))


async def get_valid_token_async(
    session_factory: Callable[[], AsyncSession],
    *,
    user_id: str,
    provider: str,
    client: OAuthClient,
    leeway: timedelta | float = 300.0,
    rejected: str | None = None,
    model: type[IntegrationMixin] = Integration,
) -> SecretString:
    """Do what `get_valid_token` does, with `async_sessionmaker(engine)`.

    A task that is cancelled leaves a refresh that has begun to end by itself: its token exists nowhere else.
    """
    refused = hide(rejected)
    del rejected
    if refused is not None:
        require_text("rejected", refused)
    rows, runner = Rows(model, user_id, provider), AsyncRunner(session_factory)
    return await run_to_its_end(_valid_token(runner, rows, client, _seconds(leeway), refused))


def disconnect_integration(
    session_factory: Callable[[], Session],
    *,
    user_id: str,
    provider: str,
    client: OAuthClient,
    model: type[IntegrationMixin] = Integration,
) -> None:
    """Revoke the grant at the provider, where it has an endpoint for that, then delete the row.

    A refresh that is under way is waited for, so that no token outlives the row.

    Raises:
        IntegrationNotFoundError: nothing is stored for this user and provider.
        RevocationFailedError: the provider did not revoke it. The row is kept, since nobody else has the token; to
            forget it all the same, delete the row.
        RefreshFailedError: a refresh under way did not end.

    """
    run(_disconnect(BlockingRunner(session_factory), Rows(model, user_id, provider), client))


async def disconnect_integration_async(
    session_factory: Callable[[], AsyncSession],
    *,
    user_id: str,
    provider: str,
    client: OAuthClient,
    model: type[IntegrationMixin] = Integration,
) -> None:
    """Do what `disconnect_integration` does, with `async_sessionmaker(engine)`."""
    await run_to_its_end(_disconnect(AsyncRunner(session_factory), Rows(model, user_id, provider), client))


async def _valid_token(
    runner: Runner, rows: Rows, client: OAuthClient, leeway: float, rejected: str | None
) -> SecretString:
    waiting = _Waiting(client)
    before = None
    while True:
        row = await runner.transaction(rows.look)
        if row.reauthorization_required:
            rows.refuse(row)
        # Tokens that live shorter than the leeway are refreshed once as well.
        enough = leeway if before in (None, row.seen) else 0.0
        if row.access_token and _is_valid(row, enough, rejected):
            return row.access_token
        before = row.seen
        waiting.check(row, provider=rows.provider)
        began = time.monotonic()
        claim = await runner.transaction(
            partial(rows.claim, lease=waiting.lease, seconds=waiting.seconds, to_replace=before)
        )
        if claim is None:
            await waiting.sleep(runner)
        elif claim.refresh_token is None:
            await runner.transaction(lambda session: rows.give_up(session, waiting.lease, None))
        elif token := await _refresh(runner, rows, client, waiting.lease, claim, began):
            return token
        else:
            await waiting.sleep(runner)


async def _refresh(
    runner: Runner, rows: Rows, client: OAuthClient, lease: str, claim: Claim, began: float
) -> SecretString | None:
    """Ask the provider and store what it grants; None if another look at the row has to tell."""
    sent = claim.refresh_token or SecretString()

    def ask() -> TokenGrant | None:
        late = time.monotonic() - began > _LATEST  # the lease runs on while there is no thread for it
        return None if late else client.refresh(sent)

    try:
        grant = await runner.request(ask)
    except ReauthorizationRequiredError as error:
        logger.warning("integration %s (%s): %s", claim.id, rows.provider, error)
        await runner.persistently(lambda session: rows.give_up(session, lease, sent))
        return None
    except RefreshFailedError as error:
        logger.warning("integration %s (%s): %s", claim.id, rows.provider, error)
        await _release(runner, rows, lease)
        raise
    if grant is None:
        await _release(runner, rows, lease)
        return None
    if not await runner.persistently(lambda session: rows.store(session, lease, sent, grant)):
        return None
    took = time.monotonic() - began
    logger.info("integration %s (%s): refreshed in %.2f s", claim.id, rows.provider, took)
    return SecretString(grant.access_token)


async def _release(runner: Runner, rows: Rows, lease: str) -> None:
    try:
        await runner.transaction(lambda session: rows.release(session, lease))
    except (DBAPIError, PoolTimeoutError, OSError) as error:
        logger.warning("a lease could not be released (%s); it ends by itself", type(error).__name__)


async def _disconnect(runner: Runner, rows: Rows, client: OAuthClient) -> None:
    waiting = _Waiting(client)
    while True:
        await runner.transaction(rows.look)
        take = partial(rows.claim, lease=waiting.lease, seconds=waiting.seconds)
        if claim := await runner.transaction(take):
            await _revoke(runner, rows, client, waiting.lease, claim)
            if await runner.persistently(partial(rows.remove, lease=waiting.lease, claim=claim)):
                break
        await waiting.sleep(runner)
    how = "revoked" if client.revocation_endpoint else "not revoked, the provider has no endpoint for it"
    logger.info("integration %s (%s): disconnected; %s", claim.id, rows.provider, how)


async def _revoke(runner: Runner, rows: Rows, client: OAuthClient, lease: str, claim: Claim) -> None:
    token = claim.refresh_token or claim.access_token
    if not token or not client.revocation_endpoint:
        return
    try:
        await runner.request(lambda: client.revoke(token))
    except IntegrationError as error:
        logger.warning("integration %s (%s): %s", claim.id, rows.provider, error)
        await _release(runner, rows, lease)
        raise


def _is_valid(row: Row, leeway: float, rejected: str | None) -> bool:
    if row.access_token == rejected:
        return False
    ahead = timedelta(seconds=leeway if row.has_refresh_token else 0)
    return row.expires_at is None or row.expires_at > row.now + ahead


def _seconds(leeway: timedelta | float) -> float:
    seconds = leeway.total_seconds() if isinstance(leeway, timedelta) else float(leeway)
    if not 0 <= seconds <= _LONGEST_LEEWAY:
        message = (
            f"leeway is {seconds:g}: give the seconds for which the token has to be valid, 0 to {_LONGEST_LEEWAY:g}"
        )
        raise IntegrationError(message)
    return seconds


class _Waiting:
    """One caller: the name of its lease, and its patience with those of others."""

    def __init__(self, client: OAuthClient) -> None:
        self.lease, self.seconds = str(uuid.uuid4()), client.timeout + _MARGIN
        self._began, self._pause, self._other = time.monotonic(), 0.02, False

    def check(self, row: Row, provider: str) -> None:
        """Raise if what was waited for has ended without a new token."""
        if self._other and row.lease is None:
            message = "no new token: another caller's request, which was waited for, ended without one; try again"
            raise RefreshFailedError(message)
        if row.lease not in (None, self.lease) and not self._other:
            logger.info("integration %s (%s): waiting for the refresh of another caller", row.id, provider)
            self._other = True

    async def sleep(self, runner: Runner) -> None:
        if time.monotonic() - self._began > 2 * self.seconds:
            message = "no new token: the row stayed locked, or leased to other callers, for too long; try again"
            raise RefreshFailedError(message)
        self._pause = min(self._pause * 1.5, 0.5)
        await runner.sleep(self._pause * random.uniform(0.5, 1.5))  # noqa: S311 - so that callers do not march in step
