"""`refresh_due`: refresh the tokens that expire soon, before a user waits for it."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import chain, islice, zip_longest
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import func, or_, select, true
from sqlalchemy.orm import Session

from sealchemy import IntegrationError, ReauthorizationRequiredError, RefreshFailedError, SealchemyError

from .failures import NOT_OF_THE_GRANT
from .integration_row import IntegrationRow
from .models import Integration, IntegrationMixin, utc_now
from .refreshing import Refresh
from .sync_async import AsyncRunner, BlockingRunner, Runner, run

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession  # needs greenlet, which not every application has

    from .oauth import OAuthClient

_AT_ONCE = "rate_limited"
_FAILURES_OF_A_PROVIDER = 3  # in a row, after which it is left alone

logger = logging.getLogger("sealchemy")


class _Due(NamedTuple):
    user_id: Any
    account: str


@dataclass
class RefreshReport:
    """What a call of `refresh_due` did.

    Attributes:
        refreshed: how many tokens are new, by provider.
        failed: how many are not, by provider and code; `code` is as in `last_error`.
        left: how many of those that were chosen were not asked for, because their provider did not respond, or asked
            to wait, by provider. The next call chooses them again.
    """

    refreshed: Counter[str] = field(default_factory=Counter)
    failed: Counter[tuple[str, str]] = field(default_factory=Counter)
    left: Counter[str] = field(default_factory=Counter)


def refresh_due(
    session_factory: Callable[[], Session],
    clients: Mapping[str, OAuthClient],
    limit: int = 100,
    *,
    ahead: timedelta | float = 600.0,
    model: type[IntegrationMixin] = Integration,
) -> RefreshReport:
    """Refresh the tokens that expire soon; call it from a scheduler, in one process or in many.

    It takes at most `limit` rows, by turns of each provider, those first that expire first. Each provider has a thread,
    in which it is asked for one token after the other, `OAuthClient(requests_per_second=...)` times a second at most,
    so that one that is slow holds up no other. A provider that asks to wait (HTTP status 429) is not asked again before
    that time, in any process; one that fails three times in a row, in this call. A row that other processes are
    refreshing, or whose last attempt failed and whose pause is not over, is left out. Tokens are handed to nobody.

    Args:
        session_factory: see `get_valid_token`.
        clients: by the application's name of the provider; rows of others are left alone.
        limit: how many rows to take.
        ahead: how long before a token expires it is refreshed, in seconds or as a timedelta; of a token that was
            refreshed before, at most half of its life.
        model: the table, if it is not the ready-made one.

    Raises:
        IntegrationError: an invalid argument.
        sqlalchemy.exc.SQLAlchemyError: the rows cannot be read. An error of one row is counted, and stops nothing.
    """
    runner = BlockingRunner(session_factory, model)
    work = _Work(runner, clients, _checked(clients, limit, ahead), model)
    run(work.choose(limit))
    if len(work.due) > 1 and not runner.is_of_one_thread():
        with ThreadPoolExecutor(len(work.due), thread_name_prefix="sealchemy") as pool:
            started = [pool.submit(copy_context().run, run, work.refresh(provider)) for provider in work.due]
        for each in started:
            each.result()
    else:
        for provider in work.due:
            run(work.refresh(provider))
    return work.report


async def refresh_due_async(
    session_factory: Callable[[], AsyncSession],
    clients: Mapping[str, OAuthClient],
    limit: int = 100,
    *,
    ahead: timedelta | float = 600.0,
    model: type[IntegrationMixin] = Integration,
) -> RefreshReport:
    """Do what `refresh_due` does, with `async_sessionmaker(engine)`, and a task for each provider."""
    work = _Work(AsyncRunner(session_factory), clients, _checked(clients, limit, ahead), model)
    await work.choose(limit)
    await asyncio.gather(*map(work.refresh, work.due))
    return work.report


class _Work:
    """One call of `refresh_due`."""

    def __init__(
        self, runner: Runner, clients: Mapping[str, OAuthClient], ahead: float, model: type[IntegrationMixin]
    ) -> None:
        self._runner, self._clients, self._ahead, self._model = runner, clients, ahead, model
        self.due: dict[str, list[_Due]] = {}
        self.report = RefreshReport()

    async def choose(self, limit: int) -> None:
        """Choose so many rows, by turns of each provider."""
        found = [
            [(provider, row) for row in await self._runner.transaction(self._finder(provider, limit))]
            for provider in self._clients
        ]
        by_turns = filter(None, chain.from_iterable(zip_longest(*found)))
        for provider, row in islice(by_turns, limit):
            self.due.setdefault(provider, []).append(row)

    def _finder(self, provider: str, limit: int) -> Callable[[Session], Sequence[_Due]]:
        m, client = self._model, self._clients[provider]
        is_of_provider = m.provider == provider

        def find(session: Session) -> Sequence[_Due]:
            now = session.scalars(select(utc_now()), bind_arguments={"mapper": m}).one()
            waits = select(func.max(m.next_attempt_at)).where(is_of_provider, m.last_error == _AT_ONCE)
            until = session.scalar(waits)
            if until is not None and until > now:
                return []
            query = select(m.user_id, m.account).where(
                is_of_provider,
                m.expires_at <= now + timedelta(seconds=self._ahead),
                m.reauthorization_required.is_(False),
                or_(m.next_attempt_at.is_(None), m.next_attempt_at <= now),
                or_(m.refresh_lease.is_(None), m.refresh_lease_until <= now),
                m.refresh_token.is_not(None) if client.refresh_grant_type == "refresh_token" else true(),
            )
            return [_Due(*row) for row in session.execute(query.order_by(m.expires_at, m.id).limit(limit))]

        return find

    async def refresh(self, provider: str) -> None:
        """Ask a provider for one token after the other."""
        client, failures = self._clients[provider], 0
        pause, next_at = 1 / client.requests_per_second, 0.0
        rows = self.due[provider]
        for place, row in enumerate(rows):
            if (wait := next_at - monotonic()) > 0:
                await self._runner.sleep(wait)
            began = monotonic()
            refresh = Refresh(
                self._runner, IntegrationRow(self._model, row.user_id, provider, row.account), client, self._ahead
            )
            code = await self._code_of(refresh)
            next_at = began + pause if refresh.has_asked else 0.0
            if code is not None:
                self.report.failed[provider, code] += 1
            elif refresh.has_asked:
                self.report.refreshed[provider] += 1
            failures = failures + 1 if code in NOT_OF_THE_GRANT else 0
            if code == _AT_ONCE or failures == _FAILURES_OF_A_PROVIDER:
                self.report.left[provider] = len(rows) - place - 1
                logger.warning("%r does not refresh tokens now (%s); it is left alone", provider, code)
                return

    async def _code_of(self, refresh: Refresh) -> str | None:
        """Return the code of the error with which a refresh ends, or None; the error of one row stops no other."""
        try:
            await refresh.token(None)
        except (ReauthorizationRequiredError, RefreshFailedError) as error:
            return error.code or "unrecognized_error"
        except SealchemyError as error:  # the row is gone, or not readable; the log names it
            return type(error).__name__
        return refresh.failure


def _checked(clients: Mapping[str, OAuthClient], limit: int, ahead: timedelta | float) -> float:
    """Return the seconds of `ahead`, or raise `IntegrationError`."""
    seconds = ahead.total_seconds() if isinstance(ahead, timedelta) else ahead
    if not isinstance(clients, Mapping):
        raise IntegrationError(f"clients is {type(clients).__name__}; pass a dictionary of clients by provider")
    if not isinstance(limit, int) or limit < 1:
        raise IntegrationError("limit takes the number of rows, from 1")
    if not isinstance(seconds, int | float) or not seconds >= 0:
        raise IntegrationError("ahead takes seconds, or a timedelta")
    return float(seconds)
