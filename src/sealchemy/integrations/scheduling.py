"""`refresh_due`: refresh the tokens that expire soon, before a user waits for it."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from contextvars import copy_context
from datetime import timedelta
from itertools import chain, islice, zip_longest
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import ColumnElement, and_, func, or_, select, true
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from sealchemy import IntegrationError, ReauthorizationRequiredError, RefreshFailedError, SealchemyError

from .failures import is_refusal
from .identity import label
from .integration_row import IntegrationRow
from .models import Integration, IntegrationMixin, utc_now
from .refresh_report import AT_ONCE, Progress, RefreshReport
from .refreshing import Refresh
from .sync_async import AsyncRunner, BlockingRunner, Runner, run

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession  # needs greenlet, which not every application has

    from .oauth import OAuthClient

_MOST_LOOKS = 20  # for rows in place of those that need no request
_WAKE = 0.5  # seconds after which a waiting thread looks for signals
_MOST_ROWS, _MOST_SECONDS = 1_000_000, 366 * 24 * 3600

logger = logging.getLogger("sealchemy")


class _Due(NamedTuple):
    user_id: Any
    account: str
    expires_at: Any
    id: Any


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
    so that a slow one holds up no other. After a response that asks to wait (HTTP status 429, or any `Retry-After`),
    or three failures in a row, it is left alone in this call; after a 429 in later ones too, in any process, until the
    time that it named. A row that is being refreshed, or whose last attempt failed and whose pause is not over, is left
    out. No token is handed out.

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
    if len(work.due) < 2 or runner.is_of_one_thread():  # noqa: PLR2004 - one provider needs no thread
        for provider in work.due:
            run(work.refresh(provider))
        return work.report
    with ThreadPoolExecutor(len(work.due), thread_name_prefix="sealchemy") as pool:
        try:
            started = [pool.submit(copy_context().run, run, work.refresh(provider)) for provider in work.due]
            for each in started:
                while not each.done():  # a signal that arrives just before a wait does not end it
                    wait([each], timeout=_WAKE)
                each.result()
        except BaseException:  # of a signal handler: the threads end after their row
            work.stopped.set()
            raise
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
    ended = await asyncio.gather(*map(work.refresh, work.due), return_exceptions=True)
    for error in filter(None, ended):
        raise error
    return work.report


class _Work:
    """One call of `refresh_due`."""

    def __init__(
        self, runner: Runner, clients: Mapping[str, OAuthClient], ahead: float, model: type[IntegrationMixin]
    ) -> None:
        self._runner, self._clients, self._ahead, self._model = runner, clients, ahead, model
        self.stopped = threading.Event()
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

    def _finder(self, provider: str, limit: int, after: _Due | None = None) -> Callable[[Session], list[_Due]]:
        """Return the step that finds the rows that are due, those first that expire first."""
        m, client = self._model, self._clients[provider]
        is_of_provider = m.provider == provider
        is_after: ColumnElement[bool] = true()
        if after is not None:
            is_later = and_(m.expires_at == after.expires_at, m.id > after.id)
            is_after = or_(m.expires_at > after.expires_at, is_later)

        def find(session: Session) -> list[_Due]:
            now = session.scalars(select(utc_now()), bind_arguments={"mapper": m}).one()
            waits = select(func.max(m.next_attempt_at)).where(is_of_provider, m.last_error == AT_ONCE)
            until = session.scalar(waits)
            if until is not None and until > now:
                return []
            query = select(m.user_id, m.account, m.expires_at, m.id).where(
                is_of_provider,
                is_after,
                m.expires_at <= now + timedelta(seconds=self._ahead),
                m.reauthorization_required.is_(False),
                or_(m.next_attempt_at.is_(None), m.next_attempt_at <= now),
                or_(m.refresh_lease.is_(None), m.refresh_lease_until <= now),
                m.refresh_token.is_not(None) if client.refresh_grant_type == "refresh_token" else true(),
            )
            return [_Due(*row) for row in session.execute(query.order_by(m.expires_at, m.id).limit(limit))]

        return find

    async def refresh(self, provider: str) -> None:
        """Ask a provider for as many tokens as rows were chosen.

        Rows for which it need not be asked, or that cannot be read, are replaced by the next ones.
        """
        rows, share, asked, looks = self.due[provider], len(self.due[provider]), 0, 0
        progress = Progress(self.report, provider, self._clients[provider].requests_per_second)
        while rows:
            for row in rows:
                if self.stopped.is_set() or progress.is_left_alone:
                    self.report.left += Counter({provider: share - asked})
                    return
                await self._runner.sleep(progress.seconds_to_wait())
                asked += await self._refresh_row(provider, row, progress)
            looks += 1
            missing = share - asked if looks < _MOST_LOOKS else 0
            rows = await self._runner.transaction(self._finder(provider, missing, rows[-1])) if missing > 0 else []

    async def _refresh_row(self, provider: str, row: _Due, progress: Progress) -> bool:
        """Refresh the token of a row, whose errors stop no other, and return whether the provider was asked."""
        client = self._clients[provider]
        whose = IntegrationRow(self._model, row.user_id, provider, row.account)
        refresh = Refresh(self._runner, whose, client, self._ahead)
        began = monotonic()
        try:
            await refresh.token(None)
            code, is_of_row = refresh.failure, is_refusal(refresh.failure)
        except (ReauthorizationRequiredError, RefreshFailedError) as error:
            code = error.code or "unrecognized_error"
            is_of_row = is_refusal(code)
        except SealchemyError as error:  # the row is gone, or not readable; the log names it
            code, is_of_row = type(error).__name__, True
        except (SQLAlchemyError, OSError) as error:
            code, is_of_row = type(error).__name__, False
            logger.warning("%s: a token could not be refreshed (%s)", label(row.id, provider), code)
        progress.add(began, refresh, code, is_of_row=is_of_row)
        return refresh.has_asked


def _checked(clients: Mapping[str, OAuthClient], limit: int, ahead: timedelta | float) -> float:
    """Return the seconds of `ahead`, or raise `IntegrationError`."""
    seconds = ahead.total_seconds() if isinstance(ahead, timedelta) else ahead
    is_mapping = isinstance(clients, Mapping)
    if not is_mapping or not all(hasattr(client, "refresh_grant_type") for client in clients.values()):
        raise IntegrationError("clients takes a dictionary: OAuthClient objects by the name of the provider")
    if not isinstance(limit, int) or not 1 <= limit <= _MOST_ROWS:
        raise IntegrationError(f"limit takes the number of rows, 1 to {_MOST_ROWS}")
    if not isinstance(seconds, int | float) or not 0 <= seconds <= _MOST_SECONDS:
        raise IntegrationError(f"ahead takes seconds, up to {_MOST_SECONDS}, or a timedelta")
    return float(seconds)
