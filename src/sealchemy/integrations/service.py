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

from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy.orm import Session

from sealchemy import IntegrationError, SecretString
from sealchemy._values.secret import hide

from . import audit
from .disconnecting import Disconnect
from .integration_row import IntegrationRow
from .models import Integration, IntegrationMixin
from .refreshing import Refresh
from .sync_async import AsyncRunner, BlockingRunner, Runner, run
from .token_grant import require_text
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

_LONGEST_SECONDS = 365 * 24 * 3600.0


def get_valid_token(  # noqa: PLR0913 - each has a default but four
    session_factory: Callable[[], Session],
    *,
    user_id: Any,
    provider: str,
    client: OAuthClient,
    account: str = "",
    leeway: timedelta | float = 300.0,
    deadline: timedelta | float | None = None,
    rejected: str | None = None,
    purpose: str = "",
    model: type[IntegrationMixin] = Integration,
) -> SecretString:
    """Return an access token that is valid for at least `leeway` from now, refreshing it if necessary.

    However many callers in however many processes ask at once, the provider gets one request, and no connection is
    checked out during it. A new token is committed before it is returned, in a transaction of its own, so a rollback
    of the caller does not lose it; nor does an exception in the caller's thread, such as that of a signal handler,
    because a thread of its own asks and stores.

    A token that is still valid is returned while another caller refreshes it, and while the provider issues no new one.
    After a failure, callers in all processes ask again after the time that the provider asked for, or after a pause
    that grows; after five refusals in a row the user must connect again, as after an error that says so.

    Args:
        session_factory: such as `sessionmaker(engine)`, not a session: this function has its own transactions.
        user_id: the application's id of the user: text, an integer or a UUID, as the model has it.
        provider: the application's name of the provider.
        client: the application, as the provider knows it.
        account: the name of the account at the provider, as it was given to `upsert_integration`.
        leeway: how long the token has to stay valid, in seconds or as a timedelta; of a token that was refreshed, at
            most half of its life. It is ignored where there is no refresh token.
        deadline: how long this call may take, in seconds or as a timedelta, apart from the database; then a refresh
            goes on without it. By default, until the refresh has ended.
        rejected: an access token that the provider has just refused (HTTP status 401); it is not returned again, unless
            the provider issues it again.
        purpose: what the token is for, in the audit trail: the logger `sealchemy.audit` has a line for each token that
            is handed out, with the row, its user, the provider and this.
        model: the table, if it is not the ready-made one.

    Raises:
        IntegrationNotFoundError: the user has not connected this provider.
        ReauthorizationRequiredError: the provider refuses the grant, or there is no refresh token: the user must
            connect again. The row says so in `reauthorization_required`, unless the provider rejected an access token
            that has no refresh token fewer than five times.
        RefreshFailedError: the provider issued no token, for a reason that may pass, and there is no valid one; the
            stored ones are unchanged.
        EnvelopeError, UnknownKeyError, DecryptionError: the stored token cannot be read, or does not belong to this
            row; nothing is sent, and nothing changes.
        sqlalchemy.exc.SQLAlchemyError: the database was unavailable before the provider was asked.
    """
    rejected = hide(rejected)
    audit.require_purpose(purpose)
    row, runner = IntegrationRow(model, user_id, provider, account), BlockingRunner(session_factory, model)
    return run(_refresh(runner, row, client, leeway, rejected).hand_out(_seconds(deadline, "deadline"), purpose))


async def get_valid_token_async(  # noqa: PLR0913 - as above
    session_factory: Callable[[], AsyncSession],
    *,
    user_id: Any,
    provider: str,
    client: OAuthClient,
    account: str = "",
    leeway: timedelta | float = 300.0,
    deadline: timedelta | float | None = None,
    rejected: str | None = None,
    purpose: str = "",
    model: type[IntegrationMixin] = Integration,
) -> SecretString:
    """Do what `get_valid_token` does, with `async_sessionmaker(engine)`.

    If its task is cancelled, a refresh that has begun is still completed: its token exists nowhere else.
    """
    rejected = hide(rejected)
    audit.require_purpose(purpose)
    row, runner = IntegrationRow(model, user_id, provider, account), AsyncRunner(session_factory)
    return await _refresh(runner, row, client, leeway, rejected).hand_out(_seconds(deadline, "deadline"), purpose)


def disconnect_integration(
    session_factory: Callable[[], Session],
    *,
    user_id: Any,
    provider: str,
    client: OAuthClient,
    account: str = "",
    forget: bool = False,
    model: type[IntegrationMixin] = Integration,
) -> None:
    """Revoke the grant at the provider, if it has an endpoint for that, then delete the row.

    It waits for a refresh that is under way, so that no token outlives the row.

    Args:
        session_factory: see `get_valid_token`, as for the arguments that are not named here.
        user_id: the application's id of the user.
        provider: the application's name of the provider.
        client: the application, as the provider knows it.
        account: the name of the account at the provider.
        forget: delete the row as well if its tokens cannot be read, or the provider does not revoke them; revoke the
            grant at the provider by hand then.
        model: the table, if it is not the ready-made one.

    Raises:
        IntegrationNotFoundError: the user has not connected this provider.
        RevocationFailedError: the provider did not revoke it. The row is kept, since the token exists nowhere else.
        RefreshFailedError: a refresh under way did not end.
        EnvelopeError, UnknownKeyError, DecryptionError: the tokens cannot be read.
    """
    runner = BlockingRunner(session_factory, model)
    run(Disconnect(runner, IntegrationRow(model, user_id, provider, account), client, forget=forget).run())


async def disconnect_integration_async(
    session_factory: Callable[[], AsyncSession],
    *,
    user_id: Any,
    provider: str,
    client: OAuthClient,
    account: str = "",
    forget: bool = False,
    model: type[IntegrationMixin] = Integration,
) -> None:
    """Do what `disconnect_integration` does, with `async_sessionmaker(engine)`."""
    runner = AsyncRunner(session_factory)
    await Disconnect(runner, IntegrationRow(model, user_id, provider, account), client, forget=forget).run()


def _refresh(
    runner: Runner, row: IntegrationRow, client: OAuthClient, leeway: timedelta | float, rejected: str | None
) -> Refresh:
    require_text("rejected", rejected or "")
    return Refresh(runner, row, client, _seconds(leeway, "leeway") or 0.0, rejected)


def _seconds(time: timedelta | float | None, name: str) -> float | None:
    if time is None:
        return None
    if not isinstance(time, timedelta | int | float) or isinstance(time, bool):
        raise IntegrationError(f"{name} is {type(time).__name__}; give seconds, or a timedelta")
    seconds = time.total_seconds() if isinstance(time, timedelta) else float(time)
    if not 0 <= seconds <= _LONGEST_SECONDS:
        raise IntegrationError(f"{name} is {seconds:g}; give seconds, 0 to {_LONGEST_SECONDS:g}")
    return seconds
